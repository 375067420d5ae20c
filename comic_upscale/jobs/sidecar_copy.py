"""Carrying along what is no page: sidecars beside the outputs, and other files on request.

As with outputs: written beside its place, flushed, renamed, then recorded; and what the ledger does not know
is never overwritten. A copy that was edited since is left alone until its source changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import PurePath, PurePosixPath

from comic_upscale.errors import PageError
from comic_upscale.ledger.records import LEFT_AS_THEY_ARE, CopiedFile, PageRow
from comic_upscale.library.discover import Discovery
from comic_upscale.library.page import Page
from comic_upscale.library.sidecars import OtherFile, sidecar_output
from comic_upscale.library.sorting import fold
from comic_upscale.library.source_reader import SourceReader
from comic_upscale.planning.plan import is_among_sources
from comic_upscale.storage.base import OutputStore, sha256_of

_TOKEN = "carry"
"""One is enough: a job copies one file at a time, and what a kill left behind is removed by the next one."""


@dataclass(frozen=True, slots=True)
class CopyTask:
    """A file to be copied, unless it has been."""

    file: OtherFile
    output: str
    """Where to, relative to the output folder."""


@dataclass(frozen=True, slots=True)
class CopyFailure:
    """A file that was not copied, and why."""

    source: str
    reason: str


def plan_copies(
    discovery: Discovery, rows: Iterable[PageRow], *, sidecars: bool, others: bool, members: bool
) -> list[CopyTask | CopyFailure]:
    """Return what is to be copied, by what has become of the pages.

    Args:
        discovery: of the input.
        rows: the pages of the job, in the ledger.
        sidecars: whether the sidecars of pages that are done go beside their outputs.
        others: whether all other files go along, and pages that were left as they are, with their sidecars.
        members: whether what belongs to no page goes along from volumes whose pages go into folders.
    """
    done: dict[str, str] = {}
    left: set[str] = set()
    taken: set[str] = set()
    for row in rows:
        taken.add(fold(row.output))
        if row.state == "done":
            done[row.source] = row.output
        elif row.state == "skipped" and row.error_kind in LEFT_AS_THEY_ARE:
            left.add(row.source)
            # A page in its output's format keeps its name, and that name is its own.
            taken.discard(fold(row.output))
    wanted: list[CopyTask] = []
    for file in discovery.files:
        if sidecars:
            wanted += [
                CopyTask(file, sidecar_output(file, page, done[page])) for page in file.pages if page in done
            ]
        if file.member is not None:
            if members and not file.pages:
                wanted.append(CopyTask(file, file.output))
        elif others and (not file.pages or (sidecars and any(page in left for page in file.pages))):
            wanted.append(CopyTask(file, file.output))
    if others:
        # A page of a volume went into the volume's output.
        wanted += [
            CopyTask(_as_file(page), _own_name(page))
            for page in discovery.pages
            if page.source in left and page.member is None
        ]
    return list(_each_to_its_place(wanted, taken))


def carry(
    errands: Sequence[CopyTask],
    known: Mapping[str, CopiedFile],
    sources: SourceReader,
    outputs: OutputStore,
    source_folders: Set[PurePath],
    *,
    overwrite: bool,
) -> Iterator[CopiedFile | CopyFailure]:
    """Copy what has not been copied, or has changed, and tell of each file that was or could not be.

    Args:
        errands: what is to be copied.
        known: what was copied before, by output.
        sources: of the job.
        outputs: of the job.
        source_folders: where the pages really are; nothing is written there.
        overwrite: whether files that the ledger does not know may be replaced.

    Raises:
        OutputError: nothing can be written any more.
    """
    for errand in sorted(errands, key=_place_in_volume):
        before = known.get(errand.output)
        try:
            unchanged = before is not None and _is_as_recorded(errand.file, before)
            if unchanged and outputs.stat(errand.output) is not None:
                continue
            yield _carry_one(errand, before, sources, outputs, source_folders, overwrite)
        except PageError as error:
            yield CopyFailure(errand.file.source, error.reason)
        except OSError as error:
            yield CopyFailure(errand.file.source, f"cannot be copied: {error.strerror or error}")


def _carry_one(
    errand: CopyTask,
    before: CopiedFile | None,
    sources: SourceReader,
    outputs: OutputStore,
    source_folders: Set[PurePath],
    overwrite: bool,
) -> CopiedFile | CopyFailure:
    file, output = errand.file, errand.output
    if file.member is None and outputs.is_same(output, file.path):
        return _record(errand, sha256_of(outputs, output) or "")
    if not outputs.real_folder(output).is_relative_to(outputs.real_folder()):
        return CopyFailure(file.source, f"{output} would be written outside the output folder")
    if is_among_sources(output, file.path, sources.store, outputs, source_folders):
        return CopyFailure(file.source, f"{output} would be written among the sources")
    there = outputs.stat(output)
    if there is not None:
        if there.kind == "folder":
            return CopyFailure(file.source, f"a folder stands where it belongs: {output}")
        standing, ours = sha256_of(outputs, output), None if before is None else before.sha256
        if standing is not None and standing == _sha256_of_source(file, sources):
            # There already: a run that was killed between the copy and its record, or the user's own copy.
            return _record(errand, standing)
        if standing != ours and not overwrite:
            whose = "was edited since it was copied" if ours else "exists and was not written by this job"
            return CopyFailure(file.source, f"{output} {whose}: move it away, or allow --overwrite")
    with sources.open(file) as reader:
        return _record(errand, outputs.copy(output, reader, _TOKEN)[1])


def _sha256_of_source(file: OtherFile, sources: SourceReader) -> str | None:
    if file.member is None:
        return sources.sha256(file)
    return hashlib.sha256(sources.volumes.read(file.member.volume, file.member.index)).hexdigest()


def _place_in_volume(errand: CopyTask) -> tuple[str, int]:
    """A key that sorts what is in volumes into the order in which it is best read, behind all other files."""
    member = errand.file.member
    return ("", 0) if member is None else (member.volume, member.index)


def _record(errand: CopyTask, sha256: str) -> CopiedFile:
    file = errand.file
    return CopiedFile(file.source, errand.output, file.size, file.mtime_ns, sha256)


def _is_as_recorded(file: OtherFile, before: CopiedFile) -> bool:
    now = (file.source, file.size, file.mtime_ns)
    return now == (before.source, before.source_size, before.source_mtime_ns)


def _each_to_its_place(
    wanted: Iterable[CopyTask], taken: Collection[str]
) -> Iterator[CopyTask | CopyFailure]:
    """Let no two files have one place, and none that of a page."""
    places = set(taken)
    for errand in wanted:
        place = fold(errand.output)
        if place in places:
            yield CopyFailure(errand.file.source, f"another file has its place {errand.output}")
        else:
            places.add(place)
            yield errand


def _as_file(page: Page) -> OtherFile:
    return OtherFile(page.source, page.path, _own_name(page), page.size, page.mtime_ns)


def _own_name(page: Page) -> str:
    """Where a page goes that is copied as it is: where its output would be, but under its own name."""
    return str(PurePosixPath(page.output).with_name(PurePosixPath(page.source).name))
