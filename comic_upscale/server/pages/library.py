"""The library: folders of the server's machine, jobs over them, and their reports."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Depends, Form, Query, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy.engine import Connection

from comic_upscale.errors import ComicUpscaleError, SettingsError
from comic_upscale.server import jobs, library, watches
from comic_upscale.server.api import catalogue
from comic_upscale.server.api import jobs as jobs_api
from comic_upscale.server.api.access import Server
from comic_upscale.server.api.admin_jobs import FolderJob, queue_folder_job
from comic_upscale.server.api.downloads import begin
from comic_upscale.server.api.errors import ApiError, as_api_error, not_found
from comic_upscale.server.api.routing import page_router
from comic_upscale.server.api.uploads import check_open
from comic_upscale.server.api.watches import require_library
from comic_upscale.server.pages.access import CurrentViewer, Person, Viewer
from comic_upscale.server.pages.choices import FACTORS, in_families, with_sizes
from comic_upscale.server.pages.render import go_to, render
from comic_upscale.server.quotas import check_quotas
from comic_upscale.server.roots import find_below
from comic_upscale.server.services import Services
from comic_upscale.server.words import as_sentence

router = page_router()

PathText = Annotated[str, Query(max_length=4000)]
PathField = Annotated[str, Form(max_length=4000)]
Word = Annotated[str, Form(max_length=128)]
_SCRIPT = re.compile(r"[A-Za-z0-9+/]{43}=")


async def library_user(services: Server, person: Person) -> Viewer:
    """Return a person who may use the library.

    Raises:
        ApiError: 403, the person may not; 404, the server has no library.
    """
    require_library(services, person.account)
    return person


LibraryUser = Annotated[Viewer, Depends(library_user)]


@router.get("/library")
async def show_folder(
    request: Request,
    services: Server,
    viewer: LibraryUser,
    path: PathText = "",
    page: Annotated[int, Query(ge=1, le=10_000)] = 1,
) -> Response:
    """Show one level of a folder of the server's machine, with the jobs over what is in it."""
    return await folder_page(request, services, viewer, path, page)


async def folder_page(
    request: Request,
    services: Services,
    viewer: Viewer,
    path: str,
    page: int = 1,
    *,
    error: ApiError | None = None,
    form: Mapping[str, str] | None = None,
) -> Response:
    """Return the page of a folder.

    Args:
        request: that is answered.
        services: of the server.
        viewer: who looks at it.
        path: of the folder; empty for the first root.
        page: of its entries, from 1.
        error: why what a form asked for was not done.
        form: what was typed in it.

    Raises:
        ApiError: 404, there is no such folder; or the error that could not be shown on its page.
    """
    roots = services.settings.root_folders
    try:
        shown = await asyncio.to_thread(library.list_folder, roots, path, page)
    except SettingsError as problem:
        raise error or ApiError(404, "not_found", as_sentence(str(problem))) from None
    paths = [shown.path, *(entry.path for entry in shown.entries)]
    latest, watched = await services.database.read_async(
        lambda connection: (
            library.latest_jobs(connection, paths),
            watches.paths_watched(connection, paths),
        )
    )
    models = in_families((await catalogue.list_models(services, viewer.account))["models"])
    presets = (await catalogue.list_presets(services, viewer.account))["presets"]
    return render(
        request, "library.html", shown=shown, latest=latest, watched=watched,
        roots=[str(root.resolve()) for root in roots], page=page,
        pages=max(-(-shown.total // library.ON_A_PAGE), 1), factors=FACTORS, models=models,
        presets=with_sizes(presets), form=form or {},
        error=None if error is None else error.message, status=200 if error is None else error.status,
        headers=None if error is None else error.headers,
    )  # fmt: skip


@router.post("/library")
async def begin_job(
    request: Request,
    services: Server,
    viewer: LibraryUser,
    path: PathField,
    factor: Word = "",
    preset: Word = "",
    model: Word = "",
    output: PathField = "",
    folder: PathField = "",
) -> Response:
    """Queue a job over a folder, a volume or an image, or continue the earlier one there.

    The limits of uploads count for users here, too. The folder is the one whose page has the form.
    """
    account = viewer.account
    given = {"factor": factor, "preset": preset, "model": model}
    options = {name: text for name, text in given.items() if text}
    try:
        if not account.is_admin:
            await check_open(services, account)
            await services.database.write_async(lambda connection: check_quotas(connection, account, 0))
        # Relative paths would count from the first root; the form sends real ones.
        source = await asyncio.to_thread(find_below, services.settings.root_folders, path)
        asked = FolderJob(input=str(source), output=output.strip() or None, options=options)
        created = await queue_folder_job(services, account, asked, "batch")
    except (ApiError, ComicUpscaleError) as error:
        return await folder_page(
            request,
            services,
            viewer,
            folder or path,
            error=as_api_error(error),
            form={**given, "output": output},
        )
    return go_to(request, f"/jobs/{created['job_id']}", "queued")


@router.get("/jobs/{job_id}/report")
async def show_report(services: Server, viewer: CurrentViewer, job_id: str) -> Response:
    """Send the report of a job over a folder, as its worker made it."""
    row = await jobs_api.own_job(services, viewer.account, job_id)

    def read(connection: Connection) -> Any:
        return jobs.files_of(connection, "report", job_id=row["id"])

    found = await services.database.read_async(read)
    if not found:
        raise not_found("report of this job")
    (report,) = found
    # A worker read files of strangers to make it: it runs no script but its own, and is no page of this server.
    script = f"'sha256-{report['name']}'" if _SCRIPT.fullmatch(report["name"]) else "'none'"
    headers = {
        "Content-Security-Policy": "sandbox allow-scripts; default-src 'none'; img-src data:; "
        f"style-src 'unsafe-inline'; script-src {script}",
        "X-Content-Type-Options": "nosniff",
        "Content-Length": str(report["size"]),
    }
    pieces = services.files.read(report["storage_key"], 0, report["size"])
    return StreamingResponse(
        await begin(pieces, "report"), headers=headers, media_type="text/html; charset=utf-8"
    )
