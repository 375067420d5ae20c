"""Who uses a PostgreSQL database, and whether it has anything in it."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from comic_upscale.errors import DatabaseError


def is_empty(url: str) -> bool:
    """Return whether a PostgreSQL database has no table.

    Raises:
        DatabaseError: it cannot be used.
    """
    tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = current_schema()"
    return bool(_scalar(url, tables) == 0)


def check_unused(url: str) -> None:
    """Check that no server and no worker is connected to a PostgreSQL database.

    Raises:
        DatabaseError: one is, or the database cannot be used.
    """
    others = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'comic-upscale' AND pid <> pg_backend_pid()"
    )
    if count := _scalar(url, others):
        raise DatabaseError(
            f"the database is in use by {count} connections of servers or workers: stop them, then try again"
        )


def _scalar(url: str, query: str) -> Any:
    engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args={"connect_timeout": 10})
    try:
        with engine.connect() as connection:
            return connection.scalar(sa.text(query))
    except DBAPIError as error:
        cause = str(error.orig).strip().partition("\n")[0]
        raise DatabaseError(f"the database cannot be used: {cause}") from error
    finally:
        engine.dispose()
