"""Errors of the API: ``{"error": {"code", "message", "field"?}}``, whatever went wrong."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from comic_upscale.errors import ComicUpscaleError, DatabaseError, SettingsError, StorageError
from comic_upscale.server.files import DiskFullError
from comic_upscale.server.idempotency import KeyReusedError
from comic_upscale.server.multipart import UploadError
from comic_upscale.server.params import FieldError
from comic_upscale.server.passwords import BusyError
from comic_upscale.server.quotas import QuotaError
from comic_upscale.server.resumable import CutsError, LockedError, OffsetError, OpenError
from comic_upscale.server.words import as_sentence

log = logging.getLogger(__name__)

_CODES = {
    400: "bad_request", 401: "unauthorized", 403: "forbidden", 404: "not_found", 405: "method_not_allowed",
    406: "not_acceptable", 409: "conflict", 412: "precondition_failed", 413: "too_large",
    415: "unsupported_media_type", 422: "invalid", 423: "locked", 429: "too_many_requests",
}  # fmt: skip


class ErrorContent(BaseModel):
    """What went wrong."""

    code: str = Field(description="A short stable word for programs.", examples=["not_found"])
    message: str = Field(description="What happened, and what to do.", examples=["There is no such job."])
    field: str | None = Field(default=None, description="The field of the request that it is about.")


class ErrorBody(BaseModel):
    """The body of every response that reports an error."""

    error: ErrorContent


class ApiError(Exception):
    """A request cannot be answered as asked.

    Args:
        status: of the HTTP response.
        code: a short stable word for programs.
        message: what happened, and what to do.
        field: the field of the request that it is about.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.field = status, code, message, field
        self.headers = dict(headers or {})


class BodyTooLargeError(Exception):
    """The framework refused the body of a request, and the app answers in its place."""


def not_found(what: str) -> ApiError:
    """Return the error for an object that does not exist, or that the account may not see."""
    return ApiError(404, "not_found", f"There is no such {what}.")


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the errors of a route for its OpenAPI description."""
    return {status: described_error(_CODES.get(status, "error")) for status in statuses}


def described_error(words: str) -> dict[str, Any]:
    """Return the OpenAPI description of a response that reports an error.

    It names the form of errors and not their class: for that, FastAPI builds a serializer for each error of each route.
    """
    schema = {"$ref": "#/components/schemas/ErrorBody"}
    return {"description": words, "content": {"application/json": {"schema": schema}}}


def error_response(
    status: int, code: str, message: str, field: str | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return the response for an error."""
    content: dict[str, str] = {"code": code, "message": message}
    if field is not None:
        content["field"] = field
    return JSONResponse({"error": content}, status, dict(headers or {}))


def as_api_error(error: ApiError | ComicUpscaleError) -> ApiError:
    """Return the response for an error of this package. Errors that the request did not cause are logged."""
    if isinstance(error, ApiError):
        return error
    text = as_sentence(str(error))
    if isinstance(error, FieldError):
        return ApiError(400, "invalid", text, field=error.field)
    if isinstance(error, BusyError):
        return ApiError(503, "busy", text, headers={"Retry-After": "5"})
    if isinstance(error, SettingsError):
        return ApiError(400, "invalid", text)
    if isinstance(error, KeyReusedError):
        return ApiError(409, "key_reused", text, field="Idempotency-Key")
    if isinstance(error, QuotaError):
        wait = {} if error.seconds is None else {"Retry-After": str(error.seconds)}
        return ApiError(429, "quota", text, field="file", headers=wait)
    if isinstance(error, LockedError):
        return ApiError(423, "locked", text, headers={"Retry-After": "2", "Connection": "close"})
    if isinstance(error, OffsetError):
        headers = {"Upload-Offset": str(error.offset), "Connection": "close"}
        return ApiError(409, "offset", text, field="Upload-Offset", headers=headers)
    if isinstance(error, OpenError):
        return ApiError(429, "too_many_open", text, headers={"Retry-After": "3600"})
    if isinstance(error, CutsError):
        return ApiError(400, "too_many_pieces", text, headers={"Connection": "close"})
    if isinstance(error, DiskFullError):
        return ApiError(507, "insufficient_storage", text, headers={"Connection": "close"})
    log.error("%s", error)
    if isinstance(error, StorageError):
        headers = {"Retry-After": "5", "Connection": "close"}
        return ApiError(503, "unavailable", "The storage cannot be used.", headers=headers)
    if isinstance(error, DatabaseError):
        return ApiError(503, "unavailable", "The database cannot be used.", headers={"Retry-After": "5"})
    return ApiError(500, "internal", "The server could not do this; its log says why.")


def add_error_handlers(app: FastAPI) -> None:
    """Let every error of an app have the same form."""

    @app.exception_handler(ApiError)
    async def on_api_error(_request: Request, error: ApiError) -> JSONResponse:
        return error_response(error.status, error.code, error.message, error.field, error.headers)

    @app.exception_handler(UploadError)
    async def on_upload_error(_request: Request, error: UploadError) -> JSONResponse:
        # The rest of the upload is not read, so the connection cannot be used again.
        return error_response(
            error.status, error.code, as_sentence(error.message), error.field, {"Connection": "close"}
        )

    @app.exception_handler(RequestValidationError)
    async def on_invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][1:])
        return error_response(400, "invalid", as_sentence(str(first["msg"])), field or None)

    @app.exception_handler(HTTPException)
    async def on_http_error(_request: Request, error: HTTPException) -> JSONResponse:
        code = _CODES.get(error.status_code, "error")
        return error_response(error.status_code, code, str(error.detail), None, error.headers)

    @app.exception_handler(ComicUpscaleError)
    async def on_own_error(request: Request, error: ComicUpscaleError) -> JSONResponse:
        return await on_api_error(request, as_api_error(error))

    @app.exception_handler(ClientDisconnect)
    async def on_disconnect(_request: Request, _error: ClientDisconnect) -> JSONResponse:
        # Nobody reads this; the log shows the status.
        return error_response(499, "disconnected", "The client went away.")

    @app.exception_handler(Exception)
    async def on_any_error(_request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, BodyTooLargeError):
            raise error
        log.error("unexpected error", exc_info=error)
        return error_response(500, "internal", "Unexpected error; the log of the server has the details.")
