"""Users: who may do what. Functions take the connection of a transaction."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from comic_upscale.errors import SettingsError
from comic_upscale.server.database.schema import now_ms, users
from comic_upscale.server.ids import new_id

Role: TypeAlias = Literal["admin", "user", "anonymous"]
Scope: TypeAlias = Literal["jobs:read", "jobs:write", "admin"]

SCOPES: tuple[Scope, ...] = get_args(Scope)
ANONYMOUS = "anonymous"
"""The user that owns uploads without an account."""

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_NAME = re.compile(r"[^\W_][\w.@+-]{0,127}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who sent a request."""

    user_id: str
    name: str
    role: Role
    scopes: frozenset[Scope]
    """What this request may do, which may be less than the user may."""
    key_id: str | None = None
    """The API key of the request, if it has one."""
    session_id: str | None = None
    """The session of the request, if it has one."""
    address: str | None = None
    """The address of the client."""

    @property
    def is_admin(self) -> bool:
        """Whether the request may administer the server."""
        return self.role == "admin" and "admin" in self.scopes

    @property
    def is_anonymous(self) -> bool:
        """Whether the request came without an account."""
        return self.role == "anonymous"


def scopes_of(role: Role) -> frozenset[Scope]:
    """Return everything that a role may do."""
    return frozenset(SCOPES) if role == "admin" else frozenset(("jobs:read", "jobs:write"))


def check_name(name: str) -> str:
    """Return the name of a user or key if it is allowed.

    Raises:
        SettingsError: it is empty, too long, or has other characters.
    """
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"the name {name!r} is not allowed: use up to 128 letters, digits and the characters . @ + - _"
        )
    return name


def check_email(email: str) -> str:
    """Return an e-mail address if it looks like one.

    Raises:
        SettingsError: it does not.
    """
    if len(email) > 320 or _EMAIL.fullmatch(email) is None:
        raise SettingsError("the e-mail address must be one, such as ann@example.com")
    return email


def set_email(connection: Connection, user_id: str, email: str | None) -> None:
    """Change the e-mail address of a user; None removes it.

    Raises:
        SettingsError: the address is not allowed, or that of another user.
    """
    value = None if email is None else check_email(email)
    try:
        with connection.begin_nested():
            connection.execute(sa.update(users).where(users.c.id == user_id).values(email=value))
    except IntegrityError:
        raise SettingsError("another user has that e-mail address") from None


def create_user(
    connection: Connection,
    name: str,
    role: Role,
    *,
    password_hash: str | None = None,
    must_change_password: bool = False,
    email: str | None = None,
) -> str:
    """Create a user, and return the id. Without a password hash the user cannot log in, but may have keys.

    Raises:
        SettingsError: the name or the address is taken or not allowed.
    """
    if name.casefold() == ANONYMOUS and role != "anonymous":
        raise SettingsError(f"the name {name} is reserved for uploads without an account: choose another one")
    for taken in connection.scalars(sa.select(users.c.name)):
        # Names that differ in capitals alone would be taken for each other.
        if taken.casefold() == name.casefold():
            raise SettingsError(f"there is already a user named {taken}: choose another name")
    if email is not None:
        check_email(email)
    user_id = new_id()
    try:
        with connection.begin_nested():
            connection.execute(
                sa.insert(users).values(
                    id=user_id, name=check_name(name), role=role, password_hash=password_hash, email=email,
                    must_change_password=must_change_password, created_at=now_ms(),
                )
            )  # fmt: skip
    except IntegrityError:
        raise SettingsError(f"there is already a user named {name}, or with that e-mail address") from None
    return user_id


def find_user(connection: Connection, name: str) -> Mapping[str, Any] | None:
    """Return the row of a user by name; None if there is none."""
    row = connection.execute(sa.select(users).where(users.c.name == name)).mappings().first()
    return None if row is None else dict(row)


def set_password(connection: Connection, user_id: str, password_hash: str, *, must_change: bool) -> None:
    """Give a user a new password. The caller ends the sessions of the user in the same transaction."""
    connection.execute(
        sa.update(users)
        .where(users.c.id == user_id)
        .values(password_hash=password_hash, must_change_password=must_change)
    )


def ensure_user(connection: Connection, name: str, role: Role) -> str:
    """Return the id of a user, who is created without a password if missing."""
    user = find_user(connection, name)
    return create_user(connection, name, role) if user is None else str(user["id"])


def has_admin(connection: Connection) -> bool:
    """Return whether an administrator exists who can log in."""
    admin = sa.select(users.c.id).where(
        users.c.role == "admin", users.c.password_hash.is_not(None), ~users.c.disabled
    )
    return connection.execute(admin.limit(1)).first() is not None
