"""Trying models: the form for a page, and the result of each model side by side."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request, Response

from comic_upscale.imaging.formats import IMAGE_EXTENSIONS
from comic_upscale.server import queue
from comic_upscale.server.api import catalogue
from comic_upscale.server.api.access import Server
from comic_upscale.server.api.routing import page_router
from comic_upscale.server.api.uploads import is_accepted
from comic_upscale.server.pages.access import CurrentViewer
from comic_upscale.server.pages.choices import FACTORS, in_families, in_menu
from comic_upscale.server.pages.render import render
from comic_upscale.server.trials import FEWEST, MOST

router = page_router()


@router.get("/try")
async def show_try(
    request: Request,
    services: Server,
    viewer: CurrentViewer,
    models: Annotated[list[str] | None, Query(max_length=8)] = None,
    factor: Annotated[str, Query(max_length=16)] = "2",
) -> Response:
    """Show the form for a trial."""
    offered = in_families((await catalogue.list_models(services, viewer.account))["models"])
    chosen = (
        {each["name"] for each in offered[:2]}
        if models is None
        else {in_menu(name, offered) for name in models}
    )
    paused = await services.database.read_async(queue.is_paused)
    return render(
        request, "try.html", paused=paused, models=offered, chosen=chosen, factors=FACTORS, factor=factor,
        fewest=FEWEST, most=MOST, max_bytes=services.settings.max_upload_size,
        extensions=sorted(each for each in IMAGE_EXTENSIONS if is_accepted(services, f"page.{each}")),
    )  # fmt: skip
