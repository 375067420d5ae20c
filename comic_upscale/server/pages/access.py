"""Who looks at a page: a person who has signed in, or anybody where the server is public."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, TypeAlias
from urllib.parse import quote, urlsplit

from fastapi import Depends, Request
from starlette.routing import Match

from comic_upscale.server import sessions
from comic_upscale.server.accounts import ANONYMOUS, Account, scopes_of
from comic_upscale.server.api import cookies
from comic_upscale.server.api.access import Server, client_address, limit_requests, path_of, root_of
from comic_upscale.server.api.errors import ApiError
from comic_upscale.server.services import Services


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks at a page."""

    account: Account
    csrf_token: str = ""
    """Proves that a form comes from a page of this server; empty without a session."""
    must_change_password: bool = False

    @property
    def is_person(self) -> bool:
        """Whether somebody has signed in."""
        return not self.account.is_anonymous


class SignInError(Exception):
    """A page is for people who have signed in.

    Args:
        target: the page to go to, below the root of the server.
    """

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.target = target


async def find_viewer(request: Request, services: Services) -> Viewer | None:
    """Return who has signed in; None if nobody has.

    Raises:
        ApiError: 403, a form without the token of its session.
    """
    secret = cookies.read_session(request)
    if secret is None:
        return None
    found = await services.database.read_async(lambda connection: sessions.find(connection, secret))
    if found is None:
        return None
    if request.method not in cookies.SAFE_METHODS:
        await _check_form(request, secret)
    if found.should_record:
        session_id = str(found.account.session_id)
        await services.database.write_async(lambda connection: sessions.record_use(connection, session_id))
    account = replace(found.account, address=client_address(request))
    viewer = Viewer(account, sessions.csrf_token(secret), found.must_change_password)
    request.state.viewer = viewer
    return viewer


async def signed_in(request: Request, services: Server) -> Viewer:
    """Return who has signed in, also with a first password that must be changed.

    Raises:
        SignInError: nobody has.
        ApiError: 403, a form without the token of its session.
    """
    viewer = await find_viewer(request, services)
    if viewer is None:
        raise SignInError(sign_in_address(request))
    return viewer


async def current_viewer(request: Request, services: Server) -> Viewer:
    """Return who looks at a page that needs an account, or that is open where the server is public.

    Raises:
        SignInError: nobody has signed in, or the password must be changed first.
        ApiError: 403, a form without the token of its session; 429, too many requests.
    """
    await services.live.refresh()
    viewer = await find_viewer(request, services)
    if viewer is not None and viewer.must_change_password:
        raise SignInError("/password")
    if viewer is None and services.settings.public:
        cookies.check_same_site(request)
        account = Account(
            user_id=services.anonymous_id, name=ANONYMOUS, role="anonymous",
            scopes=scopes_of("anonymous"), address=client_address(request),
        )  # fmt: skip
        viewer = request.state.viewer = Viewer(account)
    if viewer is None:
        raise SignInError(sign_in_address(request))
    account = viewer.account
    await limit_requests(
        services, f"address:{account.address}" if account.is_anonymous else f"user:{account.user_id}"
    )
    return viewer


async def current_person(request: Request, viewer: Annotated[Viewer, Depends(current_viewer)]) -> Viewer:
    """Return who has signed in; errors as for `current_viewer`."""
    if not viewer.is_person:
        raise SignInError(sign_in_address(request))
    return viewer


async def current_admin(viewer: Annotated[Viewer, Depends(current_person)]) -> Viewer:
    """Return the administrator who looks at a page; errors as for `current_viewer`, and 403 for others."""
    if not viewer.account.is_admin:
        raise ApiError(403, "forbidden", "This page is for administrators.")
    return viewer


SignedIn: TypeAlias = Annotated[Viewer, Depends(signed_in)]
CurrentViewer: TypeAlias = Annotated[Viewer, Depends(current_viewer)]
Person: TypeAlias = Annotated[Viewer, Depends(current_person)]
Admin: TypeAlias = Annotated[Viewer, Depends(current_admin)]


def page_address(request: Request) -> str:
    """Return path and query of the page that was asked for, below the root of the server."""
    path = path_of(request)
    return f"{path}?{request.url.query}" if request.url.query else path


def sign_in_address(request: Request) -> str:
    """Return the page for signing in, which leads back to where somebody is now.

    It says that a session has ended if there was one. A form cannot be sent again, so it leads to the page of the form.
    """
    is_form = request.method not in cookies.SAFE_METHODS
    back = _page_of_form(request) if is_form else page_address(request)
    # Signing out removes the cookie, so whoever still has one did not sign out.
    has_ended = cookies.read_session(request) is not None
    words = [f"next={quote(back)}" if back != "/" else "", "notice=expired" if has_ended else ""]
    return f"/sign-in?{'&'.join(filter(None, words))}".rstrip("?")


def safe_target(target: str) -> str:
    """Return a page to go to after signing in; the first page in place of an address of another host."""
    is_own = target.startswith("/") and not target.startswith("//") and "\\" not in target
    return target if is_own and target.isprintable() else "/"


def _page_of_form(request: Request) -> str:
    """Return the page of this server from which a form came, by what the browser says; else the first page."""
    came_from = urlsplit(request.headers.get("referer", ""))
    path = came_from.path.removeprefix(root_of(request))
    if came_from.netloc != request.headers.get("host") or safe_target(path) != path:
        return "/"
    # A form that was refused is shown at an address that takes forms alone.
    scope = {"type": "http", "method": "GET", "path": path, "root_path": ""}
    if not any(route.matches(scope)[0] is Match.FULL for route in request.app.routes):
        return "/"
    return f"{path}?{came_from.query}" if came_from.query else path


async def _check_form(request: Request, secret: str) -> None:
    """Refuse a form without the token of its session, or from a page of another host."""
    cookies.check_same_site(request)
    token = request.headers.get("x-csrf-token")
    if token is None and request.headers.get("content-type", "").startswith(
        "application/x-www-form-urlencoded"
    ):
        token = str((await request.form()).get("csrf_token", ""))
    if not sessions.is_csrf_token(secret, token or ""):
        raise ApiError(
            403, "csrf", "This form is too old: go back, load the page again, and send it once more."
        )
