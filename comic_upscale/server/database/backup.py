"""A backup of the database: one consistent file, made while the server goes on."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from comic_upscale.errors import DatabaseError, OutputError, SettingsError
from comic_upscale.storage.parts import open_part

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from comic_upscale.server.database.engine import Database


def copy_database(database: Database, target: Path) -> None:
    """Copy an SQLite database into a file that does not exist yet, completely or not at all.

    Raises:
        SettingsError: the database is PostgreSQL, which has its own program for this.
        OutputError: the file exists, or cannot be written.
        DatabaseError: the database cannot be read.
    """
    if not database.is_sqlite:
        raise SettingsError("this backs up SQLite alone: use pg_dump for PostgreSQL")
    if target.exists():
        raise OutputError(f"{target} exists already: choose another --output")
    try:
        with open_part(target, os.getpid()) as part:
            database.read(lambda connection: _copy(connection, part.path))
            part.flush()
            part.move_to(target)
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror or error}") from error


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
