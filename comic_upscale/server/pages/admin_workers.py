"""Administration of workers: what each one does and uses, and draining."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import sqlalchemy as sa
from fastapi import Request, Response
from sqlalchemy.engine import Connection

from comic_upscale.server import workers
from comic_upscale.server.api import admin_workers
from comic_upscale.server.api.access import Server
from comic_upscale.server.api.routing import page_router
from comic_upscale.server.database.schema import jobs
from comic_upscale.server.pages.access import Admin
from comic_upscale.server.pages.render import go_to, render, wants_part

router = page_router(prefix="/admin/workers")


@router.get("")
async def show_workers(request: Request, services: Server, admin: Admin) -> Response:
    """List the workers of the last days."""

    def read(connection: Connection) -> tuple[list[Mapping[str, Any]], dict[str, str]]:
        rows = workers.list_workers(connection)
        job_ids = [row["job_id"] for row in rows if row["job_id"]]
        found = connection.execute(sa.select(jobs.c.id, jobs.c.title).where(jobs.c.id.in_(job_ids)))
        return rows, {job_id: title or job_id for job_id, title in found}

    rows, titles = await services.database.read_async(read)
    return render(
        request, "workers_part.html" if wants_part(request) else "workers.html", workers=rows, titles=titles,
        changeable=changeable(rows), problems=services.problems(),
    )  # fmt: skip


@router.post("/{worker_id}/{action}")
async def change_worker(
    request: Request, services: Server, admin: Admin, worker_id: str, action: Literal["drain", "undrain"]
) -> Response:
    """Drain a worker, or let it start again."""
    await admin_workers.change_worker(services, admin.account, worker_id, action)
    return go_to(request, "/admin/workers", "drained" if action == "drain" else "undrained")


def changeable(rows: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the ids of the workers that can be drained or started again.

    These are the running ones, and the last one of each server: it stands for the next one.

    Args:
        rows: of workers, running and drained ones first, then the last ones first.
    """
    found, homes = set(), set()
    for row in rows:
        if row["ended_at"] is None or (row["home"] is not None and row["home"] not in homes):
            found.add(row["id"])
        homes.add(row["home"])
    return found
