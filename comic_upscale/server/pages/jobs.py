"""The list of jobs, and the page of one: its progress, its pages, its failures, and what can be done with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, get_args
from urllib.parse import urlencode

from fastapi import Form, Query, Request, Response
from sqlalchemy.engine import Connection

from comic_upscale.server import accounts, jobs, pictures, queue
from comic_upscale.server.api import catalogue, job_actions
from comic_upscale.server.api import jobs as jobs_api
from comic_upscale.server.api.access import Server
from comic_upscale.server.api.routing import page_router
from comic_upscale.server.database.schema import NOW
from comic_upscale.server.estimates import seconds_until_done
from comic_upscale.server.jobs import Status, job_json
from comic_upscale.server.pages.access import CurrentViewer, Person, Viewer
from comic_upscale.server.pages.choices import in_families
from comic_upscale.server.pages.render import go_to, render, wants_part
from comic_upscale.server.pages.viewing import find_live, find_pictures, read_files, shared_job
from comic_upscale.server.pictures import PagePictures
from comic_upscale.server.search import find_jobs, with_pictures
from comic_upscale.server.services import Services
from comic_upscale.server.trials import models_of

router = page_router()

STATUSES: tuple[Status, ...] = get_args(Status)
ON_A_PAGE = 50
SHOWN_AT_ONCE = 120
"""Pages of a job on one page of the list of its pictures."""

Filter = Annotated[Status | None, Query()]
Text = Annotated[str, Query(max_length=128)]
Cursor = Annotated[str | None, Query(max_length=200)]
Number = Annotated[int, Query(ge=0, le=100_000)]
Part = Annotated[int, Query(ge=1, le=10_000)]


@router.get("/jobs")
async def show_jobs(
    request: Request,
    services: Server,
    person: Person,
    status: Filter = None,
    q: Text = "",
    cursor: Cursor = None,
) -> Response:
    """List the jobs of the person who has signed in."""
    return await job_list(request, services, person, status=status, text=q, cursor=cursor, everyone=False)


async def job_list(
    request: Request,
    services: Services,
    viewer: Viewer,
    *,
    status: Status | None,
    text: str,
    cursor: str | None,
    everyone: bool,
    owner: str = "",
) -> Response:
    """Return a page of a list of jobs: the whole page, or its list alone where a script asks for that."""
    user = owner.strip()
    before = jobs_api.read_cursor(cursor)
    wanted = text.strip()

    def read(connection: Connection) -> dict[str, Any]:
        owner_id = None if everyone else viewer.account.user_id
        if everyone and user:
            found_user = accounts.find_user(connection, user)
            if found_user is None:
                return {
                    "rows": [],
                    "shown": set(),
                    "following": None,
                    "searched_to": None,
                    "is_unknown": True,
                }
            owner_id = found_user["id"]
        found = find_jobs(
            connection, owner_id=owner_id, status=status, text=wanted, before=before, limit=ON_A_PAGE
        )
        return {
            "rows": found.rows,
            "shown": with_pictures(connection, [row["id"] for row in found.rows]),
            "following": None if found.following is None else jobs_api.write_cursor(*found.following),
            "searched_to": found.searched_to,
            "is_unknown": False,
        }

    listed = await services.database.read_async(read)
    path = "/admin/jobs" if everyone else "/jobs"

    def address(**changes: str | None) -> str:
        query = {"status": status, "owner": user, "q": wanted, **changes}
        kept = {name: value for name, value in query.items() if value}
        return f"{path}?{urlencode(kept)}" if kept else path

    template = "jobs_list.html" if wants_part(request) else "jobs.html"
    return render(
        request, template, **listed, path=path, address=address, chosen=status, text=wanted, owner=user, cursor=cursor,
        everyone=everyone, statuses=STATUSES,
    )  # fmt: skip


@router.get("/jobs/{job_id}")
async def show_job(
    request: Request, services: Server, viewer: CurrentViewer, job_id: str, part: Part = 1
) -> Response:
    """Show a job."""
    row = await jobs_api.own_job(services, viewer.account, job_id)
    return await job_page(request, services, row, part=part, base=f"/jobs/{job_id}")


@router.get("/shared/{token}")
async def show_shared(request: Request, services: Server, token: str, part: Part = 1) -> Response:
    """Show a job to somebody who has a link to it."""
    row = await shared_job(services, token)
    return await job_page(request, services, row, part=part, base=f"/shared/{token}", is_shared=True)


async def job_page(
    request: Request,
    services: Services,
    row: Mapping[str, Any],
    *,
    part: int,
    base: str,
    is_shared: bool = False,
) -> Response:
    """Return the page of a job.

    Args:
        request: that is answered.
        services: of the server.
        row: of the job.
        part: of the pictures, from 1.
        base: the address of the job, for pictures.
        is_shared: whether the viewer has no account, but a link: then nothing can be changed.
    """
    state = await services.database.read_async(lambda connection: _state(connection, row))
    files = await read_files(services, row["id"])
    live = [found.page for found in await find_live(services, files)]
    pages = live or await find_pictures(services, files)
    shown = suspects_first(pages, newest_first=bool(live))
    first = (part - 1) * SHOWN_AT_ONCE
    models = (
        []
        if is_shared
        else in_families((await catalogue.list_models(services, request.state.viewer.account))["models"])
    )
    template = "job_state.html" if wants_part(request) else "trial.html" if models_of(row) else "job.html"
    if models_of(row):
        shown = list(enumerate(pages))
    # The address of the page stays while the job goes on, so it may say what is over.
    is_over = request.query_params.get("notice") == "queued" and row["status"] != "queued"
    over: dict[str, Any] = {"notice": None} if is_over else {}
    return render(
        request, template, **state, **over, base=base, factor=_factor(row),
        is_shared=is_shared, pages=shown[first : first + SHOWN_AT_ONCE], page_count=len(pages), part=part,
        parts=-(-len(pages) // SHOWN_AT_ONCE), suspects=sum(page.suspect is not None for page in pages),
        models=models, mark="?live=true" if live else "",
    )  # fmt: skip


@router.get("/jobs/{job_id}/new")
async def show_new_pages(
    request: Request, services: Server, viewer: CurrentViewer, job_id: str, after: Number = 0
) -> Response:
    """Show the pages of a running job that came after some number of them, for the script of its page."""
    row = await jobs_api.own_job(services, viewer.account, job_id)
    found = await find_live(services, await read_files(services, row["id"]))
    pages = [each.page for each in found]
    if len(pages) <= after:
        return Response(status_code=204)
    shown = list(enumerate(pages))[after : after + SHOWN_AT_ONCE]
    return render(
        request, "new_panes.html" if models_of(row) else "new_pages.html", base=f"/jobs/{job_id}",
        pages=shown, mark="?live=true", factor=_factor(row),
    )  # fmt: skip


@router.post("/jobs/{job_id}/cancel")
async def cancel_job(request: Request, services: Server, viewer: CurrentViewer, job_id: str) -> Response:
    """Cancel a job."""
    await jobs_api.cancel_job(services, viewer.account, job_id)
    return go_to(request, f"/jobs/{job_id}", "canceled")


@router.post("/jobs/{job_id}/delete")
async def delete_job(request: Request, services: Server, viewer: CurrentViewer, job_id: str) -> Response:
    """Delete a job with its files."""
    await jobs_api.delete_job(services, viewer.account, job_id)
    return go_to(request, "/jobs" if viewer.is_person else "/", "deleted")


@router.post("/jobs/{job_id}/again")
async def run_again(
    request: Request,
    services: Server,
    viewer: CurrentViewer,
    job_id: str,
    model: Annotated[str, Form(max_length=128)] = "",
    factor: Annotated[str, Form(max_length=16)] = "",
) -> Response:
    """Queue a job that has ended as a new job over the same files, and go there.

    The limits of uploads count for users and visitors here, too.
    """
    new = await job_actions.queue_again(services, viewer.account, job_id, {"model": model, "factor": factor})
    return go_to(request, f"/jobs/{new['job_id']}", "queued")


@router.post("/jobs/{job_id}/share")
async def share_job(request: Request, services: Server, person: Person, job_id: str) -> Response:
    """Show a link that lets somebody without an account look at a job for some days."""
    row = await jobs_api.own_job(services, person.account, job_id)
    shared = await job_actions.share_job(services, person.account, job_id)
    return render(request, "share.html", job=row, path=shared.path)


def _factor(row: Mapping[str, Any]) -> str:
    """Return the factor of a job for a form; empty if its size is given in another way."""
    kind, _, text = str(row["params"].get("size") or "").partition(" ")
    return text if kind == "scale" else ""


def suspects_first(
    pages: Sequence[PagePictures], *, newest_first: bool = False
) -> list[tuple[int, PagePictures]]:
    """Return pages with their numbers, those that the quality gate suspects first.

    Args:
        pages: in the order of their numbers.
        newest_first: whether the others begin with the last one, as the page of a running job shows them.
    """
    suspects = [each for each in enumerate(pages) if each[1].suspect is not None]
    others = [each for each in enumerate(pages) if each[1].suspect is None]
    return suspects + (others[::-1] if newest_first else others)


def _next_attempt(connection: Connection, row: Mapping[str, Any]) -> float | None:
    """Return the seconds until a job that failed is tried again; None for any other job."""
    if row["status"] != "queued" or row["error"] is None:
        return None
    now = connection.scalar(NOW) or 0
    return float(max(row["not_before"] - now, 0) / 1000)


def _state(connection: Connection, row: Mapping[str, Any]) -> dict[str, Any]:
    originals = jobs.files_of(connection, "original", upload_id=row["upload_id"]) if row["upload_id"] else []
    results = jobs.files_of(connection, "result", job_id=row["id"])
    found = pictures.files_of_job(connection, row["id"])
    # No time can be told while the queue is paused.
    is_paused = row["status"] == "queued" and queue.is_paused(connection)
    waits = row["status"] in ("queued", "running") and not is_paused
    return {
        "job": dict(row),
        "next_attempt": _next_attempt(connection, row),
        "shown": job_json(connection, row),
        "originals": originals,
        "results": results,
        "has_report": bool(jobs.files_of(connection, "report", job_id=row["id"])),
        "has_pictures": found.list is not None,
        "is_paused": is_paused,
        "wait": seconds_until_done(connection, row) if waits else None,
    }
