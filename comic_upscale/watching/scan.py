"""List the files of a folder with sizes and times, and nothing else: no file is opened.

Polling sees what an event of the system does not: files that another machine writes to a share.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from comic_upscale.library.naming import valid_names
from comic_upscale.settings.paths import LITTER, MARKER_FOLDER


class FileState(NamedTuple):
    """Changes when a file does."""

    size: int
    """Bytes."""
    mtime_ns: int
    """Modification time, nanoseconds."""


@dataclass(frozen=True, slots=True)
class Scan:
    """The files of a folder at one moment."""

    files: Mapping[str, FileState]
    """By source: the POSIX path relative to the folder, as discovery names it."""
    unread: tuple[str, ...] = ()
    """Prefixes of sources that could not be listed, such as ``vol 1/``."""
    outside: tuple[str, ...] = ()
    """Links that lead out of the allowed folders. They are not followed."""


def scan_folder(root: Path, leave_out: Collection[Path] = (), within: Collection[Path] | None = None) -> Scan:
    """List the files below a folder. Links are followed, and every real folder is entered once.

    Hidden files, the litter of operating systems and output folders of this package are left out, as in a run.

    Args:
        root: the folder.
        leave_out: folders that are not entered; they need not exist.
        within: real folders that no link may lead out of; None if links may lead anywhere.

    Raises:
        OSError: the folder itself cannot be listed.
    """
    left_out = {identity for path in leave_out if (identity := _identity(path)) is not None}
    entered: set[tuple[int, int]] = set()
    files: dict[str, FileState] = {}
    unread: list[str] = []
    outside: list[str] = []
    # A stack and no recursion: a tree may be deeper than Python allows calls to be.
    waiting = [(os.fspath(root), "")]
    while waiting:
        folder, prefix = waiting.pop()
        try:
            entries = _list(folder)
            identity = _identity(Path(folder))
        except OSError:
            if not prefix:
                raise
            unread.append(prefix)
            continue
        if prefix and (identity in left_out or identity in entered or MARKER_FOLDER in entries):
            continue
        if identity is not None:
            entered.add(identity)
        names = valid_names(entries)
        for name, entry in entries.items():
            if name.startswith(".") or name.lower() in LITTER:
                continue
            source = f"{prefix}{names[name]}"
            if within is not None and entry.is_symlink() and not _leads_into(within, entry.path):
                outside.append(source)
                continue
            try:
                status = entry.stat()
            except OSError:
                # Gone in the meantime, or a broken link: perhaps to a drive that is away.
                unread.append(f"{source}/")
                continue
            if stat.S_ISDIR(status.st_mode):
                waiting.append((entry.path, f"{source}/"))
            elif stat.S_ISREG(status.st_mode):
                files[source] = FileState(status.st_size, status.st_mtime_ns)
    return Scan(files, tuple(unread), tuple(outside))


def _list(folder: str) -> dict[str, os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return {entry.name: entry for entry in entries}


def _leads_into(allowed: Collection[Path], link: str) -> bool:
    """Return whether a link leads into one of some folders, or to nothing."""
    target = Path(os.path.realpath(link))
    return any(target.is_relative_to(folder) for folder in allowed) or not os.path.lexists(target)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    # Some file systems number no files: their folders are never taken for each other.
    return (status.st_dev, status.st_ino) if status.st_ino else None
