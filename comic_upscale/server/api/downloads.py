"""Downloads by signed links: one file with ranges, or several in a ZIP that is made while it is sent."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, RedirectResponse, Response, StreamingResponse
from zipstream import ZipStream

from comic_upscale.server import jobs
from comic_upscale.server.api.access import Server
from comic_upscale.server.api.errors import ApiError, documented, not_found
from comic_upscale.server.links import Link, LinkError, LinkExpiredError, Purpose
from comic_upscale.server.services import Services

router = APIRouter(prefix="/api/v1", tags=["downloads"])

_TYPES = {
    "png": "image/png", "webp": "image/webp", "jpg": "image/jpeg", "avif": "image/avif", "jxl": "image/jxl",
    "tif": "image/tiff", "zip": "application/zip", "cbz": "application/vnd.comicbook+zip",
}  # fmt: skip
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
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
    "/files/{token}/{name}", summary="Download a file by a signed link", responses=documented(403, 404, 410)
)
async def send_file(services: Server, token: str, name: str) -> Response:
    """Send a file; ranges are supported."""
    link = _verify(services, "file", token)
    row = await services.database.read_async(lambda connection: jobs.find_file(connection, link.object_id))
    path = None if row is None else services.files.local_path(row["storage_key"])
    if row is None or path is None or not path.is_file():
        raise not_found("file")
    # The recorded name counts. The name in the link only decides between .zip and .cbz, which are the same.
    asked = PurePosixPath(name).suffix.lower()
    shown = PurePosixPath(row["name"])
    if {asked, shown.suffix.lower()} == {".zip", ".cbz"}:
        shown = shown.with_suffix(asked)
    return FileResponse(
        path, filename=shown.name, media_type=_media_type(shown.name),
        headers={**_HEADERS, "ETag": f'"{row["sha256"]}"'},
    )  # fmt: skip


@router.get(
    "/bundles/{purpose}/{token}/{name}",
    summary="Download several files in a ZIP by a signed link",
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
    paths = [services.files.local_path(row["storage_key"]) for row in rows]
    if not rows or not all(path is not None and path.is_file() for path in paths):
        raise not_found("file")
    bundle = ZipStream(sized=True)
    for row, path in zip(rows, paths, strict=True):
        bundle.add_path(path, row["name"], recurse=False)
    etag = hashlib.sha256("".join(row["sha256"] + row["name"] for row in rows).encode()).hexdigest()
    return _ranged(request, bundle, f'"{etag}"', PurePosixPath(name).name)


def _ranged(request: Request, bundle: ZipStream, etag: str, name: str) -> Response:
    size = len(bundle)
    headers = {
        **_HEADERS, "ETag": etag, "Accept-Ranges": "bytes",
        "Content-Disposition": f"attachment; filename*=utf-8''{quote(name)}",
    }  # fmt: skip
    start, end = 0, size
    wanted = _RANGE.fullmatch(request.headers.get("range", ""))
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
    return StreamingResponse(_part(bundle, start, end), status, headers, _media_type(name))


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


def _media_type(name: str) -> str:
    return _TYPES.get(PurePosixPath(name).suffix.lower().removeprefix("."), "application/octet-stream")


def _verify(services: Services, purpose: Purpose, token: str) -> Link:
    try:
        return services.links.verify(purpose, token)
    except LinkExpiredError:
        raise ApiError(410, "expired", "This link has expired: ask for a new one.") from None
    except LinkError:
        raise ApiError(403, "forbidden", "This link is not valid.") from None
