"""Write a CBZ: the same members give the same bytes, on any day and any machine."""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from comic_upscale.errors import PageError

_FIRST_DAY = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
_PLAIN_FILE = 0o100644 << 16
_LONGEST_COMMENT = 0xFFFF


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


def check_cbz(path: Path, names: list[str]) -> None:
    """Prove that a CBZ that ``write_cbz`` wrote can be read: its directory, and every member's checksum.

    Raises:
        PageError: ``"encode"``.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            whole = archive.testzip() is None and archive.namelist() == names
    except zipfile.BadZipFile:
        whole = False
    if not whole:
        raise PageError("encode", "The new volume cannot be read back: the disk may be failing.")


def find_member(path: Path, name: str, size: int, sha256: str) -> str | None:
    """The name of the member of a CBZ with this content; None if there is none.

    Args:
        path: of the CBZ.
        name: that it most likely has; decides between members that are alike.
        size: bytes of the content.
        sha256: of the content, hexadecimal.
    """
    with (
        contextlib.suppress(OSError, zipfile.BadZipFile, ValueError, NotImplementedError),
        zipfile.ZipFile(path) as archive,
    ):
        for info in sorted(archive.infolist(), key=lambda info: info.filename != name):
            if info.file_size == size and hashlib.sha256(archive.read(info)).hexdigest() == sha256:
                return info.filename
    return None


def read_members(path: Path) -> dict[str, int]:
    """The members of a CBZ: name to bytes; none if it cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {info.filename: info.file_size for info in archive.infolist()}
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return {}
