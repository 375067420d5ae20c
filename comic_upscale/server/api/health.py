"""Health: for people, load balancers and monitors. Needs no key, and names nobody."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse, PlainTextResponse

from comic_upscale.errors import DatabaseError
from comic_upscale.server import queue
from comic_upscale.server.api.access import Server
from comic_upscale.server.api.routing import api_router
from comic_upscale.version import __version__

router = api_router(tags=["health"])


@router.get(
    "/api/v1/health", summary="Show the state of the server", responses={503: {"description": "down"}}
)
async def show_health(services: Server) -> JSONResponse:
    """Return ``ok``, ``degraded`` (the reasons are listed) or ``down``."""
    try:
        figures = await services.monitor.figures()
    except DatabaseError:
        return JSONResponse({"status": "down", "reasons": ["the database cannot be used"]}, 503)
    free = await services.monitor.free_percent()
    reasons: list[str] = []
    if free is not None and free < services.settings.min_free_disk:
        reasons.append("the disk is almost full, so uploads are refused")
    if figures["stalled"]:
        reasons.append("a worker stopped in the middle of a job; the job is claimed again")
    if figures["workers_silent"]:
        reasons.append("a worker gives no sign of life")
    reasons += services.problems()
    body: dict[str, Any] = {
        "status": "degraded" if reasons else "ok",
        "reasons": reasons,
        **figures,
        "free_disk_percent": None if free is None else round(free, 1),
        "version": __version__,
    }
    return JSONResponse(body)


@router.get("/metrics", summary="Figures for Prometheus", response_class=PlainTextResponse)
async def show_metrics(services: Server) -> PlainTextResponse:
    """Return the figures in the text format of Prometheus, at most a few seconds old."""
    return PlainTextResponse(
        await services.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8"
    )


@router.get("/livez", summary="Whether the process answers", response_class=PlainTextResponse)
async def live() -> str:
    """Return ``ok``."""
    return "ok"


@router.get(
    "/readyz", summary="Whether requests can be served", response_class=PlainTextResponse,
    responses={503: {"description": "not ready"}},
)  # fmt: skip
async def ready(services: Server) -> PlainTextResponse:
    """Return ``ok`` if the database answers."""
    try:
        await services.database.read_async(queue.is_paused)
    except DatabaseError:
        return PlainTextResponse("the database cannot be used", 503)
    return PlainTextResponse("ok")
