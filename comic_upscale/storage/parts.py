"""Writing a file beside its place, then renaming it: nobody ever sees half of it, and no link is ever followed.

Whoever prepared a folder may have put links there under the names that unfinished files have. So an unfinished
file is always a new one (``O_EXCL``), and what stands in its way is removed, not written to.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

HITS_EVERY_PAGE = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENODEV, errno.ENOTCONN, errno.ESTALE,
    errno.ETIMEDOUT, errno.EHOSTDOWN,
}  # fmt: skip
"""Errors that no other page or file would be spared."""

_PREFIX, _SUFFIX = ".comic-upscale-", ".part"
_TRIES = 100
_BUFFER = 1 << 16
# Where it is missing, as on Windows, O_EXCL alone follows no link either.
_FLAGS = (
    os.O_RDWR | os.O_CREAT | os.O_EXCL
    | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOINHERIT", 0)
)  # fmt: skip

_in_use: set[Path] = set()
_in_use_lock = threading.Lock()


def part_path(target: Path, token: int | str) -> Path:
    """Where a file is written before it is moved to its place: beside it, hidden, short."""
    return target.with_name(f"{_PREFIX}{token}{_SUFFIX}")


class Part:
    """A new file beside a place; what `open_part` gives.

    Args:
        path: of the file.
        file: open for reading and writing, empty.
    """

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path = path
        self.file = file
        self.moved = False
        """Whether it is in its place."""

    def flush(self) -> None:
        """Bring what was written to the disk.

        Raises:
            OSError: that failed.
        """
        self.file.flush()
        os.fsync(self.file.fileno())

    def move_to(self, target: Path) -> None:
        """Close the file and move it to its place; what stood there is replaced.

        Raises:
            OSError: that failed; what stood there still stands.
        """
        self.file.close()
        _rename(self.path, target)
        self.moved = True

    def discard(self) -> None:
        """Close the file and remove it; nothing is raised where that fails."""
        with contextlib.suppress(OSError):
            self.file.close()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def open_part(target: Path, token: int | str) -> Iterator[Part]:
    """Make a new file beside a place, with the mode that new files have; it is gone at the end unless it was moved.

    Args:
        target: the place; its folder exists.
        token: names the file. What an earlier one left under the name is removed; while another thread has
            the name in use, the file gets a name of its own.

    Raises:
        OSError: the file cannot be made.
    """
    fixed = part_path(target, token)
    with _in_use_lock:
        reserved = fixed not in _in_use
        _in_use.add(fixed)
    try:
        part = _create(fixed if reserved else None, target, token)
        try:
            yield part
        finally:
            if not part.moved:
                part.discard()
    finally:
        if reserved:
            with _in_use_lock:
                _in_use.discard(fixed)


def _create(fixed: Path | None, target: Path, token: int | str) -> Part:
    """Make the file under its fixed name, or else under one that nobody can know."""
    if fixed is not None:
        try:
            return _new(fixed)
        except FileExistsError:
            # What a run that died has left, or what somebody has put there.
            with contextlib.suppress(OSError):
                fixed.unlink()
                return _new(fixed)
    for _ in range(_TRIES):
        with contextlib.suppress(FileExistsError):
            return _new(part_path(target, f"{token}-{secrets.token_hex(4)}"))
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target.parent))


def _new(path: Path) -> Part:
    return Part(path, os.fdopen(os.open(path, _FLAGS, 0o666), "w+b", buffering=_BUFFER))


def _rename(part: Path, target: Path) -> None:
    part.replace(target)
    flush_folder(target.parent)


def flush_folder(path: Path) -> None:
    """Let a rename in a folder survive the plug being pulled, where the system can.

    Raises:
        OSError: the disk failed, or is full.
    """
    if os.name == "posix":
        try:
            folder = os.open(path, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            # Some file systems cannot flush a folder, some folders may not be read: the page is in its place.
            if error.errno in HITS_EVERY_PAGE:
                raise


def sweep_parts(folder: Path, tokens: set[str]) -> None:
    """Remove the unfinished files of some tokens from a folder; what cannot be removed stays."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for name in [entry.name for entry in entries]:
            if name.startswith(_PREFIX) and name.endswith(_SUFFIX):
                token = name[len(_PREFIX) : -len(_SUFFIX)]
                if token.partition("-")[0] in tokens:
                    with contextlib.suppress(OSError):
                        (folder / name).unlink()
