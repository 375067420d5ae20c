"""OPDS 1.2 with page streaming: readers browse the finished volumes, download them, or read them page by page.

The server opens no archive. The worker that wrote a volume recorded where each page is in it (`worker/members.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Annotated, Any
from urllib.parse import urlencode
from xml.etree import ElementTree as ET

import sqlalchemy as sa
from fastapi import Depends, Query, Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse
from sqlalchemy.engine import Connection

from comic_upscale.server import jobs
from comic_upscale.server.accounts import Account
from comic_upscale.server.api.access import BASIC, CurrentAccount, Server, require, root_of
from comic_upscale.server.api.downloads import begin, link_to, media_type
from comic_upscale.server.api.errors import ApiError, documented, not_found
from comic_upscale.server.api.jobs import own_job, read_cursor, write_cursor
from comic_upscale.server.api.routing import api_router
from comic_upscale.server.database.schema import jobs as jobs_table
from comic_upscale.server.jobs import files_of, iso

PREFIX = "/opds/v1.2"
PER_PAGE = 50

ATOM = "http://www.w3.org/2005/Atom"
PSE = "http://vaemendis.net/opds-pse/ns"
_OPENSEARCH = "http://a9.com/-/spec/opensearch/1.1/"
_NAVIGATION = "application/atom+xml;profile=opds-catalog;kind=navigation"
_ACQUISITION = "application/atom+xml;profile=opds-catalog;kind=acquisition"
_CBZ = "application/vnd.comicbook+zip"
_IMAGES = frozenset(("png", "webp", "jpg", "jpeg", "avif", "jxl", "tif", "tiff"))


async def _check_reader(account: CurrentAccount) -> None:
    require(account, "jobs:read")
    if account.is_anonymous:
        # Readers ask for a name and a password when they get this.
        raise ApiError(
            401, "unauthorized", "Log in with any name, and an API key as the password.",
            headers={"WWW-Authenticate": BASIC},
        )  # fmt: skip


router = api_router(
    prefix=PREFIX,
    tags=["readers"],
    dependencies=[Depends(_check_reader)],
    responses=documented(401, 403, 429),
)
_FEED: dict[int | str, dict[str, Any]] = {
    200: {"description": "An Atom feed.", "content": {"application/atom+xml": {"schema": {"type": "string"}}}}
}
_SEARCH: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/opensearchdescription+xml": {"schema": {"type": "string"}}}}
}


@router.get("", summary="The catalogue of a reader", response_class=Response, responses=_FEED)
async def show_root(request: Request) -> Response:
    """Return the first page of the catalogue."""
    feed = _Feed("comic-upscale", "urn:comic-upscale:root", PREFIX, _NAVIGATION, root_of(request))
    entry = feed.entry("Volumes", "urn:comic-upscale:volumes", None)
    feed.link(entry, "subsection", f"{PREFIX}/volumes", _ACQUISITION)
    _text(entry, "content", "Finished volumes, the latest first", type="text")
    return feed.response()


@router.get("/search", summary="How a reader searches", response_class=Response, responses=_SEARCH)
async def describe_search(request: Request) -> Response:
    """Return the OpenSearch description."""
    root = ET.Element("OpenSearchDescription", xmlns=_OPENSEARCH)
    _text(root, "ShortName", "comic-upscale")
    _text(root, "Description", "Finished volumes by name")
    url = {"type": _ACQUISITION, "template": f"{root_of(request)}{PREFIX}/volumes?q={{searchTerms}}"}
    ET.SubElement(root, "Url", url)
    return _xml(root, "application/opensearchdescription+xml")


@router.get(
    "/volumes", summary="Finished volumes", response_class=Response, responses={**_FEED, **documented(400)}
)
async def list_volumes(
    request: Request,
    services: Server,
    account: CurrentAccount,
    q: Annotated[str | None, Query(max_length=200)] = None,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    """Return the volumes of your finished jobs, the latest first, and the link to the next page."""
    before = read_cursor(cursor)

    def read(connection: Connection) -> list[tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]]:
        rows = _finished(connection, account, q, before)
        return [(row, files_of(connection, "result", job_id=row["id"])) for row in rows]

    found = await services.database.read_async(read)
    own = f"{PREFIX}/volumes" + (f"?{urlencode({'q': q})}" if q else "")
    feed = _Feed("Volumes", "urn:comic-upscale:volumes", own, _ACQUISITION, root_of(request))
    for row, results in found:
        _add_entries(feed, row, results)
    if len(found) == PER_PAGE:
        last = found[-1][0]
        more = {"cursor": write_cursor(last["created_at"], last["id"]), **({"q": q} if q else {})}
        feed.link(feed.root, "next", f"{PREFIX}/volumes?{urlencode(more)}", _ACQUISITION)
    return feed.response()


@router.get(
    "/files/{file_id}/download", summary="Download a volume", status_code=307, responses=documented(404)
)
async def download_volume(services: Server, account: CurrentAccount, file_id: str) -> RedirectResponse:
    """Redirect to a signed link."""
    row, job = await _own_file(services, account, file_id)
    return link_to(services, [row], purpose="results", object_id=job["id"], title=row["name"])


@router.get(
    "/files/{file_id}/pages/{page}",
    summary="A page of a volume",
    response_class=Response,
    responses={
        200: {
            "description": "The page.",
            "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
        },
        **documented(404),
    },
)
async def send_page(
    services: Server,
    account: CurrentAccount,
    file_id: str,
    page: int,
    width: Annotated[
        int | None, Query(ge=1, le=100_000, description="Has no effect: pages are sent as they are.")
    ] = None,
) -> Response:
    """Send one page of a volume, counted from 0."""
    row, _ = await _own_file(services, account, file_id)
    members = row["members"] or ()
    if not 0 <= page < len(members):
        raise not_found("page")
    name, start, size = members[page]
    content = services.files.read(row["storage_key"], start, start + size)
    return await _image(content, name, size, row["sha256"], page)


@router.get(
    "/jobs/{job_id}/pages/{page}",
    summary="A page of several",
    response_class=Response,
    responses={
        200: {
            "description": "The page.",
            "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
        },
        **documented(404),
    },
)
async def send_loose_page(
    services: Server,
    account: CurrentAccount,
    job_id: str,
    page: int,
    width: Annotated[
        int | None, Query(ge=1, le=100_000, description="Has no effect: pages are sent as they are.")
    ] = None,
) -> Response:
    """Send one of the images of a job, counted from 0."""
    job = await own_job(services, account, job_id)
    results = await services.database.read_async(
        lambda connection: files_of(connection, "result", job_id=job["id"])
    )
    images = _images(results)
    if not 0 <= page < len(images):
        raise not_found("page")
    row = images[page]
    content = services.files.read(row["storage_key"], 0, row["size"])
    return await _image(content, row["name"], row["size"], row["sha256"], 0)


async def _image(content: Iterator[bytes], name: str, size: int, sha256: str, page: int) -> Response:
    headers = {
        "Content-Length": str(size), "ETag": f'"{sha256}-{page}"', "Cache-Control": "private, max-age=86400",
        "X-Content-Type-Options": "nosniff",
    }  # fmt: skip
    return StreamingResponse(await begin(content, "page"), 200, headers, media_type(PurePosixPath(name).name))


async def _own_file(
    services: Server, account: Account, file_id: str
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    def read(connection: Connection) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
        row = jobs.find_file(connection, file_id)
        if row is None or row["job_id"] is None:
            return None
        job = jobs.find_job(connection, account, row["job_id"])
        return None if job is None else (row, job)

    found = await services.database.read_async(read)
    if found is None:
        raise not_found("file")
    return found


def _finished(
    connection: Connection, account: Account, query: str | None, before: tuple[int, str] | None
) -> list[Mapping[str, Any]]:
    wanted: list[sa.ColumnElement[bool]] = [
        jobs_table.c.owner_id == account.user_id,
        jobs_table.c.status == "completed",
        jobs_table.c.input.is_(None),
    ]
    if query:
        wanted.append(jobs_table.c.title.icontains(query, autoescape=True))
    if before is not None:
        wanted.append(sa.tuple_(jobs_table.c.created_at, jobs_table.c.id) < sa.tuple_(*before))
    rows = connection.execute(
        sa.select(jobs_table)
        .where(*wanted)
        .order_by(jobs_table.c.created_at.desc(), jobs_table.c.id.desc())
        .limit(PER_PAGE)
    )
    return [dict(row) for row in rows.mappings()]


def _add_entries(feed: _Feed, job: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
    """Add a volume for each CBZ of a job, and one for its images if there are several."""
    for row in results:
        if not row["name"].lower().endswith(".cbz"):
            continue
        title = PurePosixPath(row["name"]).stem
        entry = feed.entry(title, f"urn:uuid:{row['id']}", job["finished_at"])
        base = f"{PREFIX}/files/{row['id']}"
        feed.acquisition(entry, f"{base}/download", _CBZ, row["size"])
        members = row["members"] or ()
        if members:
            feed.pages(entry, base, [name for name, _, _ in members])
    images = _images(results)
    if len(images) > 1:
        entry = feed.entry(job["title"], f"urn:uuid:{job['id']}", job["finished_at"])
        feed.acquisition(entry, f"/api/v1/jobs/{job['id']}/result?format=cbz", _CBZ, None)
        feed.pages(entry, f"{PREFIX}/jobs/{job['id']}", [row["name"] for row in images])


def _images(results: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in results if PurePosixPath(row["name"]).suffix.lower().removeprefix(".") in _IMAGES]


class _Feed:
    """An Atom feed.

    Args:
        title: of the feed.
        id: of the feed.
        own: the address of the feed, below the root of the server.
        kind: its media type.
        base: the path under which a proxy shows the server. Readers get every address with it.
    """

    def __init__(self, title: str, id: str, own: str, kind: str, base: str) -> None:
        self.root = ET.Element("feed", {"xmlns": ATOM, "xmlns:pse": PSE})
        self._kind, self._base = kind, base
        self._latest = 0
        _text(self.root, "id", id)
        _text(self.root, "title", title)
        self._updated = _text(self.root, "updated", "")
        author = ET.SubElement(self.root, "author")
        _text(author, "name", "comic-upscale")
        self.link(self.root, "self", own, kind)
        self.link(self.root, "start", PREFIX, _NAVIGATION)
        self.link(self.root, "search", f"{PREFIX}/search", "application/opensearchdescription+xml")

    def entry(self, title: str, id: str, updated: int | None) -> ET.Element:
        """Append an entry."""
        self._latest = max(self._latest, updated or 0)
        entry = ET.SubElement(self.root, "entry")
        _text(entry, "title", title)
        _text(entry, "id", id)
        _text(entry, "updated", iso(updated or 0) or "")
        return entry

    def link(self, parent: ET.Element, rel: str, href: str, type: str, **more: str) -> None:
        """Append a link to an address below the root of the server."""
        ET.SubElement(parent, "link", {"rel": rel, "href": f"{self._base}{href}", "type": type, **more})

    def acquisition(self, entry: ET.Element, href: str, type: str, size: int | None) -> None:
        """Append the link of a download."""
        length = {} if size is None else {"length": str(size)}
        self.link(entry, "http://opds-spec.org/acquisition", href, type, **length)

    def pages(self, entry: ET.Element, base: str, names: Sequence[str]) -> None:
        """Append the links of a volume that is read page by page."""
        kind = media_type(PurePosixPath(names[0]).name)
        for rel in ("http://opds-spec.org/image", "http://opds-spec.org/image/thumbnail"):
            self.link(entry, rel, f"{base}/pages/0", kind)
        href = f"{base}/pages/{{pageNumber}}?width={{maxWidth}}"
        self.link(entry, "http://vaemendis.net/opds-pse/stream", href, kind, **{"pse:count": str(len(names))})

    def response(self) -> Response:
        """Return the feed."""
        self._updated.text = iso(self._latest) or ""
        return _xml(self.root, self._kind)


def _text(parent: ET.Element, name: str, text: str, **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, name, attributes)
    # XML has no control characters, not even escaped ones.
    element.text = "".join(char for char in text if char >= " " and char not in "\ufffe\uffff")
    return element


def _xml(root: ET.Element, kind: str) -> Response:
    content = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return Response(content, media_type=f"{kind};charset=utf-8")
