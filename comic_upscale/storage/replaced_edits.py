"""Outputs that somebody edited after they had replaced their originals, such as volumes that got new tags.

Their content is a new one, so marks decide: something in the file that such an edit keeps.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from comic_upscale.errors import PageError
from comic_upscale.storage.base import check_name
from comic_upscale.storage.guarded import hash_of, is_file
from comic_upscale.storage.replaced_journal import Replaced
from comic_upscale.storage.replaced_moves import library_files, source_beside

_ENOUGH = 0.5
"""The share of the marks of an output that an edited one still has. Pages may have been added or removed."""


class Marks(Protocol):
    """Reads marks."""

    @property
    def volume_suffixes(self) -> Collection[str]:
        """Suffixes of volumes, with the dot.

        Their marks tell them from all other files; those of pages only from another file in the same place.
        """
        ...

    def sample(self, path: Path) -> str:
        """Return some marks of an output, separated by spaces; empty if it has none."""
        ...

    def read(self, path: Path) -> Collection[str]:
        """Return all marks of a file; none if it cannot be read."""
        ...


def find_edited(
    library: Path, records: Sequence[Replaced], in_force: Collection[Replaced], marks: Marks
) -> list[Replaced]:
    """Return a record for each file of a folder that is an edited output, wherever a volume is now.

    Args:
        library: the folder.
        records: of all replacements, the oldest first.
        in_force: those whose outputs are in their places.
        marks: reads the marks of files.
    """
    known = {record.new for record in in_force}
    taken = {record.source for record in in_force}
    places = {record.new: record for record in records if record.marks and record.new not in known}
    volumes = _Index([record for record in records if _is_volume(record.new, marks)])
    names = {name for name in places if not _is_volume(name, marks)}
    if volumes.suffixes:
        names.update(name for name, _ in library_files(library, volumes.suffixes) if name not in known)
    edited: list[Replaced] = []
    for name in sorted(names):
        path = library / name
        if not is_file(path):
            continue
        found = marks.read(path)
        if _is_volume(name, marks):
            record = volumes.find(name, found)
        else:
            record = places[name] if _share(places[name], found) >= _ENOUGH else None
        edit = None if record is None else _as_edit(path, name, record)
        if edit is not None:
            if edit.source in taken:
                edit = replace(edit, source=name)
            taken.add(edit.source)
            edited.append(edit)
    return edited


class _Index:
    """The records of volumes by their marks."""

    def __init__(self, records: Sequence[Replaced]) -> None:
        self._by_mark: defaultdict[str, dict[Replaced, None]] = defaultdict(dict)
        for record in records:
            for mark in set(record.marks.split()):
                self._by_mark[mark][record] = None
        self.suffixes = {Path(record.new).suffix.lower() for record in records if record.marks}

    def find(self, name: str, marks: Collection[str]) -> Replaced | None:
        """Return the record whose output a file is, edited; that of its place before others, then the newest."""
        counts = Counter(record for mark in marks for record in self._by_mark.get(mark, ()))
        enough = [record for record in counts if _share(record, marks) >= _ENOUGH]
        return max(enough, key=lambda each: (each.new == name, counts[each]), default=None)


def _share(record: Replaced, marks: Collection[str]) -> float:
    own = set(record.marks.split())
    return len(own.intersection(marks)) / len(own) if own else 0.0


def _as_edit(path: Path, name: str, record: Replaced) -> Replaced | None:
    """Return the record of an edited output; None if the file is an original, as after a kill, or cannot be read."""
    try:
        check_name(name, "output")
        status, content = path.lstat(), hash_of(path)
    except (OSError, PageError):
        return None
    if content in (record.source_sha256, record.output_sha256):
        return None
    return replace(
        record,
        source=record.source if name == record.new else source_beside(name, record),
        new=name,
        new_sha256=content,
        new_size=status.st_size,
        new_mtime_ns=status.st_mtime_ns,
        done=True,
        older="",
        edited=record.output_sha256,
    )


def _is_volume(name: str, marks: Marks) -> bool:
    return Path(name).suffix.lower() in marks.volume_suffixes
