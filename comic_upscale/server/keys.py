"""API keys: ``cu_<id>_<secret>``. Only a hash of the secret is stored."""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.server import audit
from comic_upscale.server.accounts import Account, Role, Scope, check_name, scopes_of
from comic_upscale.server.database.schema import keys, now_ms, users
from comic_upscale.server.ids import new_secret, secret_hash

_KEY = re.compile(r"cu_([0-9a-f]{12})_([A-Za-z0-9_-]{20,128})")
_USE_RECORDED_EVERY_MS = 60_000
_FIND = (
    sa.select(keys, now_ms().label("now"), users.c.name.label("user_name"), users.c.role, users.c.disabled)
    .join(users, users.c.id == keys.c.user_id)
    .where(keys.c.id == sa.bindparam("key_id"))
)


@dataclass(frozen=True, slots=True)
class FoundKey:
    """A valid key."""

    account: Account
    should_record: bool
    """Whether its use should be recorded."""
    ends_in: float | None
    """Seconds until it is no longer valid; None for no end."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just created. The text is shown once."""

    id: str
    text: str


def create_key(
    connection: Connection,
    user_id: str,
    name: str,
    scopes: Collection[Scope],
    *,
    expires_at: int | None = None,
) -> NewKey:
    """Create a key for a user.

    Args:
        connection: in a transaction that writes.
        user_id: the owner.
        name: for people.
        scopes: what the key may do, at most what its owner may.
        expires_at: milliseconds since 1970; None for no end.

    Raises:
        SettingsError: the name is not allowed.
    """
    key_id, secret = secrets.token_hex(6), new_secret()
    connection.execute(
        sa.insert(keys).values(
            id=key_id, user_id=user_id, name=check_name(name), secret_hash=secret_hash(secret),
            scopes=" ".join(sorted(scopes)), created_at=now_ms(), expires_at=expires_at,
        )
    )  # fmt: skip
    return NewKey(key_id, f"cu_{key_id}_{secret}")


def find_account(connection: Connection, text: str) -> FoundKey | None:
    """Return a key with its account; None if the key is not valid."""
    match = _KEY.fullmatch(text)
    if match is None:
        return None
    key_id, secret = match.groups()
    row = connection.execute(_FIND, {"key_id": key_id}).mappings().first()
    if row is None or not hmac.compare_digest(row["secret_hash"], secret_hash(secret)):
        return None
    now = row["now"]
    if row["disabled"] or row["revoked_at"] is not None or (row["expires_at"] or now + 1) <= now:
        return None
    role: Role = row["role"]
    scopes = frozenset(scope for scope in scopes_of(role) if scope in row["scopes"].split())
    account = Account(user_id=row["user_id"], name=row["user_name"], role=role, scopes=scopes, key_id=key_id)
    return FoundKey(
        account=account,
        should_record=now - (row["last_used_at"] or 0) > _USE_RECORDED_EVERY_MS,
        ends_in=None if row["expires_at"] is None else (row["expires_at"] - now) / 1000,
    )


def record_use(connection: Connection, key_id: str) -> None:
    """Record that a key was used now."""
    connection.execute(sa.update(keys).where(keys.c.id == key_id).values(last_used_at=now_ms()))


def list_of(connection: Connection, user_id: str | None) -> list[dict[str, Any]]:
    """Return the keys of a user, or of all users, without their secrets; the latest comes first."""
    columns = [column for column in keys.c if column.name != "secret_hash"]
    owner = () if user_id is None else (keys.c.user_id == user_id,)
    rows = connection.execute(
        sa.select(*columns, users.c.name.label("user"))
        .join(users, users.c.id == keys.c.user_id)
        .where(*owner)
        .order_by(keys.c.created_at.desc(), keys.c.id)
    )
    return [dict(row) for row in rows.mappings()]


def revoke_key(
    connection: Connection, actor: Account | None, key_id: str, *, user_id: str | None = None
) -> bool:
    """Revoke a key, record it in the audit log, and return whether there was a valid one.

    Args:
        connection: in a transaction that writes.
        actor: who does it; None for the command line.
        key_id: the part of the key after ``cu_``.
        user_id: the owner, if only the owner may revoke it.
    """
    owner = () if user_id is None else (keys.c.user_id == user_id,)
    revoked = connection.execute(
        sa.update(keys)
        .where(keys.c.id == key_id, keys.c.revoked_at.is_(None), *owner)
        .values(revoked_at=now_ms())
    )
    if not revoked.rowcount:
        return False
    audit.record(connection, actor, "key.revoke", key_id)
    return True
