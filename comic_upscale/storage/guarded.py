"""Steps with files of the user that overwrite and remove nothing that was changed meanwhile."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from pathlib import Path

from comic_upscale.errors import OutputError
from comic_upscale.storage.base import sha256_of_file
from comic_upscale.storage.parts import HITS_EVERY_PAGE, Part, flush_folder, remove


class NotReplacedError(Exception):
    """An original was not replaced, or not put back. Nothing was changed.

    Args:
        reason: a clause.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def place(part: Part, path: Path) -> None:
    """Move a file to a place where there is none, so that no file of somebody else is replaced."""
    try:
        os.link(part.path, path, follow_symlinks=False)
        flush_folder(path.parent)
    except FileExistsError:
        raise NotReplacedError(f"{path.name} exists already") from None
    except OSError:
        # Not every file system has links.
        if os.path.lexists(path):
            raise NotReplacedError(f"{path.name} exists already") from None
        part.move_to(path)


def copy_into(path: Path, part: Part) -> str:
    """Copy a file into an unfinished one, and return the hash of what was written."""
    with path.open("rb") as reader:
        shutil.copyfileobj(reader, part.file, 1 << 20)
    part.flush()
    part.file.seek(0)
    return sha256_of_file(part.file)


def finish(part: Part, status: os.stat_result, time_ns: int) -> None:
    """Give an unfinished file the owner and mode of a status, where the system allows it, and a time."""
    if hasattr(os, "chown"):
        with contextlib.suppress(OSError):
            os.chown(part.path, status.st_uid, status.st_gid)
    os.utime(part.path, ns=(time_ns, time_ns))
    if os.name != "nt":
        _set_mode(part.path, status)


def set_attributes(path: Path, status: os.stat_result) -> None:
    """Make a file read-only if that of a status is, once it is in its place and all its links are.

    Only for Windows, where an unfinished file that is read-only cannot be removed. Links share the attribute, and the
    removal of one takes it from all.
    """
    if os.name == "nt":
        _set_mode(path, status)


def _set_mode(path: Path, status: os.stat_result) -> None:
    with contextlib.suppress(OSError):
        path.chmod(stat.S_IMODE(status.st_mode))


def status_of(path: Path, sha256: str) -> os.stat_result | None:
    """Return the status of a file from before it was hashed; None if it is not there or has another content."""
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status if stat.S_ISREG(status.st_mode) and hash_of(path) == sha256 else None


def check_unchanged(path: Path, status: os.stat_result) -> None:
    """Check that a path has the same file as before, with the same size and time.

    Raises:
        NotReplacedError: it has not.
    """
    try:
        now = path.lstat()
    except FileNotFoundError:
        raise NotReplacedError(f"{path.name} was removed just now") from None
    if _identity(now) != _identity(status):
        raise NotReplacedError(f"{path.name} was changed just now: run the same command again")


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def unlink_unchanged(path: Path, status: os.stat_result) -> None:
    """Remove a file unless it was changed since its status was taken."""
    check_unchanged(path, status)
    remove(path)
    flush_folder(path.parent)


def unlink_if(path: Path, sha256: str) -> None:
    """Remove a file if it has this content."""
    status = status_of(path, sha256)
    if status is not None:
        unlink_unchanged(path, status)


def is_file(path: Path) -> bool:
    """Return whether this is a file of its own, and no link."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return sha256_of_file(file)


def make_folders(folder: Path) -> None:
    """Create a folder and those around it, and flush them."""
    for each in reversed((folder, *folder.parents)):
        if not each.is_dir():
            each.mkdir(exist_ok=True)
            flush_folder(each.parent)


def as_error(error: OSError, path: Path) -> Exception:
    """Return the error to raise: one that ends the run, or one about this file."""
    words = error.strerror or str(error)
    if error.errno in HITS_EVERY_PAGE:
        return OutputError(
            f"no more files can be written to {path.parent}: {words}. No original is lost. Free some space, then run "
            "the same command again"
        )
    return NotReplacedError(words)
