"""Who sends a request, and what it may do."""

from __future__ import annotations

import base64
import hmac
import ipaddress
from dataclasses import replace
from typing import Annotated, TypeAlias

from fastapi import Depends, Request
from limits import RateLimitItem, RateLimitItemPerMinute

from comic_upscale.server import keys, sessions
from comic_upscale.server.accounts import ANONYMOUS, Account, Scope, scopes_of
from comic_upscale.server.api import cookies
from comic_upscale.server.api.errors import ApiError
from comic_upscale.server.services import ENVIRONMENT_USER, Services


async def services_of(request: Request) -> Services:
    """Return the parts of the server."""
    # A coroutine, like every dependency: FastAPI calls a plain function on another thread, for each request.
    services: Services = request.app.state.services
    return services


BASIC = 'Basic realm="comic-upscale", charset="UTF-8"'
"""Lets a reader ask for a name and a password. Elsewhere it would make browsers ask in a window of their own."""


def root_of(request: Request) -> str:
    """Return the path under which a proxy shows this server; empty at the root of a host."""
    return str(request.scope.get("app_root_path", request.scope.get("root_path", ""))).rstrip("/")


def path_of(request: Request) -> str:
    """Return the path of a request below `root_of`. The path that the server has includes the root."""
    return request.url.path.removeprefix(root_of(request)) or "/"


Server: TypeAlias = Annotated[Services, Depends(services_of)]


async def find_account(request: Request, services: Server) -> Account:
    """Return who sends a request: the owner of a key or session, or the anonymous user of a public server.

    Raises:
        ApiError: 401 without a valid key or session, 403 without the token of the session or before the first
            password was changed, 429 after too many requests.
    """
    return await authenticate(request, services, _key_text(request))


async def authenticate(request: Request, services: Services, text: str | None) -> Account:
    """Return who sends a request, like `find_account`.

    Args:
        request: the request.
        services: of the server.
        text: the API key of the request; None if it has none.
    """
    await services.live.refresh()
    address = client_address(request)
    account = await _by_key(services, text) if text is not None else await _by_session(request, services)
    if account is None and (text is not None or not services.settings.public):
        await limit_requests(services, f"address:{address}")
        raise ApiError(
            401, "unauthorized", "Send a valid API key in the header X-API-Key, or log in.",
            headers={"WWW-Authenticate": BASIC if path_of(request).startswith("/opds") else "Bearer"},
        )  # fmt: skip
    if account is None:
        account = Account(
            user_id=services.anonymous_id, name=ANONYMOUS, role="anonymous", scopes=scopes_of("anonymous")
        )
    await limit_requests(
        services, f"address:{address}" if account.is_anonymous else f"user:{account.user_id}"
    )
    return replace(account, address=address)


async def find_session(request: Request, services: Services) -> sessions.FoundSession | None:
    """Return the session of a request's cookie; None if there is none.

    Raises:
        ApiError: 403, the request changes something and lacks the token of the session.
    """
    secret = cookies.read_session(request)
    if secret is None:
        return None
    found = await services.database.read_async(lambda connection: sessions.find(connection, secret))
    if found is None:
        return None
    cookies.check_csrf(request, secret)
    if found.should_record:
        session_id = str(found.account.session_id)
        await services.database.write_async(lambda connection: sessions.record_use(connection, session_id))
    return found


async def _by_session(request: Request, services: Services) -> Account | None:
    found = await find_session(request, services)
    if found is not None and found.must_change_password:
        raise ApiError(
            403, "password_change_required", "Change your password first: POST /api/v1/auth/password."
        )
    return None if found is None else found.account


CurrentAccount: TypeAlias = Annotated[Account, Depends(find_account)]


def require(account: Account, scope: Scope) -> None:
    """Refuse a request whose key or user may not do this.

    Raises:
        ApiError: 403.
    """
    if scope not in account.scopes or (scope == "admin" and not account.is_admin):
        how = " Make a key with `comic-upscale server key create --name NAME --user ADMIN --admin`."
        raise ApiError(
            403, "forbidden",
            f"This needs the permission {scope}, which the request does not have.{how * account.is_admin}",
        )  # fmt: skip


async def find_writer(account: CurrentAccount) -> Account:
    """Return who sends a request that changes jobs or uploads, before its body is checked.

    Raises:
        ApiError: 401 or 403.
    """
    require(account, "jobs:write")
    return account


WriterAccount: TypeAlias = Annotated[Account, Depends(find_writer)]


def require_person(account: Account) -> None:
    """Refuse a request without an account.

    Raises:
        ApiError: 403.
    """
    if account.is_anonymous:
        raise ApiError(403, "forbidden", "This needs an account.")


async def find_admin(account: CurrentAccount) -> Account:
    """Return the administrator who sends a request.

    Raises:
        ApiError: 401 or 403.
    """
    require(account, "admin")
    return account


AdminAccount: TypeAlias = Annotated[Account, Depends(find_admin)]


def client_address(request: Request) -> str:
    """Return the address of a client. An IPv6 address stands for its network of 64 bits, which has one owner."""
    host = request.client.host if request.client else "unknown"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host[:64]
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def _key_text(request: Request) -> str | None:
    key = request.headers.get("x-api-key")
    if key is not None:
        return key.strip()
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        # A browser sends these by itself, also for a page of another host.
        cookies.check_same_site(request)
        return _basic_password(token.strip())
    return token.strip() if scheme.lower() == "bearer" else None


def _basic_password(token: str) -> str:
    """Return the password of HTTP Basic. Programs that know no other way send an API key there; any name will do."""
    try:
        return base64.b64decode(token, validate=True).decode().partition(":")[2].strip()
    except ValueError:
        # Not a key, which is what the caller finds out.
        return ""


async def _by_key(services: Services, text: str) -> Account | None:
    own = services.settings.api_key
    if (
        own is not None
        and services.environment_id is not None
        and hmac.compare_digest(own.encode(), text.encode())
    ):
        return Account(
            user_id=services.environment_id, name=ENVIRONMENT_USER, role="user", scopes=scopes_of("user")
        )
    known = services.known_keys
    if (account := known.find(text)) is not None:
        return account
    changes = known.changes
    found = await services.database.read_async(lambda connection: keys.find_account(connection, text))
    if found is None:
        return None
    account = found.account
    if found.should_record and account.key_id is not None:
        key_id = account.key_id
        await services.database.write_async(lambda connection: keys.record_use(connection, key_id))
    known.keep(text, account, seconds=found.ends_in, changes=changes)
    return account


async def limit_requests(services: Services, who: str) -> None:
    """Count a request of an account or address.

    Raises:
        ApiError: 429, there were too many.
    """
    await limit(services, RateLimitItemPerMinute(services.settings.rate_limit), who)


async def limit(services: Services, item: RateLimitItem, who: str) -> None:
    """Count something against a limit.

    Args:
        services: of the server.
        item: the limit.
        who: whom it counts for, and what.

    Raises:
        ApiError: 429 with the seconds to wait, there was too much.
    """
    if await services.rates.hit(item, who):
        return
    wait, remaining = await services.rates.wait(item, who)
    headers = {
        "Retry-After": str(wait),
        "RateLimit-Limit": str(item.amount),
        "RateLimit-Remaining": str(remaining),
        "RateLimit-Reset": str(wait),
    }
    raise ApiError(429, "too_many_requests", f"Too many requests: wait {wait} seconds.", headers=headers)
