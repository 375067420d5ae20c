"""Deciding what is left to do: the pages that were found against what the ledger remembers.

The ledger is trusted, but cheaply verified: the source by size and time (by hash where those moved),
the output by being there with its recorded size.
"""

from __future__ import annotations

import enum
import hashlib
import os
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from comic_upscale.errors import PageError
from comic_upscale.jobs.ledger import Ledger, OutputOwner
from comic_upscale.jobs.records import PageRow, is_allowed
from comic_upscale.pages.naming import free_name
from comic_upscale.pages.order import fold
from comic_upscale.pages.page import Page
from comic_upscale.pages.size import is_larger
from comic_upscale.settings import path_text
from comic_upscale.sizes import Bounds

GONE = "no longer in the input"
LARGE_ENOUGH = "large-enough"
"""The kind of a page that was skipped for its size; looked at anew where the bounds change."""
OUTPUT_EXISTS = "output-exists"
"""The kind of failure that is looked at anew by every run, since the user may have made room."""


@dataclass(frozen=True, slots=True)
class PlannedPage:
    """A page that a run will take on."""

    row_id: int
    source: str
    path: Path
    output: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run has before it."""

    todo: tuple[PlannedPage, ...]
    done: int
    failed: int
    skipped: int

    @property
    def total(self) -> int:
        """Pages of the job."""
        return len(self.todo) + self.done + self.failed + self.skipped


class Action(enum.Enum):
    """What becomes of a page that the ledger already has."""

    KEEP = "as recorded"
    NOTE_TIME = "as recorded, but the file's time moved"
    DO = "to be done"


def decide(
    row: PageRow, page: Page, output_folder: Path, *, retry_failed: bool, bounds: Bounds | None = None
) -> Action:
    """Decide what to do with a page, by its row, its file, its output, and the size above which it is skipped."""
    same_stat = (row.source_size, row.source_mtime_ns) == (page.size, page.mtime_ns)
    if row.state == "done":
        if not same_stat and not _same_content(row, page):
            return Action.DO
        if not _has_size(output_folder / row.output, row.output_size):
            return Action.DO
        return Action.KEEP if same_stat else Action.NOTE_TIME
    if row.state == "failed":
        again = retry_failed or not same_stat or _may_have_mended(row, page)
        return Action.DO if again else Action.KEEP
    if row.state == "skipped" and row.error_kind == LARGE_ENOUGH and same_stat and bounds is not None:
        still = is_larger((row.width or 0, row.height or 0), bounds)
        return Action.KEEP if still else Action.DO
    return Action.DO


def _may_have_mended(row: PageRow, page: Page) -> bool:
    """Whether a page failed for a reason outside itself that may be gone: it is looked at by every run."""
    if row.error_kind == "vanished":
        return page.path.exists()
    if row.error_kind == "permission":
        return is_allowed(page.path, os.R_OK)
    return row.error_kind in (OUTPUT_EXISTS, "output", "unreadable")


def make_plan(
    ledger: Ledger,
    job_id: int,
    pages: Sequence[Page],
    output_folder: Path,
    *,
    retry_failed: bool,
    bounds: Bounds | None = None,
) -> Plan:
    """Bring the ledger up to date with the pages that were found, and return what is to be done.

    Pages in the ledger that were not found, and were not done, are recorded as skipped.
    """
    rows = {row.source: row for row in ledger.rows(job_id)}
    found = {page.source for page in pages}
    taken = {fold(row.output) for row in rows.values()}
    suffix = PurePosixPath(pages[0].output).suffix if pages else ""
    names = ledger.names(job_id, suffix)
    avoid = taken | {fold(output) for output in names.values()}
    new: list[Page] = []
    reopened: list[tuple[int, int, int]] = []
    moved: list[tuple[int, int, int]] = []
    todo: dict[str, PlannedPage] = {}
    counts = {"done": 0, "failed": 0, "skipped": 0}
    for page in pages:
        row = rows.get(page.source)
        if row is None:
            new.append(_with_free_output(page, names.get(page.source), taken, avoid))
            continue
        action = decide(row, page, output_folder, retry_failed=retry_failed, bounds=bounds)
        change = (row.id, page.size, page.mtime_ns)
        if action is Action.DO:
            if row.state != "pending" or row.source_mtime_ns != page.mtime_ns or row.source_size != page.size:
                reopened.append(change)
            todo[page.source] = PlannedPage(row.id, page.source, page.path, row.output)
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
    for row_id, page in zip(ledger.add_pages(job_id, new), new, strict=True):
        todo[page.source] = PlannedPage(row_id, page.source, page.path, page.output)
    in_order = tuple(todo[page.source] for page in pages if page.source in todo)
    return Plan(in_order, **counts)


def may_write(
    ledger: Ledger,
    page: PlannedPage,
    *,
    input: Path,
    output_folder: Path,
    fingerprint: str,
    overwrite: bool,
    source_folders: Set[str] = frozenset(),
) -> OutputOwner | None:
    """Check that a page's output may be written.

    Args:
        ledger: open.
        page: to be done.
        input: of the job.
        output_folder: of the job.
        fingerprint: of the job.
        overwrite: whether files that the ledger does not know may be replaced.
        source_folders: where the job's pages really are, links followed; nothing is written there.

    Returns:
        The owner to adopt the page from, where another job recorded the very same work (same content,
        same fingerprint: the input folder was moved); else None.

    Raises:
        PageError: something stands at the output that this ledger does not know.
    """
    target = output_folder / page.output
    if is_among_sources(target, page.path, input, output_folder, source_folders):
        raise PageError(
            OUTPUT_EXISTS, f"{page.output} would be written among the sources: choose another --output"
        )
    if not os.path.lexists(target):
        return None
    if target.is_dir():
        raise PageError(OUTPUT_EXISTS, f"a folder stands where the output belongs: {page.output}")
    size = target.stat().st_size if target.exists() else -1
    for owner in ledger.owners(output_folder, page.output):
        known_size = bool(owner.claimed) or owner.output_size == size
        if owner.input == path_text(input) and owner.source == page.source and known_size:
            return None
        if (
            owner.output_size == size
            and owner.state == "done"
            and (owner.fingerprint, owner.source) == (fingerprint, page.source)
            and owner.source_sha256 == sha256_of(page.path)
        ):
            return owner
    if overwrite:
        return None
    raise PageError(
        OUTPUT_EXISTS,
        f"{page.output} exists and was not written by this job: move it away, or allow --overwrite",
    )


def source_folders(pages: Iterable[Page]) -> frozenset[str]:
    """The folders that pages are really in, links followed."""
    return frozenset(os.path.realpath(folder) for folder in {page.path.parent for page in pages})


def is_among_sources(
    target: Path, source: Path, input: Path, output_folder: Path, source_folders: Set[str]
) -> bool:
    """Whether an output would land among the sources, and not in an output folder inside the input."""
    if not input.is_dir():
        return target.exists() and source.exists() and target.samefile(source)
    real_parent = Path(os.path.realpath(target.parent))
    real_input, real_output = Path(os.path.realpath(input)), Path(os.path.realpath(output_folder))
    inside = real_output.is_relative_to(real_input) and real_parent.is_relative_to(real_output)
    return str(real_parent) in source_folders or (real_parent.is_relative_to(real_input) and not inside)


def sha256_of(path: Path) -> str | None:
    """The SHA-256 of a file, hexadecimal; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _same_content(row: PageRow, page: Page) -> bool:
    return row.source_size == page.size and row.source_sha256 == sha256_of(page.path)


def _has_size(path: Path, size: int | None) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _with_free_output(page: Page, earlier: str | None, taken: set[str], avoid: set[str]) -> Page:
    """The page with an output that no page of the job has, since recorded names stay as they are.

    Args:
        page: new to the job.
        earlier: the name that an earlier job over the same folders gave it: kept, so that each page finds
            its own file again.
        taken: folded names that pages of the job have; the page's is added.
        avoid: the same, and the names that earlier jobs gave to any page; the page's is added.
    """
    output = PurePosixPath(page.output)
    if earlier is not None and fold(earlier) not in taken:
        free = earlier
    else:
        free = free_name(str(output.with_suffix("")), output.suffix, avoid)
    taken.add(fold(free))
    avoid.add(fold(free))
    return replace(page, output=free)
