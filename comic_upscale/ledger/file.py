"""The file of a ledger: opened for writing, checked, and brought up to date."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from sqlite_utils import Database, Migrations

from comic_upscale.errors import LedgerDamagedError, LedgerVersionError
from comic_upscale.ledger.connection import LedgerConnection
from comic_upscale.ledger.queries import copy_ledger
from comic_upscale.ledger.records import damage_message, translate_sqlite_errors
from comic_upscale.ledger.schema import MIGRATION_SET, MIGRATIONS
from comic_upscale.ledger.values import check_values
from comic_upscale.storage.private import make_private_file


class LedgerFile:
    """An open ledger file, which only the thread that opened it may use.

    Args:
        path: the file; created with its folder if it does not exist.
        as_copy: open a copy in memory instead, which is empty if the file does not exist. Nothing is written.

    Raises:
        LedgerError: the file cannot be opened or written.
        LedgerVersionError: it was written by a newer version.
        LedgerDamagedError: it is not a ledger, or SQLite finds it damaged.
    """

    def __init__(self, path: Path, *, as_copy: bool = False) -> None:
        self.path = path
        with self._translate_errors():
            # Plugins of sqlite-utils are not wanted, and searching for them takes time.
            self._db = Database(self._connect(as_copy=as_copy), execute_plugins=False)
            try:
                self._check_schema()
                self._db.enable_wal()
                self._db.execute("pragma synchronous = full")
                self._db.execute("pragma foreign_keys = on")
                _migrations().apply(self._db)
            except BaseException:
                self._db.close()
                raise

    def _connect(self, *, as_copy: bool) -> sqlite3.Connection:
        if not as_copy:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # SQLite gives its other files the permissions of this one.
            make_private_file(self.path)
            return sqlite3.connect(self.path, timeout=30, factory=LedgerConnection)
        connection = sqlite3.connect(":memory:")
        if self.path.is_file():
            try:
                copy_ledger(self.path, connection)
            except BaseException:
                connection.close()
                raise
        return connection

    def _check_schema(self) -> None:
        result = self._db.execute("pragma quick_check(1)").fetchone()[0]
        if result != "ok":
            raise LedgerDamagedError(damage_message(self.path, result))
        tables = set(self._db.table_names())
        migrations = _migrations()
        if tables and migrations.migrations_table not in tables:
            raise LedgerDamagedError(
                f"{self.path} is a database, but not a comic-upscale ledger: choose another --ledger"
            )
        known = {migration.name for migration in MIGRATIONS}
        unknown = {str(applied.name) for applied in migrations.applied(self._db)} - known
        if unknown:
            raise LedgerVersionError(
                f"{self.path} was written by a newer comic-upscale ({', '.join(sorted(unknown))}): "
                "update comic-upscale, or choose another --output"
            )
        check_values(self._db.conn, self.path)

    def close(self) -> None:
        """Close the file. All records are kept."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()

    @contextlib.contextmanager
    def _translate_errors(self) -> Iterator[None]:
        with translate_sqlite_errors(self.path):
            yield


@cache
def _migrations() -> Migrations:
    """Return the migrations of `schema` for sqlite-utils."""
    migrations = Migrations(MIGRATION_SET)
    for migration in MIGRATIONS:
        migrations(name=migration.name)(_applying(migration.statements))
    return migrations


def _applying(statements: tuple[str, ...]) -> Callable[[Database], None]:
    def apply(db: Database) -> None:
        for statement in statements:
            db.execute(statement)

    return apply
