"""Sessions of people who logged in: a random id in a cookie, of which only the hash is stored."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.server.accounts import Account, scopes_of
from comic_upscale.server.database.schema import now_ms, sessions, users
from comic_upscale.server.ids import new_id, new_secret, secret_hash

LIFETIME_MS = 14 * 86_400_000
IDLE_MS = 3 * 86_400_000
"""A session that was not used for this long has ended."""
_SEEN_EVERY_MS = 60_000
MOST_LISTED = 1000
"""Sessions in the list of an administrator."""
MOST_OF_A_USER = 50
"""Sessions of one user; the one that was used longest ago ends when there are more."""


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session that has just begun."""

    id: str
    """Names the session in lists."""
    secret: str
    """The value of the cookie."""
    expires_at: int
    """Milliseconds since 1970."""


@dataclass(frozen=True, slots=True)
class FoundSession:
    """The session of a request."""

    account: Account
    must_change_password: bool
    should_record: bool
    """Whether `record_use` should be called."""
    expires_at: int


def begin(connection: Connection, user_id: str, *, address: str | None, agent: str | None) -> NewSession:
    """Begin a session with a new id, and return it. Ended sessions of the user are deleted."""
    now = connection.scalar(sa.select(now_ms())) or 0
    new = NewSession(new_id(), new_secret(), now + LIFETIME_MS)
    connection.execute(
        sa.delete(sessions).where(
            sessions.c.user_id == user_id,
            sa.or_(sessions.c.expires_at < now, sessions.c.last_seen_at < now - IDLE_MS),
        )
    )
    kept = (
        sa.select(sessions.c.id)
        .where(sessions.c.user_id == user_id)
        .order_by(sessions.c.last_seen_at.desc())
        .limit(MOST_OF_A_USER - 1)
    )
    connection.execute(
        sa.delete(sessions).where(
            sessions.c.user_id == user_id, sessions.c.id.not_in(list(connection.scalars(kept)))
        )
    )
    connection.execute(
        sa.insert(sessions).values(
            secret_hash=secret_hash(new.secret), id=new.id, user_id=user_id, address=address,
            agent=None if agent is None else agent[:256], created_at=now, last_seen_at=now, expires_at=new.expires_at,
        )
    )  # fmt: skip
    return new


def find(connection: Connection, secret: str) -> FoundSession | None:
    """Return the session with this cookie; None if it does not exist or has ended, or the user is disabled."""
    now = connection.scalar(sa.select(now_ms())) or 0
    row = (
        connection.execute(
            sa.select(sessions, users.c.name, users.c.role, users.c.disabled, users.c.must_change_password)
            .join(users, users.c.id == sessions.c.user_id)
            .where(
                sessions.c.secret_hash == secret_hash(secret),
                sessions.c.expires_at > now,
                sessions.c.last_seen_at > now - IDLE_MS,
            )
        )
        .mappings()
        .first()
    )
    if row is None or row["disabled"]:
        return None
    account = Account(
        user_id=row["user_id"], name=row["name"], role=row["role"], scopes=scopes_of(row["role"]),
        session_id=row["id"],
    )  # fmt: skip
    should_record = now - row["last_seen_at"] > _SEEN_EVERY_MS
    return FoundSession(account, row["must_change_password"], should_record, row["expires_at"])


def record_use(connection: Connection, session_id: str) -> None:
    """Record that a session was used now."""
    connection.execute(sa.update(sessions).where(sessions.c.id == session_id).values(last_seen_at=now_ms()))


def end(connection: Connection, session_id: str, *, user_id: str | None = None) -> bool:
    """End a session, and return whether there was one.

    Args:
        connection: in a transaction that writes.
        session_id: names the session.
        user_id: the owner, if only the owner may end it.
    """
    owner = () if user_id is None else (sessions.c.user_id == user_id,)
    return bool(connection.execute(sa.delete(sessions).where(sessions.c.id == session_id, *owner)).rowcount)


def end_all(connection: Connection, user_id: str, *, but: str | None = None) -> int:
    """End the sessions of a user, and return their number. None continues after a new password, role or block."""
    others = () if but is None else (sessions.c.id != but,)
    return connection.execute(sa.delete(sessions).where(sessions.c.user_id == user_id, *others)).rowcount


def list_of(connection: Connection, user_id: str) -> Sequence[Mapping[str, Any]]:
    """Return the sessions of a user, without what their cookies hold; the one used last comes first."""
    columns = (
        sessions.c.id, sessions.c.address, sessions.c.agent, sessions.c.created_at, sessions.c.last_seen_at,
        sessions.c.expires_at,
    )  # fmt: skip
    rows = connection.execute(
        sa.select(*columns).where(sessions.c.user_id == user_id).order_by(sessions.c.last_seen_at.desc())
    )
    return [dict(row) for row in rows.mappings()]


def list_all(connection: Connection) -> Sequence[Mapping[str, Any]]:
    """Return the sessions of all users, as `list_of` does, each with the name of its user."""
    columns = (
        sessions.c.id, users.c.name.label("user"), sessions.c.address, sessions.c.agent, sessions.c.created_at,
        sessions.c.last_seen_at, sessions.c.expires_at,
    )  # fmt: skip
    rows = connection.execute(
        sa.select(*columns)
        .join(users, users.c.id == sessions.c.user_id)
        .order_by(sessions.c.last_seen_at.desc())
        .limit(MOST_LISTED)
    )
    return [dict(row) for row in rows.mappings()]


def csrf_token(secret: str) -> str:
    """Return the token that belongs to a session. Pages of other hosts cannot read it."""
    return hmac.new(secret.encode(), b"comic-upscale csrf", hashlib.sha256).hexdigest()


def is_csrf_token(secret: str, token: str) -> bool:
    """Return whether a token belongs to a session."""
    return hmac.compare_digest(csrf_token(secret).encode(), token.encode())
