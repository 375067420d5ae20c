"""Backups of the database: one consistent file, made while the server goes on, and the way back."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from comic_upscale.errors import DatabaseError, InputError, OutputError, SettingsError
from comic_upscale.ledger.reading import sqlite_uri
from comic_upscale.server.database.migrate import check_known
from comic_upscale.storage.parts import open_part

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from comic_upscale.server.database.engine import Database

DUMP_SECONDS = 3600
"""How long PostgreSQL's programs may take."""
_SQLITE, _POSTGRES = b"SQLite format 3\0", b"PGDMP"
"""How the files begin."""


def copy_database(database: Database, target: Path, url: str, environment: Mapping[str, str]) -> None:
    """Copy a database into a file that does not exist yet, completely or not at all.

    Args:
        database: SQLite, or PostgreSQL; the latter needs its program ``pg_dump``.
        target: the file.
        url: of the database, as for `Database`.
        environment: variables for ``pg_dump``.

    Raises:
        SettingsError: ``pg_dump`` is not installed.
        OutputError: the file exists, or cannot be written.
        DatabaseError: the database cannot be read.
    """
    if target.exists():
        raise OutputError(f"{target} exists already: choose another --output")
    try:
        with open_part(target, os.getpid()) as part:
            if database.is_sqlite:
                database.read(lambda connection: _copy(connection, part.path))
            else:
                words = ("--format=custom", "--no-owner", "--no-privileges", f"--file={part.path}")
                _run("pg_dump", words, url, environment)
            part.flush()
            part.move_to(target)
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror or error}") from error


def restore_sqlite(source: Path, target: Path) -> Path | None:
    """Put a backup in the place of an SQLite database, which no server uses meanwhile.

    Returns:
        Where the former database now is; None if there was none.

    Raises:
        InputError: the backup cannot be read, is damaged, or is none of SQLite.
        OutputError: the database cannot be written; the former one is unchanged.
        DatabaseError: a newer version wrote the backup, or a worker uses the former database.
    """
    if _kind_of(source) != _SQLITE:
        raise InputError(
            f"{source} is not a backup of an SQLite database: choose another file, or give --database"
        )
    check_known(_revision_of(source))
    former = target.with_name(f"{target.name}.before-restore")
    try:
        with open_part(target, os.getpid()) as part:
            with source.open("rb") as file:
                shutil.copyfileobj(file, part.file, 1 << 20)
            part.flush()
            if had_one := target.exists():
                _keep(target, former)
            part.move_to(target)
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror or error}") from error
    return former if had_one else None


def restore_postgresql(source: Path, url: str, environment: Mapping[str, str]) -> None:
    """Replace the tables of a PostgreSQL database by those of a backup, in one transaction.

    Args:
        source: a backup of PostgreSQL.
        url: of the database, as for `Database`.
        environment: variables for ``pg_restore``.

    Raises:
        InputError: the file is no such backup.
        SettingsError: ``pg_restore`` is not installed.
        DatabaseError: the database cannot be written; it is unchanged.
    """
    if _kind_of(source) != _POSTGRES:
        raise InputError(f"{source} is not a backup of a PostgreSQL database: choose another file")
    words = (
        "--clean",
        "--if-exists",
        "--no-owner",
        "--no-privileges",
        "--single-transaction",
        "--exit-on-error",
    )
    _run("pg_restore", (*words, str(source)), url, environment)


def _kind_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    return next((kind for kind in (_SQLITE, _POSTGRES) if start.startswith(kind)), b"")


def _revision_of(path: Path) -> str:
    """Return the revision of the schema of a backup.

    Raises:
        InputError: the file is damaged, or not of a server.
    """
    try:
        with contextlib.closing(sqlite3.connect(sqlite_uri(path.absolute()), uri=True)) as connection:
            (found,) = connection.execute("PRAGMA integrity_check").fetchone()
            if found == "ok":
                return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])
    except (sqlite3.Error, TypeError) as error:
        found = str(error)
    raise InputError(f"{path} is not a backup of a server, or is damaged: {found.splitlines()[0][:200]}")


def _keep(target: Path, former: Path) -> None:
    """Give a database a second name. All of it is in one file then: what its log holds is written into it first."""
    try:
        with contextlib.closing(sqlite3.connect(target, timeout=5)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.DatabaseError:
        # It is damaged, which may be why a backup is restored, or in use, which the next check finds.
        pass
    if target.with_name(f"{target.name}-wal").exists():
        raise DatabaseError(
            f"{target} is in use: stop the workers and everything else that uses it, then try again"
        )
    former.unlink(missing_ok=True)
    os.link(target, former)


def _run(program: str, words: tuple[str, ...], url: str, environment: Mapping[str, str]) -> None:
    """Run a program of PostgreSQL. All users can see its arguments, so the password goes into a variable."""
    import sqlalchemy as sa

    found = shutil.which(program)
    if found is None:
        raise SettingsError(f"{program} is not installed: install the client programs of PostgreSQL")
    address = sa.make_url(url).set(drivername="postgresql")
    variables = dict(environment)
    if address.password is not None:
        variables["PGPASSWORD"] = str(address.password)
        address = address.set(password=None)
    dbname = address.render_as_string(hide_password=False)
    try:
        ended = subprocess.run(
            [found, "--no-password", f"--dbname={dbname}", *words], env=variables, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", timeout=DUMP_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise DatabaseError(f"{program} took longer than an hour, and was ended") from None
    if ended.returncode:
        reason = next(
            (line for line in ended.stderr.splitlines() if line.strip()), f"code {ended.returncode}"
        )
        raise DatabaseError(f"{program} failed: {reason[:400]}")


def _copy(connection: Connection, path: Path) -> None:
    source = connection.connection.driver_connection
    assert isinstance(source, sqlite3.Connection)
    # The backup cannot begin inside of a transaction.
    connection.rollback()
    copy = sqlite3.connect(path)
    try:
        source.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise DatabaseError(f"the database cannot be copied: {error}") from error
    finally:
        copy.close()
