"""Open a ledger for reading from another process, without disturbing its run."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Collection, Iterator
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote_from_bytes

from comic_upscale.errors import InputError, LedgerVersionError, NoJobYetError
from comic_upscale.ledger.connection import LedgerConnection
from comic_upscale.ledger.records import (
    THERE,
    is_allowed,
    translate_sqlite_errors,
)
from comic_upscale.ledger.schema import MIGRATION_SET, MIGRATIONS, MIGRATIONS_TABLE
from comic_upscale.ledger.values import check_values
from comic_upscale.settings.paths import LEDGER_NAME, MARKER_FOLDER, default_ledger

OF_SUSPECTS = f"from pages where job_id = ? and state = 'done' and suspect is not null and {THERE}"


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


def sqlite_uri(path: PurePath, mode: str = "mode=ro") -> str:
    """Return the URI by which SQLite opens a file.

    SQLite accepts no host in it, as `Path.as_uri` would give the server of a Windows share.

    Args:
        path: absolute.
        mode: how it is opened.
    """
    before_drive = "/" if path.drive.endswith(":") else ""
    return f"file://{before_drive}{quote_from_bytes(os.fsencode(path.as_posix()), safe='/:')}?{mode}"


def knows_suspects(connection: sqlite3.Connection) -> bool:
    """Return whether a version with the quality gate has opened the ledger."""
    return "suspect" in columns_of(connection, "pages")


@contextlib.contextmanager
def reading(ledger: Path, *, pages: Collection[str] | None = None) -> Iterator[sqlite3.Connection]:
    """Open a ledger for reading, and check its values.

    Args:
        ledger: the file.
        pages: the columns of ``pages`` that the caller uses; None for all.

    Raises:
        InputError: the file does not exist or is no ledger; from `newest_job`, there is no job yet.
        LedgerError: the file cannot be read.
    """
    if not ledger.is_file():
        raise InputError(f"there is no ledger at {ledger}")
    with translate_sqlite_errors(ledger):
        # SQLite cannot share a ledger in a read-only folder. Without a journal, no process is writing to it.
        still = not is_allowed(ledger.parent, os.W_OK) and not Path(f"{ledger}-wal").exists()
        mode = "immutable=1" if still else "mode=ro"
        uri = sqlite_uri(ledger.absolute(), mode)
        connection = sqlite3.connect(uri, uri=True, timeout=5, factory=LedgerConnection)
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
    rows = connection.execute(f"select name from {table} where migration_set = ?", [MIGRATION_SET]).fetchall()
    applied = {str(row[0]) for row in rows}
    # A run has just begun to create it.
    if not applied:
        raise _no_job_yet(ledger)
    unknown = applied - {migration.name for migration in MIGRATIONS}
    if unknown:
        raise LedgerVersionError(f"{ledger} was written by a newer comic-upscale: update this one to read it")


def _no_job_yet(ledger: Path) -> NoJobYetError:
    return NoJobYetError(
        f"the ledger {ledger} holds no job yet: a run that has just started needs some seconds"
    )


def newest_job(connection: sqlite3.Connection, ledger: Path) -> dict[str, Any]:
    """Return the job of the last run, or one that was created after it, by its columns.

    A job whose run could not begin, because of a mistake in its options, counts only if there is no other.

    Raises:
        NoJobYetError: there is no job.
    """
    # By the numbers of the runs, since a clock may have been set back between two of them.
    job = read_row(
        connection,
        "select jobs.* from jobs left join"
        " (select job_id, max(id) as last_run from runs group by job_id) as runs on runs.job_id = jobs.id left join"
        " runs as last on last.id = last_run order by"
        # Without a device, no engine was opened.
        " coalesce(last.state = 'failed' and coalesce(last.device, '') = '' and not exists"
        " (select 1 from pages where pages.job_id = jobs.id and pages.state = 'done'), 0),"
        " last_run is null and jobs.created_at > coalesce((select started_at from runs order by id desc limit 1), '')"
        " desc, last_run desc, jobs.id desc limit 1",
    )
    if job is None:
        raise _no_job_yet(ledger)
    return job


def for_columns(connection: sqlite3.Connection, query: str) -> str:
    """Return a query without the condition `THERE` if no version that knows orphans has opened the ledger."""
    return query if "gone" in columns_of(connection, "pages") else query.replace(THERE, "true")


def columns_of(connection: sqlite3.Connection, table: str) -> set[str]:
    """Return the names of the columns of a table; none if there is no such table."""
    return {str(column[1]) for column in connection.execute(f"pragma table_info({table})")}


def knows_volumes(connection: sqlite3.Connection) -> bool:
    """Return whether a version with volumes has opened the ledger."""
    return "kind" in columns_of(connection, "pages")


def read_row(connection: sqlite3.Connection, query: str, *values: object) -> dict[str, Any] | None:
    """Return the first row of a query, by its columns."""
    cursor = connection.execute(query, values)
    row = cursor.fetchone()
    return row and dict(zip([column[0] for column in cursor.description], row, strict=True))
