"""Watched folders of the library: the list, and what can be changed about them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import Form, Request, Response
from sqlalchemy.engine import Connection

from comic_upscale.errors import ComicUpscaleError
from comic_upscale.server import watches
from comic_upscale.server.api.access import Server
from comic_upscale.server.api.errors import ApiError, as_api_error
from comic_upscale.server.api.routing import page_router
from comic_upscale.server.api.watches import LONGEST_SETTLE, NewWatch, change_watch, watch_folder
from comic_upscale.server.database.schema import now_ms
from comic_upscale.server.pages.access import Person
from comic_upscale.server.pages.library import LibraryUser, PathField, Word, folder_page
from comic_upscale.server.pages.render import go_to, render, wants_part

router = page_router()

_NOTICES = {"pause": "watch-paused", "resume": "watch-resumed", "remove": "unwatched"}


@router.get("/library/watched")
async def show_watched(request: Request, services: Server, viewer: LibraryUser) -> Response:
    """List the watched folders of the person, or those of all users for an administrator."""
    owner_id = None if viewer.account.is_admin else viewer.account.user_id

    def read(connection: Connection) -> list[dict[str, Any]]:
        now = connection.scalar(sa.select(now_ms())) or 0
        return [_shown(row, now) for row in watches.list_all(connection, owner_id)]

    rows = await services.database.read_async(read)
    return render(request, "watched_list.html" if wants_part(request) else "watched.html", rows=rows)


@router.post("/library/watched")
async def begin_watch(
    request: Request,
    services: Server,
    viewer: LibraryUser,
    path: PathField,
    output: PathField = "",
    factor: Word = "",
    preset: Word = "",
    model: Word = "",
    settle: Annotated[float, Form(ge=0, le=LONGEST_SETTLE)] = 30.0,
) -> Response:
    """Watch a folder, with the options of a job over it."""
    given = {"factor": factor, "preset": preset, "model": model}
    options = {name: text for name, text in given.items() if text}
    asked = NewWatch(input=path, output=output.strip() or None, options=options, settle=settle)
    try:
        await watch_folder(services, viewer.account, asked)
    except (ApiError, ComicUpscaleError) as error:
        return await folder_page(
            request, services, viewer, path, error=as_api_error(error), form={**given, "output": output}
        )
    return go_to(request, "/library/watched", "watched")


@router.post("/library/watched/{watch_id}/{action}")
async def change(
    request: Request,
    services: Server,
    person: Person,
    watch_id: str,
    action: Literal["pause", "resume", "remove"],
) -> Response:
    """Pause, resume or remove a watched folder."""
    await change_watch(services, person.account, watch_id, action)
    return go_to(request, "/library/watched", _NOTICES[action])


def _shown(row: Any, now: int) -> dict[str, Any]:
    problem = watches.problem_of(row, now)
    return {**row, "problem": problem, "state": watches.state_of(row, problem)}
