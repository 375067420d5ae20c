"""Page conversion as Suwayomi-Server calls it: a form with one image comes in, and an image goes out.

Suwayomi takes the body of the answer for the page, whatever the status is. So a refusal answers with the page as it
came, and says in a header that it did.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Iterator, Mapping
from typing import IO, Annotated, Any, Self

from fastapi import Query, Request
from fastapi.responses import Response, StreamingResponse
from starlette.background import BackgroundTask

from comic_upscale.errors import ComicUpscaleError, DatabaseError
from comic_upscale.server.accounts import Account
from comic_upscale.server.api.access import (
    Server,
    authenticate,
    client_address,
    find_account,
    limit_requests,
    require,
)
from comic_upscale.server.api.downloads import begin, media_type
from comic_upscale.server.api.errors import ApiError
from comic_upscale.server.api.immediate import Image, convert, read_pieces, with_extension
from comic_upscale.server.api.routing import api_router
from comic_upscale.server.api.uploads import check_open, is_accepted
from comic_upscale.server.files import StoredFile
from comic_upscale.server.multipart import Limits, UploadError, UploadReader
from comic_upscale.server.params import FIELDS, read_params
from comic_upscale.server.services import Services

log = logging.getLogger(__name__)

router = api_router(tags=["other programs"])

MOST_BYTES = 64 << 20
"""Bytes of a page."""
_IN_MEMORY = 1 << 20
_CHUNK = 1 << 20
_STATE = "X-Comic-Upscale"
_REASON = "X-Comic-Upscale-Reason"


@router.post(
    "/convert",
    summary="Upscale a page, and answer with the page",
    response_class=Response,
    max_body_size=1 << 62,
    openapi_extra={
        "security": [{"APIKeyHeader": []}, {"HTTPBearer": []}, {"HTTPBasic": []}],
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["image"],
                        "properties": {"image": {"type": "string", "format": "binary"}},
                    }
                }
            },
        },
    },
    responses={
        200: {
            "description": "The page. X-Comic-Upscale is upscaled, or original if it was refused; "
            "X-Comic-Upscale-Reason then says why.",
            "content": {
                kind: {"schema": {"type": "string", "format": "binary"}}
                # The second is that of a refused page whose kind is unknown.
                for kind in ("image/*", "application/octet-stream")
            },
        },
        400: {"description": "The request has no page that could be sent back."},
        429: {"description": "Too many requests from this address were refused. The page was not read."},
    },
)
async def convert_page(
    request: Request,
    services: Server,
    key: Annotated[
        str | None, Query(max_length=200, description="An API key, for programs that can send no header.")
    ] = None,
) -> Response:
    """Upscale one page in the interactive lane.

    Fields of an upload may be query parameters: ``/convert?factor=2&preset=art``. Without a ``format``, the page keeps
    the format of its file. The key may be in a header, in HTTP Basic as the password, or in the parameter ``key``.
    """
    account: Account | None = None
    try:
        account = await (
            find_account(request, services) if key is None else authenticate(request, services, key)
        )
    except (ApiError, ComicUpscaleError) as error:
        refused = error
        try:
            # The page must come in before it can be sent back, so strangers get that only so often.
            await limit_requests(services, f"refused:{client_address(request)}")
        except ApiError as too_many:
            return _refusal(too_many.status, too_many.message, too_many.headers)
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as held:
        page = _HeldPage(held)
        try:
            name = await _read(request, page)
        except UploadError as error:
            return _refusal(400, error.message)
        if account is None:
            return await asyncio.to_thread(_original, page, name, _in_words(refused))
        try:
            (row,) = await _upscale(request, services, account, page, name)
            pieces = await begin(read_pieces(services, row), "result")
        except (ApiError, ComicUpscaleError) as error:
            return await asyncio.to_thread(_original, page, name, _in_words(error))
    return StreamingResponse(
        pieces, 200,
        {_STATE: "upscaled", "Content-Length": str(row["size"]), "X-Content-Type-Options": "nosniff"},
        media_type(row["name"]),
    )  # fmt: skip


async def _upscale(
    request: Request, services: Services, account: Account, page: _HeldPage, name: str
) -> list[Any]:
    require(account, "jobs:write")
    fields = {name: text for name, text in request.query_params.items() if name != "key"}
    if unknown := sorted(fields.keys() - FIELDS):
        raise ApiError(400, "invalid", f"There is no option {unknown[0][:64]}.", field=unknown[0][:64])
    params = read_params({"format": "auto", **fields}, services.live.offered)
    name = with_extension(name, page.head)
    if not is_accepted(services, name):
        raise ApiError(415, "unsupported_file", "The page is of a type that this server does not take.")
    if page.size > services.settings.max_upload_size:
        raise ApiError(413, "too_large", "The page is larger than this server allows.")
    await check_open(services, account)
    done = await convert(request, services, account, [Image(name, page.size, page.pieces)], params)
    if len(done.results) != 1:
        raise ApiError(422, "not_one", "The upload is not a single page.")
    return list(done.results)


async def _read(request: Request, page: _HeldPage) -> str:
    """Read the page of a form, and return its name.

    Raises:
        UploadError: the form has none, or it is too large.
    """
    limits = Limits(max_bytes=MOST_BYTES, max_files=1, accept=lambda _name: True)
    reader = UploadReader(page, lambda _number: "page", limits)
    received = await reader.read(request.headers.get("content-type", ""), request.stream())
    if not received.files:
        raise UploadError(400, "invalid", "the form has no page: send it in the field image")
    return received.files[0].name


def _original(page: _HeldPage, name: str, reason: str) -> Response:
    """Send the page back as it came."""
    log.info("a page was sent back as it came: %s", reason)
    copy = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - closed after the answer
    for piece in page.pieces():
        copy.write(piece)
    kind = media_type(with_extension(name, page.head))
    headers = {
        _STATE: "original", _REASON: _as_header(reason), "Content-Length": str(page.size),
        "X-Content-Type-Options": "nosniff",
    }  # fmt: skip
    return StreamingResponse(_pieces(copy), 200, headers, kind, BackgroundTask(copy.close))


def _refusal(status: int, reason: str, more: Mapping[str, str] | None = None) -> Response:
    """Answer without a page: there is none to send back."""
    headers = {**(more or {}), _STATE: "error", _REASON: _as_header(reason), "Connection": "close"}
    return Response(b"", status, headers, media_type="text/plain")


def _in_words(error: ApiError | ComicUpscaleError) -> str:
    if isinstance(error, DatabaseError):
        log.error("%s", error)
        return "The server cannot work now."
    return error.message if isinstance(error, ApiError) else str(error)


def _as_header(text: str) -> str:
    """Return a text as a header may hold it."""
    return "".join(char if " " <= char <= "~" else "?" for char in text)[:300]


class _HeldPage:
    """The page of a request, in memory or in a temporary file; a storage for the one file of an `UploadReader`."""

    def __init__(self, held: IO[bytes]) -> None:
        self._held = held
        self.size = 0
        self.head = b""

    def pieces(self) -> Iterator[bytes]:
        """Return the content from its beginning."""
        return _pieces(self._held)

    def create(self, _key: str) -> _HeldWriter:
        """Begin the file."""
        return _HeldWriter(self, self._held)

    def delete(self, _key: str) -> None:
        """Delete nothing: the file ends with the request."""


class _HeldWriter:
    def __init__(self, page: _HeldPage, held: IO[bytes]) -> None:
        self._page, self._held = page, held

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        return None

    def write(self, data: bytes) -> None:
        self._held.write(data)
        self._page.size += len(data)
        self._page.head = (self._page.head + data[:16])[:16]

    def commit(self) -> StoredFile:
        return StoredFile("page", self._page.size, "")


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    while piece := file.read(_CHUNK):
        yield piece
