"""Downloads by signed links: one file with ranges, or several in a ZIP that is made while it is sent."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import FileResponse, RedirectResponse, Response, StreamingResponse
from zipstream import ZipStream

from comic_upscale.server import jobs
from comic_upscale.server.api.access import Server
from comic_upscale.server.api.errors import ApiError, documented, not_found
from comic_upscale.server.api.routing import api_router
from comic_upscale.server.links import Link, LinkError, LinkExpiredError, Purpose
from comic_upscale.server.services import Services

router = api_router(prefix="/api/v1", tags=["downloads"])

_TYPES = {
    "png": "image/png", "webp": "image/webp", "jpg": "image/jpeg", "avif": "image/avif", "jxl": "image/jxl",
    "tif": "image/tiff", "zip": "application/zip", "cbz": "application/vnd.comicbook+zip",
}  # fmt: skip
_RANGE = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})")
_HEADERS = {
    # A file of a stranger must not run in the page of this server.
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Cache-Control": "private, max-age=600",
}


def link_to(
    services: Services,
    files: Sequence[Mapping[str, Any]],
    *,
    purpose: Literal["results", "originals"],
    object_id: str,
    title: str,
    format: str | None = None,
) -> RedirectResponse:
    """Return a redirect to one file, or to a ZIP of several.

    Args:
        services: of the server.
        files: rows of files, at least one.
        purpose: what a ZIP holds.
        object_id: the job or the upload of a ZIP.
        title: the name of a ZIP, whose extension is replaced.
        format: ``zip`` or ``cbz`` for a ZIP in any case. A file that is such an archive itself is sent as it is.
    """
    suffix = PurePosixPath(files[0]["name"]).suffix.lower()
    if len(files) == 1 and (format is None or suffix in (".cbz", ".zip")):
        name = (
            files[0]["name"]
            if format is None
            else str(PurePosixPath(files[0]["name"]).with_suffix(f".{format}"))
        )
        token = services.links.sign(Link("file", files[0]["id"]))
        return RedirectResponse(f"/api/v1/files/{token}/{quote(name)}", 307)
    token = services.links.sign(Link(purpose, object_id))
    name = f"{PurePosixPath(title).stem}.{format or 'zip'}"
    return RedirectResponse(f"/api/v1/bundles/{purpose}/{token}/{quote(name)}", 307)


@router.get(
    "/files/{token}/{name}",
    summary="Download a file by a signed link",
    response_class=Response,
    responses=documented(403, 404, 410, 416),
)
async def send_file(request: Request, services: Server, token: str, name: str) -> Response:
    """Send a file; ranges are supported."""
    link = _verify(services, "file", token)
    row = await services.database.read_async(lambda connection: jobs.find_file(connection, link.object_id))
    if row is None:
        raise not_found("file")
    # The recorded name counts. The name in the link only decides between .zip and .cbz, which are the same.
    asked = PurePosixPath(name).suffix.lower()
    shown = PurePosixPath(row["name"])
    if {asked, shown.suffix.lower()} == {".zip", ".cbz"}:
        shown = shown.with_suffix(asked)
    etag, key = f'"{row["sha256"]}"', row["storage_key"]
    # A file that lost its end on the disk must not look whole.
    await _check_stored(services, [row])
    path = services.files.local_path(key)
    if path is None:
        return _ranged(request, row["size"], partial(services.files.read, key), etag=etag, name=shown.name)
    return FileResponse(
        path, filename=shown.name, media_type=media_type(shown.name), headers={**_HEADERS, "ETag": etag}
    )


@router.get(
    "/bundles/{purpose}/{token}/{name}",
    summary="Download several files in a ZIP by a signed link",
    response_class=Response,
    responses=documented(403, 404, 410, 416),
)
async def send_bundle(
    request: Request, services: Server, purpose: Literal["results", "originals"], token: str, name: str
) -> Response:
    """Send the files of a job or upload in an uncompressed ZIP; single ranges are supported."""
    link = _verify(services, purpose, token)
    owner = {"job_id": link.object_id} if purpose == "results" else {"upload_id": link.object_id}
    kind = "result" if purpose == "results" else "original"
    rows = await services.database.read_async(lambda connection: jobs.files_of(connection, kind, **owner))
    if not rows:
        raise not_found("file")
    await _check_stored(services, rows)
    bundle, is_repeatable = await asyncio.to_thread(_bundle, services, rows)
    etag = hashlib.sha256("".join(row["sha256"] + row["name"] for row in rows).encode()).hexdigest()
    return _ranged(
        request, len(bundle), partial(_part, bundle), etag=f'"{etag}"', name=PurePosixPath(name).name,
        is_repeatable=is_repeatable,
    )  # fmt: skip


def _bundle(services: Services, rows: Sequence[Mapping[str, Any]]) -> tuple[ZipStream, bool]:
    """Return a ZIP of stored files, and whether it has the same bytes each time."""
    bundle, is_repeatable = ZipStream(sized=True), True
    for row in rows:
        path = services.files.local_path(row["storage_key"])
        if path is not None:
            bundle.add_path(path, row["name"], recurse=False)
        else:
            # The library gives such members the present time.
            pieces = services.files.read(row["storage_key"], 0, row["size"])
            bundle.add(pieces, row["name"], size=row["size"])
            is_repeatable = False
    return bundle, is_repeatable


async def _check_stored(services: Services, rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a download whose files the storage has lost, or has only in part, before the answer begins.

    Raises:
        ApiError: a file is missing, or has another size.
        StorageError: the storage cannot be reached.
    """
    keys = [row["storage_key"] for row in rows]
    sizes = await asyncio.to_thread(lambda: [services.files.size(key) for key in keys])
    if sizes != [row["size"] for row in rows]:
        raise not_found("file")


async def begin(pieces: Iterator[bytes], what: str) -> Iterator[bytes]:
    """Return the pieces of a stored file once the first one is read, so that a fault is no answer that breaks off.

    Args:
        pieces: as `FileStore.read` yields them.
        what: it is, for the error.

    Raises:
        ApiError: 404, the storage has lost the file.
        StorageError: the storage cannot be reached.
    """
    try:
        first = await asyncio.to_thread(next, pieces, b"")
    except FileNotFoundError:
        raise not_found(what) from None
    return itertools.chain([first], pieces)


def _ranged(
    request: Request,
    size: int,
    part: Callable[[int, int], Iterator[bytes]],
    *,
    etag: str,
    name: str,
    is_repeatable: bool = True,
) -> Response:
    """Return a response with a stream of bytes, or with the range that the request asks for.

    Args:
        request: may ask for one range.
        size: bytes of the whole.
        part: yields the bytes from a start to an end.
        etag: identifies the content, in quotes.
        name: of the file.
        is_repeatable: whether each request gets the same bytes; ranges make sense only then.
    """
    headers = {
        **_HEADERS, "ETag": etag, "Accept-Ranges": "bytes" if is_repeatable else "none",
        "Content-Disposition": f"attachment; filename*=utf-8''{quote(name)}",
    }  # fmt: skip
    start, end = 0, size
    wanted = _RANGE.fullmatch(request.headers.get("range", "")) if is_repeatable else None
    if wanted and any(wanted.groups()) and request.headers.get("if-range", etag) == etag:
        first, last = wanted.groups()
        start = int(first) if first else max(size - int(last), 0)
        end = min(int(last) + 1, size) if first and last else size
        if start >= size or start >= end:
            raise ApiError(
                416, "range_not_satisfiable", "The range is outside of the file.",
                headers={"Content-Range": f"bytes */{size}"},
            )  # fmt: skip
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    headers["Content-Length"] = str(end - start)
    status = 206 if "Content-Range" in headers else 200
    return StreamingResponse(part(start, end), status, headers, media_type(name))


def _part(pieces: ZipStream, start: int, end: int) -> Iterator[bytes]:
    """Yield a part of a stream. What precedes it is made and dropped."""
    position = 0
    for piece in pieces:
        part = piece[max(start - position, 0) : max(end - position, 0)]
        position += len(piece)
        if part:
            yield bytes(part)
        if position >= end:
            return


def media_type(name: str) -> str:
    """Return the media type of a file by its name."""
    return _TYPES.get(PurePosixPath(name).suffix.lower().removeprefix("."), "application/octet-stream")


def _verify(services: Services, purpose: Purpose, token: str) -> Link:
    try:
        return services.links.verify(purpose, token)
    except LinkExpiredError:
        raise ApiError(410, "expired", "This link has expired: ask for a new one.") from None
    except LinkError:
        raise ApiError(403, "forbidden", "This link is not valid.") from None
