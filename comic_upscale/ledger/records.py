"""What stands in a ledger, in the form that the other modules speak of it. Light: imports no library.

Reading a ledger (``queries.py``) needs this much and no more, so that ``status`` answers at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, TypeAlias

from comic_upscale.errors import ANIMATED, LedgerDamagedError, LedgerError

PAGE, VOLUME = "page", "volume"

PROCESSOR = "processor"
"""The device name recorded for a remote machine without a GPU."""

LARGE_ENOUGH = "large-enough"
"""The kind of a page that was skipped for its size; looked at anew where the bounds change."""

LEFT_AS_THEY_ARE = {LARGE_ENOUGH: "large enough already", ANIMATED: "animated"}
"""The kinds of pages that the settings leave out, in words: volumes have them as they were."""

INCOMPLETE = "incomplete"
"""The kind that a volume has while it waits for pages that failed."""


@dataclass(slots=True)
class PageRow:
    """What the ledger knows of a page, as far as deciding what to do with it needs."""

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
    """``page``, or ``volume``: the archive that pages are in, which becomes an output of its own."""


SELECT_ROWS = (
    "select id, source, source_size, source_mtime_ns, source_sha256, state, output, output_size, error_kind,"
    " width, height, kind from pages where job_id = ? order by id"
)
"""The columns of `PageRow` for every page and volume of a job."""

SELECT_OLD_ROWS = SELECT_ROWS.replace(", kind", "")
"""The same for a ledger of before there were volumes."""

COUNTED = f"(pages.kind = '{PAGE}' or pages.state = 'failed')"
"""What counts among the pages of a job: pages, and volumes that failed as a whole."""

COUNT_VOLUMES = (
    "select count(*), sum(state = 'done') from pages"
    f" where job_id = ? and kind = '{VOLUME}' and state <> 'skipped'"
)
"""How many volumes a job has, and how many of them are done."""


SELECT_PRICE = "select price from runs where job_id = ? and price is not null order by id desc limit 1"
"""What an hour cost the last run of a job that was told."""

SELECT_SPENT = (
    "select coalesce(sum(price * 24 * (julianday(coalesce(ended_at, heartbeat_at)) - julianday(started_at))), 0.0)"
    " from runs where job_id = ? and price is not null"
)
"""What the runs of a job have cost, in dollars; one that is alive counts up to its last heartbeat."""

SELECT_START_SECONDS = (
    "select min(86400 * (julianday(coalesce("
    "(select min(finished_at) from pages where run_id = runs.id and upscale_seconds is not null),"
    " ended_at, heartbeat_at)) - julianday(started_at)))"
    " from runs where job_id = ? and host = ? and device != '' and instr(device, ': ') = 0"
)
"""How long the quickest run of a job on a machine's own devices took to its first page, or to its end without one."""


@dataclass(frozen=True, slots=True)
class AutoJob:
    """A job whose model was chosen by ``auto``: what continuing it needs to know."""

    model: str
    model_sha256: str
    fingerprint: str


SELECT_AUTO_JOBS = (
    "select model, model_sha256, fingerprint from jobs where model_auto and output = ? order by id desc"
)
"""The columns of `AutoJob` for every such job into a folder, whatever its input was called; newest first."""


SELECT_EARLY_JOBS = "select fingerprint from jobs where early_gray and output = ?"
"""The jobs into a folder that began when every page kept the channels that it is stored with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageDone:
    """A page whose output stands in its place; what the ledger keeps of it."""

    row_id: int
    source: str
    output: str
    source_sha256: str
    width: int
    height: int
    output_width: int
    output_height: int
    output_size: int
    output_sha256: str
    seconds: dict[str, float]
    """Seconds in each of the stages decode, upscale (its share of the batch), encode, place."""
    notes: tuple[str, ...] = ()
    scores: dict[str, float] = field(default_factory=dict)
    """How the page compares with its source, by the names of ``gate/scores.py``; empty where it was not looked at."""
    suspect: tuple[str, ...] = ()
    """Why a person should look at it, in words."""
    waited: dict[str, float] = field(default_factory=dict)
    """Seconds that the page waited before upscale, encode and place."""
    copied_from: str | None = None
    """The source of the same page, byte for byte, whose output this one's was copied from."""

    COLUMNS: ClassVar = (
        "source_sha256", "width", "height", "output_width", "output_height", "output_size", "output_sha256",
        "decode_seconds", "upscale_seconds", "encode_seconds", "place_seconds",
        "notes", "scores", "suspect", "copied_from",
    )  # fmt: skip
    """The columns of the table ``pages`` that a finished page fills, besides its state and time."""

    def values(self) -> tuple[str | int | float | None, ...]:
        """The values of ``COLUMNS``, in their order."""
        return (
            self.source_sha256, self.width, self.height, self.output_width, self.output_height, self.output_size,
            self.output_sha256,
            *stage_seconds(self.seconds),
            "; ".join(self.notes) or None, json.dumps(self.scores) if self.scores else None,
            "; ".join(self.suspect) or None, self.copied_from,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeDone:
    """A volume whose output stands in its place, with all its pages."""

    row_id: int
    source: str
    output: str
    pages: int
    output_size: int
    output_sha256: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFailed:
    """A page, or a whole volume, that could not be done, and why."""

    row_id: int
    source: str
    kind: str
    reason: str
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSkipped:
    """A page that was left as it is, and why."""

    row_id: int
    source: str
    kind: str
    reason: str
    width: int
    height: int
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CopiedFile:
    """A file that is no page and was copied beside the outputs."""

    source: str
    output: str
    """Relative to the output folder."""
    source_size: int
    source_mtime_ns: int
    sha256: str
    """Of what was copied."""


PageResult: TypeAlias = PageDone | PageFailed | PageSkipped
"""What becomes of a page that a run takes on."""


def stage_seconds(seconds: dict[str, float]) -> list[float | None]:
    """The seconds of decode, upscale, encode and place, as the ledger keeps them; None for a stage not reached."""
    return [
        None if stage not in seconds else round(seconds[stage], 4)
        for stage in ("decode", "upscale", "encode", "place")
    ]


def now() -> str:
    """The time as the ledger writes it: ISO 8601, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def is_allowed(path: Path, mode: int) -> bool:
    """`os.access` for the user that this process acts as."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what SQLite raises over the ledger at ``path`` into errors that say what to do."""
    try:
        yield
    except sqlite3.OperationalError as error:
        # Out of room, read-only, locked by a tool of the user's: the file itself is well.
        raise LedgerError(
            f"the ledger {path} cannot be used: {error}. See that the disk has room, that the folder is "
            "writable, and that no other program keeps the file locked; then run the same command again"
        ) from error
    except sqlite3.DatabaseError as error:
        raise LedgerDamagedError(damaged(path, str(error))) from error
    except OSError as error:
        raise LedgerError(f"the ledger {path} cannot be opened: {error.strerror or error}") from error


def damaged(path: Path, complaint: str) -> str:
    """Say that a ledger is broken, and what to do."""
    return (
        f"the ledger {path} is damaged ({complaint}). The pages that were written are safe. Try "
        "`sqlite3 LEDGER .recover` on a copy; or move the file away and start again with --overwrite"
    )
