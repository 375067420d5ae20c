"""The application of the pages. It is mounted beside the REST interface, whose sessions and functions it uses."""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import IntegrityError, NoResultFound
from starlette.exceptions import HTTPException

from comic_upscale.errors import ComicUpscaleError
from comic_upscale.server.api import cookies
from comic_upscale.server.api.access import path_of
from comic_upscale.server.api.errors import ApiError, BodyTooLargeError, as_api_error, error_response
from comic_upscale.server.pages import (
    account,
    admin,
    admin_log,
    admin_offered,
    admin_people,
    admin_workers,
    assets,
    jobs,
    library,
    trials,
    upload,
    viewing,
    watches,
)
from comic_upscale.server.pages.access import SignInError, find_viewer, sign_in_address
from comic_upscale.server.pages.render import go_to, render, wants_part
from comic_upscale.server.services import Services

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

log = logging.getLogger(__name__)

ROUTERS = (
    upload.router,
    jobs.router,
    viewing.router,
    library.router,
    watches.router,
    trials.router,
    account.router,
    admin.router,
    admin_people.router,
    admin_offered.router,
    admin_workers.router,
    admin_log.router,
    assets.router,
)


def create_pages(services: Services) -> FastAPI:
    """Return the application of the pages of a server."""
    app = FastAPI(
        openapi_url=None, docs_url=None, redoc_url=None, telemetry={"tracing": False}, routes=list(_routes())
    )
    app.state.services = services
    _add_error_handlers(app, services)
    return app


@cache
def _routes() -> tuple[BaseRoute, ...]:
    """Return the routes of the pages. All applications of the process share them, as those of the interface."""
    return tuple(route for router in ROUTERS for route in router.routes)


def error_page(request: Request, error: ApiError) -> Response:
    """Return the page for an error; JSON for a client of the REST interface that asked for no page."""
    if path_of(request).startswith("/api/"):
        return error_response(error.status, error.code, error.message, error.field, error.headers)
    try:
        title = HTTPStatus(error.status).phrase
    except ValueError:
        title = "Error"
    return render(
        request, "error.html", status=error.status, headers=error.headers, title=title, status_code=error.status,
        message=error.message, was_form=request.method == "POST",
    )  # fmt: skip


def _add_error_handlers(app: FastAPI, services: Services) -> None:
    @app.exception_handler(SignInError)
    async def on_sign_in(request: Request, error: SignInError) -> Response:
        if wants_part(request):
            # A part of a page was asked for: the whole page goes there, not the part.
            return Response(status_code=401, headers={"HX-Refresh": "true"})
        return go_to(request, error.target)

    @app.exception_handler(ApiError)
    async def on_api_error(request: Request, error: ApiError) -> Response:
        return error_page(request, error)

    @app.exception_handler(ComicUpscaleError)
    async def on_own_error(request: Request, error: ComicUpscaleError) -> Response:
        return error_page(request, as_api_error(error))

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name = str(first["loc"][-1]).replace("_", " ")
        return error_page(
            request, ApiError(400, "invalid", f"The field {name} is not valid: {first['msg']}.")
        )

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        message = "There is no such page." if error.status_code == 404 else str(error.detail)
        if request.method == "GET":
            # Whoever has signed in keeps the bar with the way back.
            with suppress(ApiError, ComicUpscaleError):
                await find_viewer(request, services)
        return error_page(
            request, ApiError(error.status_code, "error", message, headers=dict(error.headers or {}))
        )

    @app.exception_handler(IntegrityError)
    @app.exception_handler(NoResultFound)
    async def on_missing_row(request: Request, error: IntegrityError | NoResultFound) -> Response:
        # Whoever was deleted while the request was under way has no session any more.
        if cookies.read_session(request) is not None and await find_viewer(request, services) is None:
            return await on_sign_in(request, SignInError(sign_in_address(request)))
        raise error

    @app.exception_handler(Exception)
    async def on_any_error(request: Request, error: Exception) -> Response:
        if isinstance(error, BodyTooLargeError):
            raise error
        log.error("unexpected error", exc_info=error)
        message = "Something unexpected happened. The log of the server has the details."
        return error_page(request, ApiError(500, "internal", message))
