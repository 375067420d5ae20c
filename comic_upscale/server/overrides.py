"""Settings that administrators change while the server runs: stored in the database, over those of the start."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.errors import SettingsError
from comic_upscale.server.accounts import find_user
from comic_upscale.server.database.schema import now_ms
from comic_upscale.server.database.schema import settings as table
from comic_upscale.server.settings import ServerSettings
from comic_upscale.settings.option_json import to_json, values_from_json

CHANGEABLE = (
    "max_upload_size", "max_files", "accepted_types", "rate_limit", "uploads_per_hour", "jobs_per_user", "job_timeout",
    "min_free_disk", "retention_days", "anonymous_hours", "library_users", "price",
)  # fmt: skip
"""Names of the settings that can be changed at run time."""


def effective(connection: Connection, started: ServerSettings) -> ServerSettings:
    """Return the settings in force.

    Args:
        connection: of the database.
        started: the settings of the start.
    """
    stored = {
        row.name: row.value
        for row in connection.execute(sa.select(table.c.name, table.c.value))
        if row.name in CHANGEABLE
    }
    try:
        return _changed(started, stored)
    except SettingsError:
        # A later version stored a value that this one does not know. The rest of them still counts.
        return _changed(
            started, {name: value for name, value in stored.items() if _is_valid(started, name, value)}
        )


def change(
    connection: Connection, started: ServerSettings, changes: Mapping[str, Any], *, user_id: str | None
) -> ServerSettings:
    """Store changes, and return the settings in force after them.

    Args:
        connection: in a transaction that writes.
        started: the settings of the start.
        changes: values by name, as JSON; ``None`` returns to the value of the start.
        user_id: who changes them.

    Raises:
        SettingsError: a setting is unknown or cannot be changed, or a value is not allowed.
    """
    if unknown := sorted(changes.keys() - set(CHANGEABLE)):
        raise SettingsError(
            f"{unknown[0][:64]} cannot be changed while the server runs: choose {', '.join(CHANGEABLE)}"
        )
    _changed(started, {name: value for name, value in changes.items() if value is not None})
    _check_users(connection, changes.get("library_users") or ())
    for name, value in changes.items():
        connection.execute(sa.delete(table).where(table.c.name == name))
        if value is not None:
            connection.execute(
                sa.insert(table).values(name=name, value=value, updated_at=now_ms(), updated_by=user_id)
            )
    return effective(connection, started)


def as_json(settings: ServerSettings) -> dict[str, Any]:
    """Return the settings that can be changed, as JSON."""
    return to_json(settings, CHANGEABLE)


def _check_users(connection: Connection, names: Iterable[str]) -> None:
    """Refuse names of users that do not exist: a typing error would lock somebody out without a word."""
    for name in names:
        if find_user(connection, name) is None:
            raise SettingsError(f"there is no user named {name[:64]}: library_users takes names of users")


def _changed(started: ServerSettings, stored: Mapping[str, Any]) -> ServerSettings:
    return dataclasses.replace(started, **values_from_json(ServerSettings, stored)) if stored else started


def _is_valid(started: ServerSettings, name: str, value: Any) -> bool:
    try:
        _changed(started, {name: value})
    except SettingsError:
        return False
    return True
