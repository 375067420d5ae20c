"""Outputs that somebody moved, renamed or copied after they had replaced their originals.

The hash of a file decides. Its size only says which files to read.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from comic_upscale.errors import PageError
from comic_upscale.settings.paths import MARKER_FOLDER
from comic_upscale.storage.base import check_name
from comic_upscale.storage.guarded import hash_of
from comic_upscale.storage.replaced_journal import Replaced


def find_moved(library: Path, records: Sequence[Replaced], in_force: Collection[Replaced]) -> list[Replaced]:
    """Return a record for each file of a folder that is an output, and not where a record has it.

    The original of such a file gets a place beside it, under the name that it would have there.

    Args:
        library: the folder.
        records: of all replacements, the oldest first.
        in_force: those whose outputs are in their places.
    """
    known = {record.new for record in in_force}
    free = {record for record in records if record.new not in known}
    taken = {record.source for record in in_force}
    by_size: defaultdict[int, list[Replaced]] = defaultdict(list)
    for record in records:
        by_size[record.new_size].append(record)
    moved: list[Replaced] = []
    for name, status in sorted(_files(library, {PurePosixPath(record.new).suffix for record in records})):
        if name in known or status.st_size not in by_size:
            continue
        try:
            sha256 = hash_of(library / name)
            check_name(name, "output")
        except (OSError, PageError):
            continue
        # The newest first: it has the output and the original as they are now.
        same = [record for record in reversed(by_size[status.st_size]) if record.new_sha256 == sha256]
        if not same:
            continue
        record = _most_alike(name, same, free)
        free.discard(record)
        source = _source_beside(name, record)
        if source in taken:
            source = name
        taken.add(source)
        moved.append(
            replace(record, source=source, new=name, new_mtime_ns=status.st_mtime_ns, done=True, older="")
        )
    return moved


def _files(library: Path, suffixes: Collection[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the files of a folder that have one of these suffixes, with their names relative to it. No link counts."""
    for folder, folders, names in os.walk(library):
        folders[:] = [each for each in folders if each != MARKER_FOLDER]
        for name in names:
            path = Path(folder) / name
            if path.suffix not in suffixes:
                continue
            try:
                status = path.lstat()
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode):
                yield path.relative_to(library).as_posix(), status


def _most_alike(name: str, same: Sequence[Replaced], free: Collection[Replaced]) -> Replaced:
    """Return which of several records with one content a file belongs to: by its name, to one whose file is missing."""
    alike: tuple[Callable[[Replaced], bool], ...] = (
        lambda record: record in free and PurePosixPath(record.new).name == PurePosixPath(name).name,
        lambda record: record in free,
    )
    for is_alike in alike:
        for record in same:
            if is_alike(record):
                return record
    return same[0]


def _source_beside(name: str, record: Replaced) -> str:
    """Return the place of an original beside its output."""
    path, new, source = PurePosixPath(name), PurePosixPath(record.new), PurePosixPath(record.source)
    if path.name == new.name:
        return path.with_name(source.name).as_posix()
    return path.with_suffix(source.suffix).as_posix()
