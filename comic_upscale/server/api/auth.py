"""Login, logout, password, the sessions and keys of a user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from limits import RateLimitItemPerHour, RateLimitItemPerMinute
from pydantic import BaseModel, Field
from sqlalchemy.engine import Connection

from comic_upscale.errors import SettingsError
from comic_upscale.server import accounts, audit, keys, sessions, totp
from comic_upscale.server.accounts import Account
from comic_upscale.server.api import cookies
from comic_upscale.server.api.access import (
    CurrentAccount,
    Server,
    client_address,
    find_session,
    limit,
    require,
    require_person,
)
from comic_upscale.server.api.errors import ApiError, documented, not_found
from comic_upscale.server.api.routing import api_router
from comic_upscale.server.jobs import iso
from comic_upscale.server.passwords import check_password
from comic_upscale.server.services import Services
from comic_upscale.server.words import as_sentence

router = api_router(prefix="/api/v1/auth", tags=["accounts"])

_BY_ADDRESS = RateLimitItemPerMinute(10)
_BY_NAME = RateLimitItemPerHour(30)
Password = Annotated[str, Field(min_length=1, max_length=1024)]


class Login(BaseModel):
    """Name and password."""

    username: Annotated[str, Field(min_length=1, max_length=128)]
    password: Password
    code: Annotated[
        str | None,
        Field(max_length=16, description="Of the authenticator app, if the user has a second factor."),
    ] = None


class NewPassword(BaseModel):
    """The old and the new password."""

    current_password: Password
    new_password: Password


class NewKey(BaseModel):
    """A key to create."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    scopes: Annotated[list[accounts.Scope], Field(min_length=1)] = ["jobs:read", "jobs:write"]


@router.post("/login", summary="Log in", responses=documented(400, 401, 403, 429, 503))
async def log_in(request: Request, services: Server, login: Login) -> JSONResponse:
    """Begin a session. Its cookie needs the ``csrf_token`` of the answer in each request that changes something."""
    cookies.check_same_site(request)
    address = client_address(request)
    await limit(services, _BY_ADDRESS, f"login:{address}")
    await limit_logins(services, login.username)
    user = await services.database.read_async(
        lambda connection: accounts.find_user(connection, login.username)
    )
    stored = None if user is None or user["disabled"] else user["password_hash"]
    if not await services.passwords.verify(stored, login.password) or user is None:
        await _record_failure(services, login.username, address)
        # The same answer and the same time, whether the user exists or not.
        raise ApiError(401, "wrong_login", "The name or the password is wrong.")
    await _check_code(services, user, login, address)
    account = Account(
        user_id=user["id"], name=user["name"], role=user["role"], scopes=accounts.scopes_of(user["role"]),
        address=address,
    )  # fmt: skip
    old = cookies.read_session(request)

    def begin(connection: Connection) -> sessions.NewSession:
        if old is not None and (before := sessions.find(connection, old)) is not None:
            # A session that was there before the login must not become the user's.
            sessions.end(connection, str(before.account.session_id))
        audit.record(connection, account, "login")
        agent = request.headers.get("user-agent")
        return sessions.begin(connection, account.user_id, address=address, agent=agent)

    new = await services.database.write_async(begin)
    body = {
        "username": account.name, "role": account.role, "expires_at": iso(new.expires_at),
        "must_change_password": user["must_change_password"], "csrf_token": sessions.csrf_token(new.secret),
    }  # fmt: skip
    response = JSONResponse(body)
    cookies.set_session(request, response, new.secret)
    return response


@router.post("/logout", status_code=204, summary="Log out", responses=documented(403))
async def log_out(request: Request, services: Server) -> Response:
    """End the session of the cookie."""
    response = Response(status_code=204)
    found = await find_session(request, services)
    if found is not None and found.account.session_id is not None:
        session_id = found.account.session_id
        await services.database.write_async(lambda connection: sessions.end(connection, session_id))
    cookies.clear_session(request, response)
    return response


@router.get("/session", summary="Show who is logged in", responses=documented(401))
async def show_session(request: Request, services: Server) -> dict[str, Any]:
    """Return the user of the session, and the token for requests that change something."""
    found = await find_session(request, services)
    secret = cookies.read_session(request)
    if found is None or secret is None:
        raise ApiError(401, "unauthorized", "Nobody is logged in here.")
    return {
        "username": found.account.name, "role": found.account.role, "expires_at": iso(found.expires_at),
        "must_change_password": found.must_change_password, "csrf_token": sessions.csrf_token(secret),
    }  # fmt: skip


@router.post("/password", summary="Change your password", responses=documented(400, 401, 403, 429, 503))
async def change_password(request: Request, services: Server, change: NewPassword) -> JSONResponse:
    """Change the password of the session's user. All other sessions end, and this one gets a new cookie."""
    found = await find_session(request, services)
    if found is None:
        raise ApiError(401, "unauthorized", "Log in first.")
    return await replace_password(request, services, found.account, change)


async def replace_password(
    request: Request, services: Services, account: Account, change: NewPassword
) -> JSONResponse:
    """Change the password of a user whose session was checked, and return the answer with the new cookie.

    Raises:
        ApiError: 400, 401 or 429.
        BusyError: too many passwords wait.
    """
    await limit_logins(services, account.name)
    user = await services.database.read_async(lambda connection: accounts.find_user(connection, account.name))
    if user is None or not await services.passwords.verify(user["password_hash"], change.current_password):
        raise ApiError(401, "wrong_login", "The current password is wrong.", field="current_password")
    if change.new_password == change.current_password:
        raise ApiError(400, "invalid", "The new password is the old one.", field="new_password")
    hashed = await services.passwords.hash(_checked(change.new_password, account.name))

    def write(connection: Connection) -> sessions.NewSession:
        accounts.set_password(connection, account.user_id, hashed, must_change=False)
        sessions.end_all(connection, account.user_id)
        audit.record(connection, account, "password.change", account.name)
        agent = request.headers.get("user-agent")
        return sessions.begin(connection, account.user_id, address=client_address(request), agent=agent)

    new = await services.database.write_async(write)
    response = JSONResponse(
        {"csrf_token": sessions.csrf_token(new.secret), "expires_at": iso(new.expires_at)}
    )
    cookies.set_session(request, response, new.secret)
    return response


@router.get("/sessions", summary="List your sessions", responses=documented(401, 403))
async def list_sessions(services: Server, account: CurrentAccount) -> dict[str, Any]:
    """Return the sessions of the user."""
    require_person(account)
    rows = await services.database.read_async(
        lambda connection: sessions.list_of(connection, account.user_id)
    )
    return {
        "sessions": [
            {
                **{name: row[name] for name in ("id", "address", "agent")},
                **{name: iso(row[name]) for name in ("created_at", "last_seen_at", "expires_at")},
                "is_current": row["id"] == account.session_id,
            }
            for row in rows
        ]
    }


@router.delete(
    "/sessions/{session_id}", status_code=204, summary="End a session", responses=documented(401, 403, 404)
)
async def end_session(services: Server, account: CurrentAccount, session_id: str) -> Response:
    """End a session of the user."""
    require_person(account)
    require(account, "jobs:write")

    def end(connection: Connection) -> bool:
        found = sessions.end(connection, session_id, user_id=account.user_id)
        if found:
            audit.record(connection, account, "session.end", session_id)
        return found

    if not await services.database.write_async(end):
        raise not_found("session")
    return Response(status_code=204)


@router.get("/keys", summary="List your API keys", responses=documented(401, 403))
async def list_keys(services: Server, account: CurrentAccount) -> dict[str, Any]:
    """Return the keys of the user, without their secrets."""
    require_person(account)
    rows = await services.database.read_async(lambda connection: keys.list_of(connection, account.user_id))
    return {"keys": [key_json(row) for row in rows]}


@router.post("/keys", status_code=201, summary="Create an API key", responses=documented(400, 401, 403))
async def create_key(services: Server, account: CurrentAccount, new: NewKey) -> dict[str, Any]:
    """Create a key, which the answer shows once. A key has at most the permissions of the request."""
    require_person(account)
    require(account, "jobs:write")
    if beyond := sorted(set(new.scopes) - account.scopes):
        raise ApiError(403, "forbidden", f"You cannot give the permission {beyond[0]}.", field="scopes")

    def create(connection: Connection) -> keys.NewKey:
        created = keys.create_key(connection, account.user_id, new.name, new.scopes)
        audit.record(connection, account, "key.create", created.id, name=new.name, scopes=sorted(new.scopes))
        return created

    created = await services.database.write_async(create)
    return {"id": created.id, "key": created.text, "name": new.name, "scopes": sorted(new.scopes)}


@router.delete(
    "/keys/{key_id}", status_code=204, summary="Revoke an API key", responses=documented(401, 403, 404)
)
async def revoke_key(services: Server, account: CurrentAccount, key_id: str) -> Response:
    """Revoke a key of the user."""
    require_person(account)
    require(account, "jobs:write")
    revoked = await services.database.write_async(
        lambda connection: keys.revoke_key(connection, account, key_id, user_id=account.user_id)
    )
    if not revoked:
        raise not_found("key")
    return Response(status_code=204)


async def limit_logins(services: Services, name: str) -> None:
    """Refuse to try more passwords or codes of one user than a person needs.

    Raises:
        ApiError: 429.
    """
    await limit(services, _BY_NAME, f"login-name:{name.casefold()}")


async def _check_code(services: Services, user: Mapping[str, Any], login: Login, address: str) -> None:
    """Check the second factor of a user whose password was right."""
    if not totp.is_active(user):
        return
    if not login.code:
        raise ApiError(
            401, "code_required", "Send the code of your authenticator app in the field code.", field="code"
        )
    code = login.code
    if not await services.database.write_async(lambda connection: totp.accept(connection, user["id"], code)):
        await _record_failure(services, login.username, address)
        raise ApiError(
            401, "wrong_code", "The code is wrong, or was used before: wait for the next one.", field="code"
        )


def key_json(row: Any) -> dict[str, Any]:
    """Return a key as the API shows it."""
    return {
        "id": row["id"], "name": row["name"], "scopes": row["scopes"].split(), "created_at": iso(row["created_at"]),
        "last_used_at": iso(row["last_used_at"]), "expires_at": iso(row["expires_at"]),
        "revoked_at": iso(row["revoked_at"]),
    }  # fmt: skip


def _checked(password: str, name: str) -> str:
    try:
        return check_password(password, name)
    except SettingsError as error:
        raise ApiError(400, "invalid", as_sentence(str(error)), field="new_password") from None


async def _record_failure(services: Services, name: str, address: str) -> None:
    def write(connection: Connection) -> None:
        nobody = Account(
            user_id=services.anonymous_id,
            name=name[:128],
            role="anonymous",
            scopes=frozenset(),
            address=address,
        )
        audit.record(connection, nobody, "login.failed")

    await services.database.write_async(write)
