"""Unfinished files: each is created beside its place, and renamed once it is complete.

Somebody else may have prepared the folder, with links under the names of our unfinished files. So each unfinished file
is created exclusively (``O_EXCL``), which follows no link. A leftover under its name is removed, never written to.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

HITS_EVERY_PAGE = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENODEV, errno.ENOTCONN, errno.ESTALE,
    errno.ETIMEDOUT, errno.EHOSTDOWN,
}  # fmt: skip
"""Errors that every other page or file would meet too."""

_PREFIX, _SUFFIX = ".comic-upscale-", ".part"
_TRIES = 100
_PATIENCE_SECONDS, _PAUSE_SECONDS = 2.0, 0.05
_BUFFER = 1 << 16
# Where it is missing, as on Windows, O_EXCL alone follows no link either.
_FLAGS = (
    os.O_RDWR | os.O_CREAT | os.O_EXCL
    | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOINHERIT", 0)
)  # fmt: skip

_in_use: set[Path] = set()
_in_use_lock = threading.Lock()


def part_path(target: Path, token: int | str) -> Path:
    """The path of the unfinished file: beside its place, hidden, short."""
    return target.with_name(f"{_PREFIX}{token}{_SUFFIX}")


class Part:
    """An unfinished file, as `open_part` yields it.

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
        """Flush the content to the disk.

        Raises:
            OSError: the flush failed.
        """
        self.file.flush()
        os.fsync(self.file.fileno())

    def move_to(self, target: Path) -> None:
        """Close the file and rename it to its place, over an earlier file.

        Raises:
            OSError: the rename failed, and an earlier file is unchanged; or the folder could not be flushed.
        """
        self.file.close()
        _rename(self.path, target)
        self.moved = True

    def discard(self) -> None:
        """Close and remove the file. Errors are ignored."""
        with contextlib.suppress(OSError):
            self.file.close()
        with contextlib.suppress(OSError):
            remove(self.path)


@contextlib.contextmanager
def open_part(target: Path, token: int | str) -> Iterator[Part]:
    """Create an unfinished file with the usual permissions, and remove it at the end unless it was moved.

    Args:
        target: the place of the finished file; its folder exists.
        token: part of the name. A leftover of this name is removed. If another thread uses the name, the file gets
            a random one.

    Raises:
        OSError: the file cannot be created.
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
    """Create the file under its fixed name, or else under a random one."""
    if fixed is not None:
        try:
            return _new(fixed)
        except FileExistsError:
            # A leftover of a run that was killed, or something that somebody put there.
            with contextlib.suppress(OSError):
                remove(fixed)
                return _new(fixed)
    for _ in range(_TRIES):
        with contextlib.suppress(FileExistsError):
            return _new(part_path(target, f"{token}-{secrets.token_hex(4)}"))
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target.parent))


def _new(path: Path) -> Part:
    return Part(path, os.fdopen(os.open(path, _FLAGS, 0o666), "w+b", buffering=_BUFFER))


def _rename(part: Path, target: Path) -> None:
    move_over(part, target)
    flush_folder(target.parent)


def move_over(path: Path, target: Path) -> None:
    """Rename a file, over another one if there is one.

    Raises:
        OSError: it cannot be renamed.
    """
    with _may_go(target):
        _patiently(lambda: path.replace(target))


def remove(path: Path) -> None:
    """Remove a file.

    Raises:
        OSError: it cannot be removed, or is not there.
    """
    with _may_go(path):
        _patiently(path.unlink)


@contextlib.contextmanager
def _may_go(path: Path) -> Iterator[None]:
    """Let a read-only file be removed or replaced in the block, as POSIX does. Windows refuses both."""
    status = None
    if os.name == "nt":
        with contextlib.suppress(OSError):
            status = path.lstat()
    if status is None or not stat.S_ISREG(status.st_mode) or status.st_mode & stat.S_IWRITE:
        yield
        return
    path.chmod(status.st_mode | stat.S_IWRITE)
    try:
        yield
    except OSError:
        with contextlib.suppress(OSError):
            path.chmod(status.st_mode)
        raise


def _patiently(step: Callable[[], object]) -> None:
    """Take a step with a file. On Windows, virus scanners and the search index are in the way for a moment."""
    ends = time.monotonic() + _PATIENCE_SECONDS
    while os.name == "nt" and time.monotonic() < ends:
        try:
            step()
            return
        except PermissionError:
            time.sleep(_PAUSE_SECONDS)
    step()


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
    """Remove the unfinished files of some tokens from a folder. Files that cannot be removed stay."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for name in [entry.name for entry in entries]:
            if name.startswith(_PREFIX) and name.endswith(_SUFFIX):
                token = name[len(_PREFIX) : -len(_SUFFIX)]
                if token.partition("-")[0] in tokens:
                    with contextlib.suppress(OSError):
                        remove(folder / name)
