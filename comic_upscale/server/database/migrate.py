"""Migrations: a database is brought to the schema of this version, and a newer one is refused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from comic_upscale.errors import DatabaseError

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from comic_upscale.server.database.engine import Database

_SCRIPTS = Path(__file__).parent / "migrations"


def migrate(database: Database) -> bool:
    """Bring a database to the schema of this version, in one transaction, and return whether anything changed.

    Raises:
        DatabaseError: a newer version wrote the database, or it cannot be used.
    """

    def upgrade(connection: Connection) -> bool:
        config = _config(connection)
        scripts = ScriptDirectory.from_config(config)
        current = MigrationContext.configure(connection).get_current_revision()
        _check_known(scripts, current)
        if current == scripts.get_current_head():
            return False
        command.upgrade(config, "head")
        return True

    return database.migrating(upgrade)


def check_schema(database: Database) -> None:
    """Check that a database has the schema of this version. Writes nothing.

    Raises:
        DatabaseError: the schema is older or newer, or there is none.
    """

    def check(connection: Connection) -> None:
        scripts = ScriptDirectory.from_config(_config(connection))
        current = MigrationContext.configure(connection).get_current_revision()
        _check_known(scripts, current)
        if current != scripts.get_current_head():
            raise DatabaseError(
                "the database has the schema of an earlier version: start `comic-upscale serve`, or run "
                "`comic-upscale server migrate`"
            )

    database.read(check)


def check_known(revision: str) -> None:
    """Check that this version knows a revision of the schema.

    Raises:
        DatabaseError: a newer version wrote it.
    """
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    _check_known(ScriptDirectory.from_config(config), revision)


def schema_revision(connection: Connection) -> str | None:
    """Return the revision of a database's schema; None if it has none."""
    return MigrationContext.configure(connection).get_current_revision()


def _check_known(scripts: ScriptDirectory, revision: str | None) -> None:
    known = {script.revision for script in scripts.walk_revisions()}
    if revision is not None and revision not in known:
        raise DatabaseError(
            f"a newer version of comic-upscale wrote this database (schema {revision}): update comic-upscale, or use "
            "a backup from before the update"
        )


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
