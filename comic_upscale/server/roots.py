"""Folders of the server's machine that jobs may read and write: only what is below an allowed root, links resolved."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from comic_upscale.errors import SettingsError
from comic_upscale.settings.paths import LEDGER_NAME, LONGEST_LEDGER, MARKER_FOLDER

LONGEST_NAME = 255
"""Bytes of the name of a folder."""
OUTPUT = "upscaled"
"""The folder beside its pages into which a library is upscaled in place."""


def find_below(roots: Sequence[Path], text: str, *, must_exist: bool = True) -> Path:
    """Return the real path of a file or folder below an allowed root.

    Args:
        roots: the allowed folders.
        text: an absolute path, or one that is relative to the first root.
        must_exist: whether it must exist. In any case, its parent folders are resolved as far as they exist.

    Raises:
        SettingsError: no root is allowed, the path leads out of all of them, or it does not exist.
    """
    if not roots:
        raise SettingsError("this server has no folders for jobs: start it with --root DIR")
    if "\0" in text or not text.strip():
        raise SettingsError("this is no path of a file or folder")
    try:
        path = (roots[0] / text).resolve(strict=must_exist)
        # The drive of another root may not answer: its own is asked first.
        ordered = sorted(roots, key=lambda root: not path.is_relative_to(root))
        is_allowed = any(path.is_relative_to(root.resolve(strict=True)) for root in ordered if root.exists())
    except OSError as error:
        raise SettingsError(f"the path {text[:200]} cannot be used: {error.strerror or error}") from None
    except RuntimeError:
        raise SettingsError(f"the path {text[:200]} is a link that leads to itself") from None
    if not is_allowed:
        # The same answer whether it exists or not: this is no way to look around.
        raise SettingsError(
            f"the path {text[:200]} is not below a folder that the server was started with (--root)"
        )
    return path


def is_folder(path: Path) -> bool:
    """Return whether there is a folder. In contrast to `Path.is_dir`, a drive that fails does not count as no folder.

    Raises:
        OSError: it cannot be told.
    """
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def check_links(roots: Sequence[Path], folder: Path) -> None:
    """Refuse a folder with links that lead out of the allowed roots. Blocks; for a worker.

    What cannot be read or is gone is passed over, as the run does.

    Raises:
        SettingsError: there is such a link.
    """
    pending, seen = [folder], set[Path]()
    while pending:
        current = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        for entry in _list(current):
            if entry.is_symlink():
                if _is_there(entry):
                    # It may be gone a moment later.
                    pending.append(find_below(roots, entry.path, must_exist=False))
            elif entry.is_dir():
                pending.append(Path(entry.path))


def _list(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (PermissionError, FileNotFoundError, NotADirectoryError):
        return []


def _is_there(link: os.DirEntry[str]) -> bool:
    try:
        return Path(link.path).exists()
    except PermissionError:
        return False


def check_output(folder: Path) -> None:
    """Refuse an output folder that cannot be made, or cannot hold a ledger and pages. Nothing is written.

    Raises:
        SettingsError: a name or the path is too long, a file is in its place or above it, or it may not be read.
    """
    room = LONGEST_LEDGER - len(f"/{MARKER_FOLDER}/{LEDGER_NAME}")
    if len(os.fsencode(folder)) > room:
        raise SettingsError(f"the path of the output has more than {room} bytes: choose a shorter one")
    # Below a folder that does not exist yet, the system does not say so.
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in folder.parts):
        raise SettingsError(
            f"a name in the path of the output has more than {LONGEST_NAME} bytes: choose a shorter one"
        )
    try:
        if folder.exists() and not folder.is_dir():
            raise SettingsError(f"the path {str(folder)[:200]} is a file: choose a folder for the results")
        os.lstat(folder / MARKER_FOLDER)
    except FileNotFoundError:
        return
    except OSError as error:
        raise SettingsError(
            f"the path {str(folder)[:200]} cannot be used: {error.strerror or error}"
        ) from None


def output_in_place(source: Path) -> Path:
    """Return where a library is upscaled in place: beside its pages, in a folder of its own.

    Args:
        source: a real path. A single file gets a folder with its name, so that each has a ledger of its own.
    """
    return source / OUTPUT if source.is_dir() else source.parent / OUTPUT / source.name
