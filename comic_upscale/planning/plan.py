"""Decide what is left to do: compare the pages that were found with the ledger.

The ledger is trusted after a cheap check. The source must have its recorded size and time (or, if those changed, its
recorded hash), and the output must exist with its recorded size.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from comic_upscale.errors import ANIMATED
from comic_upscale.imaging.target_size import skip_reason
from comic_upscale.ledger.changes import KnownVolume
from comic_upscale.ledger.records import LARGE_ENOUGH, PageFailed, PageRow
from comic_upscale.ledger.writer import Ledger
from comic_upscale.library.books.formats import held_pages
from comic_upscale.library.page import Page
from comic_upscale.library.selector import EVERYTHING, Selector
from comic_upscale.library.source_reader import SourceReader
from comic_upscale.library.volume import Volume
from comic_upscale.planning.duplicates import NO_DUPLICATES, DuplicateCandidates, shared_sizes
from comic_upscale.planning.gone import GONE, OUT_OF_SIGHT, Absent, find_absent, gives_up, is_orphan
from comic_upscale.planning.hashes import SourceHashes
from comic_upscale.planning.names import OutputNames
from comic_upscale.planning.output_checks import OUTPUT_EXISTS, PlannedPage
from comic_upscale.planning.renames import VolumeMatcher
from comic_upscale.planning.unchanged_pages import adopt_unchanged
from comic_upscale.planning.volume_plan import VolumePlan
from comic_upscale.planning.volumes import PlannedVolume, by_volume
from comic_upscale.settings.job import JobSettings
from comic_upscale.storage.base import OutputStore, SourceStore, size_of


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
    replaced: int = 0
    """Finished outputs that were made with other settings. This run replaces them."""

    @property
    def total(self) -> int:
        """Pages of the job."""
        return len(self.todo) + self.done + self.failed + self.skipped


def replaced_note(count: int, *, at_most: bool = False) -> str:
    """Return the sentence about outputs of other settings that a run replaces.

    Args:
        count: of the outputs.
        at_most: whether it may replace fewer.
    """
    what = "1 finished output was" if count == 1 else f"{count:,} finished outputs were"
    will = "may" if at_most else "will"
    return f"{what} made with other settings and {will} be replaced: choose another --output to keep them"


class Action(enum.Enum):
    """The decision about a page that the ledger already has."""

    KEEP = "as recorded"
    NOTE_TIME = "as recorded, but with another modification time"
    DO = "to be done"


def decide(
    row: PageRow,
    page: Page,
    sources: SourceHashes,
    outputs: OutputStore,
    *,
    settings: JobSettings,
    stands: bool = False,
) -> Action:
    """Decide what to do with a page, from its row, its file and its output.

    Args:
        row: row of the page in the ledger.
        page: the page that was found.
        sources: hashes the job's sources.
        outputs: store of the job's outputs.
        settings: settings of the job.
        stands: whether its output is known to be in a finished volume.
    """
    same_stat = (row.source_size, row.source_mtime_ns) == (page.size, page.mtime_ns)
    if row.state == "done":
        if not same_stat and not sources.has_content_of(row, page):
            return Action.DO
        if not stands and size_of(outputs, row.output) != row.output_size:
            return Action.DO
        return Action.KEEP if same_stat else Action.NOTE_TIME
    if row.state == "failed":
        again = settings.retry_failed or not same_stat or _may_succeed_now(row, page, sources.store)
        return Action.DO if again else Action.KEEP
    if row.state == "skipped" and row.error_kind == LARGE_ENOUGH and same_stat:
        still = skip_reason((row.width or 0, row.height or 0), settings) is not None
        return Action.KEEP if still else Action.DO
    if row.state == "skipped" and row.error_kind == ANIMATED and same_stat:
        # Whether such pages are skipped is part of the job.
        return Action.KEEP
    return Action.DO


def _may_succeed_now(row: PageRow, page: Page, store: SourceStore) -> bool:
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
    model_identity: str = "",
    unread: Sequence[str] = (),
    hashes: SourceHashes | None = None,
    selector: Selector = EVERYTHING,
) -> Plan:
    """Update the ledger with the pages that were found, and return the work of the run.

    Rows whose sources are gone are marked as such. They count no longer, and unfinished ones are recorded as skipped.

    Args:
        ledger: the open ledger.
        job_id: id of the job.
        pages: the pages that were found.
        settings: settings of the job.
        sources: reads the job's sources.
        outputs: store of the job's outputs.
        volumes: the volumes that were found.
        fingerprint: fingerprint of the job; empty if its model is not known yet.
        model_identity: of its model.
        unread: prefixes of sources that could not be listed.
        hashes: hashes of sources, some of which may be known already.
        selector: says which sources were looked at. The rows of the others stay as they are.
    """
    hashes = hashes or SourceHashes(sources)
    _take_over_moved_volumes(ledger, job_id, volumes, settings, outputs, fingerprint, pages, hashes)
    every_row = ledger.rows(job_id)
    volume_plan = VolumePlan(ledger, job_id, settings, sources, outputs, volumes, by_volume(pages), every_row)
    rows = volume_plan.page_rows
    found = {page.source for page in pages} | {volume.entry.source for volume in volumes}
    absent = find_absent(every_row, found, volumes, unread, selector)
    gone = {row.id for row in absent.gone}
    names = OutputNames(
        every_row,
        ledger.earlier_names(job_id),
        lambda row: row.id in gone and gives_up(row, ledger, job_id, outputs),
        outputs.storable_name,
    )
    volume_plan.register(names)
    decided = _decide_pages(pages, rows, settings, hashes, outputs, volume_plan.standing)
    todo = decided.todo
    for page in volume_plan.find_lost(todo.keys() | {page.source for page in decided.new}):
        row = rows[page.source]
        decided.reopened.append((row.id, page.size, page.mtime_ns))
        todo[page.source] = PlannedPage(row.id, page.source, page.path, row.output, page.member, page.size)
    ledger.reopen(decided.reopened)
    ledger.touch(decided.same_content)
    _mark_absent(ledger, job_id, absent, outputs)
    new = [names.with_output(page) for page in decided.new]
    for row_id, page in zip(ledger.add_pages(job_id, new, volume_plan.row_ids), new, strict=True):
        todo[page.source] = PlannedPage(row_id, page.source, page.path, page.output, page.member, page.size)
    new_rows = {source: page.row_id for source, page in todo.items()} | volume_plan.row_ids
    ledger.replace_rows((row.id, new_rows[source]) for source, row in names.replaced.items())
    if fingerprint:
        for source in adopt_unchanged(ledger, job_id, todo, settings, model_identity, outputs):
            del todo[source]
    volume_plan.decide(todo, fingerprint)
    in_order = tuple(
        todo[page.source]
        for page in pages
        if page.source in todo and page.source not in volume_plan.held_back
    )
    counts = ledger.counts(job_id)
    return Plan(
        in_order,
        **{state: counts.get(state, 0) for state in ("done", "failed", "skipped")},
        volumes=tuple(volume_plan.planned),
        refused=tuple(volume_plan.refused),
        duplicates=_duplicate_candidates(ledger, job_id, pages, todo.keys(), absent.gone),
        renamed=tuple(names.renamed),
        replaced=ledger.count_replaced(job_id, left_out={row.id for row in absent.left_out}),
    )


@dataclass(slots=True)
class _Decided:
    """The decisions about the pages that were found."""

    todo: dict[str, PlannedPage] = field(default_factory=dict)
    """Known pages to process, by source."""
    new: list[Page] = field(default_factory=list)
    """Pages without a row."""
    reopened: list[tuple[int, int, int]] = field(default_factory=list)
    """Rows that become pending, with size and time of their sources."""
    same_content: list[tuple[int, int, int]] = field(default_factory=list)
    """Rows whose sources have another time and the same content, with size and time."""


def _decide_pages(
    pages: Iterable[Page],
    rows: Mapping[str, PageRow],
    settings: JobSettings,
    hashes: SourceHashes,
    outputs: OutputStore,
    standing: Set[str],
) -> _Decided:
    """Decide about each page that was found.

    Args:
        pages: the pages.
        rows: of the job's pages, by source.
        settings: settings of the job.
        hashes: hashes the job's sources.
        outputs: store of the job's outputs.
        standing: sources of pages whose outputs are in finished volumes.
    """
    decided = _Decided()
    for page in pages:
        row = rows.get(page.source)
        if row is None:
            decided.new.append(page)
            continue
        action = decide(
            row,
            page,
            hashes,
            outputs,
            settings=settings,
            stands=page.source in standing,
        )
        change = (row.id, page.size, page.mtime_ns)
        if action is Action.DO:
            if row.state != "pending" or row.source_mtime_ns != page.mtime_ns or row.source_size != page.size:
                decided.reopened.append(change)
            decided.todo[page.source] = PlannedPage(
                row.id, page.source, page.path, row.output, page.member, page.size
            )
        elif action is Action.NOTE_TIME:
            decided.same_content.append(change)
    return decided


def _mark_absent(ledger: Ledger, job_id: int, absent: Absent, outputs: OutputStore) -> None:
    """Record which sources are gone or out of sight. Their unfinished pages are skipped."""
    for each, why in ((absent.gone, GONE), (absent.out_of_sight, OUT_OF_SIGHT)):
        ledger.skip([row.id for row in each if row.state not in ("done", "skipped")], why)
    orphans = {row.id for row in absent.gone if is_orphan(row, outputs)}
    others = {row.id for row in absent.gone} - orphans
    ledger.mark_gone(job_id, orphans, others, left_out={row.id for row in absent.left_out})


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
    settings: JobSettings,
    outputs: OutputStore,
    fingerprint: str,
    pages: Sequence[Page],
    hashes: SourceHashes,
) -> None:
    """Adopt finished volumes from another job with the same settings: the input folder was moved or copied."""
    if not volumes:
        return
    known = ledger.volume_sources(job_id)
    matcher = VolumeMatcher(ledger, pages, hashes)
    for volume in volumes:
        entry = volume.entry
        if volume.contents is None or entry.source in known:
            continue
        for other in ledger.known_volumes(job_id, settings.output, fingerprint, entry.source):
            same_stat = (other.source_size, other.source_mtime_ns) == (entry.size, entry.mtime_ns)
            if (
                bool(other.output) == bool(entry.output)
                and _stands(ledger, other, volume, outputs)
                and (same_stat or _is_same_archive(other, volume, hashes, matcher))
            ):
                ledger.adopt_volume(job_id, other.row_id, entry.mtime_ns)
                break


def _stands(ledger: Ledger, other: KnownVolume, volume: Volume, outputs: OutputStore) -> bool:
    """Return whether the CBZ of a finished volume still has its pages. Pages in a folder are checked one by one."""
    if not other.output:
        return True
    size = size_of(outputs, other.output)
    if size is None or size == other.output_size:
        return size is not None
    # Somebody added tags.
    assert volume.contents is not None
    held = held_pages(outputs, other.output, volume.contents.pages)
    targets = {member.name: member.target or "" for member in volume.contents.pages}
    return all(
        held.get(targets.get(name, "")) == size for name, size in ledger.sizes_in_volume(other.row_id).items()
    )


def _is_same_archive(
    other: KnownVolume, volume: Volume, hashes: SourceHashes, matcher: VolumeMatcher
) -> bool:
    if other.source_size != volume.entry.size:
        return False
    if other.source_sha256 is None:
        return matcher.is_same(other.row_id, volume.entry.source, volume)
    return other.source_sha256 == hashes.sha256_of_volume(volume)
