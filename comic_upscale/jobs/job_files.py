"""Reading the sources and outputs of a job again, even if the folder has moved."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from comic_upscale.errors import PageError
from comic_upscale.ledger.values import recorded_settings
from comic_upscale.library.cbz import UNREADABLE, find_member, open_cbz, read_members
from comic_upscale.library.nested import Unpacker, find_volume
from comic_upscale.library.volume import Volume
from comic_upscale.library.volume_reader import VolumeCache
from comic_upscale.settings.job import VolumeRules
from comic_upscale.settings.paths import is_default_place
from comic_upscale.settings.places import is_bucket
from comic_upscale.storage.base import GONE, OutputStore, SourceStore, size_of
from comic_upscale.storage.stores import Stores, open_stores


def output_folder(ledger: Path, job: Mapping[str, Any]) -> Path:
    """Return the output folder of a job; a folder that was moved contains its ledger."""
    recorded = Path(job["output"])
    if is_bucket(recorded):
        return recorded
    return ledger.absolute().parent.parent if is_default_place(ledger) else recorded


def job_stores(ledger: Path, job: Mapping[str, Any], folder: Path | None = None) -> Stores:
    """Return the stores of the sources and outputs of a job.

    Args:
        ledger: of the job.
        job: a row of the ledger's jobs.
        folder: the output folder; None for the one that the ledger names.
    """
    return open_stores(Path(job["input"]), folder or output_folder(ledger, job))


class Outputs:
    """The outputs of a job, in files or in CBZs. The directory of each CBZ is read once.

    Args:
        store: of the job.
    """

    def __init__(self, store: OutputStore) -> None:
        self._store = store
        self._members: dict[str, dict[str, int]] = {}

    def file_of(self, page: Mapping[str, Any]) -> str | None:
        """Return the path of the output of a page, relative to the folder; in a CBZ ``v01.cbz/012.png``.

        Args:
            page: a row of `read_done_pages`.

        Returns:
            None if it is missing, or its volume is not written yet.
        """
        if page["volume_output"]:
            name = self._name_of(page)
            return None if name is None else f"{page['volume_output']}/{name}"
        output = str(page["output"])
        return output if size_of(self._store, output) is not None else None

    def read(self, page: Mapping[str, Any]) -> bytes:
        """Return the output of a page, even if its volume is not written yet.

        Raises:
            PageError: `GONE`.
        """
        # A folder may come from a stranger, with links in it.
        if self._store.leads_outside(page["volume_output"] or page["output"]):
            raise PageError(GONE, "The output is a link that leads out of the output folder")
        try:
            if page["volume_output"] and (name := self._name_of(page)) is not None:
                with open_cbz(self._store, page["volume_output"]) as archive:
                    return archive.read(name)
            return self._store.read(page["output"])
        except PageError:
            raise
        except (*UNREADABLE, KeyError) as error:
            raise PageError(GONE, "The output no longer exists") from error

    def _name_of(self, page: Mapping[str, Any]) -> str | None:
        """Return the name of a page in its CBZ; None if it is not there."""
        volume = page["volume_output"]
        members = self._members.get(volume)
        if members is None:
            members = self._members[volume] = read_members(self._store, volume)
        inside = PurePosixPath(page["source"].removeprefix(f"{page['volume_source']}/"))
        name = str(inside.with_suffix(PurePosixPath(page["output"]).suffix))
        size, sha256 = page["output_size"], page["output_sha256"]
        if members.get(name) == size and list(members.values()).count(size) == 1:
            return name
        return find_member(self._store, volume, name, size, sha256) if size in members.values() else None


class Sources:
    """The sources of a job, in files or in archives. Reading the pages of an archive in order is fastest.

    Args:
        job: a row of the ledger's jobs.
        store: of the job.
    """

    def __init__(self, job: Mapping[str, Any], store: SourceStore) -> None:
        self._store = store
        self._rules = _rules(job)
        self._opened: dict[str, tuple[VolumeCache, dict[str, int]]] = {}

    def read(self, page: Mapping[str, Any]) -> bytes:
        """Return the source of a page.

        Args:
            page: a row of `read_done_pages`.

        Raises:
            PageError: `GONE`, or ``"changed"`` if it has changed since it was upscaled.
        """
        data = self._read(page)
        if hashlib.sha256(data).hexdigest() != page["source_sha256"]:
            raise PageError("changed", "The source has changed since it was upscaled")
        return data

    def place_of(self, page: Mapping[str, Any]) -> tuple[str, int]:
        """Return a key that sorts pages into the fastest reading order; missing pages come first."""
        volume = page["volume_source"]
        if volume is None:
            return "", 0
        try:
            return volume, self._open(volume)[1].get(str(page["source"]), -1)
        except PageError:
            return volume, -1

    def close(self) -> None:
        """Close the archives."""
        for cache, _ in self._opened.values():
            cache.close()
        self._opened.clear()

    def is_unchanged(self, page: Mapping[str, Any]) -> bool:
        """Return whether the source of a page that is in no volume is there, as it was upscaled.

        If its time has changed, its content decides.

        Args:
            page: a row of `read_done_pages`.
        """
        try:
            status = self._store.stat(self._store.address(str(page["source"])))
            if status.kind != "file" or status.size != page["source_size"]:
                return False
            return status.mtime_ns == page["source_mtime_ns"] or bool(self.read(page))
        except (OSError, PageError):
            return False

    def _read(self, page: Mapping[str, Any]) -> bytes:
        source, volume = str(page["source"]), page["volume_source"]
        if volume is None:
            try:
                path = self._store.address(source)
                status = self._store.stat(path)
                # The ledger may name a device or a pipe, which would never end.
                if status.kind != "file" or status.size != page["source_size"]:
                    raise PageError("changed", "The source has changed since it was upscaled")
                with self._store.open(path) as file:
                    return file.read()
            except OSError as error:
                raise _missing_source() from error
        cache, members = self._open(volume)
        if source not in members:
            raise PageError("changed", "The volume no longer contains this page")
        return cache.read(volume, members[source])

    def _open(self, source: str) -> tuple[VolumeCache, dict[str, int]]:
        """Return the cache of a volume, and the indices of its pages by source."""
        if source not in self._opened:
            entry = find_volume(source, self._rules, self._store)
            if entry is None:
                raise _missing_source()
            with contextlib.closing(Unpacker(self._rules, self._store)) as unpacker:
                contents = unpacker.list(entry, extension="png")
            cache = VolumeCache([Volume(entry, contents)], self._rules, self._store)
            members = {f"{source}/{member.name}": member.index for member in contents.pages}
            self._opened[source] = cache, members
        return self._opened[source]


def _missing_source() -> PageError:
    return PageError(GONE, "The source is no longer in its place")


def _rules(job: Mapping[str, Any]) -> VolumeRules:
    """Return the rules of a job for volumes, from its settings in the ledger."""
    settings = recorded_settings(job["settings"])
    names = ("max_members", "max_unpacked", "max_ratio", "pdf_dpi", "max_pixels")
    return VolumeRules(**{name: settings[name] for name in names if settings.get(name) is not None})
