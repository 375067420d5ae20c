"""Migrations: a database is brought to the schema of this version, and a newer one is refused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from comic_upscale.errors import DatabaseError

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy.engine import Connection

    from comic_upscale.server.database.engine import Database

HEAD = "0009"
"""The revision of this version's schema. A database that has it needs no migration, and Alembic is not imported."""
_SCRIPTS = Path(__file__).parent / "migrations"


def migrate(database: Database) -> bool:
    """Bring a database to the schema of this version, in one transaction, and return whether anything changed.

    Raises:
        DatabaseError: a newer version wrote the database, it is new and cannot hold all names, or it cannot be used.
    """
    if database.read(schema_revision) == HEAD:
        return False

    def upgrade(connection: Connection) -> bool:
        from alembic import command

        current = schema_revision(connection)
        check_known(current)
        if current == HEAD:
            return False
        if current is None and not database.is_sqlite:
            _check_encoding(connection)
        command.upgrade(_config(connection), "head")
        return True

    return database.migrating(upgrade)


def check_schema(database: Database) -> None:
    """Check that a database has the schema of this version. Writes nothing.

    Raises:
        DatabaseError: the schema is older or newer, or there is none.
    """
    current = database.read(schema_revision)
    check_known(current)
    if current != HEAD:
        raise DatabaseError(
            "the database has the schema of an earlier version: start `comic-upscale serve`, or run "
            "`comic-upscale server migrate`"
        )


def is_current(connection: Connection) -> bool:
    """Return whether a database that had the schema of this version still has it, and no newer one meanwhile."""
    return bool(connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == HEAD)


def schema_revision(connection: Connection) -> str | None:
    """Return the revision of a database's schema; None if it has none."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    revision = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return None if revision is None else str(revision)


def check_known(revision: str | None) -> None:
    """Check that this version knows a revision of the schema.

    Raises:
        DatabaseError: a newer version wrote it.
    """
    if revision is None or revision == HEAD:
        return
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if revision not in known:
        raise DatabaseError(
            f"a newer version of comic-upscale wrote this database (schema {revision}): update comic-upscale, or use "
            "a backup from before the update"
        )


def _check_encoding(connection: Connection) -> None:
    """Refuse a PostgreSQL database that holds the letters of some languages only.

    Raises:
        DatabaseError: its encoding is not UTF-8.
    """
    name, encoding = connection.execute(
        sa.text("SELECT current_database(), current_setting('server_encoding')")
    ).one()
    if encoding != "UTF8":
        raise DatabaseError(
            f"the database {name} has the encoding {encoding}, which cannot hold all names of pages: create it with "
            "`createdb --encoding UTF8 --locale C --template template0 NAME`"
        )


def _config(connection: Connection) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
