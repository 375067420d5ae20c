"""The folders of the server's machine as people browse them: one level at a time, and nothing beyond the allowed roots.

The server looks at names, kinds and sizes alone. Only workers open what is there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.errors import SettingsError
from comic_upscale.imaging.formats import ARCHIVE_EXTENSIONS, IMAGE_EXTENSIONS, extension_of
from comic_upscale.library.sorting import natural_key
from comic_upscale.server.accounts import Account
from comic_upscale.server.database.schema import jobs
from comic_upscale.server.roots import OUTPUT, find_below
from comic_upscale.server.settings import ServerSettings
from comic_upscale.settings.paths import LITTER, MARKER_FOLDER

Kind: TypeAlias = Literal["folder", "volume", "image"]

ON_A_PAGE = 100
MOST_ENTRIES = 50_000
"""Entries of one folder that are read."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A folder, volume or image."""

    name: str
    path: str
    """Its real path."""
    kind: Kind
    size: int | None
    """Bytes; None for a folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One page of a folder."""

    path: str
    """The real path of the folder."""
    root: str
    """The root above it."""
    parts: Sequence[tuple[str, str]]
    """Name and path of each folder from the root to this one."""
    entries: Sequence[Entry]
    total: int
    """Entries on all pages."""
    """Images directly in the folder."""
    hidden: int
    """Links that lead out of the roots, or nowhere, and names that are not UTF-8."""
    is_cut: bool
    """Whether there are more than `MOST_ENTRIES` entries."""
    is_upscaled: bool
    """Whether a job has results in this folder."""


def may_use(settings: ServerSettings, account: Account) -> bool:
    """Return whether an account may browse and upscale folders of the server's machine."""
    if not settings.root_folders or account.is_anonymous:
        return False
    return account.is_admin or account.name in settings.library_users


def list_folder(roots: Sequence[Path], text: str, page: int = 1) -> Listing:
    """List one level of a folder, folders first. Blocks.

    Args:
        roots: the allowed folders.
        text: the path of a folder; empty for the first root.
        page: of `ON_A_PAGE` entries, from 1.

    Raises:
        SettingsError: the path is not that of a folder below a root, or it cannot be read.
    """
    folder = find_below(roots, text or (str(roots[0]) if roots else ""))
    if not folder.is_dir():
        raise SettingsError(f"{folder} is no folder: choose the folder that it is in")
    root = next(each for each in _real(roots) if folder == each or folder.is_relative_to(each))
    try:
        entries, hidden, is_cut = _read(roots, folder)
    except OSError as error:
        raise SettingsError(f"{folder} cannot be read: {error.strerror or error}") from None
    order = {"folder": 0, "volume": 1, "image": 2}
    entries.sort(key=lambda each: (order[each.kind], natural_key(each.name)))
    first = (page - 1) * ON_A_PAGE
    above = [root, *(root / part for part in _prefixes(folder.relative_to(root)))]
    return Listing(
        path=str(folder),
        root=str(root),
        parts=[(each.name or str(each), str(each)) for each in above],
        entries=entries[first : first + ON_A_PAGE],
        total=len(entries),
        hidden=hidden,
        is_cut=is_cut,
        is_upscaled=(folder / OUTPUT / MARKER_FOLDER).is_dir(),
    )


def latest_jobs(connection: Connection, paths: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    """Return the latest job over each of some folders and files that has one."""
    wanted = list(paths)
    latest = sa.select(sa.func.max(jobs.c.created_at)).where(jobs.c.input.in_(wanted)).group_by(jobs.c.input)
    rows = connection.execute(
        sa.select(jobs)
        .where(jobs.c.input.in_(wanted), jobs.c.created_at.in_(latest))
        .order_by(jobs.c.created_at)
    ).mappings()
    return {row["input"]: dict(row) for row in rows}


def _real(roots: Sequence[Path]) -> list[Path]:
    return [root.resolve() for root in roots if root.exists()]


def _prefixes(path: Path) -> list[Path]:
    return [Path(*path.parts[:count]) for count in range(1, len(path.parts) + 1)]


def _read(roots: Sequence[Path], folder: Path) -> tuple[list[Entry], int, bool]:
    found: list[Entry] = []
    hidden = 0
    with os.scandir(folder) as entries:
        for number, entry in enumerate(entries):
            if number >= MOST_ENTRIES:
                return found, hidden, True
            if entry.name.startswith(".") or entry.name.lower() in LITTER:
                continue
            try:
                shown = _entry(roots, entry)
            except (OSError, SettingsError, UnicodeEncodeError):
                hidden += 1
                continue
            if shown is not None:
                found.append(shown)
    return found, hidden, False


def _entry(roots: Sequence[Path], entry: os.DirEntry[str]) -> Entry | None:
    """Return an entry as it is shown; None for what holds no pages.

    Raises:
        OSError: it is gone, or a link that leads nowhere.
        SettingsError: it is a link that leads out of the roots.
        UnicodeEncodeError: its name is not UTF-8.
    """
    path = str(find_below(roots, entry.path)) if entry.is_symlink() else entry.path
    # Neither the database nor a page can hold a name that is not UTF-8.
    path.encode()
    entry.name.encode()
    if entry.is_dir():
        is_output = entry.name == OUTPUT and (Path(entry.path) / MARKER_FOLDER).is_dir()
        return None if is_output else Entry(entry.name, path, "folder", None)
    extension = extension_of(entry.name)
    if extension in ARCHIVE_EXTENSIONS:
        return Entry(entry.name, path, "volume", entry.stat().st_size)
    if extension in IMAGE_EXTENSIONS:
        return Entry(entry.name, path, "image", entry.stat().st_size)
    return None
