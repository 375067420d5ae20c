"""The first page: files are chosen, limits and the expected time are shown, and the upload goes to the interface."""

from __future__ import annotations

from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.engine import Connection

from comic_upscale.imaging.formats import ARCHIVE_EXTENSIONS, IMAGE_EXTENSIONS
from comic_upscale.server import queue
from comic_upscale.server.api import catalogue
from comic_upscale.server.api.access import Server
from comic_upscale.server.database.schema import users
from comic_upscale.server.estimates import seconds_per_byte, waiting_in
from comic_upscale.server.pages.access import CurrentViewer
from comic_upscale.server.pages.render import render, seconds_text
from comic_upscale.server.params import OPTION_FIELDS

router = APIRouter()

FACTORS = ("1.5", "2", "2.5", "3", "4")
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
        limits = (
            connection.execute(
                sa.select(users.c.bytes_per_day, users.c.pages_per_day, users.c.pixels_per_day).where(
                    users.c.id == user_id
                )
            ).mappings().one()
        )  # fmt: skip
        return {"maintenance": queue.in_maintenance(connection), "limits": dict(limits)}

    state = await services.database.read_async(read)
    free, settings = await services.monitor.free_percent(), services.settings
    presets = await catalogue.list_presets(services, viewer.account)
    models = await catalogue.list_models(services, viewer.account)
    return render(
        request, "upload.html", **state, chosen_model=model, chosen_factor=factor if factor in FACTORS else "2.5",
        factors=FACTORS, presets=presets["presets"], models=models["models"],
        formats=_choices("format"), grays=_choices("gray"), extensions=settings.accepted_types or EXTENSIONS,
        max_bytes=settings.max_upload_size, max_files=settings.max_files,
        is_full=free is not None and free < settings.min_free_disk,
        keep_hours=settings.anonymous_hours if viewer.account.is_anonymous else settings.retention_days * 24,
    )  # fmt: skip


@router.get("/upload/estimate")
async def show_estimate(
    request: Request,
    services: Server,
    viewer: CurrentViewer,
    size: Annotated[int, Query(alias="bytes", ge=0, le=1 << 50)],
) -> Response:
    """Estimate how long an upload of this size would take, from the jobs that this server has done."""

    def read(connection: Connection) -> tuple[float | None, tuple[int, int]]:
        # The form of this page sends no lane, so its jobs are batch jobs.
        return seconds_per_byte(connection), waiting_in(connection, "batch")

    rate, (waiting, jobs_waiting) = await services.database.read_async(read)
    return render(
        request, "estimate.html", own=None if rate is None else seconds_text(size * rate),
        before=None if rate is None else seconds_text(waiting * rate), jobs_waiting=jobs_waiting,
    )  # fmt: skip


def _choices(name: str) -> list[str]:
    return [str(choice) for option in OPTION_FIELDS if option.name == name for choice in option.choices]
