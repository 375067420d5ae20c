"""Reading again what a job worked on: the source of a page and its output, wherever they are by now."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from comic_upscale.errors import PageError
from comic_upscale.library.cbz import find_member, open_cbz, read_members
from comic_upscale.library.page import Page
from comic_upscale.library.volume import Volume
from comic_upscale.library.volume_reader import VolumeCache, list_volume
from comic_upscale.settings.job import VolumeRules
from comic_upscale.settings.paths import LEDGER_NAME, MARKER_FOLDER
from comic_upscale.storage.base import GONE, OutputStore, SourceStore, size_of
from comic_upscale.storage.stores import Stores, open_stores


def output_folder(ledger: Path, job: Mapping[str, Any]) -> Path:
    """Where the outputs of a job are: a folder that was moved takes its ledger along."""
    in_its_place = (ledger.name, ledger.parent.name) == (LEDGER_NAME, MARKER_FOLDER)
    return ledger.absolute().parent.parent if in_its_place else Path(job["output"])


def job_stores(ledger: Path, job: Mapping[str, Any]) -> Stores:
    """Where the sources of a job were, and where its outputs are.

    Args:
        ledger: of the job.
        job: a row of the ledger's jobs.
    """
    return open_stores(Path(job["input"]), output_folder(ledger, job))


class Outputs:
    """The outputs of a job, in files or in CBZs, of which each directory is read once.

    Args:
        store: of the job.
    """

    def __init__(self, store: OutputStore) -> None:
        self._store = store
        self._held: dict[str, dict[str, int]] = {}

    def file_of(self, page: Mapping[str, Any]) -> str | None:
        """Where the output of a page is, relative to the folder: ``v01.cbz/012.png`` for one in a CBZ.

        Args:
            page: a row of `read_done_pages`.

        Returns:
            None if it is not in its place, or waits for the other pages of its volume.
        """
        if page["volume_output"]:
            name = self._name_of(page)
            return None if name is None else f"{page['volume_output']}/{name}"
        output = str(page["output"])
        return output if size_of(self._store, output) is not None else None

    def read(self, page: Mapping[str, Any]) -> bytes:
        """The bytes of the output of a page, also of one that waits for the other pages of its volume.

        Raises:
            PageError: `GONE`.
        """
        try:
            if page["volume_output"] and (name := self._name_of(page)) is not None:
                with open_cbz(self._store, page["volume_output"]) as archive:
                    return archive.read(name)
            return self._store.read(page["output"])
        except (OSError, zipfile.BadZipFile, KeyError) as error:
            raise PageError(GONE, "The output is not in its place any more.") from error

    def _name_of(self, page: Mapping[str, Any]) -> str | None:
        """What a page is called in its CBZ; None if it is not there."""
        volume = page["volume_output"]
        held = self._held.get(volume)
        if held is None:
            held = self._held[volume] = read_members(self._store, volume)
        inside = PurePosixPath(page["source"].removeprefix(f"{page['volume_source']}/"))
        name = str(inside.with_suffix(PurePosixPath(page["output"]).suffix))
        size, sha256 = page["output_size"], page["output_sha256"]
        if held.get(name) == size and list(held.values()).count(size) == 1:
            return name
        return find_member(self._store, volume, name, size, sha256) if size in held.values() else None


class Sources:
    """The sources of a job, in files or in archives. Archives are quickest read in the order of their pages.

    Args:
        job: a row of the ledger's jobs.
        store: of the job.
    """

    def __init__(self, job: Mapping[str, Any], store: SourceStore) -> None:
        self._store = store
        self._rules = _rules(job)
        self._shelves: dict[str, tuple[VolumeCache, dict[str, int]]] = {}

    def read(self, page: Mapping[str, Any]) -> bytes:
        """The bytes of the source of a page.

        Args:
            page: a row of `read_done_pages`.

        Raises:
            PageError: `GONE`; ``"changed"`` where it is not the same as when it was upscaled.
        """
        data = self._read(str(page["source"]), page["volume_source"])
        if hashlib.sha256(data).hexdigest() != page["source_sha256"]:
            raise PageError("changed", "The source is not the one any more that was upscaled.")
        return data

    def place_of(self, page: Mapping[str, Any]) -> tuple[str, int]:
        """A key that sorts pages into the order in which they are best read; a page that is gone comes first."""
        volume = page["volume_source"]
        if volume is None:
            return "", 0
        try:
            return volume, self._opened(volume)[1].get(str(page["source"]), -1)
        except PageError:
            return volume, -1

    def close(self) -> None:
        """Close the archives."""
        for shelf, _ in self._shelves.values():
            shelf.close()
        self._shelves.clear()

    def _read(self, source: str, volume: str | None) -> bytes:
        if volume is None:
            try:
                with self._store.open(self._store.address(source)) as file:
                    return file.read()
            except OSError as error:
                raise _source_gone() from error
        shelf, members = self._opened(volume)
        if source not in members:
            raise PageError("changed", "The volume does not hold this page any more.")
        return shelf.read(volume, members[source])

    def _opened(self, source: str) -> tuple[VolumeCache, dict[str, int]]:
        """The shelf that a volume stands on, and the places of its pages by their sources."""
        if source not in self._shelves:
            path = self._store.address(source)
            try:
                status = self._store.stat(path)
            except OSError as error:
                raise _source_gone() from error
            contents = list_volume(path, self._rules, extension="png", store=self._store)
            entry = Page(source, path, "", status.size, status.mtime_ns)
            shelf = VolumeCache([Volume(entry, contents)], self._rules, self._store)
            members = {f"{source}/{member.name}": member.index for member in contents.pages}
            self._shelves[source] = shelf, members
        return self._shelves[source]


def _source_gone() -> PageError:
    return PageError(GONE, "The source is not in its place any more.")


def _rules(job: Mapping[str, Any]) -> VolumeRules:
    """How a job reads volumes, by its settings in the ledger."""
    settings = json.loads(job["settings"])
    names = ("max_members", "max_unpacked", "max_ratio", "pdf_dpi", "max_pixels")
    return VolumeRules(**{name: settings[name] for name in names if name in settings})
