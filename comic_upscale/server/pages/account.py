"""Signing in and out, passwords, and the sessions and keys of the person who has signed in."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

from fastapi import Form, Request, Response
from markupsafe import Markup
from sqlalchemy.engine import Connection

from comic_upscale.errors import ComicUpscaleError, SettingsError
from comic_upscale.server import accounts, keys, sessions, setup, totp
from comic_upscale.server.accounts import SCOPES, Scope
from comic_upscale.server.api import auth, cookies
from comic_upscale.server.api import totp as totp_api
from comic_upscale.server.api.access import Server, client_address
from comic_upscale.server.api.auth import Login, NewKey, NewPassword
from comic_upscale.server.api.errors import ApiError, as_api_error, not_found
from comic_upscale.server.api.routing import page_router
from comic_upscale.server.pages.access import Person, SignedIn, find_viewer, safe_target
from comic_upscale.server.pages.render import go_to, render
from comic_upscale.server.quotas import quotas_of
from comic_upscale.server.services import Services

router = page_router()

Text = Annotated[str, Form(max_length=1024)]
Code = Annotated[str, Form(min_length=1, max_length=16)]


@router.get("/sign-in")
async def show_sign_in(request: Request, services: Server, next: str = "/") -> Response:
    """Show the form for signing in."""
    viewer = await find_viewer(request, services)
    if viewer is not None and not viewer.must_change_password:
        return go_to(request, safe_target(next))
    return render(
        request, "sign_in.html", next=safe_target(next), name="", error=None, is_new=await _is_new(services)
    )


@router.get("/login")
async def show_log_in(request: Request) -> Response:
    """Lead to the form for signing in."""
    return go_to(request, "/sign-in")


@router.post("/sign-in")
async def sign_in(
    request: Request,
    services: Server,
    username: Text,
    password: Text,
    next: Text = "/",
    code: Annotated[str, Form(max_length=16)] = "",
) -> Response:
    """Begin a session. A user with a second factor is asked for a code."""
    try:
        login = Login.model_construct(username=username, password=password, code=code.strip() or None)
        answer = await auth.log_in(request, services, login)
    except (ApiError, ComicUpscaleError) as error:
        shown = as_api_error(error)
        return render(
            request, "sign_in.html", status=shown.status, headers=shown.headers, next=safe_target(next),
            name=username, error=shown.message, asks_code=shown.field == "code", is_new=await _is_new(services),
        )  # fmt: skip
    return _with_cookie(go_to(request, safe_target(next)), answer)


@router.post("/sign-out")
async def sign_out(request: Request, services: Server) -> Response:
    """End the session."""
    viewer = await find_viewer(request, services)
    if viewer is not None and (session_id := viewer.account.session_id) is not None:
        await services.database.write_async(lambda connection: sessions.end(connection, session_id))
    response = go_to(request, "/sign-in", "signed-out")
    cookies.clear_session(request, response)
    return response


@router.get("/password")
async def show_password(request: Request, viewer: SignedIn) -> Response:
    """Show the form for a new password."""
    return render(request, "password.html", is_forced=viewer.must_change_password, error=None)


@router.post("/password")
async def change_password(
    request: Request,
    services: Server,
    viewer: SignedIn,
    current_password: Text,
    new_password: Text,
    repeated: Text,
) -> Response:
    """Change the password."""
    try:
        if new_password != repeated:
            raise ApiError(400, "invalid", "The two new passwords differ.")
        change = NewPassword.model_construct(current_password=current_password, new_password=new_password)
        answer = await auth.replace_password(request, services, viewer.account, change)
    except (ApiError, ComicUpscaleError) as error:
        shown = as_api_error(error)
        return render(
            request, "password.html", status=shown.status, headers=shown.headers,
            is_forced=viewer.must_change_password, error=shown.message,
        )  # fmt: skip
    target = "/" if viewer.must_change_password else "/account"
    return _with_cookie(go_to(request, target, "password"), answer)


@router.get("/setup/{token}")
async def show_setup(request: Request, services: Server, token: str) -> Response:
    """Show the form that creates the first administrator."""
    await _check_setup(services, token)
    return render(request, "setup.html", name="admin", error=None)


@router.post("/setup/{token}")
async def set_up(
    request: Request, services: Server, token: str, username: Text, password: Text, repeated: Text
) -> Response:
    """Create the first administrator, and sign in."""
    cookies.check_same_site(request)
    await _check_setup(services, token)
    try:
        if password != repeated:
            raise SettingsError("the two passwords differ")
        await setup.create_first_admin(services, username, password, client_address(request))
        answer = await auth.log_in(
            request, services, Login.model_construct(username=username, password=password)
        )
    except (ApiError, ComicUpscaleError) as error:
        shown = as_api_error(error)
        return render(
            request, "setup.html", status=shown.status, headers=shown.headers, name=username,
            error=shown.message,
        )  # fmt: skip
    return _with_cookie(go_to(request, "/"), answer)


async def _is_new(services: Services) -> bool:
    """Return whether nobody can sign in yet, so that a link creates the first administrator."""
    if services.setup_token is None:
        return False
    return not await services.database.read_async(accounts.has_admin)


@router.get("/account")
async def show_account(request: Request, services: Server, person: Person) -> Response:
    """Show the sessions and keys of the person who has signed in."""
    return await _account_page(request, services, person)


@router.post("/account/sessions/{session_id}/end")
async def end_session(request: Request, services: Server, person: Person, session_id: str) -> Response:
    """End a session."""
    await auth.end_session(services, person.account, session_id)
    return go_to(request, "/account", "ended")


@router.post("/account/keys")
async def create_key(
    request: Request,
    services: Server,
    person: Person,
    name: Text,
    scopes: Annotated[list[str] | None, Form()] = None,
) -> Response:
    """Create a key, and show it once."""
    try:
        created = await auth.create_key(
            services, person.account, NewKey.model_construct(name=name, scopes=_scopes(scopes or []))
        )
    except (ApiError, ComicUpscaleError) as error:
        shown = as_api_error(error)
        return await _account_page(
            request, services, person, status=shown.status, error=shown.message, key_name=name,
            key_scopes=scopes or [],
        )  # fmt: skip
    return await _account_page(request, services, person, new_key=created["key"])


@router.post("/account/keys/{key_id}/revoke")
async def revoke_key(request: Request, services: Server, person: Person, key_id: str) -> Response:
    """Revoke a key."""
    await auth.revoke_key(services, person.account, key_id)
    return go_to(request, "/account", "revoked")


@router.post("/account/totp")
async def begin_totp(request: Request, services: Server, person: Person, current_password: Text) -> Response:
    """Show a secret for an authenticator app. It counts once its first code has come."""
    asked = totp_api.Begin.model_construct(current_password=current_password)
    try:
        secret = await totp_api.begin_for(services, person.account, asked)
    except (ApiError, ComicUpscaleError) as error:
        shown = as_api_error(error)
        return await _account_page(request, services, person, status=shown.status, error=shown.message)
    return await _account_page(request, services, person, secret=secret)


@router.post("/account/totp/confirm")
async def confirm_totp(request: Request, services: Server, person: Person, code: Code) -> Response:
    """Turn the second factor on by a first code."""
    return await _accept_code(request, services, person, code, "totp.begin")


@router.post("/account/totp/end")
async def end_totp(request: Request, services: Server, person: Person, code: Code) -> Response:
    """Turn the second factor off."""
    return await _accept_code(request, services, person, code, "totp.end")


async def _accept_code(
    request: Request,
    services: Services,
    person: Person,
    code: str,
    action: Literal["totp.begin", "totp.end"],
) -> Response:
    try:
        await totp_api.accept_code(services, person.account, code, action)
    except (ApiError, ComicUpscaleError) as error:
        shown = as_api_error(error)
        return await _account_page(request, services, person, status=shown.status, error=shown.message)
    return go_to(request, "/account", "factor" if action == "totp.begin" else "factor-ended")


async def _account_page(
    request: Request,
    services: Services,
    person: Person,
    *,
    status: int = 200,
    error: str | None = None,
    new_key: str | None = None,
    secret: totp_api.Secret | None = None,
    key_name: str = "",
    key_scopes: Collection[str] = ("jobs:read", "jobs:write"),
) -> Response:
    user_id = person.account.user_id

    def read(connection: Connection) -> dict[str, Any]:
        return {
            "sessions": sessions.list_of(connection, user_id),
            "keys": keys.list_of(connection, user_id),
            "quotas": quotas_of(connection, user_id),
            "factor": totp.state_of(connection, user_id),
        }

    own = await services.database.read_async(read)
    return render(
        request, "account.html", status=status, error=error, new_key=new_key, secret=secret, qr_code=_qr_code, **own,
        scopes=[scope for scope in SCOPES if scope in person.account.scopes], key_name=key_name,
        key_scopes=key_scopes,
    )  # fmt: skip


def _scopes(texts: list[str]) -> list[Scope]:
    """Return what a new key may do.

    Raises:
        SettingsError: nothing, or something unknown.
    """
    if not texts:
        raise SettingsError("a key that may do nothing is of no use: tick what it may do")
    for text in texts:
        if text not in SCOPES:
            raise SettingsError(f"there is no right {text[:64]!r}: a key may have {', '.join(SCOPES)}")
    return [scope for scope in SCOPES if scope in texts]


async def _check_setup(services: Services, token: str) -> None:
    if not setup.is_token(services, token) or await services.database.read_async(accounts.has_admin):
        raise not_found("page, or the link was used already")


def _with_cookie(response: Response, answer: Response) -> Response:
    """Return a response that also sets the cookies of another one."""
    for name, value in answer.raw_headers:
        if name == b"set-cookie":
            response.raw_headers.append((name, value))
    return response


def _qr_code(text: str) -> Markup:
    """Return a QR code as SVG. Its ground is white in dark colours, too: some apps read no other."""
    import segno

    code = segno.make_qr(text)
    return Markup(code.svg_inline(scale=5, light="#fff", title="The key as a QR code", svgclass=None))
