"""Connections: one thread writes, in transactions of several changes; other threads read and never lock.

The same code serves SQLite and PostgreSQL. On SQLite the writer takes the write lock when a transaction begins, so that
a change never fails half way because another process was faster.
"""

from __future__ import annotations

import asyncio
import queue
import re
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DataError, DBAPIError, OperationalError

from comic_upscale.errors import ComicUpscaleError, DatabaseError, SettingsError

T = TypeVar("T")
Work: TypeAlias = Callable[[Connection], T]

READERS = 4
MOST_IN_A_COMMIT = 64
"""Changes in one transaction. They share the flush to the disk."""
_BUSY_SECONDS = 30
_TRIES = 2
_CHANGES = re.compile(r'(?:UPDATE|DELETE FROM) "?(\w+)')
_NOT_TEXT = re.compile("[\0\ud800-\udfff]")


class Database:
    """The database of a server, for one process. Close it at the end.

    Args:
        url: for SQLAlchemy: ``sqlite+pysqlite:///PATH`` or ``postgresql+psycopg://...``.
        readers: threads that read at the same time.
    """

    def __init__(self, url: str, *, readers: int = READERS) -> None:
        self.is_sqlite = url.startswith("sqlite")
        self._write_engine = _engine(url, pool_size=1, begin="BEGIN IMMEDIATE", query_only=False)
        self._read_engine = _engine(url, pool_size=readers, begin="BEGIN", query_only=True)
        self._watch = _Watch(self._write_engine)
        self._writer = _Writer(self._write_engine, self._watch)
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="database-read")

    def close(self) -> None:
        """Finish the changes that wait, and close all connections."""
        self._writer.stop()
        self._readers.shutdown()
        self._read_engine.dispose()
        self._write_engine.dispose()

    def write(self, work: Work[T]) -> T:
        """Make a change in a transaction, and return after its commit. Blocks; for threads without an event loop.

        Args:
            work: changes the database on the writer's thread. It may be called twice if the connection breaks.

        Raises:
            DatabaseError: the database cannot be used.
            SettingsError: it cannot hold a value. This, and whatever else ``work`` raises, undoes that change alone.
        """
        return self._writer.submit(work).result()

    async def write_async(self, work: Work[T]) -> T:
        """Make a change like `write`, without blocking the event loop."""
        return await asyncio.wrap_future(self._writer.submit(work))

    def on_change(self, tables: Iterable[str], call: Callable[[], None]) -> None:
        """Call a function whenever this process has changed rows of some tables or deleted them.

        Args:
            tables: their names.
            call: is called on the writer's thread, after the commit and before the change is reported.
        """
        self._watch.add(tables, call)

    def read(self, work: Work[T]) -> T:
        """Read in one consistent snapshot. Blocks.

        Raises:
            DatabaseError: the database cannot be used.
            SettingsError: it cannot compare with a value.
        """
        for attempt in range(_TRIES):
            try:
                with self._read_engine.connect() as connection:
                    return work(connection)
            except DBAPIError as error:
                if attempt + 1 == _TRIES or not error.connection_invalidated:
                    raise _in_words(error) from error
        raise AssertionError("unreachable")

    async def read_async(self, work: Work[T]) -> T:
        """Read like `read`, without blocking the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.read, work)

    def migrating(self, work: Work[T]) -> T:
        """Run a migration on the calling thread, in one transaction.

        Raises:
            DatabaseError: the database cannot be used.
        """
        try:
            with self._write_engine.begin() as connection:
                return work(connection)
        except DBAPIError as error:
            raise _in_words(error) from error


@dataclass(frozen=True, slots=True)
class _Change:
    work: Work[Any]
    future: Future[Any]


class _Watch:
    """Notes which tables statements change."""

    def __init__(self, engine: Engine) -> None:
        self._calls: dict[str, list[Callable[[], None]]] = {}
        self._changed: set[str] = set()
        sa.event.listen(engine, "before_cursor_execute", self._note)

    def add(self, tables: Iterable[str], call: Callable[[], None]) -> None:
        for table in tables:
            self._calls.setdefault(table, []).append(call)

    def _note(self, _connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if (found := _CHANGES.match(statement)) is not None and found[1] in self._calls:
            self._changed.add(found[1])

    def report(self) -> None:
        """Call the functions for the tables that were changed. After a failed commit, too: it may have succeeded."""
        changed, self._changed = self._changed, set()
        for call in {call for table in changed for call in self._calls[table]}:
            call()


class _Writer:
    """The thread that makes all changes. Those that wait together are committed together."""

    def __init__(self, engine: Engine, watch: _Watch) -> None:
        self._engine, self._watch = engine, watch
        self._changes: queue.SimpleQueue[_Change | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="database-write", daemon=True)
        self._thread.start()

    def submit(self, work: Work[T]) -> Future[T]:
        future: Future[T] = Future()
        with self._lock:
            if self._stopped:
                raise DatabaseError("the database is closed, because the server is stopping")
            self._changes.put(_Change(work, future))
        return future

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            self._changes.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            changes: list[_Change] = []
            change = self._changes.get()
            while change is not None:
                if change.future.set_running_or_notify_cancel():
                    changes.append(change)
                if len(changes) >= MOST_IN_A_COMMIT or self._changes.empty():
                    break
                change = self._changes.get()
            self._commit(changes)
            if change is None:
                return

    def _commit(self, changes: list[_Change]) -> None:
        for attempt in range(_TRIES):
            if not changes:
                return
            settled: list[Callable[[], None]] = []
            try:
                with self._engine.begin() as connection:
                    for change in changes:
                        settled.append(_apply(connection, change))
            except Exception as error:
                lost = isinstance(error, DBAPIError) and error.connection_invalidated
                if attempt + 1 < _TRIES and lost:
                    continue
                failure = _in_words(error) if isinstance(error, DBAPIError) else error
                for change in changes:
                    change.future.set_exception(failure)
                return
            finally:
                self._watch.report()
            for settle in settled:
                settle()
            return


def _apply(connection: Connection, change: _Change) -> Callable[[], None]:
    """Make one change, and return the function that reports it after the commit. Its error undoes it alone."""
    try:
        # As SQL: SQLAlchemy compiles its own savepoints again each time, which costs as much as the change.
        connection.exec_driver_sql("SAVEPOINT one_change")
        result = change.work(connection)
        connection.exec_driver_sql("RELEASE SAVEPOINT one_change")
    except Exception as error:
        if isinstance(error, DBAPIError) and (
            error.connection_invalidated or isinstance(error, OperationalError)
        ):
            raise
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT one_change")
        failure = _in_words(error) if isinstance(error, DataError) else error
        return lambda: change.future.set_exception(failure)
    return lambda: change.future.set_result(result)


def _clean(
    _connection: object, _cursor: object, statement: str, parameters: Any, _context: object, many: bool
) -> tuple[str, Any]:
    """Replace what a text of a database cannot hold: NUL on PostgreSQL, and halves of characters everywhere.

    Texts come from files, programs and drivers. Here every one of them passes, whatever its column.
    """
    return statement, [_cleaned(row) for row in parameters] if many else _cleaned(parameters)


def _cleaned(parameters: Any) -> Any:
    if isinstance(parameters, dict):
        return {name: _clean_text(value) for name, value in parameters.items()}
    return tuple(_clean_text(value) for value in parameters)


def _clean_text(value: Any) -> Any:
    if not isinstance(value, str) or (value.isascii() and "\0" not in value):
        return value
    return _NOT_TEXT.sub("\N{REPLACEMENT CHARACTER}", value)


def _engine(url: str, *, pool_size: int, begin: str, query_only: bool) -> Engine:
    engine = _new_engine(url, pool_size=pool_size, begin=begin, query_only=query_only)
    sa.event.listen(engine, "before_cursor_execute", _clean, retval=True)
    return engine


def _new_engine(url: str, *, pool_size: int, begin: str, query_only: bool) -> Engine:
    if not url.startswith("sqlite"):
        options = "-c default_transaction_read_only=on" if query_only else ""
        return sa.create_engine(
            url, pool_size=pool_size, max_overflow=0, pool_pre_ping=True,
            connect_args={
                "options": options, "connect_timeout": 10, "application_name": "comic-upscale",
                # Else a database without an encoding answers in bytes.
                "client_encoding": "utf8",
            },
        )  # fmt: skip
    engine = sa.create_engine(
        url, poolclass=sa.QueuePool, pool_size=pool_size, max_overflow=0,
        connect_args={"timeout": _BUSY_SECONDS, "check_same_thread": False, "isolation_level": None},
    )  # fmt: skip

    def on_connect(connection: Any, _record: object) -> None:
        for pragma in (
            "journal_mode = WAL",
            # Accepted means durable: a commit is flushed to the disk.
            "synchronous = FULL",
            "foreign_keys = ON",
            f"query_only = {'ON' if query_only else 'OFF'}",
            "temp_store = MEMORY",
        ):
            connection.execute(f"PRAGMA {pragma}")

    # Python's own transactions begin too late and end too early, so they are off and begin here.
    sa.event.listen(engine, "connect", on_connect)
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine


def _in_words(error: DBAPIError) -> ComicUpscaleError:
    cause = str(error.orig).strip().partition("\n")[0]
    if isinstance(error, DataError):
        # The value came with a request: it is too long or too large for its column, for instance.
        return SettingsError(f"a value cannot be stored: {cause}")
    if "locked" in cause:
        return DatabaseError(
            f"the database is locked: {cause}. Another process holds it for more than {_BUSY_SECONDS} seconds; "
            "find out which one, for instance with `fuser`"
        )
    return DatabaseError(f"the database cannot be used: {cause}")
