"""The database: one writer that commits together, readers that never wait, migrations, and errors in words."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy.engine import Connection

from comic_upscale.errors import DatabaseError, SettingsError
from comic_upscale.server.database import migrate as migrations
from comic_upscale.server.database.engine import Database
from comic_upscale.server.database.schema import metadata, now_ms, queue, settings
from comic_upscale.server.services import open_database
from comic_upscale.server.settings import ServerSettings
from tests.server.postgres import Cluster
from tests.server.running import PATIENCE


def put(name: str, value: object) -> object:
    def work(connection: Connection) -> None:
        connection.execute(sa.insert(settings).values(name=name, value=value, updated_at=now_ms()))

    return work


def names(connection: Connection) -> set[str]:
    return set(connection.scalars(sa.select(settings.c.name)))


def test_the_migrations_give_the_schema(database: Database) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_server_default": False})
        return list(compare_metadata(context, metadata))

    assert database.read(differences) == []


def test_a_migrated_database_is_not_migrated_again(database: Database) -> None:
    assert migrations.migrate(database) is False
    migrations.check_schema(database)
    # By the database itself, so that a start need not import Alembic to see it.
    assert database.read(migrations.schema_revision) == migrations.HEAD


def test_a_newer_schema_is_refused_in_words(database: Database, settings: ServerSettings) -> None:
    database.write(
        lambda connection: connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    )
    for migrating in (True, False):
        with pytest.raises(DatabaseError, match=r"a newer version .* \(schema 9999\): update comic-upscale"):
            open_database(settings, migrating=migrating)


def test_a_worker_does_not_use_an_empty_database(settings: ServerSettings) -> None:
    with pytest.raises(SettingsError, match="there is no database of a server at") as caught:
        open_database(settings, migrating=False)
    assert settings.database_address in str(caught.value)
    if settings.database is None:
        # Nothing was created that the next start would take for a database.
        assert not settings.data.exists()


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_that_cannot_hold_all_names_is_refused_in_words(
    postgres: Cluster, tmp_path: Path, encoding: str
) -> None:
    settings = ServerSettings(data=tmp_path, database=postgres.new_database(encoding))
    with pytest.raises(DatabaseError, match=f"has the encoding {encoding}, .*`createdb --encoding UTF8"):
        open_database(settings, migrating=True)


def test_a_migration_that_breaks_off_changes_nothing(
    settings: ServerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = command.upgrade

    def break_off(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "upgrade", break_off)
    with pytest.raises(KeyboardInterrupt):
        open_database(settings, migrating=True)
    monkeypatch.undo()
    database = open_database(settings, migrating=True)
    assert (
        database.read(lambda connection: connection.scalar(sa.select(sa.func.count()).select_from(queue)))
        == 1
    )
    database.close()


KILLED = """
import os, signal, sys
from pathlib import Path
import sqlalchemy as sa
from comic_upscale.server.services import open_database
from comic_upscale.server.settings import ServerSettings

def kill(_connection, _cursor, statement, *_rest):
    # Two of the migrations have made their tables.
    if statement.startswith("UPDATE alembic_version"):
        os.kill(os.getpid(), signal.SIGKILL)

sa.event.listen(sa.Engine, "after_cursor_execute", kill)
open_database(ServerSettings(data=Path(sys.argv[1]), database=sys.argv[2] or None), migrating=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="kills by a signal")
def test_a_migration_that_is_killed_changes_nothing(settings: ServerSettings) -> None:
    command = [sys.executable, "-c", KILLED, str(settings.data), settings.database or ""]
    assert subprocess.run(command, check=False, timeout=PATIENCE).returncode == -signal.SIGKILL
    untouched = Database(settings.database_url)
    assert untouched.read(migrations.schema_revision) is None
    untouched.close()
    database = open_database(settings, migrating=True)
    migrations.check_schema(database)
    assert database.read(names) == set()
    database.close()


def test_changes_that_wait_together_are_committed_together_and_fail_alone(database: Database) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hold(_connection: Connection) -> None:
        begun.set()
        go_on.wait(30)

    with ThreadPoolExecutor(20) as threads:
        first = threads.submit(database.write, hold)
        begun.wait(30)
        good = [threads.submit(database.write, put(f"good{number}", number)) for number in range(8)]
        # The same name twice: whichever comes second fails, and only that one.
        twice = [threads.submit(database.write, put("twice", number)) for number in range(2)]
        go_on.set()
        first.result(30)
        for future in good:
            future.result(30)
        failed = [future.exception(30) for future in twice]
    assert sorted(type(error).__name__ for error in failed) == ["IntegrityError", "NoneType"]
    assert database.read(names) == {"twice", *(f"good{number}" for number in range(8))}


def test_readers_do_not_wait_for_a_writer(database: Database) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hold(connection: Connection) -> None:
        connection.execute(sa.insert(settings).values(name="held", value=1, updated_at=now_ms()))
        begun.set()
        assert go_on.wait(30)

    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(database.write, hold)
        assert begun.wait(30)
        assert database.read(names) == set()
        go_on.set()
        writing.result(30)
    assert database.read(names) == {"held"}


def test_a_reader_cannot_write(database: Database) -> None:
    with pytest.raises(DatabaseError, match=r"read-?only"):
        database.read(put("sneaky", 1))  # type: ignore[arg-type]


def test_a_text_that_no_database_can_hold_is_stored_without_what_it_cannot(database: Database) -> None:
    """Names of files have halves of characters where they are not text, and some programs write NUL."""
    name, half = "with \0 inside", "half \udcff of it"
    database.write(put(name, {"a\0": "b\0\udcff"}))  # type: ignore[arg-type]
    database.write(lambda c: [put(each, 1)(c) for each in (half, "漫画")])  # type: ignore[func-returns-value,arg-type]
    found = database.read(lambda c: set(c.scalars(sa.select(settings.c.name))))
    assert found == {"with \ufffd inside", "half \ufffd of it", "漫画"}
    assert (
        database.read(lambda c: c.scalar(sa.select(settings.c.name).where(settings.c.name == name)))
        == "with \ufffd inside"
    )


def test_several_rows_at_once_are_cleaned_too(database: Database) -> None:
    rows = [{"name": f"{number}\0", "value": 1, "updated_at": 0} for number in range(3)]
    database.write(lambda c: c.execute(sa.insert(settings), rows))
    assert database.read(lambda c: set(c.scalars(sa.select(settings.c.name)))) == {
        f"{n}\ufffd" for n in range(3)
    }


def test_a_value_that_a_column_cannot_hold_is_not_called_a_fault_of_the_database(database: Database) -> None:
    if database.is_sqlite:
        # It takes any length.
        database.write(put("x" * 200, 1))  # type: ignore[arg-type]
    else:
        with pytest.raises(SettingsError, match="cannot be stored: "):
            database.write(put("x" * 200, 1))  # type: ignore[arg-type]


def test_two_processes_write_at_the_same_time(database: Database, settings: ServerSettings) -> None:
    other = open_database(settings, migrating=False)
    try:
        with ThreadPoolExecutor(16) as threads:
            futures = [
                threads.submit((database, other)[number % 2].write, put(f"n{number}", number))
                for number in range(100)
            ]
            for future in futures:
                future.result(60)
    finally:
        other.close()
    assert len(database.read(names)) == 100


def test_a_closed_database_says_so(settings: ServerSettings) -> None:
    database = open_database(settings, migrating=True)
    database.close()
    with pytest.raises(DatabaseError, match="closed"):
        database.write(put("late", 1))


def test_the_time_is_that_of_the_database(database: Database) -> None:
    import time

    stamp = database.read(lambda connection: connection.scalar(sa.select(now_ms())))
    assert abs(stamp / 1000 - time.time()) < 60
