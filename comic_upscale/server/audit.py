"""The audit log: who changed what, and when. The interface reads it and adds to it, and never changes it."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.server.accounts import Account
from comic_upscale.server.database.schema import audit, now_ms

COMMAND_LINE = "command line"
"""The actor of what was done on the machine of the server itself."""


def record(
    connection: Connection,
    actor: Account | None,
    action: str,
    object: str | None = None,
    **details: Any,
) -> None:
    """Add an entry, in the transaction of the change itself.

    Args:
        connection: in a transaction that writes.
        actor: who did it; None for the command line.
        action: a short stable word, such as ``key.create``.
        object: what it was done to.
        details: for people; no secret.
    """
    connection.execute(
        sa.insert(audit).values(
            at=now_ms(),
            actor_id=actor.user_id if actor else None,
            actor=actor.name if actor else COMMAND_LINE,
            address=actor.address if actor else None,
            action=action,
            object=object,
            details=details,
        )
    )
