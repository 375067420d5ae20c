"""The first page: files are chosen, limits and the expected time are shown, and the upload goes to the interface."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from fastapi import Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy.engine import Connection

from comic_upscale.console.text import about_money, money
from comic_upscale.errors import PageError
from comic_upscale.imaging.formats import ARCHIVE_EXTENSIONS, IMAGE_EXTENSIONS
from comic_upscale.imaging.target_size import find_target
from comic_upscale.server import queue
from comic_upscale.server.api import catalogue
from comic_upscale.server.api.access import Server
from comic_upscale.server.api.routing import page_router
from comic_upscale.server.estimates import seconds_per_byte, seconds_per_byte_with, waiting_in
from comic_upscale.server.pages.access import CurrentViewer
from comic_upscale.server.pages.choices import FACTORS, devices_by_maker, in_families, in_menu, with_sizes
from comic_upscale.server.pages.render import about_seconds, render
from comic_upscale.server.params import OPTION_FIELDS, FieldError, processing_settings, read_params
from comic_upscale.server.quotas import quotas_of
from comic_upscale.server.words import as_sentence
from comic_upscale.settings.processing import ProcessingSettings

router = page_router()

IN_PARTS_FROM = 32 << 20
"""Bytes of all files of an upload from which on the page sends it in parts."""
_Side: TypeAlias = Annotated[int, Field(ge=1, le=1_000_000)]
EXTENSIONS = sorted(IMAGE_EXTENSIONS | ARCHIVE_EXTENSIONS)


@router.get("/")
async def show_upload(
    request: Request,
    services: Server,
    viewer: CurrentViewer,
    model: Annotated[str, Query(max_length=128)] = "",
    factor: Annotated[str, Query(max_length=16)] = "",
) -> Response:
    """Show the form for an upload, with the limits that it will meet."""
    user_id = viewer.account.user_id

    def read(connection: Connection) -> dict[str, Any]:
        quotas = quotas_of(connection, user_id)
        return {
            "maintenance": queue.in_maintenance(connection),
            "paused": queue.is_paused(connection),
            "quotas": quotas,
        }

    state = await services.database.read_async(read)
    free, settings = await services.monitor.free_percent(), services.settings
    presets = await catalogue.list_presets(services, viewer.account)
    models = in_families((await catalogue.list_models(services, viewer.account))["models"])
    return render(
        request, "upload.html", **state, chosen_model=in_menu(model, models),
        chosen_factor=factor if factor in FACTORS else "2.5", factors=FACTORS,
        presets=with_sizes(presets["presets"]), models=models, makers=devices_by_maker(),
        formats=_choices("format"), grays=_choices("gray"),
        extensions=settings.accepted_extensions or EXTENSIONS,
        max_bytes=settings.max_upload_size, max_files=settings.max_files,
        is_full=free is not None and free < settings.min_free_disk,
        own_types=bool(settings.accepted_types), max_pixels=ProcessingSettings().max_pixels,
        in_parts_from=IN_PARTS_FROM,
        keep_hours=settings.anonymous_hours if viewer.account.is_anonymous else settings.retention_days * 24,
    )  # fmt: skip


@router.get("/upload/estimate")
async def show_estimate(
    request: Request,
    services: Server,
    viewer: CurrentViewer,
    size: Annotated[int, Query(alias="bytes", ge=0, le=1 << 50)],
) -> Response:
    """Estimate how long an upload of this size would take, from the jobs that this server has done.

    The query also has the fields of the form. What is wrong with them is said elsewhere on the page.
    """
    fields = {name: value for name, value in request.query_params.items() if name != "bytes"}
    try:
        params = read_params(fields, services.live.offered)
    except FieldError:
        return Response()

    def read(connection: Connection) -> tuple[float | None, float | None, tuple[int, int]]:
        # The form of this page sends no lane, so its jobs are batch jobs.
        rates = seconds_per_byte_with(connection, params), seconds_per_byte(connection)
        return *rates, waiting_in(connection, "batch")

    price = services.settings.price
    rate, any_rate, (waiting, jobs_waiting) = await services.database.read_async(read)
    return render(
        request, "estimate.html", own=None if rate is None else about_seconds(size * rate),
        before=None if any_rate is None else about_seconds(waiting * any_rate), jobs_waiting=jobs_waiting,
        cost=about_money(size * rate * price / 3600) if rate is not None and price else None, price=money(price),
    )  # fmt: skip


class SizesRequest(BaseModel):
    """Pages whose sizes are asked for."""

    sizes: Annotated[list[tuple[_Side, _Side]], Field(max_length=300)]
    """Width and height in pixels."""
    fields: Annotated[dict[str, Annotated[str, Field(max_length=200)]], Field(max_length=50)]
    """Of the form."""


@router.post("/upload/sizes")
async def show_sizes(services: Server, viewer: CurrentViewer, asked: SizesRequest) -> JSONResponse:
    """Return how large pages become, or what is wrong with the options, before anything is sent.

    The answer has ``sizes`` in the order asked for, with null for a page that would have to grow too much, and
    ``error`` with the first reason.
    """
    try:
        processing = processing_settings(read_params(asked.fields, services.live.offered))
    except FieldError as error:
        return JSONResponse({"error": as_sentence(str(error)), "field": error.field})
    found: list[tuple[int, int] | None] = []
    reasons: list[str] = []
    for size in asked.sizes:
        try:
            found.append(find_target(*size, processing.size).size)
        except PageError as error:
            found.append(None)
            reasons.append(error.reason)
    return JSONResponse({"sizes": found, "error": reasons[0] if reasons else None})


def _choices(name: str) -> list[str]:
    return [str(choice) for option in OPTION_FIELDS if option.name == name for choice in option.choices]
