"""Decide what is left to do: compare the pages that were found with the ledger.

The ledger is trusted after a cheap check. The source must have its recorded size and time (or, if those changed, its
recorded hash), and the output must exist with its recorded size.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PurePosixPath

from comic_upscale.errors import ANIMATED, PageError
from comic_upscale.imaging.target_size import is_larger
from comic_upscale.ledger.records import LARGE_ENOUGH, VOLUME, PageFailed, PageRow
from comic_upscale.ledger.writer import Ledger, OutputOwner
from comic_upscale.library.naming import free_name
from comic_upscale.library.page import MemberOf, Page
from comic_upscale.library.sorting import fold
from comic_upscale.library.source_reader import SourceReader
from comic_upscale.library.volume import Volume
from comic_upscale.library.volume_placing import LOOSE_PAGES
from comic_upscale.planning.duplicates import NO_DUPLICATES, DuplicateCandidates, shared_sizes
from comic_upscale.planning.volumes import (
    PlannedVolume,
    by_volume,
    is_complete,
    standing_pages,
    waits,
    why_incomplete,
)
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.paths import MARKER_FOLDER, path_text
from comic_upscale.settings.sizes import Bounds
from comic_upscale.storage.base import OutputStore, SourceStore, sha256_of_file, size_of

GONE = "no longer in the input"
OUTPUT_EXISTS = "output-exists"
"""The kind of a failure that every run checks again, because the user may have moved the file away."""


@dataclass(frozen=True, slots=True)
class PlannedPage:
    """A page that a run will process."""

    row_id: int
    source: str
    path: Path
    output: str
    member: MemberOf | None = None
    """The place of a page inside a volume; None for any other page."""
    size: int = 0
    """Bytes of the source, as discovery found them; 0 if unknown before it is read."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The work of a run."""

    todo: tuple[PlannedPage, ...]
    done: int
    failed: int
    skipped: int
    volumes: tuple[PlannedVolume, ...] = ()
    """Volumes to write: those without pending pages at once, the others after their pages."""
    refused: tuple[PageFailed, ...] = ()
    """Volumes that this run cannot write. They are already recorded and counted as failed."""
    duplicates: DuplicateCandidates = NO_DUPLICATES
    """Pages that may be duplicates of others."""
    renamed: tuple[tuple[str, str], ...] = ()
    """New pages whose own name the output's file system cannot hold: (the name, the output)."""

    @property
    def total(self) -> int:
        """Pages of the job."""
        return len(self.todo) + self.done + self.failed + self.skipped


class Action(enum.Enum):
    """The decision about a page that the ledger already has."""

    KEEP = "as recorded"
    NOTE_TIME = "as recorded, but with another modification time"
    DO = "to be done"


def decide(
    row: PageRow,
    page: Page,
    sources: SourceReader,
    outputs: OutputStore,
    *,
    retry_failed: bool,
    bounds: Bounds | None = None,
    stands: bool = False,
) -> Action:
    """Decide what to do with a page, from its row, its file and its output.

    Args:
        row: row of the page in the ledger.
        page: the page that was found.
        sources: store of the job's sources.
        outputs: store of the job's outputs.
        retry_failed: whether failed pages are retried.
        bounds: pages larger than this are skipped.
        stands: whether its output is known to be in a finished volume.
    """
    same_stat = (row.source_size, row.source_mtime_ns) == (page.size, page.mtime_ns)
    if row.state == "done":
        if not same_stat and not _same_content(row, page, sources):
            return Action.DO
        if not stands and size_of(outputs, row.output) != row.output_size:
            return Action.DO
        return Action.KEEP if same_stat else Action.NOTE_TIME
    if row.state == "failed":
        again = retry_failed or not same_stat or _may_have_mended(row, page, sources.store)
        return Action.DO if again else Action.KEEP
    if row.state == "skipped" and row.error_kind == LARGE_ENOUGH and same_stat and bounds is not None:
        still = is_larger((row.width or 0, row.height or 0), bounds)
        return Action.KEEP if still else Action.DO
    if row.state == "skipped" and row.error_kind == ANIMATED and same_stat:
        # Whether such pages are skipped is part of the job.
        return Action.KEEP
    return Action.DO


def _may_have_mended(row: PageRow, page: Page, store: SourceStore) -> bool:
    """Return whether a page failed for an external reason that may be gone. Every run checks such pages again."""
    if row.error_kind == "vanished":
        return store.exists(page.path)
    if row.error_kind == "permission":
        return store.may_read(page.path)
    return row.error_kind in (OUTPUT_EXISTS, "output", "unreadable", "library", "changed")


def make_plan(
    ledger: Ledger,
    job_id: int,
    pages: Sequence[Page],
    settings: JobSettings,
    *,
    sources: SourceReader,
    outputs: OutputStore,
    volumes: Sequence[Volume] = (),
    fingerprint: str = "",
) -> Plan:
    """Update the ledger with the pages that were found, and return the work of the run.

    Unfinished pages of the ledger that were not found are recorded as skipped.

    Args:
        ledger: the open ledger.
        job_id: id of the job.
        pages: the pages that were found.
        settings: settings of the job.
        sources: store of the job's sources.
        outputs: store of the job's outputs.
        volumes: the volumes that were found.
        fingerprint: fingerprint of the job.
    """
    _take_over_moved_volumes(ledger, job_id, volumes, settings.output, outputs, fingerprint)
    every_row = ledger.rows(job_id)
    volume_plan = _VolumePlan(
        ledger, job_id, settings, sources.store, outputs, volumes, by_volume(pages), every_row
    )
    rows = volume_plan.page_rows
    found = {page.source for page in pages}
    names = _Names(ledger, job_id, pages, every_row, outputs)
    volume_plan.register(names)
    new: list[Page] = []
    reopened: list[tuple[int, int, int]] = []
    moved: list[tuple[int, int, int]] = []
    todo: dict[str, PlannedPage] = {}
    counts = {"done": 0, "failed": 0, "skipped": 0}
    for page in pages:
        row = rows.get(page.source)
        if row is None:
            new.append(names.with_output(page))
            continue
        action = decide(
            row,
            page,
            sources,
            outputs,
            retry_failed=settings.retry_failed,
            bounds=settings.skip_larger_than,
            stands=page.source in volume_plan.standing,
        )
        change = (row.id, page.size, page.mtime_ns)
        if action is Action.DO:
            if row.state != "pending" or row.source_mtime_ns != page.mtime_ns or row.source_size != page.size:
                reopened.append(change)
            todo[page.source] = PlannedPage(
                row.id, page.source, page.path, row.output, page.member, page.size
            )
            continue
        if action is Action.NOTE_TIME:
            moved.append(change)
        counts[row.state] += 1
    gone = [row for row in rows.values() if row.source not in found]
    ledger.reopen(reopened)
    ledger.touch(moved)
    ledger.skip([row.id for row in gone if row.state not in ("done", "skipped")], GONE)
    counts["done"] += sum(row.state == "done" for row in gone)
    counts["skipped"] += sum(row.state != "done" for row in gone)
    for row_id, page in zip(ledger.add_pages(job_id, new, volume_plan.row_ids), new, strict=True):
        todo[page.source] = PlannedPage(row_id, page.source, page.path, page.output, page.member, page.size)
    volume_plan.decide(todo, fingerprint)
    counts["failed"] += volume_plan.failed
    counts["skipped"] += len(volume_plan.held_back)
    in_order = tuple(
        todo[page.source]
        for page in pages
        if page.source in todo and page.source not in volume_plan.held_back
    )
    return Plan(
        in_order,
        **counts,
        volumes=tuple(volume_plan.planned),
        refused=tuple(volume_plan.refused),
        duplicates=_duplicate_candidates(ledger, job_id, pages, todo.keys(), gone),
        renamed=tuple(names.renamed),
    )


class _Names:
    """Gives each new page an output that no other page has.

    Args:
        ledger: open.
        job_id: of the job.
        pages: that were found.
        rows: of the job, with the outputs that are taken.
        outputs: of the job, which may not hold every name.
    """

    def __init__(
        self,
        ledger: Ledger,
        job_id: int,
        pages: Sequence[Page],
        rows: Iterable[PageRow],
        outputs: OutputStore,
    ) -> None:
        self._outputs = outputs
        self.renamed: list[tuple[str, str]] = []
        """Names that the outputs cannot hold, and those in their place."""
        self.taken = {fold(row.output) for row in rows}
        """Folded names that pages and volumes of the job have."""
        suffixes = {PurePosixPath(page.output).suffix for page in pages}
        # The waiting place of a page in a volume is never the name of an output file, and vice versa.
        self._waiting = ledger.names(job_id, suffixes, below=LOOSE_PAGES)
        self._files = ledger.names(job_id, suffixes, not_below=LOOSE_PAGES)
        earlier = (*self._files.values(), *self._waiting.values())
        self._avoid = self.taken | {fold(output) for output in earlier}

    def with_output(self, page: Page) -> Page:
        """The page with its output, which is taken from now on."""
        earlier = self._waiting if page.output.startswith(f"{LOOSE_PAGES}/") else self._files
        return _with_free_output(self.storable(page), earlier.get(page.source), self.taken, self._avoid)

    def storable(self, page: Page) -> Page:
        """The page with an output that the store can hold."""
        name = self._outputs.storable_name(page.output)
        if name == page.output:
            return page
        self.renamed.append((page.output, name))
        return replace(page, output=name)


def _duplicate_candidates(
    ledger: Ledger, job_id: int, pages: Sequence[Page], todo: Set[str], gone: Iterable[PageRow]
) -> DuplicateCandidates:
    """Return which pending pages may be duplicates of others, including pages that were renamed since."""
    sizes = shared_sizes(
        (page.size for page in pages if page.source in todo),
        itertools.chain(
            (page.size for page in pages if page.source not in todo),
            (row.source_size for row in gone if row.state == "done"),
        ),
    )
    return DuplicateCandidates(sizes, tuple(ledger.computed(job_id, sizes)) if sizes else ())


def _take_over_moved_volumes(
    ledger: Ledger,
    job_id: int,
    volumes: Sequence[Volume],
    output_folder: Path,
    outputs: OutputStore,
    fingerprint: str,
) -> None:
    """Adopt finished volumes from another job with the same settings: the input folder was moved."""
    if not volumes:
        return
    known = ledger.volume_sources(job_id)
    for volume in volumes:
        entry = volume.entry
        if volume.contents is None or not entry.output or entry.source in known:
            continue
        size = size_of(outputs, entry.output)
        if size is None:
            continue
        matching = ledger.find_matching_volume(output_folder, fingerprint, entry, size)
        if matching is not None:
            ledger.adopt_volume(job_id, matching)


class _VolumePlan:
    """Decides about volumes: call ``register``, then plan the pages, then call ``decide``."""

    def __init__(
        self,
        ledger: Ledger,
        job_id: int,
        settings: JobSettings,
        sources: SourceStore,
        outputs: OutputStore,
        volumes: Sequence[Volume],
        pages: dict[str, list[Page]],
        rows: Iterable[PageRow],
    ) -> None:
        self._ledger, self._job_id, self._settings = ledger, job_id, settings
        self._sources, self._outputs = sources, outputs
        self._volumes, self._pages = volumes, pages
        self._rows: dict[str, PageRow] = {}
        self.page_rows: dict[str, PageRow] = {}
        for row in rows:
            (self._rows if row.kind == VOLUME else self.page_rows)[row.source] = row
        self._standing = {
            volume.entry.source: standing_pages(
                volume, self._rows.get(volume.entry.source), self.page_rows, outputs
            )
            for volume in volumes
        }
        self.standing = frozenset().union(*self._standing.values())
        """Sources of the pages whose outputs are in finished volumes."""
        self.row_ids: dict[str, int] = {}
        """The row of each volume, by its source."""
        self.planned: list[PlannedVolume] = []
        self.refused: list[PageFailed] = []
        self.failed = 0
        """Volumes that failed as a whole, in this run or an earlier one."""
        self.held_back: set[str] = set()
        """Sources of pages that are not processed now, because their volume could not be written."""

    def register(self, outputs: _Names) -> None:
        """Give every volume a row, and a free output.

        Args:
            outputs: those of the job; those of new volumes are added.
        """
        taken = outputs.taken
        self.row_ids = {source: row.id for source, row in self._rows.items()}
        names = self._ledger.names(self._job_id, {".cbz"})
        avoid = taken | {fold(output) for output in names.values()}
        new = []
        for volume in self._volumes:
            entry = volume.entry
            if entry.source in self._rows:
                continue
            if entry.output:
                entry = _with_free_output(outputs.storable(entry), names.get(entry.source), taken, avoid)
            new.append(entry)
        for row_id, entry in zip(self._ledger.add_volumes(self._job_id, new), new, strict=True):
            self.row_ids[entry.source] = row_id
            self._rows[entry.source] = PageRow(
                row_id,
                entry.source,
                entry.size,
                entry.mtime_ns,
                None,
                "pending",
                entry.output,
                None,
                None,
                kind=VOLUME,
            )
        found = {volume.entry.source for volume in self._volumes}
        gone = [row for row in self._rows.values() if row.source not in found]
        self._ledger.skip([row.id for row in gone if row.state not in ("done", "skipped")], GONE)

    def decide(self, todo: Mapping[str, PlannedPage], fingerprint: str) -> None:
        """Decide about every volume, after its pending pages are known."""
        waiting: list[tuple[int, str]] = []
        reopened: list[tuple[int, int, int]] = []
        for volume in self._volumes:
            row = self._rows[volume.entry.source]
            if volume.failure is not None:
                self._refuse(volume, row, *volume.failure)
                continue
            pages = self._pages.get(volume.entry.source, [])
            open_pages = [page.source for page in pages if page.source in todo]
            failed = sum(
                page.source not in todo and self.page_rows[page.source].state == "failed" for page in pages
            )
            standing = self._standing[volume.entry.source]
            complete = is_complete(volume, row, self.page_rows, standing, self._outputs)
            if not open_pages and complete and not self._has_leftovers(pages):
                continue
            if not open_pages and failed and not self._settings.keep_original_on_failure:
                if not waits(row):
                    waiting.append((row.id, why_incomplete(failed, len(pages))))
                continue
            planned = PlannedVolume(row.id, row.source, volume.entry.path, row.output, len(open_pages))
            try:
                check_volume_output(
                    self._ledger, planned, self._settings, fingerprint, self._sources, self._outputs
                )
            except PageError as error:
                self._refuse(volume, row, error.kind, error.reason)
                self.held_back.update(open_pages)
                self._ledger.skip(
                    [todo[source].row_id for source in open_pages],
                    "the output of its volume cannot be written",
                )
                continue
            reopened.append((row.id, volume.entry.size, volume.entry.mtime_ns))
            self.planned.append(planned)
        self._ledger.reopen(reopened)
        self._ledger.wait_for_pages(waiting)

    def _has_leftovers(self, pages: Sequence[Page]) -> bool:
        """Return whether loose pages of a finished volume still exist, because a run died before it removed them."""
        folders = {str(PurePosixPath(self.page_rows[page.source].output).parent) for page in pages}
        return any(
            folder.startswith(f"{LOOSE_PAGES}/") and _is_folder(self._outputs, folder) for folder in folders
        )

    def _refuse(self, volume: Volume, row: PageRow, kind: str, reason: str) -> None:
        self.failed += 1
        if (row.state, row.error_kind) != ("failed", kind) or self._settings.retry_failed:
            self.refused.append(PageFailed(row_id=row.id, source=row.source, kind=kind, reason=reason))
            self._ledger.record(self.refused[-1:])


def check_volume_output(
    ledger: Ledger,
    volume: PlannedVolume,
    settings: JobSettings,
    fingerprint: str,
    sources: SourceStore,
    outputs: OutputStore,
) -> None:
    """Check that the CBZ of a volume may be written.

    Raises:
        PageError: a file that this ledger does not know is in the way.
    """
    if not volume.output:
        return
    may_write(
        ledger,
        PlannedPage(volume.row_id, volume.source, volume.path, volume.output),
        settings=settings,
        fingerprint=fingerprint,
        sources=sources,
        outputs=outputs,
        source_folders=frozenset((sources.real_folder(volume.path),)),
    )


def may_write(
    ledger: Ledger,
    page: PlannedPage,
    *,
    settings: JobSettings,
    fingerprint: str,
    sources: SourceStore,
    outputs: OutputStore,
    source_folders: Set[PurePath] = frozenset(),
) -> OutputOwner | None:
    """Check that a page's output may be written.

    Args:
        ledger: the open ledger.
        page: the page.
        settings: settings of the job.
        fingerprint: fingerprint of the job.
        sources: store of the job's sources.
        outputs: store of the job's outputs.
        source_folders: the folders of the job's pages, with links resolved; nothing is written there.

    Returns:
        The owner to adopt the page from, if another job recorded the same work (same content and fingerprint, because
        the input folder was moved); otherwise None.

    Raises:
        PageError: a file that this ledger does not know is in the way, or the output cannot be read.
    """
    try:
        among_sources = is_among_sources(page.output, page.path, sources, outputs, source_folders)
    except OSError as error:
        reason = f"the output cannot be read: {error.strerror or error}"
        raise PageError("output", reason) from None
    if among_sources:
        raise PageError(
            OUTPUT_EXISTS, f"{page.output} would be written into the input folder: choose another --output"
        )
    standing = outputs.stat(page.output)
    if standing is None:
        return None
    if standing.kind == "folder":
        raise PageError(OUTPUT_EXISTS, f"a folder is in the way of the output: {page.output}. Move it away")
    for owner in ledger.owners(settings.output, page.output):
        known_size = bool(owner.claimed) or owner.output_size == standing.size
        if owner.input == path_text(settings.input) and owner.source == page.source and known_size:
            return None
        if (
            owner.output_size == standing.size
            and owner.state == "done"
            and page.member is None
            and (owner.fingerprint, owner.source) == (fingerprint, page.source)
            and owner.source_sha256 == _sha256_of_source(sources, page.path)
        ):
            return owner
    # Nobody else writes into the marker folder.
    if settings.overwrite or page.output.startswith(f"{MARKER_FOLDER}/"):
        return None
    raise PageError(
        OUTPUT_EXISTS,
        f"{page.output} exists and was not written by this job: move it away, or allow --overwrite",
    )


def source_folders(pages: Iterable[Page], store: SourceStore) -> frozenset[PurePath]:
    """Return the folders of pages, with links resolved."""
    one_of_each = {page.path.parent: page.path for page in pages}
    return frozenset(store.real_folder(path) for path in one_of_each.values())


def is_among_sources(
    output: str,
    source: Path,
    sources: SourceStore,
    outputs: OutputStore,
    source_folders: Set[PurePath],
) -> bool:
    """Return whether an output would be written into a source folder, and not into an output folder inside the input.

    Args:
        output: name of the output.
        source: address of its source.
        sources: store of the job's sources.
        outputs: store of the job's outputs.
        source_folders: the result of `source_folders`.

    Raises:
        PageError: the output's name leads out of the store.
        OSError: the folders cannot be checked.
    """
    if not sources.is_folder():
        return outputs.is_same(output, source)
    parent = outputs.real_folder(output)
    real_input, real_output = sources.real_folder(), outputs.real_folder()
    inside = real_output.is_relative_to(real_input) and parent.is_relative_to(real_output)
    return parent in source_folders or (parent.is_relative_to(real_input) and not inside)


def _sha256_of_source(store: SourceStore, path: Path) -> str | None:
    try:
        with store.open(path) as file:
            return sha256_of_file(file)
    except OSError:
        return None


def _same_content(row: PageRow, page: Page, sources: SourceReader) -> bool:
    return row.source_size == page.size and row.source_sha256 == sources.sha256(page)


def _is_folder(outputs: OutputStore, name: str) -> bool:
    try:
        found = outputs.stat(name)
    except PageError:
        return False
    return found is not None and found.kind == "folder"


def _with_free_output(page: Page, earlier: str | None, taken: set[str], avoid: set[str]) -> Page:
    """Return the page with an output name that is free in the job. Recorded names never change.

    Args:
        page: a page that is new to the job.
        earlier: its name in an earlier job over the same folders. It is kept, so that the page finds its file again.
        taken: case-folded names of the job's pages; the page's name is added.
        avoid: ``taken`` and all names in earlier jobs; the page's name is added.
    """
    output = PurePosixPath(page.output)
    if earlier is not None and PurePosixPath(earlier).suffix == output.suffix and fold(earlier) not in taken:
        free = earlier
    else:
        free = free_name(str(output.with_suffix("")), output.suffix, avoid)
    taken.add(fold(free))
    avoid.add(fold(free))
    return replace(page, output=free)
