"""Outputs that somebody moved, renamed or copied after they had replaced their originals.

The hash of a file decides. Its size only says which files to read.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from comic_upscale.errors import PageError
from comic_upscale.settings.paths import LITTER, MARKER_FOLDER
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
    taken = {record.source for record in in_force}
    by_content: defaultdict[tuple[int, str], list[Replaced]] = defaultdict(list)
    for record in records:
        by_content[record.new_size, record.new_sha256].append(record)
    sizes = {size for size, _ in by_content}
    found: defaultdict[tuple[int, str], list[str]] = defaultdict(list)
    times: dict[str, int] = {}
    for name, status in sorted(library_files(library, {_suffix(record.new) for record in records})):
        if name in known or status.st_size not in sizes:
            continue
        try:
            content = (status.st_size, hash_of(library / name))
            check_name(name, "output")
        except (OSError, PageError):
            continue
        if content in by_content:
            found[content].append(name)
            times[name] = status.st_mtime_ns
    pairs: dict[str, Replaced] = {}
    for content, names in found.items():
        pairs.update(_pair(names, by_content[content], known))
    moved: list[Replaced] = []
    for name, record in sorted(pairs.items(), key=lambda pair: pair[0]):
        source = source_beside(name, record)
        if source in taken:
            source = name
        taken.add(source)
        moved.append(replace(record, source=source, new=name, new_mtime_ns=times[name], done=True, older=""))
    return moved


def library_files(library: Path, suffixes: Collection[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the files of a folder that have one of these suffixes, with their names relative to it. No link counts.

    It passes over what a run passes over: hidden files, recycle bins and other litter, and the outputs of other jobs.
    A file that was moved there was removed from the library.
    """
    for folder, folders, names in os.walk(library):
        if MARKER_FOLDER in folders and Path(folder) != library:
            folders.clear()
            continue
        folders[:] = [each for each in folders if not _is_passed_over(each)]
        for name in names:
            path = Path(folder) / name
            if _is_passed_over(name) or _suffix(name) not in suffixes:
                continue
            try:
                status = path.lstat()
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode):
                yield path.relative_to(library).as_posix(), status


def _is_passed_over(name: str) -> bool:
    return name.startswith(".") or name.lower() in LITTER


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _pair(names: Sequence[str], records: Sequence[Replaced], known: Collection[str]) -> dict[str, Replaced]:
    """Return the record that each of several files with one content belongs to.

    Each original whose output is missing gets one file: that whose name is most like the name of its output. All other
    files are copies.

    Args:
        names: of the files, sorted.
        records: with their content, the oldest first.
        known: the places that have their outputs.
    """
    # The newest record of an original says where its output was at last.
    newest = {record.trash: record for record in records}
    missing = {trash: record for trash, record in newest.items() if record.new not in known}
    pairs: dict[str, Replaced] = {}
    for pair in (_same_names, _most_alike):
        for name, record in pair([name for name in names if name not in pairs], [*missing.values()]):
            if name not in pairs and record.trash in missing:
                pairs[name] = missing.pop(record.trash)
    one = _is_one_original(records)
    for name in names:
        if name not in pairs:
            pairs[name] = records[-1] if one else _nearest(name, records)
    return pairs


def _same_names(names: Sequence[str], records: Sequence[Replaced]) -> Iterator[tuple[str, Replaced]]:
    """Yield files with the outputs of the same name in another folder, such as a folder that was renamed."""
    by_name: defaultdict[str, list[Replaced]] = defaultdict(list)
    for record in records:
        by_name[PurePosixPath(record.new).name].append(record)
    files: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        files[PurePosixPath(name).name].append(name)
    for name, places in files.items():
        yield from _most_alike(places, by_name.get(name, []))


def _most_alike(names: Sequence[str], records: Sequence[Replaced]) -> Iterable[tuple[str, Replaced]]:
    """Return files with the outputs that they may be, the most alike first; the order decides between equals."""
    if _is_one_original(records):
        # Such as blank pages, of which there may be thousands: it makes no difference which is which.
        return zip(names, records, strict=False)
    return sorted(itertools.product(names, records), key=lambda pair: _likeness(*pair), reverse=True)


def _nearest(name: str, records: Sequence[Replaced]) -> Replaced:
    return max(reversed(records), key=lambda record: _likeness(name, record))


def _likeness(name: str, record: Replaced) -> tuple[int, bool, int]:
    """Return how much the path of a file is like that of an output: the greater, the more."""
    path, new = PurePosixPath(name), PurePosixPath(record.new)
    return (
        _common_start(path.name, new.name),
        path.parent == new.parent,
        _common_start(name, record.new),
    )


def _common_start(one: str, other: str) -> int:
    """Return the number of characters with which both begin."""
    return sum(1 for _ in itertools.takewhile(bool, map(str.__eq__, one, other)))


def _is_one_original(records: Iterable[Replaced]) -> bool:
    return len({record.source_sha256 for record in records}) < 2


def source_beside(name: str, record: Replaced) -> str:
    """Return the place of an original beside its output."""
    path, new, source = PurePosixPath(name), PurePosixPath(record.new), PurePosixPath(record.source)
    if path.name == new.name:
        return path.with_name(source.name).as_posix()
    return path.with_suffix(source.suffix).as_posix()
