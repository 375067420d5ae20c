"""The web application: its routes, its errors, and what every response has."""

from __future__ import annotations

import logging
import re
import time
from functools import cache
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy.exc import IntegrityError, NoResultFound
from starlette.datastructures import MutableHeaders

from comic_upscale.errors import ComicUpscaleError
from comic_upscale.server import log_context
from comic_upscale.server.api import (
    admin,
    admin_jobs,
    admin_offered,
    admin_server,
    admin_workers,
    auth,
    catalogue,
    compat_a1111,
    compat_convert,
    compat_wishes,
    downloads,
    events,
    health,
    job_actions,
    jobs,
    opds,
    openapi,
    resumable,
    totp,
    trials,
    uploads,
    watches,
)
from comic_upscale.server.api.access import find_account
from comic_upscale.server.api.errors import ApiError, BodyTooLargeError, add_error_handlers, error_response
from comic_upscale.server.api.openapi import describe
from comic_upscale.server.api.routing import MOST_BODY
from comic_upscale.server.ids import new_id
from comic_upscale.server.pages.app import create_pages
from comic_upscale.server.services import Services
from comic_upscale.version import __version__

if TYPE_CHECKING:
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("comic_upscale.access")

_TOO_LARGE = f"The body of this request may have at most {MOST_BODY} bytes."
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TOKEN = re.compile(r"(/(?:api/v1/(?:files|bundles/[a-z]+)|setup|shared)/)[^/]+")


def create_app(services: Services, *, pages: bool = False) -> FastAPI:
    """Return the application of a server.

    Args:
        services: of the server.
        pages: also serve the pages for people.
    """
    app = FastAPI(
        title="comic-upscale",
        version=__version__,
        description="Upscales comic pages and whole volumes.",
        license_info={"name": "MIT"},
        # Our own viewer loads nothing from another host.
        docs_url=None,
        redoc_url=None,
        telemetry={"tracing": False},
        routes=list(_routes()),
    )
    app.state.services = services

    # People type this address into a reader.
    @app.get("/opds", include_in_schema=False, max_body_size=MOST_BODY)
    @app.get("/opds/", include_in_schema=False, max_body_size=MOST_BODY)
    async def catalogue() -> RedirectResponse:
        return RedirectResponse(opds.PREFIX)

    describe(app)
    add_error_handlers(app)

    @app.exception_handler(IntegrityError)
    @app.exception_handler(NoResultFound)
    async def on_missing_row(request: Request, error: IntegrityError | NoResultFound) -> Response:
        """Say what is wrong to a user who was deleted while the request was under way."""
        try:
            await find_account(request, services)
        except ApiError as refused:
            return error_response(
                refused.status, refused.code, refused.message, refused.field, refused.headers
            )
        raise error

    if pages:
        app.mount("/", create_pages(services))
    else:

        @app.get("/", include_in_schema=False)
        async def home() -> RedirectResponse:
            return RedirectResponse("/docs")

    app.add_middleware(_EveryRequest)
    return app


@cache
def _routes() -> tuple[BaseRoute, ...]:
    """Return the routes of the interface. All applications of the process share them.

    FastAPI builds what it needs for a route before its first request. For all routes, that takes about half a second.
    """
    # "/jobs/events" comes before "/jobs/{job_id}".
    topics = (
        uploads, resumable, trials, events, jobs, job_actions, downloads, catalogue, auth, totp, admin, admin_jobs,
        admin_offered, admin_server, admin_workers, watches, health, compat_convert, compat_a1111, compat_wishes, opds,
        openapi,
    )  # fmt: skip
    return tuple(route for topic in topics for route in topic.router.routes)


class _EveryRequest:
    """Gives a request its id, logs it, and adds the headers of every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _REQUEST_ID.fullmatch(given) else new_id()
        began, status, has_begun = time.monotonic(), 500, False

        async def send_more(message: Message) -> None:
            nonlocal status, has_begun
            if message["type"] == "http.response.start":
                status, has_begun = message["status"], True
                headers = MutableHeaders(scope=message)
                if status == 413 and headers.get("content-type", "").startswith("text/plain"):
                    # The limit of a body answers before the handlers of errors do.
                    raise BodyTooLargeError
                location = headers.get("location", "")
                if location.startswith("/") and (root := scope.get("root_path")):
                    # Routes name their targets below the root of the server, wherever a proxy shows it.
                    headers["location"] = f"{root}{location}"
                headers["X-Request-Id"] = request_id
                if resumable.router.prefix in scope["path"]:
                    headers["Tus-Resumable"] = resumable.VERSION
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.setdefault("Referrer-Policy", "no-referrer")
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        token = log_context.request_id.set(request_id)
        try:
            await self._app(scope, receive, send_more)
        except BodyTooLargeError:
            await error_response(413, "too_large", _TOO_LARGE, None, {"Connection": "close"})(
                scope, receive, send_more
            )
        except Exception as error:
            cause = error.__cause__ or error
            if not has_begun or not isinstance(cause, ComicUpscaleError | FileNotFoundError):
                raise
            # The connection ends here, within the body: so the client knows that this is not all.
            log.error("the answer broke off: %s", cause)
        finally:
            log.info(
                "%s %s %s", scope["method"], _TOKEN.sub(r"\1...", scope["path"]), status,
                extra={"seconds": round(time.monotonic() - began, 4)},
            )  # fmt: skip
            log_context.request_id.reset(token)
