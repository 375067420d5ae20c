"""The cookie of a session, and the checks against requests that other pages make a browser send."""

from __future__ import annotations

from urllib.parse import urlsplit

from fastapi import Request, Response

from comic_upscale.server import sessions
from comic_upscale.server.api.errors import ApiError

SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))
_SECURE, _PLAIN = "__Host-comic-upscale", "comic-upscale-session"


def read_session(request: Request) -> str | None:
    """Return the secret of the session in a request; None if it has none."""
    return request.cookies.get(_name(request))


def set_session(request: Request, response: Response, secret: str) -> None:
    """Let a browser keep a session.

    Browsers accept ``__Host-`` cookies over TLS alone. Over plain HTTP, the cookie has another name.
    """
    response.set_cookie(
        _name(request), secret, max_age=sessions.LIFETIME_MS // 1000, path="/", secure=_is_secure(request),
        httponly=True, samesite="lax",
    )  # fmt: skip


def clear_session(request: Request, response: Response) -> None:
    """Let a browser forget a session."""
    response.delete_cookie(
        _name(request), path="/", secure=_is_secure(request), httponly=True, samesite="lax"
    )


def check_same_site(request: Request) -> None:
    """Refuse an unsafe request that a page of another host made a browser send.

    Raises:
        ApiError: 403.
    """
    if request.method in SAFE_METHODS:
        return
    site = request.headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        raise _cross_site()
    origin = request.headers.get("origin")
    if origin is not None and (
        origin == "null" or urlsplit(origin).netloc != request.headers.get("host", "")
    ):
        raise _cross_site()


def check_csrf(request: Request, secret: str) -> None:
    """Refuse an unsafe request without the token of its session.

    Raises:
        ApiError: 403.
    """
    if request.method in SAFE_METHODS:
        return
    check_same_site(request)
    if not sessions.is_csrf_token(secret, request.headers.get("x-csrf-token", "")):
        raise ApiError(
            403, "csrf", "Send the csrf_token of the login in the header X-CSRF-Token, or use an API key."
        )


def _cross_site() -> ApiError:
    return ApiError(403, "cross_site", "A page of another host sent this request.")


def _is_secure(request: Request) -> bool:
    return request.url.scheme == "https"


def _name(request: Request) -> str:
    return _SECURE if _is_secure(request) else _PLAIN
