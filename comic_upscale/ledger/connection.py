"""A connection to a ledger that lets go of its file when it is closed."""

from __future__ import annotations

import sqlite3
import weakref
from typing import Any


class LedgerConnection(sqlite3.Connection):
    """A connection that closes its cursors with itself.

    From Python 3.12 on, a cursor with rows left keeps the file open and locked after `close`, for as long as anything
    refers to it. The traceback of an error does.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._cursors: weakref.WeakSet[sqlite3.Cursor] = weakref.WeakSet()

    def cursor(self, *args: Any, **options: Any) -> Any:
        """Return a cursor, which lasts no longer than the connection."""
        cursor = super().cursor(*args, **options)
        self._cursors.add(cursor)
        return cursor

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        """Run a statement on a cursor of its own. The base class would not call `cursor`."""
        cursor: sqlite3.Cursor = self.cursor().execute(sql, parameters)
        return cursor

    def close(self) -> None:
        """Close the cursors, then the connection."""
        for cursor in list(self._cursors):
            cursor.close()
        super().close()
