"""Looking at pages: pictures, the comparison of a page before and after, and the reader."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import Query, Request, Response
from fastapi.responses import StreamingResponse

from comic_upscale.server import pictures
from comic_upscale.server.accounts import Account
from comic_upscale.server.api import jobs as jobs_api
from comic_upscale.server.api.access import Server
from comic_upscale.server.api.downloads import begin
from comic_upscale.server.api.errors import ApiError, not_found
from comic_upscale.server.api.routing import page_router
from comic_upscale.server.jobs import find_job
from comic_upscale.server.links import LinkError, LinkExpiredError
from comic_upscale.server.pages.access import CurrentViewer
from comic_upscale.server.pages.render import go_to, render
from comic_upscale.server.pictures import JobFiles, Kind, LiveFiles, PagePictures
from comic_upscale.server.services import Services

router = page_router()

Mode = Literal["page", "spread", "webtoon"]
Number = Annotated[int, Query(ge=1, le=100_000)]

_HEADERS = {
    "Cache-Control": "private, max-age=86400",
    # A file of a stranger must not run in the page of this server.
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "X-Content-Type-Options": "nosniff",
}
_PAGES_KEPT = 50_000
_lists: OrderedDict[str, tuple[PagePictures, ...]] = OrderedDict()
"""The lists that were read last, by the hash of their content."""


Live = Annotated[bool, Query()]
"""Whether a page of a job that runs is meant. Its number is another one, so an address never changes its picture."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A page, and the files that its places are in."""

    page: PagePictures
    files: JobFiles | LiveFiles


async def find_live(services: Services, files: JobFiles) -> list[_Found]:
    """Return the pages that are done while a job runs, in the order in which they were stored."""
    if files.list is not None:
        return []
    return [_Found(page, each) for each in files.live for page in await _read_list(services, each.list)]


async def read_files(services: Services, job_id: str) -> JobFiles:
    """Return the stored files of a job by which its pictures are found."""
    return await services.database.read_async(lambda connection: pictures.files_of_job(connection, job_id))


async def find_pictures(services: Services, files: JobFiles) -> tuple[PagePictures, ...]:
    """Return the pages of a job that have pictures, in the order of a reader; none before the job is complete."""
    return await _read_list(services, files.list)


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
    request: Request,
    services: Server,
    viewer: CurrentViewer,
    job_id: str,
    number: int,
    kind: Kind,
    live: Live = False,
) -> Response:
    """Send a picture of a page of a job."""
    row = await jobs_api.own_job(services, viewer.account, job_id)
    return await _send_picture(request, services, row["id"], number, kind, live)


@router.get("/shared/{token}/pictures/{number}/{kind}")
async def send_shared_picture(
    request: Request, services: Server, token: str, number: int, kind: Kind, live: Live = False
) -> Response:
    """Send a picture of a page of a shared job."""
    row = await shared_job(services, token)
    return await _send_picture(request, services, row["id"], number, kind, live)


@router.get("/jobs/{job_id}/pages/{number}")
async def compare_own(
    request: Request, services: Server, viewer: CurrentViewer, job_id: str, number: int, live: Live = False
) -> Response:
    """Show a page before and after."""
    row = await jobs_api.own_job(services, viewer.account, job_id)
    return await _compare(request, services, row, number, f"/jobs/{job_id}", live)


@router.get("/shared/{token}/pages/{number}")
async def compare_shared(
    request: Request, services: Server, token: str, number: int, live: Live = False
) -> Response:
    """Show a page of a shared job before and after."""
    row = await shared_job(services, token)
    return await _compare(request, services, row, number, f"/shared/{token}", live)


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
    request: Request, services: Services, row: Mapping[str, Any], number: int, base: str, live: bool
) -> Response:
    files = await read_files(services, row["id"])
    if live:
        pages = [found.page for found in await find_live(services, files)]
        if not pages:
            # The job has ended meanwhile, and its pages have other numbers.
            return go_to(request, base)
    else:
        pages = list(await find_pictures(services, files))
    if not 0 <= number < len(pages):
        raise not_found("page of this job")
    return render(
        request, "compare.html", job=row, base=base, number=number, page=pages[number], count=len(pages),
        mark="?live=true" if live else "",
    )  # fmt: skip


async def _read(
    request: Request, services: Services, row: Mapping[str, Any], base: str, page: int, mode: Mode, rtl: bool
) -> Response:
    pages = await find_pictures(services, await read_files(services, row["id"]))
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
    request: Request, services: Services, job_id: str, number: int, kind: Kind, live: bool
) -> Response:
    files = await read_files(services, job_id)
    found = (
        await find_live(services, files)
        if live
        else [_Found(page, files) for page in await find_pictures(services, files)]
    )
    shown = found[number] if 0 <= number < len(found) else None
    place = None if shown is None else shown.page.place(kind)
    row = None if shown is None or place is None else shown.files.row_of(place)
    if place is None or row is None:
        raise not_found("picture")
    headers = {**_HEADERS, "ETag": f'"{row["sha256"][:32]}-{place.offset}"'}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    pieces = services.files.read(row["storage_key"], place.offset, place.offset + place.length)
    content = await begin(pieces, "picture")
    headers["Content-Length"] = str(place.length)
    return StreamingResponse(content, headers=headers, media_type=place.media_type)


async def _read_list(services: Services, row: Mapping[str, Any] | None) -> tuple[PagePictures, ...]:
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
    # A list has up to tens of thousands of pages. The one that was just read stays in any case.
    while len(_lists) > 1 and sum(map(len, _lists.values())) > _PAGES_KEPT:
        _lists.popitem(last=False)
    return pages
