"""The second factor of a user: set up, confirmed by a first code, and ended."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Request, Response
from pydantic import BaseModel, Field
from sqlalchemy.engine import Connection

from comic_upscale.server import accounts, audit, totp
from comic_upscale.server.accounts import Account
from comic_upscale.server.api.access import Server, find_session
from comic_upscale.server.api.auth import Password, limit_logins
from comic_upscale.server.api.errors import ApiError, documented
from comic_upscale.server.api.routing import api_router
from comic_upscale.server.services import Services

router = api_router(
    prefix="/api/v1/auth/totp", tags=["accounts"], responses=documented(400, 401, 403, 429, 503)
)


class Begin(BaseModel):
    """Who begins must know the password."""

    current_password: Password


class Code(BaseModel):
    """A code of the authenticator app."""

    code: Annotated[str, Field(min_length=1, max_length=16, examples=["123456"])]


class Secret(BaseModel):
    """What an authenticator app needs."""

    secret: str
    uri: str


@router.post("", summary="Begin a second factor")
async def begin(request: Request, services: Server, asked: Begin) -> Secret:
    """Return a secret for an authenticator app. It counts once `confirm` has seen a code of it."""
    return await begin_for(services, await _person(request, services), asked)


async def begin_for(services: Services, account: Account, asked: Begin) -> Secret:
    """Return a secret for somebody who has signed in; errors as for logins."""
    await limit_logins(services, account.name)
    user = await services.database.read_async(lambda connection: accounts.find_user(connection, account.name))
    if user is None or not await services.passwords.verify(user["password_hash"], asked.current_password):
        raise ApiError(401, "wrong_login", "The current password is wrong.", field="current_password")
    if totp.is_active(user):
        raise ApiError(400, "active", "There is a second factor already: end it first.")
    secret, uri = await services.database.write_async(
        lambda connection: totp.begin(connection, account.user_id, account.name)
    )
    return Secret(secret=secret, uri=uri)


@router.post("/confirm", status_code=204, summary="Confirm a second factor")
async def confirm(request: Request, services: Server, asked: Code) -> Response:
    """From now on, logins need a code."""
    await accept_code(services, await _person(request, services), asked.code, "totp.begin")
    return Response(status_code=204)


@router.delete("", status_code=204, summary="End a second factor")
async def end(request: Request, services: Server, asked: Code) -> Response:
    """Logins need no code any more. This needs one."""
    await accept_code(services, await _person(request, services), asked.code, "totp.end")
    return Response(status_code=204)


async def accept_code(
    services: Services, account: Account, code: str, action: Literal["totp.begin", "totp.end"]
) -> None:
    """Confirm or end the second factor of somebody who has signed in.

    Raises:
        ApiError: 401, the code is wrong; 429, too many tries.
    """
    await limit_logins(services, account.name)

    def write(connection: Connection) -> bool:
        if not totp.accept(connection, account.user_id, code):
            return False
        if action == "totp.end":
            totp.end(connection, account.user_id)
        audit.record(connection, account, action, account.name)
        return True

    if not await services.database.write_async(write):
        raise ApiError(
            401, "wrong_code", "The code is wrong, or was used before: wait for the next one.", field="code"
        )


async def _person(request: Request, services: Services) -> Account:
    found = await find_session(request, services)
    if found is None:
        raise ApiError(401, "unauthorized", "Log in first.")
    return found.account
