"""Administration of workers: what each one does and uses, and draining."""

from __future__ import annotations

from typing import Any, Literal

from sqlalchemy.engine import Connection

from comic_upscale.server import audit, workers
from comic_upscale.server.api.access import AdminAccount, Server
from comic_upscale.server.api.errors import ApiError, documented, not_found
from comic_upscale.server.api.routing import api_router
from comic_upscale.server.jobs import iso

router = api_router(
    prefix="/api/v1/admin/workers", tags=["administration"], responses=documented(401, 403, 429)
)

_TIMES = ("started_at", "last_seen_at", "last_page_at", "ended_at", "drained_at")


@router.get("", summary="List workers")
async def list_workers(services: Server, admin: AdminAccount) -> dict[str, Any]:
    """Return the workers of the last days, running and drained ones first.

    ``memory`` has bytes, and ``cores`` the processor cores that the worker kept busy during the last seconds.
    ``is_own`` says whether a server starts the worker by itself.
    """
    rows = await services.database.read_async(workers.list_workers)
    return {
        "workers": [
            {
                **{name: value for name, value in row.items() if name != "home"},
                **{name: iso(row[name]) for name in _TIMES},
                "is_own": row["home"] is not None,
            }
            for row in rows
        ]
    }


@router.post(
    "/{worker_id}/{action}",
    status_code=204,
    summary="Drain a worker, or let it start again",
    responses=documented(400, 404, 409),
)
async def change_worker(
    services: Server, admin: AdminAccount, worker_id: str, action: Literal["drain", "undrain"]
) -> None:
    """``drain``: the worker takes no new job, and ends after those that it runs.

    A server starts its own worker again only after ``undrain``.
    """
    change = workers.drain if action == "drain" else workers.undrain

    def write(connection: Connection) -> None:
        if not change(connection, worker_id):
            raise not_found("worker")
        audit.record(connection, admin, f"worker.{action}", worker_id)

    try:
        await services.database.write_async(write)
    except workers.WorkerEndedError:
        raise ApiError(
            409,
            "ended",
            "This worker has ended, and the server does not start it: there is nothing to drain.",
        ) from None
    services.wake()
