"""Read the pages, runs and jobs of a ledger from another process, without disturbing its run."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comic_upscale.errors import InputError, LedgerError
from comic_upscale.ledger.reading import (
    OF_SUSPECTS,
    columns_of,
    for_columns,
    knows_suspects,
    knows_volumes,
    newest_job,
    reading,
    sqlite_uri,
)
from comic_upscale.ledger.records import (
    INCOMPLETE,
    PAGE,
    SELECT_AUTO_JOBS,
    SELECT_CARRIED,
    SELECT_EARLY_JOBS,
    THERE,
    AutoJob,
    CopiedFile,
)
from comic_upscale.settings.paths import default_ledger, path_text

_SELECT_DONE = (
    "select pages.*, volumes.source as volume_source, volumes.output as volume_output"
    " from pages left join pages as volumes on volumes.id = pages.volume_id"
    f" where pages.job_id = ? and pages.state = 'done' and pages.kind = '{PAGE}' and {THERE} order by pages.id"
)

_SELECT_OLD_DONE = (
    "select *, null as volume_source, null as volume_output from pages"
    " where job_id = ? and state = 'done' order by id"
)


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


def knows_price(ledger: Path) -> bool:
    """Return whether a run of a ledger had a price; also True for one that cannot be read, False if there is none."""
    try:
        with reading(ledger, pages=()) as connection:
            query = "select exists (select 1 from runs where price is not null)"
            return "price" in columns_of(connection, "runs") and bool(connection.execute(query).fetchone()[0])
    except InputError:
        return False
    except LedgerError:
        return True


def copy_ledger(ledger: Path, target: sqlite3.Connection) -> None:
    """Copy a ledger into an empty database, such as one in memory; errors as in `reading`.

    The values of its pages are not checked: whoever opens the copy does that.
    """
    with reading(ledger, pages=()) as connection:
        connection.backup(target)


def copy_ledger_file(ledger: Path, target: Path) -> None:
    """Copy a ledger, which a run may be writing, as one consistent file in place of another one. Nothing is checked.

    Args:
        ledger: the file, absolute.
        target: the copy, which needs no other files beside it.

    Raises:
        sqlite3.Error: SQLite cannot read the ledger or write the copy.
        OSError: a file in the place of the copy cannot be removed.
    """
    target.unlink(missing_ok=True)
    with (
        closing(sqlite3.connect(sqlite_uri(ledger), uri=True)) as source,
        closing(sqlite3.connect(target)) as copy,
    ):
        source.backup(copy)
        copy.execute("pragma journal_mode = delete")


def read_newest_job(ledger: Path) -> dict[str, Any]:
    """Return the newest job of a ledger by its columns; errors as in `reading`."""
    with reading(ledger) as connection:
        return newest_job(connection, ledger)


def read_job_header(ledger: Path) -> dict[str, Any]:
    """Return the newest job of a ledger without checking its pages; errors as in `reading`."""
    with reading(ledger, pages=()) as connection:
        return newest_job(connection, ledger)


def read_failures(ledger: Path) -> list[Failure]:
    """Return the failed pages of the newest job of a ledger, in the order of discovery; errors as in `reading`."""
    with reading(ledger, pages=("source", "error_kind", "error", "attempts")) as connection:
        job = newest_job(connection, ledger)
        cursor = connection.execute(
            "select source, error_kind, error, attempts from pages where job_id = ?"
            " and (state = 'failed' or error_kind = ?) order by id",
            [job["id"], INCOMPLETE],
        )
        return [Failure(*row) for row in cursor]


def read_suspects(ledger: Path) -> list[Suspect]:
    """Return the suspect pages of the newest job, in the order of discovery; errors as in `reading`."""
    with reading(ledger, pages=("source", "output", "suspect", "scores")) as connection:
        return _suspects(connection, newest_job(connection, ledger)["id"])


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


def _suspects(connection: sqlite3.Connection, job_id: int) -> list[Suspect]:
    if not knows_suspects(connection):
        return []
    query = f"select source, output, suspect, scores {OF_SUSPECTS} order by id"
    cursor = connection.execute(for_columns(connection, query), [job_id])
    return [
        Suspect(source, output, reasons, recorded_numbers(scores))
        for source, output, reasons, scores in cursor
    ]


def read_done_pages(ledger: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the newest job of a ledger and its finished pages, by their columns; errors as in `reading`.

    ``volume_source`` and ``volume_output`` are those of the volume that contains the page, None for any other page.
    """
    with reading(ledger) as connection:
        job = newest_job(connection, ledger)
        query = _SELECT_DONE if knows_volumes(connection) else _SELECT_OLD_DONE
        cursor = connection.execute(for_columns(connection, query), [job["id"]])
        names = [column[0] for column in cursor.description]
        return job, [dict(zip(names, row, strict=True)) for row in cursor]


def read_copied(ledger: Path) -> dict[str, CopiedFile]:
    """Return the files that were copied beside the outputs of the newest job, by output; errors as in `reading`.

    Earlier jobs into the same folder count, too.
    """
    with reading(ledger) as connection:
        job = newest_job(connection, ledger)
        if not connection.execute("select 1 from sqlite_master where name = 'carried'").fetchone():
            return {}
        cursor = connection.execute(SELECT_CARRIED, [job["output"]])
        return {str(row[1]): CopiedFile(*row) for row in cursor}


def read_settled_pages(ledger: Path, since: str = "") -> Iterator[dict[str, Any]]:
    """Return the results of the newest job's pages, including those in volumes; errors as in `reading`.

    Args:
        ledger: the file.
        since: only pages with a result at this time or later, ISO 8601 as in the ledger.

    Returns:
        For each page ``source``, ``state`` (done, failed or skipped), ``at`` and the recorded columns of its output.
    """
    with reading(ledger) as connection:
        job = newest_job(connection, ledger)
        judged = ", scores, suspect" if knows_suspects(connection) else ""
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
    """Return the runs of the newest job of a ledger, by their columns, in order; errors as in `reading`."""
    with reading(ledger, pages=()) as connection:
        job = newest_job(connection, ledger)
        cursor = connection.execute("select * from runs where job_id = ? order by id", [job["id"]])
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]


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
    with reading(ledger, pages=()) as connection:
        if "model_auto" not in columns_of(connection, "jobs"):
            return []
        cursor = connection.execute(SELECT_AUTO_JOBS, [_recorded(connection, ledger, output)])
        return [AutoJob(*row) for row in cursor]


def read_early_jobs(ledger: Path, output: Path) -> set[str]:
    """Return the result of `Ledger.early_jobs` without changing the ledger; none if there is no ledger."""
    if not ledger.is_file():
        return set()
    with reading(ledger, pages=()) as connection:
        query = SELECT_EARLY_JOBS
        if "early_gray" not in columns_of(connection, "jobs"):
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
    with reading(ledger, pages=("output_size", "output_width", "output_height")) as connection:
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
    """Return the work and the times of the runs in a ledger, the newest first; errors as in `reading`.

    Pages that did not go through the network, and runs with fewer pages than ``least`` (2 or more), are left out.
    ``whole_seconds`` is the time from the first page to the last. ``other_seconds`` is the time that workers spent in
    between on pages that did not go through the network.
    """
    with reading(ledger) as connection:
        cursor = connection.execute(_SELECT_RUNS, [max(least, 2)])
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]
