"""The first administrator by a link that the server prints while nobody can sign in as one."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from comic_upscale.errors import SettingsError
from comic_upscale.server import accounts, audit
from comic_upscale.server.passwords import check_password

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from comic_upscale.server.services import Services


def is_token(services: Services, token: str) -> bool:
    """Return whether a link is the one that this process printed."""
    own = services.setup_token
    return own is not None and hmac.compare_digest(own.encode(), token.encode())


async def create_first_admin(services: Services, name: str, password: str, address: str | None) -> None:
    """Create an administrator, unless there is one by now.

    Args:
        services: of the server.
        name: of the administrator.
        password: of the administrator.
        address: of the client that has the link.

    Raises:
        SettingsError: name or password is not allowed, or there is an administrator already.
        BusyError: too many passwords wait to be hashed.
    """
    hashed = await services.passwords.hash(check_password(password, name))

    def create(connection: Connection) -> None:
        if accounts.has_admin(connection):
            raise SettingsError("there is an administrator already: sign in")
        user_id = accounts.create_user(connection, name, "admin", password_hash=hashed)
        # Whoever has the link is the administrator from now on.
        scopes = accounts.scopes_of("admin")
        actor = accounts.Account(user_id=user_id, name=name, role="admin", scopes=scopes, address=address)
        audit.record(connection, actor, "user.create", name, role="admin", by="the link of the start")

    await services.database.write_async(create)
