"""The second factor of a login: codes of an authenticator app (TOTP), each of which counts once.

The column ``totp_secret`` of a user holds the state, the secret, and the time step of the code used last.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping
from typing import Any

import pyotp
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.server.database.schema import users

_STEP_SECONDS = 30
_PENDING, _ACTIVE = "pending", "active"


def is_active(user: Mapping[str, Any]) -> bool:
    """Return whether a login of this user needs a code."""
    return (user["totp_secret"] or "").startswith(_ACTIVE)


def state_of(connection: Connection, user_id: str) -> str | None:
    """Return ``active``, or ``pending`` before the first code; None without a second factor."""
    stored = connection.scalar(sa.select(users.c.totp_secret).where(users.c.id == user_id))
    return None if stored is None else str(stored).partition(":")[0]


def begin(connection: Connection, user_id: str, name: str) -> tuple[str, str]:
    """Give a user a secret that counts from its first code on; return it, and the address for a QR code."""
    secret = pyotp.random_base32()
    _store(connection, user_id, f"{_PENDING}:{secret}:0")
    return secret, pyotp.TOTP(secret).provisioning_uri(name=name, issuer_name="comic-upscale")


def accept(connection: Connection, user_id: str, code: str) -> bool:
    """Return whether a code is right, and note it, so that it cannot be used again. The first one activates the secret.

    A code of the step before or after counts, too: clocks differ.

    Args:
        connection: in a transaction that writes.
        user_id: the user.
        code: as the user typed it.
    """
    stored = connection.scalar(sa.select(users.c.totp_secret).where(users.c.id == user_id).with_for_update())
    if stored is None:
        return False
    _, secret, last = stored.split(":")
    given, now = code.replace(" ", ""), int(time.time()) // _STEP_SECONDS
    for step in (now - 1, now, now + 1):
        right = pyotp.TOTP(secret).at(step * _STEP_SECONDS)
        if step > int(last) and hmac.compare_digest(right.encode(), given.encode()):
            _store(connection, user_id, f"{_ACTIVE}:{secret}:{step}")
            return True
    return False


def end(connection: Connection, user_id: str) -> None:
    """Let a user log in without a code again."""
    _store(connection, user_id, None)


def _store(connection: Connection, user_id: str, value: str | None) -> None:
    connection.execute(sa.update(users).where(users.c.id == user_id).values(totp_secret=value))
