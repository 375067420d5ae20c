"""The records of a ledger, as the other modules use them. It imports no library.

Reading a ledger (``reading.py``) needs only this module, so that ``status`` is fast.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from comic_upscale.errors import ANIMATED, LedgerDamagedError, LedgerError
from comic_upscale.ledger.columns import column, columns_of
from comic_upscale.library.incomplete import CUT_SHORT, DAMAGED_AFTER
from comic_upscale.settings.paths import LONGEST_LEDGER

PAGE, VOLUME = "page", "volume"

PROCESSOR = "processor"
"""The device name recorded for a remote machine without a GPU."""

LARGE_ENOUGH = "large-enough"
"""The kind of a page that was skipped for its size. It is checked again if the bounds change."""

LEFT_AS_THEY_ARE = {LARGE_ENOUGH: "large enough already", ANIMATED: "animated"}
"""The kinds of pages that the settings leave out, as text. Volumes contain them unchanged."""

INCOMPLETE = "incomplete"
"""The kind of a volume that waits for failed pages."""


FAILED_PAGES = "failed"
"""The end of a volume's note about pages that are in it as they were, because they failed."""
TOO_LARGE = "larger than --max-volume-size, because one page is"
"""The end of a volume's note about files that could not be made small enough."""


@dataclass(slots=True)
class PageRow:
    """The columns of a page that planning needs."""

    id: int
    source: str
    source_size: int
    source_mtime_ns: int
    source_sha256: str | None
    state: str
    output: str
    output_size: int | None
    error_kind: str | None
    width: int | None = None
    height: int | None = None
    kind: str = PAGE
    """``page``, or ``volume``: an archive that contains pages and becomes an output itself."""


@dataclass(frozen=True, slots=True)
class DoneRow:
    """A page or volume with the columns that decide whether its output may replace its source."""

    id: int
    kind: str
    source: str
    state: str
    output: str
    volume_id: int | None
    source_sha256: str | None
    output_sha256: str | None
    width: int | None
    height: int | None
    output_width: int | None
    output_height: int | None
    scores: str | None
    """JSON; None or an empty object for a page that the quality gate has not compared."""
    suspect: str | None
    notes: str | None
    error_kind: str | None


SELECT_DONE_ROWS = (
    "select id, kind, source, state, output, volume_id, source_sha256, output_sha256, width, height, output_width,"
    " output_height, scores, suspect, notes, error_kind from pages where job_id = ? and gone = 0 order by id"
)
"""The columns of `DoneRow`."""

SELECT_ROWS = (
    "select id, source, source_size, source_mtime_ns, source_sha256, state, output, output_size, error_kind,"
    " width, height, kind from pages where job_id = ? order by id"
)
"""The columns of `PageRow` for every page and volume of a job."""

THERE = "pages.gone = 0"
"""The rows whose sources are in the input. Ledgers from versions before `ORPHAN` lack the column."""

ORPHAN, NOTHING_LEFT = 1, 2
"""Values of the column ``gone``: the source is gone and its output still exists; the source is gone, and no output."""

COUNTED = (
    f"({THERE} and (case pages.kind when '{PAGE}' then"
    # A volume that cannot be written counts once, so its pages that wait for it do not count beside it.
    " not (pages.state = 'skipped' and pages.error_kind is null and exists (select 1 from pages as volumes"
    " where volumes.id = pages.volume_id and volumes.state = 'failed'))"
    " else pages.state = 'failed' end))"
)
"""The rows that count as pages of a job: pages in the input, and volumes that failed as a whole."""

COUNT_VOLUMES = (
    "select count(*), sum(state = 'done'), sum(state = 'done' and"
    f" (notes like '%{CUT_SHORT}%' or notes like '%{DAMAGED_AFTER}%')) from pages"
    f" where job_id = ? and kind = '{VOLUME}' and state <> 'skipped' and {THERE}"
)
"""The number of volumes of a job, of those that are done, and of those among them whose archives end early."""

SELECT_CARRIED = (
    "select source, carried.output, source_size, source_mtime_ns, sha256 from carried"
    " join jobs on jobs.id = carried.job_id where jobs.output = ? order by copied_at, carried.id"
)
"""The files that any job copied beside the outputs of a folder, the latest last; rows of `CopiedFile`."""

COUNT_ORPHANS = f"select count(*) from pages where job_id = ? and gone = {ORPHAN} and state = 'done'"
"""The number of outputs of a job whose sources are no longer in the input."""


@dataclass(frozen=True, slots=True)
class OutputOwner:
    """The page, with its job and fingerprint, that wrote an output file according to the ledger."""

    input: str
    fingerprint: str
    row_id: int
    source: str
    source_sha256: str | None
    state: str
    output_size: int | None
    claimed: int
    """Above 0 if the page was in flight when a run died, so that the file may or may not be its output."""


SELECT_PRICE = "select price from runs where job_id = ? and price is not null order by id desc limit 1"
"""The price of an hour in the last run of a job that had a price."""

_SELECT_SPENT = (
    # A clock that was set back during a run must not give money back.
    "select coalesce(sum(price * 24 * max(0.0,"
    " julianday(coalesce(ended_at, heartbeat_at)) - julianday(started_at)){billed}), 0.0)"
    " from runs where job_id = ? and price is not null"
)
SELECT_SPENT = _SELECT_SPENT.format(billed=" + coalesce(billed, 0.0)")
"""The cost of all runs of a job in dollars: time and calls. A run that is alive counts up to its last heartbeat."""

SELECT_OLD_SPENT = _SELECT_SPENT.format(billed="")
"""The same for a ledger from a version that billed no calls."""

SELECT_START_SECONDS = (
    "select min(86400 * (julianday(coalesce("
    "(select min(finished_at) from pages where run_id = runs.id and upscale_seconds is not null),"
    " ended_at, heartbeat_at)) - julianday(started_at)))"
    " from runs where job_id = ? and host = ? and device != '' and instr(device, ': ') = 0"
)
"""The shortest time from the start of a local run of a job to its first page, or to its end without one."""


@dataclass(frozen=True, slots=True)
class AutoJob:
    """A job whose model was selected by ``auto``, with the columns needed to continue it."""

    model: str
    model_sha256: str
    fingerprint: str


SELECT_AUTO_JOBS = (
    "select model, model_sha256, fingerprint from jobs where model_auto and output = ? order by id desc"
)
"""The columns of `AutoJob` for every such job into a folder, with any input; newest first."""


SELECT_EARLY_JOBS = "select fingerprint from jobs where early_gray and output = ?"
"""The jobs into a folder that began before ``--gray`` existed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFacts:
    """The facts about a finished page that its executor knows and the ledger records.

    A field that is a `column` is recorded without further code.
    """

    row_id: int
    source_sha256: str
    width: int
    """Of the source, pixels, upright."""
    height: int
    """Of the source, pixels, upright."""
    output_width: int
    output_height: int
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds in each of the stages decode, upscale (its share of the batch), encode, place."""
    waited: Mapping[str, float] = field(default_factory=dict)
    """Seconds that the page waited before upscale, encode and place."""
    notes: tuple[str, ...] = ()
    """Notes for the user, a sentence each."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Scores of the comparison with its source, by the names in ``gate/scores.py``; empty if it was not compared."""
    suspect: tuple[str, ...] = ()
    """Why the quality gate rejected the page; empty for a page that passed."""
    own_settings: str | None = column("text", "m010_own_settings")
    """The fingerprint of the settings of the page, and what rules know of it, as JSON: `page_rules.OwnSettings`. None
    from an executor that does not tell."""

    def facts(self) -> dict[str, Any]:
        """Return the facts by name, as arguments for another record of the page."""
        return {name: getattr(self, name) for name in _fact_names()}


@cache
def _fact_names() -> tuple[str, ...]:
    return tuple(each.name for each in fields(PageFacts))


@dataclass(frozen=True, slots=True, kw_only=True)
class PageDone(PageFacts):
    """A finished page, as the ledger records it."""

    source: str
    output: str
    output_size: int
    output_sha256: str
    copied_from: str | None = column("text", "m008_copies")
    """The source of the identical page from which the output was copied."""

    @classmethod
    def columns(cls) -> tuple[str, ...]:
        """Return the columns of the table ``pages`` that a finished page fills, besides its state and time."""
        return (
            "source_sha256", "width", "height", "output_width", "output_height", "output_size", "output_sha256",
            "decode_seconds", "upscale_seconds", "encode_seconds", "place_seconds", "notes", "scores", "suspect",
            *(added.name for added in columns_of(cls)),
        )  # fmt: skip

    def values(self) -> tuple[str | int | float | None, ...]:
        """Return the values of the `columns`, in their order."""
        return (
            self.source_sha256, self.width, self.height, self.output_width, self.output_height, self.output_size,
            self.output_sha256,
            *stage_seconds(self.seconds),
            "; ".join(self.notes) or None, json.dumps(self.scores) if self.scores else None,
            "; ".join(self.suspect) or None,
            *[getattr(self, added.name) for added in columns_of(type(self))],
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeDone:
    """A finished volume, with all its pages."""

    row_id: int
    source: str
    output: str
    pages: int
    output_size: int
    output_sha256: str
    notes: tuple[str, ...] = ()
    source_sha256: str | None = None
    """Of the archive, by which it is recognised under another name; None if it could not be read again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFailed:
    """A page or a whole volume that failed, and why."""

    row_id: int
    source: str
    kind: str
    reason: str
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSkipped:
    """A page that was skipped, and why."""

    row_id: int
    source: str
    kind: str
    reason: str
    width: int
    height: int
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CopiedFile:
    """A file that is not a page and was copied beside the outputs."""

    source: str
    output: str
    """Relative to the output folder."""
    source_size: int
    source_mtime_ns: int
    sha256: str
    """SHA-256 of the copied content."""


PageResult: TypeAlias = PageDone | PageFailed | PageSkipped
"""The result of a page in a run."""


def stage_seconds(seconds: Mapping[str, float]) -> list[float | None]:
    """Return the seconds of decode, upscale, encode and place for the ledger; None for a stage not reached."""
    return [
        None if stage not in seconds else round(seconds[stage], 4)
        for stage in ("decode", "upscale", "encode", "place")
    ]


def now() -> str:
    """Return the current time for the ledger: ISO 8601, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def is_allowed(path: Path, mode: int) -> bool:
    """Return `os.access` for the effective user of this process."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


@contextlib.contextmanager
def translate_sqlite_errors(path: Path) -> Iterator[None]:
    """Translate SQLite's errors about the ledger at ``path`` into errors that say what to do."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "decode to UTF-8" in str(error):
            raise LedgerDamagedError(damage_message(path, "a text in it is not Unicode")) from error
        size = len(os.fsencode(path.absolute()))
        if size > LONGEST_LEDGER:
            raise LedgerError(
                f"the path of the ledger has {size} bytes, and SQLite takes {LONGEST_LEDGER}: choose an output folder "
                f"with a shorter path than {path}"
            ) from error
        # The disk is full, the file is read-only, or another program locks it. The file itself is intact.
        raise LedgerError(
            f"the ledger {path} cannot be used: {error}. Check that the disk has free space, that the "
            "folder is writable, and that no other program locks the file. Then run the same command again"
        ) from error
    except sqlite3.DatabaseError as error:
        raise LedgerDamagedError(damage_message(path, str(error))) from error
    except OSError as error:
        raise LedgerError(f"the ledger {path} cannot be opened: {error.strerror or error}") from error


def damage_message(path: Path, reason: str) -> str:
    """Return the message for a damaged ledger, with what to do."""
    return (
        f"the ledger {path} is damaged ({reason}). The written pages are safe. Try `sqlite3 LEDGER .recover` on a "
        "copy, or move the file away and run the job again with --overwrite"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PageProgress:
    """What an engine has done of a page that takes minutes."""

    source: str
    unit: str
    """What it counts, in the singular: ``tile``."""
    done: float
    """Units that are done; a fraction if one of them takes steps that are counted."""
    total: int
    """Units of the page."""
