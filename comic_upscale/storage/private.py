"""Files and folders of ours that only the user may read, and the group if the user shares with it.

A group that may write what the user creates (``umask 002``) works on the same jobs. Other users may not even read:
whoever can open a lock file can hold its lock.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

_FOR_GROUP, _FOR_USER = 0o770, 0o700
_EXCLUSIVE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)


def make_private_folder(folder: Path) -> None:
    """Create a folder, and the missing folders above it with the usual permissions.

    Raises:
        FileExistsError: there is something of this name.
        OSError: the folder cannot be created.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=_FOR_GROUP)
    _close_to_others(folder)


def make_private_file(path: Path) -> None:
    """Create an empty file, unless it exists. One of the user's own gets the permissions that it would get now.

    Args:
        path: of the file, whose folder exists. The caller has made sure that it is no link.

    Raises:
        OSError: the file cannot be created.
    """
    try:
        os.close(os.open(path, _EXCLUSIVE, _FOR_GROUP & 0o666))
    except FileExistsError:
        _protect(path)
        return
    _close_to_others(path)


def _close_to_others(path: Path) -> None:
    """Take all permissions of group and others from something new, unless the user's mask lets the group write."""
    if os.name != "posix":
        return
    # FAT and exFAT have no permissions to change, and refuse.
    with contextlib.suppress(OSError):
        mode = stat.S_IMODE(path.lstat().st_mode)
        if not mode & stat.S_IWGRP:
            path.chmod(mode & ~0o077)


def _protect(path: Path) -> None:
    """Take the permissions of other users from an older file; share it with the group if its folder is shared."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):
        status, folder = path.lstat(), path.parent.stat()
        if status.st_uid != os.geteuid() or not stat.S_ISREG(status.st_mode):
            return
        shared = bool(folder.st_mode & stat.S_IWGRP) and folder.st_gid == status.st_gid
        own = status.st_mode & 0o700
        wanted = own | own >> 3 if shared else own
        if stat.S_IMODE(status.st_mode) != wanted:
            path.chmod(wanted)


def owner_of(path: Path) -> str:
    """Return the name of the owner of a file, or the owner's number; ``another user`` if that is unknown."""
    try:
        uid = path.lstat().st_uid
    except OSError:
        return "another user"
    with contextlib.suppress(ImportError, KeyError):
        import pwd

        return pwd.getpwuid(uid).pw_name
    return f"user {uid}"
