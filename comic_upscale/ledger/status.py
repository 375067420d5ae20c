"""The progress of a job, read from its ledger without disturbing its run."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from comic_upscale.costs.spending import dollars
from comic_upscale.errors import InputError, LedgerError, SettingsError
from comic_upscale.ledger.pausing import paused_since
from comic_upscale.ledger.reading import (
    OF_SUSPECTS,
    columns_of,
    for_columns,
    knows_suspects,
    knows_volumes,
    newest_job,
    read_row,
    reading,
)
from comic_upscale.ledger.records import (
    COUNT_ORPHANS,
    COUNT_VOLUMES,
    COUNTED,
    SELECT_OLD_SPENT,
    SELECT_PRICE,
    SELECT_SPENT,
    PageProgress,
)
from comic_upscale.settings.paths import is_default_place, path_text
from comic_upscale.settings.places import is_bucket
from comic_upscale.settings.selection import read_selection

ALIVE_WITHIN_SECONDS = 30.0
"""A run of which only the heartbeat is known counts as alive for this long after its last one."""

CLOCKS_DIFFER_SECONDS = 600.0
"""The clock of another host may be ahead by this much. A heartbeat from further ahead came from a wrong clock."""

_MOST_SHARES = 64
"""Pages in progress that are read from a status."""

RATE_OVER_PAGES = 200
"""The number of recent pages over which the rate is measured, so that it follows the current pages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """The progress of a job, from its ledger."""

    state: str
    """``running``, ``paused``, ``stopped`` (pages are left and no run is active) or ``finished``."""
    total: int
    done: int
    failed: int
    skipped: int
    pending: int
    percent: float
    """Pages that are decided (done, failed or skipped), of all: 100 for a finished job, also with failed pages."""
    pages_per_second: float | None
    eta_seconds: float | None
    alive: bool
    last_seen: str | None
    """Time of the last sign of life of the last run, ISO 8601 UTC."""
    run_state: str | None
    """``running``, ``finished``, ``interrupted``, ``failed``, or ``died``; None before the first run."""
    run_error: str | None
    started_at: str | None
    ended_at: str | None
    host: str | None
    pid: int | None
    device: str | None
    precision: str | None
    model: str
    model_auto: bool
    """Whether ``auto`` selected the model."""
    input: str
    output: str
    ledger: str
    job_id: int
    volumes: int = 0
    """Volumes of the job."""
    volumes_done: int = 0
    """Volumes whose outputs are complete."""
    price: float | None = None
    """Dollars per hour in the last run that had a price."""
    suspects: int = 0
    """Finished pages that are suspect."""
    spent: float | None = None
    """Cost of the job's runs in dollars; None if no price is known."""
    to_come: float | None = None
    """Expected cost of the pages left, in dollars, at the last run's rate; None if price or rate is unknown."""
    volumes_cut: int = 0
    """Volumes among ``volumes_done`` whose archives are cut short or damaged, so that pages may be missing."""
    orphans: int = 0
    """Outputs whose sources were no longer in the input at the last run. No other figure counts them."""
    selection: str = ""
    """The part of the input that the last run looked at, for display; empty for all of it."""
    paused_since: str | None = None
    """When the job was paused, ISO 8601 UTC; None if it is not. A pause may outlast the run, for a watch."""
    profile: str = ""
    """The profile of the job: a name or the path of a file; empty for none."""
    denoise: float | None = None
    """The strength of the job, 0 to 1; None if it has none."""
    within: tuple[PageProgress, ...] = ()
    """What the run has done of the pages in progress, seconds ago, if their engine tells."""


def read_status(ledger: Path) -> JobStatus:
    """Return the progress of the newest job of a ledger.

    Raises:
        InputError: the file does not exist, or contains no job yet.
        LedgerError: the file cannot be read.
    """
    with reading(ledger, pages=()) as connection:
        job = newest_job(connection, ledger)
        counts = _counts(connection, job["id"])
        run = read_row(connection, "select * from runs where job_id = ? order by id desc limit 1", job["id"])
        rate = None if run is None else _rate(connection, run["id"])
        volumes, volumes_done, volumes_cut = _volumes(connection, job["id"])
        suspects = _count_suspects(connection, job["id"])
        price, spent = _spent(connection, job["id"], run)
        orphans = _count_orphans(connection, job["id"])
    pending = counts.get("pending", 0) + counts.get("working", 0)
    total, done = sum(counts.values()), counts.get("done", 0)
    alive = run is not None and is_alive(run)
    paused = paused_since(_output_folder(ledger, job))
    state = "running" if alive else "stopped" if pending or not total else "finished"
    if alive and paused is not None:
        state = "paused"
    last: dict[str, Any] = run or {}
    run_state = last.get("state")
    eta = None
    if pending == 0:
        eta = 0.0
    elif rate and state == "running":
        eta = round(pending / rate, 1)
    return JobStatus(
        state=state,
        total=total,
        done=done,
        failed=counts.get("failed", 0),
        skipped=counts.get("skipped", 0),
        pending=pending,
        percent=round(100 * (total - pending) / total, 1) if total else 0.0,
        pages_per_second=None if rate is None else round(rate, 4),
        eta_seconds=eta,
        alive=alive,
        last_seen=last.get("heartbeat_at"),
        run_state="died" if run_state == "running" and not alive else run_state,
        run_error=last.get("error"),
        started_at=last.get("started_at"),
        ended_at=last.get("ended_at"),
        host=last.get("host"),
        pid=last.get("pid"),
        device=last.get("device") or None,
        precision=last.get("precision") or None,
        model=job["model"],
        # A ledger that no newer run has opened lacks this column.
        model_auto=bool(job.get("model_auto")),
        input=job["input"],
        output=job["output"],
        ledger=path_text(ledger.absolute()),
        job_id=job["id"],
        volumes=volumes,
        volumes_done=volumes_done,
        volumes_cut=volumes_cut,
        price=price,
        suspects=suspects,
        spent=spent,
        to_come=_to_come(price, pending, rate),
        orphans=orphans,
        selection=_selection(job),
        paused_since=paused,
        profile=_profile(job),
        denoise=_denoise(job),
        within=_within(last.get("within")) if alive else (),
    )


def read_shares(listed: object) -> tuple[PageProgress, ...]:
    """Return the pages in progress of a list that is not trusted; nothing if it lists something else."""
    with contextlib.suppress(ValueError, TypeError, KeyError, OverflowError):
        pages = [
            PageProgress(
                source=str(page["source"])[:500],
                unit=str(page["unit"])[:50],
                done=float(page["done"]),
                total=int(page["total"]),
            )
            for page in list(listed)[:_MOST_SHARES]  # type: ignore[call-overload]
        ]
        # Not a number is not in a range.
        return tuple(page for page in pages if 0 <= page.done <= page.total < 1e12)
    return ()


def _within(text: str | None) -> tuple[PageProgress, ...]:
    """Return what a run has recorded of its pages in progress; nothing if another version recorded something else."""
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        return read_shares(json.loads(text or "[]"))
    return ()


def _output_folder(ledger: Path, job: dict[str, Any]) -> Path:
    """Return the output folder of a job, also if it was moved with the ledger inside."""
    if is_default_place(ledger):
        return ledger.absolute().parent.parent
    output = Path(job["output"])
    return ledger.absolute().parent if is_bucket(output) else output


def _profile(job: dict[str, Any]) -> str:
    """Return the profile of a job as it was named; empty for none."""
    with contextlib.suppress(KeyError, ValueError, TypeError):
        profile = json.loads(job["settings"])["profile"]
        return profile if isinstance(profile, str) else ""
    return ""


def _denoise(job: dict[str, Any]) -> float | None:
    with contextlib.suppress(KeyError, ValueError, TypeError):
        denoise = json.loads(job["settings"])["denoise"]
        # Python's booleans are numbers.
        return float(denoise) if not isinstance(denoise, bool) and 0 <= denoise <= 1 else None
    return None


def _selection(job: dict[str, Any]) -> str:
    # Settings that cannot be read are the concern of whoever runs the job.
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, SettingsError):
        return str(read_selection(json.loads(job["settings"])["selection"]))
    return ""


def _count_suspects(connection: sqlite3.Connection, job_id: int) -> int:
    if not knows_suspects(connection):
        return 0
    query = for_columns(connection, f"select count(*) {OF_SUSPECTS}")
    return int(connection.execute(query, [job_id]).fetchone()[0])


def describe_holder(ledger: Path) -> str:
    """Return the process that is working on a ledger, as text. It never raises an error."""
    with contextlib.suppress(LedgerError, InputError), reading(ledger, pages=()) as connection:
        run = read_row(connection, "select * from runs where state = 'running' order by id desc limit 1")
        if run is not None and is_alive(run):
            return f"process {run['pid']} on {run['host']}, since {run['started_at']}"
    return "a process that has just started"


def is_alive(run: dict[str, Any]) -> bool:
    """Return whether the process of a run that has not ended is still alive.

    On this host, the process table decides, with the start time in case the PID was reused. That time moves when the
    clock is set, on Linux for processes that run already. So the heartbeat decides if it differs: a run whose PID was
    reused gives none. On another host, only the heartbeat is known.
    """
    if run["state"] != "running":
        return False
    if run["host"] == socket.gethostname():
        try:
            process = psutil.Process(run["pid"])
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            if abs(process.create_time() - run["process_started"]) < 1.0:
                return True
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True
    return _has_fresh_heartbeat(run)


def _has_fresh_heartbeat(run: dict[str, Any]) -> bool:
    return -CLOCKS_DIFFER_SECONDS < seconds_since(run["heartbeat_at"]) < ALIVE_WITHIN_SECONDS


def seconds_since(time: str) -> float:
    """Return the seconds from an ISO 8601 time to now; infinity if the text is not a time.

    They are negative if the time is in the future, because a clock was set back or another host's clock is ahead.
    """
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds()
    except (TypeError, ValueError):
        return float("inf")


def _spent(
    connection: sqlite3.Connection, job_id: int, run: dict[str, Any] | None
) -> tuple[float | None, float | None]:
    """Return the price of an hour and the cost of a job so far, in dollars; None if no run had a price."""
    if run is None or "price" not in run:
        return None, None
    price = connection.execute(SELECT_PRICE, [job_id]).fetchone()
    if price is None:
        return None, None
    query = SELECT_SPENT if "billed" in run else SELECT_OLD_SPENT
    return price[0], round(connection.execute(query, [job_id]).fetchone()[0], 6)


def _to_come(price: float | None, pending: int, rate: float | None) -> float | None:
    if price is None or (pending and not rate):
        return None
    return round(dollars(pending / rate, price), 6) if rate else 0.0


def _counts(connection: sqlite3.Connection, job_id: int) -> dict[str, int]:
    counted = for_columns(connection, COUNTED) if knows_volumes(connection) else "true"
    query = f"select state, count(*) from pages where job_id = ? and {counted} group by state"
    return dict(connection.execute(query, [job_id]).fetchall())


def _volumes(connection: sqlite3.Connection, job_id: int) -> tuple[int, int, int]:
    """Return the number of volumes of a job, of those done, and of those among them whose archives end early."""
    if not knows_volumes(connection):
        return 0, 0, 0
    counts = connection.execute(for_columns(connection, COUNT_VOLUMES), [job_id]).fetchone()
    count, done, cut = (int(number or 0) for number in counts)
    return count, done, cut


def _count_orphans(connection: sqlite3.Connection, job_id: int) -> int:
    if "gone" not in columns_of(connection, "pages"):
        return 0
    return int(connection.execute(COUNT_ORPHANS, [job_id]).fetchone()[0])


def _rate(connection: sqlite3.Connection, run_id: int) -> float | None:
    """Return the pages per second over the last finished pages of a run; None before its second page."""
    # A copied page does not show how long a page takes.
    own = " and copied_from is null" if "copied_from" in columns_of(connection, "pages") else ""
    first, last, count = connection.execute(
        "select min(at), max(at), count(*) from (select julianday(finished_at) * 86400.0 as at from pages"
        f" where run_id = ? and finished_at is not null{own} order by finished_at desc limit ?)",
        [run_id, RATE_OVER_PAGES],
    ).fetchone()
    # Text that is no time counts as a page without a time.
    if count < 2 or first is None or last - first <= 0:
        return None
    return float((count - 1) / (last - first))
