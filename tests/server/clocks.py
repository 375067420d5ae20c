"""The clock of a real database, set forward or back: its function for the time is replaced by one that adds to it."""

from __future__ import annotations

import sqlite3
import time
from typing import Any

import sqlalchemy as sa

from comic_upscale.server.database.engine import Database

_JULIAN_1970, _DAY = 2440587.5, 86_400.0
_SETUP = (
    "CREATE TABLE clock_moved (seconds float NOT NULL)",
    "INSERT INTO clock_moved VALUES (0)",
    "CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS"
    " 'SELECT pg_catalog.clock_timestamp() + make_interval(secs => seconds) FROM public.clock_moved'",
)


class Clock:
    """The clock of a database, for the connections of one `Database`.

    Args:
        database: with the schema of this version.
    """

    def __init__(self, database: Database) -> None:
        self._database, self._seconds = database, 0.0
        if not database.is_sqlite:
            database.write(lambda connection: [connection.execute(sa.text(each)) for each in _SETUP])
        for engine in (database._read_engine, database._write_engine):
            sa.event.listen(engine, "checkout", self._prepare)

    def move(self, seconds: float) -> None:
        """Set the clock forward, or back by a negative number, from where it is."""
        self._seconds += seconds
        if not self._database.is_sqlite:
            now = self._seconds
            self._database.write(
                lambda connection: connection.execute(
                    sa.text("UPDATE clock_moved SET seconds = :now"), {"now": now}
                )
            )

    def _prepare(self, connection: Any, _record: object, _proxy: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.create_function("julianday", 1, self._julian_day)
        else:
            # What is in the schema is found before what is built in.
            with connection.cursor() as cursor:
                cursor.execute("SET search_path = public, pg_catalog")

    def _julian_day(self, _text: str) -> float:
        return (time.time() + self._seconds) / _DAY + _JULIAN_1970
