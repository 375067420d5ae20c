"""Looking at pages: pictures, the comparison of a page before and after, and the reader."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from comic_upscale.server import pictures
from comic_upscale.server.accounts import Account
from comic_upscale.server.api import jobs as jobs_api
from comic_upscale.server.api.access import Server
from comic_upscale.server.api.downloads import begin
from comic_upscale.server.api.errors import ApiError, not_found
from comic_upscale.server.jobs import find_job
from comic_upscale.server.links import LinkError, LinkExpiredError
from comic_upscale.server.pages.access import CurrentViewer
from comic_upscale.server.pages.render import render
from comic_upscale.server.pictures import JobFiles, Kind, PagePictures
from comic_upscale.server.services import Services

router = APIRouter()

Mode = Literal["page", "spread", "webtoon"]
Number = Annotated[int, Query(ge=1, le=100_000)]

_HEADERS = {
    "Cache-Control": "private, max-age=86400",
    # A file of a stranger must not run in the page of this server.
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "X-Content-Type-Options": "nosniff",
}
_KEPT = 64
_lists: OrderedDict[str, tuple[PagePictures, ...]] = OrderedDict()
"""The lists that were read last, by the hash of their content."""


async def find_pictures(services: Services, job_id: str) -> tuple[PagePictures, ...]:
    """Return the pages of a job that have pictures, in the order of a reader; none before the job is complete."""
    files = await services.database.read_async(lambda connection: pictures.files_of_job(connection, job_id))
    return await _read_list(services, files)


async def shared_job(services: Services, token: str) -> Mapping[str, Any]:
    """Return the row of the job that a link shares.

    Raises:
        ApiError: 404, there is no such job; 410, the link has expired.
    """
    try:
        job_id = services.links.verify("share", token).object_id
    except LinkExpiredError:
        raise ApiError(410, "expired", "This link has expired: ask for a new one.") from None
    except LinkError:
        raise not_found("page") from None
    # Whoever has the link may see the job, whose owner made it.
    everybody = Account(user_id="", name="", role="admin", scopes=frozenset(("admin",)))
    row = await services.database.read_async(lambda connection: find_job(connection, everybody, job_id))
    if row is None:
        raise not_found("job")
    return row


@router.get("/jobs/{job_id}/pictures/{number}/{kind}")
async def send_own_picture(
    request: Request, services: Server, viewer: CurrentViewer, job_id: str, number: int, kind: Kind
) -> Response:
    """Send a picture of a page of a job."""
    row = await jobs_api.own_job(services, viewer.account, job_id)
    return await _send_picture(request, services, row["id"], number, kind)


@router.get("/shared/{token}/pictures/{number}/{kind}")
async def send_shared_picture(
    request: Request, services: Server, token: str, number: int, kind: Kind
) -> Response:
    """Send a picture of a page of a shared job."""
    row = await shared_job(services, token)
    return await _send_picture(request, services, row["id"], number, kind)


@router.get("/jobs/{job_id}/pages/{number}")
async def compare_own(
    request: Request, services: Server, viewer: CurrentViewer, job_id: str, number: int
) -> Response:
    """Show a page before and after."""
    row = await jobs_api.own_job(services, viewer.account, job_id)
    return await _compare(request, services, row, number, f"/jobs/{job_id}")


@router.get("/shared/{token}/pages/{number}")
async def compare_shared(request: Request, services: Server, token: str, number: int) -> Response:
    """Show a page of a shared job before and after."""
    row = await shared_job(services, token)
    return await _compare(request, services, row, number, f"/shared/{token}")


@router.get("/jobs/{job_id}/read")
async def read_own(
    request: Request,
    services: Server,
    viewer: CurrentViewer,
    job_id: str,
    page: Number = 1,
    mode: Mode = "page",
    rtl: bool = False,
) -> Response:
    """Read a finished job page by page."""
    row = await jobs_api.own_job(services, viewer.account, job_id)
    return await _read(request, services, row, f"/jobs/{job_id}", page, mode, rtl)


@router.get("/shared/{token}/read")
async def read_shared(
    request: Request, services: Server, token: str, page: Number = 1, mode: Mode = "page", rtl: bool = False
) -> Response:
    """Read a shared job page by page."""
    row = await shared_job(services, token)
    return await _read(request, services, row, f"/shared/{token}", page, mode, rtl)


async def _compare(
    request: Request, services: Services, row: Mapping[str, Any], number: int, base: str
) -> Response:
    pages = await find_pictures(services, row["id"])
    if not 0 <= number < len(pages):
        raise not_found("page of this job")
    return render(
        request, "compare.html", job=row, base=base, number=number, page=pages[number], count=len(pages)
    )


async def _read(
    request: Request, services: Services, row: Mapping[str, Any], base: str, page: int, mode: Mode, rtl: bool
) -> Response:
    pages = await find_pictures(services, row["id"])
    if not pages:
        raise ApiError(404, "not_found", "This job has no pages to read. They come when it is complete.")
    first = min(page, len(pages)) - 1
    if mode == "spread" and first:
        # The cover is alone; then 2 and 3 face each other.
        first -= (first - 1) % 2
    count = 1 if mode == "page" or not first else 2
    return render(
        request, "reader.html", job=row, base=base, pages=pages, first=first, mode=mode, rtl=rtl,
        open_pages=list(enumerate(pages))[first : first + count],
        before=None if first == 0 else max(first - (1 if mode == "page" else 2), 0),
        after=None if first + count >= len(pages) else first + count,
    )  # fmt: skip


async def _send_picture(
    request: Request, services: Services, job_id: str, number: int, kind: Kind
) -> Response:
    files = await services.database.read_async(lambda connection: pictures.files_of_job(connection, job_id))
    pages = await _read_list(services, files)
    place = pages[number].place(kind) if 0 <= number < len(pages) else None
    row = None if place is None else files.row_of(place)
    if place is None or row is None:
        raise not_found("picture")
    headers = {**_HEADERS, "ETag": f'"{row["sha256"][:32]}-{place.offset}"'}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    pieces = services.files.read(row["storage_key"], place.offset, place.offset + place.length)
    content = await begin(pieces, "picture")
    headers["Content-Length"] = str(place.length)
    return StreamingResponse(content, headers=headers, media_type=place.media_type)


async def _read_list(services: Services, files: JobFiles) -> tuple[PagePictures, ...]:
    row = files.list
    if row is None:
        return ()
    digest = row["sha256"]
    if digest in _lists:
        _lists.move_to_end(digest)
        return _lists[digest]
    try:
        data = await asyncio.to_thread(pictures.read_all, services.files, row)
        pages = pictures.from_json(data)
    except (FileNotFoundError, ValueError):
        return ()
    _lists[digest] = pages
    while len(_lists) > _KEPT:
        _lists.popitem(last=False)
    return pages
