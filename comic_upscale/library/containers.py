"""Open an archive of any kind by its content, and list what is in it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from comic_upscale.errors import PageError
from comic_upscale.imaging.formats import extension_of
from comic_upscale.library.archives import Archive, Entry, changed, closing_on_error, volume_errors
from comic_upscale.library.epub import EMBEDDED
from comic_upscale.library.libarchive_archive import LibarchiveContainer
from comic_upscale.library.naming import Extension
from comic_upscale.library.parts import JoinedFile, Way, find_parts, open_joined, whole_name
from comic_upscale.library.pdf import PdfContainer
from comic_upscale.library.tar_archive import TarContainer
from comic_upscale.library.volume import Contents
from comic_upscale.library.volume_contents import name_members, read_contents, read_epub
from comic_upscale.library.zip_archive import ZipContainer
from comic_upscale.settings.job import VolumeRules
from comic_upscale.storage.base import SourceStore
from comic_upscale.storage.local import LocalSourceStore

_FOR_LIBARCHIVE = (
    b"Rar!", b"7z\xbc\xaf\x27\x1c", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"
)  # fmt: skip
"""First bytes of the archives that are read from front to back: RAR, 7z, compressed tars."""


def open_container(
    path: Path, rules: VolumeRules, store: SourceStore | None = None
) -> WrappedArchive | PdfContainer:
    """Open an archive by its content, whatever its name is.

    A ZIP or a tar is read through the store, so that only the needed ranges of a remote one are fetched. The others are
    opened by libraries that need a file of this machine.

    Args:
        path: its address; of an archive in parts, that of the part whose name stands for it.
        rules: the limits.
        store: where it is; None for this machine.

    Raises:
        PageError: it is no archive, cannot be opened, lacks a part, or needs a library that is missing.
    """
    store = store or LocalSourceStore(path)
    with volume_errors():
        way, paths = find_parts(path, store)
        with store.open(paths[0]) as file:
            head = file.read(512)
    is_for_libarchive = head.startswith(_FOR_LIBARCHIVE)
    if is_for_libarchive or b"%PDF-" in head:
        held = contextlib.ExitStack()
        with volume_errors(), closing_on_error(held):
            here = [held.enter_context(store.local_path(part)) for part in paths]
        if is_for_libarchive:
            return WrappedArchive(LibarchiveContainer(here, rules, held, are_volumes=way == "rar"), rules)
        return PdfContainer(here[0], rules, held)
    if not head and len(paths) == 1:
        raise PageError("empty", "The volume is empty (0 bytes): copy or download it again")
    with volume_errors():
        files = _open_all(paths, store)
        archive = _open_archive(whole_name(path.name), way, head, files, rules)
    return WrappedArchive(archive, rules)


def _open_all(paths: Sequence[Path], store: SourceStore) -> list[IO[bytes]]:
    with contextlib.ExitStack() as opened:
        files = [opened.enter_context(store.open(part)) for part in paths]
        opened.pop_all()
    return files


def _open_archive(
    name: str, way: Way, head: bytes, files: Sequence[IO[bytes]], rules: VolumeRules
) -> Archive:
    if head[257:262] == b"ustar" or (extension_of(name) in ("cbt", "tar") and not head.startswith(b"PK")):
        return TarContainer(open_joined(files), rules)
    # A ZIP may begin with anything; its directory is at its end.
    if way == "zip":
        joined = JoinedFile(files)
        return ZipContainer(io.BufferedReader(joined), rules, joined.starts)
    return ZipContainer(open_joined(files), rules)


def list_volume(
    path: Path, rules: VolumeRules, *, extension: Extension, store: SourceStore | None = None
) -> Contents:
    """Read the directory of a volume, and of an EPUB its spine; no page is read.

    Args:
        path: address of the archive.
        rules: which volumes are refused.
        extension: of the outputs, by the names of their pages in the volume.
        store: where it is; None for this machine.

    Returns:
        Its members. Litter of systems, folders, links, names that lead outside, and what is no page and protected
        by a password are left out.

    Raises:
        PageError: it cannot be opened; ``NO_PAGES``; ``"encrypted"``; ``"bomb"``.
    """
    with volume_errors():
        container = open_container(path, rules, store)
        try:
            return read_contents(whole_name(path.name), container, rules, extension)
        finally:
            container.close()


class WrappedArchive:
    """An archive. In an EPUB, images that are embedded in documents have indices from `EMBEDDED` on.

    Args:
        archive: of any kind.
        rules: the rules under which it was listed.
    """

    def __init__(self, archive: Archive, rules: VolumeRules) -> None:
        self._archive, self._rules = archive, rules
        self.in_order, self.comment = archive.in_order, archive.comment
        self._embedded: list[bytes] | None = None

    @property
    def notes(self) -> Sequence[str]:
        """Faults of the archive as a whole."""
        return self._archive.notes

    def entries(self) -> list[Entry]:
        """The directory of the archive."""
        return self._archive.entries()

    def read(self, index: int) -> bytes:
        """Return the bytes of a member, or of an image embedded in a document."""
        if index < EMBEDDED:
            return self._archive.read(index)
        if self._embedded is None:
            entries = self._archive.entries()
            names, _ = name_members(entries)
            self._embedded = read_epub(self._archive, names, entries, self._rules).embedded
        if index - EMBEDDED >= len(self._embedded):
            raise changed()
        return self._embedded[index - EMBEDDED]

    def salvage(self, index: int) -> bytes:
        """All bytes of a member, even where its checksum is wrong."""
        return self._archive.salvage(index) if index < EMBEDDED else self.read(index)

    def pieces(self, index: int) -> Iterator[bytes]:
        """Yield the bytes of a member in pieces."""
        return self._archive.pieces(index)

    def close(self) -> None:
        """Close the archive."""
        self._archive.close()
