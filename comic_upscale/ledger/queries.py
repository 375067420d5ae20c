"""Read a ledger from another process: the progress of a job, without disturbing its run."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import sqlite3
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from comic_upscale.costs.spending import dollars
from comic_upscale.errors import InputError, LedgerError, LedgerVersionError
from comic_upscale.ledger.records import (
    COUNT_ORPHANS,
    COUNT_VOLUMES,
    COUNTED,
    INCOMPLETE,
    PAGE,
    SELECT_AUTO_JOBS,
    SELECT_EARLY_JOBS,
    SELECT_OLD_ROWS,
    SELECT_PRICE,
    SELECT_ROWS,
    SELECT_SPENT,
    THERE,
    AutoJob,
    PageRow,
    is_allowed,
    translate_sqlite_errors,
)
from comic_upscale.ledger.schema import MIGRATION_SET, MIGRATIONS, MIGRATIONS_TABLE
from comic_upscale.ledger.values import check_values
from comic_upscale.settings.paths import LEDGER_NAME, MARKER_FOLDER, default_ledger, path_text

ALIVE_WITHIN_SECONDS = 30.0
"""A run on another host counts as alive for this long after its last heartbeat."""

CLOCKS_DIFFER_SECONDS = 600.0
"""The clock of another host may be ahead by this much. A heartbeat from further ahead came from a wrong clock."""

RATE_OVER_PAGES = 200
"""The number of recent pages over which the rate is measured, so that it follows the current pages."""


_SELECT_DONE = (
    "select pages.*, volumes.source as volume_source, volumes.output as volume_output"
    " from pages left join pages as volumes on volumes.id = pages.volume_id"
    f" where pages.job_id = ? and pages.state = 'done' and pages.kind = '{PAGE}' and {THERE} order by pages.id"
)
_OF_SUSPECTS = f"from pages where job_id = ? and state = 'done' and suspect is not null and {THERE}"
_SELECT_OLD_DONE = (
    "select *, null as volume_source, null as volume_output from pages"
    " where job_id = ? and state = 'done' order by id"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """The progress of a job, from its ledger."""

    state: str
    """``running``, ``stopped`` (pages are left and no run is active) or ``finished``."""
    total: int
    done: int
    failed: int
    skipped: int
    pending: int
    percent: float
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
    orphans: int = 0
    """Outputs whose sources were no longer in the input at the last run. No other figure counts them."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A page or volume that failed, or a volume that waits for a failed page, and why."""

    source: str
    kind: str
    reason: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Suspect:
    """A finished page that is suspect."""

    source: str
    output: str
    """Relative to the output folder."""
    reasons: str
    scores: dict[str, float]
    """Scores by the names in ``gate/scores.py``."""


def find_ledger(folder: Path) -> Path:
    """Return the ledger of an output folder.

    Raises:
        InputError: there is none. The message gives the expected place.
    """
    ledger = default_ledger(folder)
    if not ledger.is_file():
        raise InputError(
            f"{folder} contains no ledger (expected {MARKER_FOLDER}/{LEDGER_NAME}): name the output folder of "
            "a job with --job, or the file itself with --ledger"
        )
    return ledger


def read_status(ledger: Path) -> JobStatus:
    """Return the progress of the newest job of a ledger.

    Raises:
        InputError: the file does not exist, or contains no job yet.
        LedgerError: the file cannot be read.
    """
    with _reading(ledger, pages=()) as connection:
        job = _newest_job(connection, ledger)
        counts = _counts(connection, job["id"])
        run = _row(connection, "select * from runs where job_id = ? order by id desc limit 1", job["id"])
        rate = None if run is None else _rate(connection, run["id"])
        volumes, volumes_done = _volumes(connection, job["id"])
        suspects = _count_suspects(connection, job["id"])
        price, spent = _spent(connection, job["id"], run)
        orphans = _count_orphans(connection, job["id"])
    pending = counts.get("pending", 0) + counts.get("working", 0)
    total, done = sum(counts.values()), counts.get("done", 0)
    alive = run is not None and is_alive(run)
    state = "running" if alive else "stopped" if pending or not total else "finished"
    last: dict[str, Any] = run or {}
    run_state = last.get("state")
    eta = None
    if pending == 0:
        eta = 0.0
    elif rate and alive:
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
        price=price,
        suspects=suspects,
        spent=spent,
        to_come=_to_come(price, pending, rate),
        orphans=orphans,
    )


def copy_ledger(ledger: Path, target: sqlite3.Connection) -> None:
    """Copy a ledger into an empty database, such as one in memory; errors as in `read_status`.

    The values of its pages are not checked: whoever opens the copy does that.
    """
    with _reading(ledger, pages=()) as connection:
        connection.backup(target)


def read_newest_job(ledger: Path) -> dict[str, Any]:
    """Return the newest job of a ledger by its columns; errors as in `read_status`."""
    with _reading(ledger) as connection:
        return _newest_job(connection, ledger)


def read_failures(ledger: Path) -> list[Failure]:
    """Return the failed pages of the newest job of a ledger, in the order of discovery; errors as in `read_status`."""
    with _reading(ledger, pages=("source", "error_kind", "error", "attempts")) as connection:
        job = _newest_job(connection, ledger)
        cursor = connection.execute(
            "select source, error_kind, error, attempts from pages where job_id = ?"
            " and (state = 'failed' or error_kind = ?) order by id",
            [job["id"], INCOMPLETE],
        )
        return [Failure(*row) for row in cursor]


def read_suspects(ledger: Path) -> list[Suspect]:
    """Return the suspect pages of the newest job, in the order of discovery; errors as in `read_status`."""
    with _reading(ledger, pages=("source", "output", "suspect", "scores")) as connection:
        return _suspects(connection, _newest_job(connection, ledger)["id"])


def recorded_numbers(text: object) -> dict[str, float]:
    """Return the numbers in a JSON column, by name. Values that are not numbers are left out.

    Args:
        text: the text in the ledger, which people and programs may have changed.
    """
    try:
        found = json.loads(text) if isinstance(text, str) else {}
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: number for name, value in found.items() if (number := _finite(value)) is not None}


def _finite(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _count_suspects(connection: sqlite3.Connection, job_id: int) -> int:
    if not _knows_suspects(connection):
        return 0
    query = _for_columns(connection, f"select count(*) {_OF_SUSPECTS}")
    return int(connection.execute(query, [job_id]).fetchone()[0])


def _suspects(connection: sqlite3.Connection, job_id: int) -> list[Suspect]:
    if not _knows_suspects(connection):
        return []
    query = f"select source, output, suspect, scores {_OF_SUSPECTS} order by id"
    cursor = connection.execute(_for_columns(connection, query), [job_id])
    return [
        Suspect(source, output, reasons, recorded_numbers(scores))
        for source, output, reasons, scores in cursor
    ]


def _knows_suspects(connection: sqlite3.Connection) -> bool:
    """Return whether a version with the quality gate has opened the ledger."""
    return "suspect" in _columns(connection, "pages")


def read_done_pages(ledger: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the newest job of a ledger and its finished pages, by their columns; errors as in `read_status`.

    ``volume_source`` and ``volume_output`` are those of the volume that contains the page, None for any other page.
    """
    with _reading(ledger) as connection:
        job = _newest_job(connection, ledger)
        query = _SELECT_DONE if _knows_volumes(connection) else _SELECT_OLD_DONE
        cursor = connection.execute(_for_columns(connection, query), [job["id"]])
        names = [column[0] for column in cursor.description]
        return job, [dict(zip(names, row, strict=True)) for row in cursor]


def read_settled_pages(ledger: Path, since: str = "") -> Iterator[dict[str, Any]]:
    """Return the results of the newest job's pages, including those in volumes; errors as in `read_status`.

    Args:
        ledger: the file.
        since: only pages with a result at this time or later, ISO 8601 as in the ledger.

    Returns:
        For each page ``source``, ``state`` (done, failed or skipped), ``at`` and the recorded columns of its output.
    """
    with _reading(ledger) as connection:
        job = _newest_job(connection, ledger)
        judged = ", scores, suspect" if _knows_suspects(connection) else ""
        cursor = connection.execute(
            "select source, state, finished_at as at, width, height, output_width, output_height, output_size,"
            " output_sha256, decode_seconds, upscale_seconds, encode_seconds, place_seconds, notes,"
            f" error_kind as kind, error as reason{judged} from pages"
            " where job_id = ? and state in ('done', 'failed', 'skipped') and finished_at >= ? order by finished_at",
            [job["id"], since],
        )
        names = [column[0] for column in cursor.description]
        for row in cursor:
            yield dict(zip(names, row, strict=True))


def read_run_rows(ledger: Path) -> list[dict[str, Any]]:
    """Return the runs of the newest job of a ledger, by their columns, in order; errors as in `read_status`."""
    with _reading(ledger, pages=()) as connection:
        job = _newest_job(connection, ledger)
        cursor = connection.execute("select * from runs where job_id = ? order by id", [job["id"]])
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]


def read_rows(ledger: Path, *, input: Path, output: Path, fingerprint: str) -> list[PageRow]:
    """Return the pages of a job without changing the ledger; none if there is no ledger or no such job."""
    if not ledger.is_file():
        return []
    with _reading(ledger) as connection:
        job = _row(
            connection,
            "select id from jobs where input = ? and output = ? and fingerprint = ?",
            path_text(input),
            _recorded(connection, ledger, output),
            fingerprint,
        )
        if job is None:
            return []
        query = SELECT_ROWS if _knows_volumes(connection) else SELECT_OLD_ROWS
        return [PageRow(*row) for row in connection.execute(query, [job["id"]])]


def _recorded(connection: sqlite3.Connection, ledger: Path, output: Path) -> str:
    """Return the output folder as recorded. It may be out of date until the next run updates it."""
    if ledger == default_ledger(output):
        names = [str(row[0]) for row in connection.execute("select distinct output from jobs limit 2")]
        if len(names) == 1:
            return names[0]
    return path_text(output)


def read_auto_jobs(ledger: Path, output: Path) -> list[AutoJob]:
    """Return the result of `Ledger.auto_jobs` without changing the ledger; none if there is no ledger."""
    if not ledger.is_file():
        return []
    with _reading(ledger, pages=()) as connection:
        if "model_auto" not in _columns(connection, "jobs"):
            return []
        cursor = connection.execute(SELECT_AUTO_JOBS, [_recorded(connection, ledger, output)])
        return [AutoJob(*row) for row in cursor]


def read_early_jobs(ledger: Path, output: Path) -> set[str]:
    """Return the result of `Ledger.early_jobs` without changing the ledger; none if there is no ledger."""
    if not ledger.is_file():
        return set()
    with _reading(ledger, pages=()) as connection:
        query = SELECT_EARLY_JOBS
        if "early_gray" not in _columns(connection, "jobs"):
            # The migration that adds the column sets it for every existing job.
            query = query.replace("early_gray and ", "")
        return {str(row[0]) for row in connection.execute(query, [_recorded(connection, ledger, output)])}


def read_bytes_per_pixel(ledger: Path, *, suffix: str, quality: int | None) -> float | None:
    """Return the bytes per output pixel so far, from the finished pages; None if there are none.

    Args:
        ledger: the file; it need not exist.
        suffix: suffix of the outputs that count, such as ``.png``.
        quality: quality with which they were written.
    """
    if not ledger.is_file():
        return None
    with _reading(ledger, pages=("output_size", "output_width", "output_height")) as connection:
        size, pixels = connection.execute(
            "select sum(output_size), sum(output_width * output_height) from pages"
            " join jobs on jobs.id = pages.job_id where state = 'done' and pages.output like ?"
            " and json_extract(jobs.settings, '$.quality') is ?",
            [f"%{suffix}", quality],
        ).fetchone()
    return size / pixels if pixels else None


_SELECT_RUNS = (
    "select runs.id, runs.host, runs.device, runs.precision, runs.versions, runs.started_at, jobs.model,"
    " jobs.model_sha256, jobs.settings, count(*) as pages, sum(pages.width * pages.height) as network_pixels,"
    " sum(pages.output_width * pages.output_height) as output_pixels, sum(pages.output_size) as output_bytes,"
    " sum(pages.upscale_seconds) as network_seconds,"
    " sum(pages.decode_seconds + pages.encode_seconds + pages.place_seconds) as host_seconds,"
    " (julianday(max(pages.finished_at)) - julianday(min(pages.finished_at))) * 86400.0"
    " * count(*) / (count(*) - 1) as whole_seconds,"
    " (select coalesce(sum(coalesce(decode_seconds, 0) + coalesce(encode_seconds, 0) + coalesce(place_seconds, 0)), 0)"
    " from pages as others where others.run_id = runs.id and others.state = 'done'"
    " and others.upscale_seconds is null) as other_seconds"
    " from runs join pages on pages.run_id = runs.id join jobs on jobs.id = runs.job_id"
    " where pages.state = 'done' and pages.upscale_seconds is not null and runs.device <> ''"
    " group by runs.id having count(*) >= ? and whole_seconds > 0 order by runs.id desc"
)


def read_runs(ledger: Path, *, least: int) -> list[dict[str, Any]]:
    """Return the work and the times of the runs in a ledger, the newest first; errors as in `read_status`.

    Pages that did not go through the network, and runs with fewer pages than ``least`` (2 or more), are left out.
    ``whole_seconds`` is the time from the first page to the last. ``other_seconds`` is the time that workers spent in
    between on pages that did not go through the network.
    """
    with _reading(ledger) as connection:
        cursor = connection.execute(_SELECT_RUNS, [max(least, 2)])
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]


def describe_holder(ledger: Path) -> str:
    """Return the process that is working on a ledger, as text. It never raises an error."""
    with contextlib.suppress(LedgerError, InputError), _reading(ledger, pages=()) as connection:
        run = _row(connection, "select * from runs where state = 'running' order by id desc limit 1")
        if run is not None and is_alive(run):
            return f"process {run['pid']} on {run['host']}, since {run['started_at']}"
    return "a process that has just started"


def is_alive(run: dict[str, Any]) -> bool:
    """Return whether the process of a run that has not ended is still alive.

    On this host, the process table decides, with the start time in case the PID was reused. On another host, only the
    heartbeat is known.
    """
    if run["state"] != "running":
        return False
    if run["host"] == socket.gethostname():
        try:
            process = psutil.Process(run["pid"])
            same = abs(process.create_time() - run["process_started"]) < 1.0
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True
    return -CLOCKS_DIFFER_SECONDS < seconds_since(run["heartbeat_at"]) < ALIVE_WITHIN_SECONDS


def seconds_since(time: str) -> float:
    """Return the seconds from an ISO 8601 time to now; infinity if the text is not a time.

    They are negative if the time is in the future, because a clock was set back or another host's clock is ahead.
    """
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds()
    except (TypeError, ValueError):
        return float("inf")


@contextlib.contextmanager
def _reading(ledger: Path, *, pages: Collection[str] | None = None) -> Iterator[sqlite3.Connection]:
    """Open a ledger for reading, and check its values.

    Args:
        ledger: the file.
        pages: the columns of ``pages`` that the caller uses; None for all.
    """
    if not ledger.is_file():
        raise InputError(f"there is no ledger at {ledger}")
    with translate_sqlite_errors(ledger):
        # SQLite cannot share a ledger in a read-only folder. Without a journal, no process is writing to it.
        still = not is_allowed(ledger.parent, os.W_OK) and not Path(f"{ledger}-wal").exists()
        mode = "immutable=1" if still else "mode=ro"
        connection = sqlite3.connect(f"{ledger.absolute().as_uri()}?{mode}", uri=True, timeout=5)
        try:
            _check_version(connection, ledger)
            check_values(connection, ledger, pages=pages)
            yield connection
        finally:
            connection.close()


def _check_version(connection: sqlite3.Connection, ledger: Path) -> None:
    table = MIGRATIONS_TABLE
    found = connection.execute("select count(*) from sqlite_master where name = ?", [table]).fetchone()[0]
    if not found:
        raise InputError(f"{ledger} is not a comic-upscale ledger")
    applied = connection.execute(f"select name from {table} where migration_set = ?", [MIGRATION_SET])
    unknown = {str(row[0]) for row in applied} - {migration.name for migration in MIGRATIONS}
    if unknown:
        raise LedgerVersionError(f"{ledger} was written by a newer comic-upscale: update this one to read it")


def _newest_job(connection: sqlite3.Connection, ledger: Path) -> dict[str, Any]:
    # By the numbers of the runs, since a clock may have been set back between two of them.
    job = _row(
        connection,
        "select jobs.* from jobs left join"
        " (select job_id, max(id) as last_run from runs group by job_id) as runs on runs.job_id = jobs.id order by"
        " last_run is null and jobs.created_at > coalesce((select started_at from runs order by id desc limit 1), '')"
        " desc, last_run desc, jobs.id desc limit 1",
    )
    if job is None:
        raise InputError(f"the ledger {ledger} holds no job yet")
    return job


def _spent(
    connection: sqlite3.Connection, job_id: int, run: dict[str, Any] | None
) -> tuple[float | None, float | None]:
    """Return the price of an hour and the cost of a job so far, in dollars; None if no run had a price."""
    if run is None or "price" not in run:
        return None, None
    price = connection.execute(SELECT_PRICE, [job_id]).fetchone()
    if price is None:
        return None, None
    return price[0], round(connection.execute(SELECT_SPENT, [job_id]).fetchone()[0], 6)


def _to_come(price: float | None, pending: int, rate: float | None) -> float | None:
    if price is None or (pending and not rate):
        return None
    return round(dollars(pending / rate, price), 6) if rate else 0.0


def _counts(connection: sqlite3.Connection, job_id: int) -> dict[str, int]:
    counted = _for_columns(connection, COUNTED) if _knows_volumes(connection) else "true"
    query = f"select state, count(*) from pages where job_id = ? and {counted} group by state"
    return dict(connection.execute(query, [job_id]).fetchall())


def _volumes(connection: sqlite3.Connection, job_id: int) -> tuple[int, int]:
    """Return the number of volumes of a job, and of those that are done."""
    if not _knows_volumes(connection):
        return 0, 0
    count, done = connection.execute(_for_columns(connection, COUNT_VOLUMES), [job_id]).fetchone()
    return int(count), int(done or 0)


def _count_orphans(connection: sqlite3.Connection, job_id: int) -> int:
    if "gone" not in _columns(connection, "pages"):
        return 0
    return int(connection.execute(COUNT_ORPHANS, [job_id]).fetchone()[0])


def _for_columns(connection: sqlite3.Connection, query: str) -> str:
    """Return a query without the condition `THERE` if no version that knows orphans has opened the ledger."""
    return query if "gone" in _columns(connection, "pages") else query.replace(THERE, "true")


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {str(column[1]) for column in connection.execute(f"pragma table_info({table})")}


def _knows_volumes(connection: sqlite3.Connection) -> bool:
    """Return whether a version with volumes has opened the ledger."""
    return "kind" in _columns(connection, "pages")


def _rate(connection: sqlite3.Connection, run_id: int) -> float | None:
    """Return the pages per second over the last finished pages of a run; None before its second page."""
    # A copied page does not show how long a page takes.
    own = " and copied_from is null" if "copied_from" in _columns(connection, "pages") else ""
    first, last, count = connection.execute(
        "select min(at), max(at), count(*) from (select julianday(finished_at) * 86400.0 as at from pages"
        f" where run_id = ? and finished_at is not null{own} order by finished_at desc limit ?)",
        [run_id, RATE_OVER_PAGES],
    ).fetchone()
    # Text that is no time counts as a page without a time.
    if count < 2 or first is None or last - first <= 0:
        return None
    return float((count - 1) / (last - first))


def _row(connection: sqlite3.Connection, query: str, *values: object) -> dict[str, Any] | None:
    cursor = connection.execute(query, values)
    row = cursor.fetchone()
    if row is None:
        return None
    return dict(zip([column[0] for column in cursor.description], row, strict=True))
