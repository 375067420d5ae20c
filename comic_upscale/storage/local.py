"""Reading a source and placing an output: file bytes in the event loop, with every error told apart.

What hits one page (no permission, vanished, a name too long) is a `PageError`; what hits every page
(disk full, the device of the output gone) is an `OutputError`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from pathlib import Path
from typing import IO, Any, ParamSpec, TypeVar

import aiofiles

from comic_upscale.errors import OutputError, PageError
from comic_upscale.settings.paths import MARKER_FOLDER

T = TypeVar("T")
P = ParamSpec("P")

MAX_SOURCE_BYTES = 1 << 30

HITS_EVERY_PAGE = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENODEV, errno.ENOTCONN, errno.ESTALE,
    errno.ETIMEDOUT, errno.EHOSTDOWN,
}  # fmt: skip
"""Errors that no other page or file would be spared."""


def part_path(target: Path, row_id: int) -> Path:
    """Where an output is written before it is moved to its place: beside it, hidden, short."""
    return target.with_name(f".comic-upscale-{row_id}.part")


class OutputFolder:
    """The output folder of a run, which must stay the one that the run began with.

    Args:
        path: the folder; its marker folder exists.

    Raises:
        OutputError: it cannot be written to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._marker = _identity(path / MARKER_FOLDER)
        self.check()
        probe = path / ".comic-upscale-check.part"
        try:
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise OutputError(
                f"{path} cannot be written to ({error.strerror or error}): choose another --output, or change "
                "its permissions"
            ) from error

    def check(self) -> None:
        """Make sure that the folder is still there: not moved, not unmounted.

        Raises:
            OutputError: it is not.
        """
        if self._marker is None or _identity(self._path / MARKER_FOLDER) != self._marker:
            raise OutputError(
                f"{self._path} is no longer the folder that it was: moved away, or its drive is gone. Put it "
                "back, then run the same command again"
            )


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Await work that a cancellation must not leave half done: it is waited for, then cancelled."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


async def read_source(path: Path, executor: Executor) -> bytes:
    """Return the bytes of a page's file.

    Raises:
        PageError: ``vanished``, ``permission``, ``too-large`` or ``unreadable``.
    """
    try:
        async with aiofiles.open(path, "rb", executor=executor) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_SOURCE_BYTES:
                raise PageError(
                    "too-large", f"the file has {size:,} bytes; at most {MAX_SOURCE_BYTES:,} are read"
                )
            return await file.read()
    except FileNotFoundError:
        raise PageError("vanished", "the file is no longer there, or is a link to nowhere") from None
    except PermissionError:
        raise PageError("permission", "no permission to read the file") from None
    except OSError as error:
        raise PageError("unreadable", f"the file cannot be read: {error.strerror or error}") from error


async def place_output(data: bytes, target: Path, row_id: int, executor: Executor) -> None:
    """Put a finished output in its place: written beside it, flushed to the disk, then renamed.

    At no instant does a partial file stand at ``target``.

    Raises:
        PageError: this one output cannot be written.
        OutputError: none can.
    """
    part = part_path(target, row_id)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        async with aiofiles.open(part, "wb", executor=executor) as file:
            await file.write(data)
            await file.flush()
            await _in(executor, os.fsync, file.fileno())
        await _in(executor, _rename, part, target)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise _place_error(error, target) from error


def build_output(
    target: Path, row_id: int, write: Callable[[IO[bytes]], None], check: Callable[[Path], None]
) -> tuple[int, str]:
    """Build an output file piece by piece beside its place, flush it, check it, then rename it.

    Args:
        target: its place.
        row_id: of its row; names the file until then.
        write: writes the content.
        check: reads it back; raises where it is not whole.

    Returns:
        (bytes, SHA-256 in hexadecimal) of the file.

    Raises:
        PageError: this one output cannot be written; or what ``write`` and ``check`` raise.
        OutputError: none can.
    """
    part = part_path(target, row_id)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w+b") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
        check(part)
        _rename(part, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _place_error(error, target) from error
        raise
    return size, digest


def _place_error(error: OSError, target: Path) -> OutputError | PageError:
    if error.errno in HITS_EVERY_PAGE:
        return OutputError(
            f"{target.parent} cannot take any more pages: {error.strerror}. What is done is recorded; "
            "make room, then run the same command again"
        )
    return PageError("output", f"the output cannot be written: {error.strerror or error}")


async def _in(executor: Executor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    return await asyncio.get_running_loop().run_in_executor(executor, lambda: function(*args, **kwargs))


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
