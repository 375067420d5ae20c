"""Copying files that are not pages: sidecars beside the outputs, and other files on request.

Like an output, a copy is written beside its place, flushed, renamed, then recorded. A file that the ledger does not
know is never overwritten. A copy that was edited is left alone until its source changes.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PurePosixPath

from comic_upscale.errors import PageError
from comic_upscale.execution.stop import StopRequest
from comic_upscale.ledger.records import LEFT_AS_THEY_ARE, CopiedFile, PageRow
from comic_upscale.library.discover import Discovery
from comic_upscale.library.page import Page
from comic_upscale.library.sidecars import OtherFile, pages_by_stem, sidecar_of, sidecar_output
from comic_upscale.library.sorting import fold
from comic_upscale.library.source_reader import SourceReader
from comic_upscale.planning.follow_renames import MovedOutput
from comic_upscale.planning.output_checks import is_among_sources
from comic_upscale.storage.base import OutputStore, sha256_of

_TOKEN = "carry"
"""The same for every copy: a job copies one file at a time, and the next copy removes the remains of a kill."""


@dataclass(frozen=True, slots=True)
class CopyTask:
    """A file to copy, unless it is already copied."""

    file: OtherFile
    output: str
    """The target, relative to the output folder."""
    is_sidecar: bool = False
    """Whether it goes beside the output of a finished page."""


@dataclass(frozen=True, slots=True)
class CopyLeft:
    """A file that is left to the next run, because this one was stopped."""

    source: str


@dataclass(frozen=True, slots=True)
class CopyFailure:
    """A file that was not copied, and why."""

    source: str
    reason: str


def plan_copies(
    discovery: Discovery, rows: Iterable[PageRow], *, sidecars: bool, others: bool
) -> list[CopyTask | CopyFailure]:
    """Return the files to copy, by the results of the pages.

    Other members of volumes whose pages are written to folders are always among them.

    Args:
        discovery: of the input.
        rows: the pages of the job, in the ledger.
        sidecars: whether to copy the sidecars of finished pages beside their outputs.
        others: whether to copy all other files, and skipped pages with their sidecars.
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
            # A page that already has the output format keeps its name, which is then free for its copy.
            taken.discard(fold(row.output))
    wanted: list[CopyTask] = []
    for file in discovery.files:
        if sidecars:
            wanted += [
                CopyTask(file, sidecar_output(file, page, done[page]), is_sidecar=True)
                for page in file.pages
                if page in done
            ]
        if file.member is not None:
            if not file.pages:
                wanted.append(CopyTask(file, file.output))
        elif others and (not file.pages or (sidecars and any(page in left for page in file.pages))):
            wanted.append(CopyTask(file, file.output))
    if others:
        # A page of a volume is already in the output of the volume.
        wanted += [
            CopyTask(_as_file(page), _own_name(page))
            for page in discovery.pages
            if page.source in left and page.member is None
        ]
    return list(_refuse_conflicts(wanted, taken))


def copy_files(
    tasks: Sequence[CopyTask],
    known: Mapping[str, CopiedFile],
    sources: SourceReader,
    outputs: OutputStore,
    source_folders: Set[PurePath],
    *,
    overwrite: bool,
    stop: StopRequest,
) -> Iterator[CopiedFile | CopyFailure | CopyLeft]:
    """Copy files that are not copied yet or have changed, and yield each copy, each failure and each file that is left.

    Args:
        tasks: the files to copy.
        known: earlier copies, by output.
        sources: of the job.
        outputs: of the job.
        source_folders: the real folders of the pages; nothing is written there.
        overwrite: whether files that the ledger does not know may be replaced.
        stop: after it, finished pages still get their sidecars, but no other files are copied.

    Raises:
        OutputError: no more files can be written.
    """
    for wanted in sorted(tasks, key=_place_in_volume):
        task = replace(wanted, output=outputs.storable_name(wanted.output))
        before = known.get(task.output)
        try:
            unchanged = before is not None and _is_as_recorded(task.file, before)
            if stop.requested and not task.is_sidecar:
                if not unchanged:
                    yield CopyLeft(task.file.source)
                continue
            if unchanged and outputs.stat(task.output) is not None:
                continue
            yield _copy_file(task, before, sources, outputs, source_folders, overwrite)
        except PageError as error:
            yield CopyFailure(task.file.source, error.reason)
        except OSError as error:
            yield CopyFailure(task.file.source, f"cannot be copied: {error.strerror or error}")


def find_stale_copies(
    moved: Iterable[MovedOutput],
    discovery: Discovery,
    tasks: Iterable[CopyTask],
    known: Mapping[str, CopiedFile],
    outputs: OutputStore,
) -> list[str]:
    """Return the copies of sidecars beside the earlier outputs of renamed pages, if their sources are gone, too.

    Args:
        moved: the outputs that moved.
        discovery: of the input.
        tasks: the copies of this run.
        known: earlier copies, by output.
        outputs: of the job; copies that were edited are left out.
    """
    there = {file.source for file in discovery.files}
    wanted = {task.output for task in tasks}
    by_folder: defaultdict[PurePath, list[CopiedFile]] = defaultdict(list)
    for copy in known.values():
        if copy.source not in there and copy.output not in wanted:
            by_folder[PurePosixPath(copy.source).parent].append(copy)
    stale: list[str] = []
    for each in moved:
        page = PurePosixPath(each.source)
        for copy in by_folder.get(page.parent, ()):
            file = OtherFile(copy.source, Path(copy.source), "", copy.source_size, copy.source_mtime_ns)
            if (
                sidecar_of(PurePosixPath(copy.source).name, pages_by_stem([page.name]))
                and copy.output == sidecar_output(file, each.source, each.output)
                and sha256_of(outputs, copy.output) == copy.sha256
            ):
                stale.append(copy.output)
    return stale


def _copy_file(
    task: CopyTask,
    before: CopiedFile | None,
    sources: SourceReader,
    outputs: OutputStore,
    source_folders: Set[PurePath],
    overwrite: bool,
) -> CopiedFile | CopyFailure:
    file, output = task.file, task.output
    if file.member is None and outputs.is_same(output, file.path):
        return _record(task, sha256_of(outputs, output) or "")
    if not outputs.real_folder(output).is_relative_to(outputs.real_folder()):
        return CopyFailure(file.source, f"{output} would be written outside the output folder")
    if is_among_sources(output, file.path, sources.store, outputs, source_folders):
        return CopyFailure(file.source, f"{output} would be written among the sources")
    existing = outputs.stat(output)
    if existing is not None:
        if existing.kind == "folder":
            return CopyFailure(file.source, f"a folder is in its place: {output}")
        current, ours = sha256_of(outputs, output), None if before is None else before.sha256
        if current is not None and current == _sha256_of_source(file, sources):
            # Already there: a run was killed before it recorded the copy, or the user copied the file.
            return _record(task, current)
        if current != ours and not overwrite:
            why = "was edited since it was copied" if ours else "exists and was not written by this job"
            return CopyFailure(file.source, f"{output} {why}: move it away, or allow --overwrite")
    with sources.open(file) as reader:
        return _record(task, outputs.copy(output, reader, _TOKEN)[1])


def _sha256_of_source(file: OtherFile, sources: SourceReader) -> str | None:
    if file.member is None:
        return sources.sha256(file)
    return hashlib.sha256(sources.volumes.read(file.member.volume, file.member.index)).hexdigest()


def _place_in_volume(task: CopyTask) -> tuple[str, int]:
    """Return a key that sorts members of volumes into the fastest reading order, after all other files."""
    member = task.file.member
    return ("", 0) if member is None else (member.volume, member.index)


def _record(task: CopyTask, sha256: str) -> CopiedFile:
    file = task.file
    return CopiedFile(file.source, task.output, file.size, file.mtime_ns, sha256)


def _is_as_recorded(file: OtherFile, before: CopiedFile) -> bool:
    now = (file.source, file.size, file.mtime_ns)
    return now == (before.source, before.source_size, before.source_mtime_ns)


def _refuse_conflicts(wanted: Iterable[CopyTask], taken: Collection[str]) -> Iterator[CopyTask | CopyFailure]:
    """Yield each task, or a failure if another file or a page has the same target."""
    places = set(taken)
    for task in wanted:
        place = fold(task.output)
        if place in places:
            yield CopyFailure(task.file.source, f"another file is copied to {task.output}")
        else:
            places.add(place)
            yield task


def _as_file(page: Page) -> OtherFile:
    return OtherFile(page.source, page.path, _own_name(page), page.size, page.mtime_ns)


def _own_name(page: Page) -> str:
    """Return the target of a page that is copied unchanged: beside its output, under its own name."""
    return str(PurePosixPath(page.output).with_name(PurePosixPath(page.source).name))
