"""Write a CBZ: the same members give the same bytes, on any day and any machine."""

from __future__ import annotations

import contextlib
import hashlib
import lzma
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from typing import IO

from comic_upscale.errors import PageError
from comic_upscale.storage.base import OutputStore

_FIRST_DAY = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
_PLAIN_FILE = 0o100644 << 16
_LONGEST_COMMENT = 0xFFFF
UNREADABLE = (
    PageError,
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
"""What opening and reading a CBZ raises that is missing, damaged or strange. A member that is encrypted, or packed by
an unknown method, is a RuntimeError of zipfile, and so is a ZIP of a version that does not exist yet."""


def write_cbz(file: IO[bytes], members: Iterable[tuple[str, bytes]], comment: bytes = b"") -> None:
    """Write a CBZ whose members are stored as they are: images do not shrink by being packed again.

    Args:
        file: open for writing, and seekable.
        members: (name, content) in their order; taken one at a time.
        comment: of the archive; of more than 65,535 bytes the first of these.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.comment = comment[:_LONGEST_COMMENT]
        for name, data in members:
            info = zipfile.ZipInfo(name, _FIRST_DAY)
            # Python's own choice differs between systems.
            info.create_system = _UNIX
            info.external_attr = _PLAIN_FILE
            archive.writestr(info, data)


def check_cbz(file: IO[bytes], names: list[str]) -> None:
    """Prove that a CBZ that ``write_cbz`` wrote can be read: its directory, and every member's checksum.

    Args:
        file: open for reading, and seekable.
        names: of its members, in their order.

    Raises:
        PageError: ``"encode"``.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            whole = archive.testzip() is None and archive.namelist() == names
    except zipfile.BadZipFile:
        whole = False
    if not whole:
        raise PageError("encode", "The new volume cannot be read back: the disk may be failing")


@contextlib.contextmanager
def open_cbz(outputs: OutputStore, name: str) -> Iterator[zipfile.ZipFile]:
    """Open a CBZ among the outputs.

    Raises:
        PageError: it is not there, or cannot be read.
        Exception: one of `UNREADABLE`: it is none, or a strange one.
    """
    with outputs.open(name) as file, zipfile.ZipFile(file) as archive:
        yield archive


def find_member(outputs: OutputStore, cbz: str, name: str, size: int, sha256: str) -> str | None:
    """The name of the member of a CBZ with this content; None if there is none.

    Args:
        outputs: where the CBZ is.
        cbz: its name there.
        name: that the member most likely has; decides between members that are alike.
        size: bytes of the content.
        sha256: of the content, hexadecimal.
    """
    with contextlib.suppress(*UNREADABLE), open_cbz(outputs, cbz) as archive:
        for info in sorted(archive.infolist(), key=lambda info: info.filename != name):
            if info.file_size == size and hashlib.sha256(archive.read(info)).hexdigest() == sha256:
                return info.filename
    return None


def read_members(outputs: OutputStore, cbz: str) -> dict[str, int]:
    """The members of a CBZ among the outputs: name to bytes; none if it cannot be read."""
    try:
        with open_cbz(outputs, cbz) as archive:
            return {info.filename: info.file_size for info in archive.infolist()}
    except UNREADABLE:
        return {}
