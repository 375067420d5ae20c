r"""Names that some file systems refuse: FAT, exFAT and Windows allow no ``\ : * ? " < > |`` in them."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from pathlib import Path

from comic_upscale.storage.parts import open_part

_SPECIAL = re.compile(r'[\\:*?"<>|\x00-\x1f]')
_SPECIAL_TOKEN = r'check-\:*?"<>|'
_NAME_ERRORS = {errno.EINVAL, errno.ENOENT, errno.EILSEQ}
"""How file systems refuse a name."""
_REFUSING = frozenset(("vfat", "msdos", "exfat"))
"""File systems of Linux that refuse such names, whatever the options of the mount."""


def without_special(name: str) -> str:
    """Return a name as every file system can hold it.

    Args:
        name: POSIX path.
    """
    return "/".join(map(_safe_part, name.split("/")))


def _safe_part(part: str) -> str:
    safe = _SPECIAL.sub("_", part)
    stripped = safe.rstrip(" .")
    # FAT drops dots and spaces at the end without a word.
    return stripped + "_" * (len(safe) - len(stripped)) if stripped else safe


def try_special_name(folder: Path) -> bool:
    """Return whether a folder holds such names, by writing a file: only the file system knows for certain.

    Windows refuses them on every file system, and pathlib refuses to make such a path there.
    """
    if os.name == "nt":
        return False
    try:
        with open_part(folder, _SPECIAL_TOKEN):
            return True
    except OSError as error:
        # Other errors have nothing to do with names, and come again when an output is written.
        return error.errno not in _NAME_ERRORS


def expect_special_names(folder: Path) -> bool:
    """Return whether a folder probably holds such names, by its file system; nothing is written.

    Args:
        folder: it need not exist.
    """
    if os.name == "nt":
        return False
    import psutil

    try:
        mounts = [(each.mountpoint, each.fstype) for each in psutil.disk_partitions(all=True)]
    except OSError:
        return True
    return file_system_of(os.path.realpath(folder), mounts) not in _REFUSING


def file_system_of(path: str, mounts: Iterable[tuple[str, str]]) -> str:
    """Return the file system of an absolute path without links; empty if unknown.

    Args:
        path: it need not exist.
        mounts: (mount point, file system), in the order in which they were mounted.
    """
    found, length = "", -1
    for point, kind in mounts:
        # A later mount hides an earlier one at the same place.
        if len(point) >= length and (path == point or path.startswith(point.rstrip("/") + "/")):
            found, length = kind, len(point)
    return found
