"""Read tars that are not compressed. Headers that lie end in an error, and never in an endless loop."""

from __future__ import annotations

import os
import posixpath
import re
import tarfile
from collections.abc import Iterator
from typing import IO

from comic_upscale.library.archives import (
    MAX_MEMBER_BYTES,
    Entry,
    Kind,
    Tally,
    closing_on_error,
    damaged,
    join_pieces,
    note_cut,
    note_damage,
    too_large,
    volume_errors,
)
from comic_upscale.library.name_encodings import decode_names
from comic_upscale.settings.job import VolumeRules

_PIECE = 1 << 20
_EXTENSIONS = (b"x", b"g", b"X", b"L", b"K")
"""Types of headers that extend the header after them."""
_LARGEST_EXTENSION, _MOST_EXTENSIONS = 1 << 20, 16
_MANY_DIGITS = re.compile(rb"\d{1000}")


class TarContainer:
    """A tar that is not compressed.

    Args:
        file: open for reading at any place; closed with the container, also where this raises.
        rules: the limits.

    Raises:
        PageError: it is none.
    """

    in_order = False
    comment = b""

    def __init__(self, file: IO[bytes], rules: VolumeRules) -> None:
        self._file, self._rules = file, rules
        self.notes: tuple[str, ...] = ()
        """Faults of the archive as a whole."""
        self._listing: list[tuple[str, tarfile.TarInfo]] | None = None
        with volume_errors(), closing_on_error(file):
            self._size = file.seek(0, os.SEEK_END)
            self._check_extensions(0)
            file.seek(0)
            self._tar = tarfile.open(  # noqa: SIM115 - closed by close()
                fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape"
            )

    def entries(self) -> list[Entry]:
        """The directory: the headers, from one to the next."""
        listed = self._listed()
        names = decode_names([name.encode(errors="surrogateescape") for name, _ in listed])
        return [
            Entry(name, info.size, _tar_kind(info)) for name, (_, info) in zip(names, listed, strict=True)
        ]

    def _listed(self) -> list[tuple[str, tarfile.TarInfo]]:
        """Return the names, each with the header of its bytes: for a hard link, the header of the file it names."""
        if self._listing is None:
            tally = Tally(self._size, self._rules)
            listing = []
            files: dict[str, tarfile.TarInfo] = {}
            with volume_errors():
                for header in self._headers():
                    info = header
                    if header.islnk():
                        info = files.get(posixpath.normpath(header.linkname), header)
                    if info.isreg():
                        files[posixpath.normpath(header.name)] = info
                    tally.add(info.size)
                    listing.append((header.name, info))
            self._listing = listing
        return self._listing

    def _headers(self) -> Iterator[tarfile.TarInfo]:
        """Yield the headers up to the end, or to the place where the file is cut or damaged, and note that.

        Raises:
            PageError: the next header would be at the place of this one or before it, so reading would never end.
        """
        at, count = -1, 0
        while True:
            try:
                if count:
                    self._check_extensions(self._tar.offset)
                header = self._tar.next()
            except tarfile.TarError as error:
                if count == 0:
                    raise
                self._add_note(count, is_cut="unexpected end" in str(error))
                return
            if header is None:
                self._check_end(count)
                return
            if header.size < 0 or self._tar.offset <= at:
                raise damaged("volume", f"the size of a file is given as {header.size:,} bytes")
            at = self._tar.offset
            if header.isreg() and not header.sparse and header.offset_data + header.size > self._size:
                self._add_note(count, is_cut=True)
                return
            count += 1
            yield header

    def _check_extensions(self, at: int) -> None:
        """Check the headers that extend a file's header. `tarfile` reads all of them at once.

        Args:
            at: offset of the first one.

        Raises:
            PageError: reading them would take unbounded memory or time.
        """
        for _ in range(_MOST_EXTENSIONS):
            self._file.seek(at)
            block = self._file.read(tarfile.BLOCKSIZE)
            if len(block) < tarfile.BLOCKSIZE or block[156:157] not in _EXTENSIONS:
                return
            size = _tar_number(block[124:136])
            content = self._file.read(min(size, _LARGEST_EXTENSION + 1)) if size > 0 else b""
            # Some versions of Python search many digits in a time that grows with their square.
            if not 0 <= size <= _LARGEST_EXTENSION or _MANY_DIGITS.search(content):
                raise damaged("volume", f"an extended header has {size:,} bytes")
            at += tarfile.BLOCKSIZE * (1 + -(-size // tarfile.BLOCKSIZE))
        raise damaged("volume", "a file has too many extended headers")

    def _check_end(self, count: int) -> None:
        """Note whether something follows the last header: `tarfile` ends silently at bytes that are no header."""
        self._file.seek(self._tar.offset)
        block = self._file.read(tarfile.BLOCKSIZE)
        # A tar ends with blocks of zeros.
        if count and (not block or block.strip(b"\0")):
            self._add_note(count, is_cut=len(block) < tarfile.BLOCKSIZE)

    def _add_note(self, count: int, *, is_cut: bool) -> None:
        self.notes = (note_cut(count) if is_cut else note_damage(count),)

    def pieces(self, index: int) -> Iterator[bytes]:
        """Yield the bytes of a member in pieces."""
        _, info = self._listed()[index]
        with volume_errors("member"):
            file = self._tar.extractfile(info) if info.isreg() else None
            left = info.size
            while file is not None and left > 0:
                piece = file.read(min(_PIECE, left))
                if not piece:
                    raise damaged("member", f"{info.size - left:,} bytes instead of {info.size:,}")
                left -= len(piece)
                yield piece

    def read(self, index: int) -> bytes:
        """The bytes of a member."""
        _, info = self._listed()[index]
        if info.size > MAX_MEMBER_BYTES:
            raise too_large(info.size)
        return join_pieces(self.pieces(index))

    def salvage(self, index: int) -> bytes:
        """The same: a tar has no checksums of its files."""
        return self.read(index)

    def close(self) -> None:
        """Close the file."""
        self._tar.close()
        self._file.close()


def _tar_number(field: bytes) -> int:
    """Read a number of a header, octal or binary; 0 if it is invalid."""
    if field[:1] in (b"\x80", b"\xff"):
        return (
            int.from_bytes(field, "big", signed=True)
            if field[0] == 0xFF
            else int.from_bytes(field[1:], "big")
        )
    try:
        return int(field.partition(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        return 0


def _tar_kind(info: tarfile.TarInfo) -> Kind:
    if info.isdir():
        return "folder"
    if info.issym() or info.islnk():
        return "link"
    return "file" if info.isreg() else "special"
