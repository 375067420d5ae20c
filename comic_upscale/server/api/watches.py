"""Watched folders: what is new or changed below a root of the server is upscaled without anybody asking for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

import sqlalchemy as sa
from annotated_types import Ge, Le
from fastapi import Response
from pydantic import Field
from sqlalchemy.engine import Connection

from comic_upscale.errors import SettingsError
from comic_upscale.server import library, watches
from comic_upscale.server.accounts import Account
from comic_upscale.server.api.access import CurrentAccount, Server, WriterAccount, require
from comic_upscale.server.api.admin_jobs import FolderJob, find_places
from comic_upscale.server.api.errors import ApiError, documented, not_found
from comic_upscale.server.api.routing import api_router
from comic_upscale.server.database.schema import now_ms
from comic_upscale.server.params import FieldError, read_params
from comic_upscale.server.roots import check_links, is_folder
from comic_upscale.server.services import Services
from comic_upscale.settings.paths import MARKER_FOLDER
from comic_upscale.settings.places import is_address

router = api_router(prefix="/api/v1/watches", tags=["watched folders"])

LONGEST_SETTLE = 86_400


class NewWatch(FolderJob):
    """A folder of the server's machine to watch."""

    settle: Annotated[
        float,
        Ge(0),
        Le(LONGEST_SETTLE),
        Field(
            description="Seconds for which a file must not change before it is taken. Raise it for slow copies."
        ),
    ] = 30.0


@router.get("", summary="List watched folders", responses=documented(401, 403, 429))
async def list_watches(services: Server, account: CurrentAccount) -> dict[str, Any]:
    """Return your watched folders, and those of all users for an administrator."""
    require(account, "jobs:read")
    owner_id = None if account.is_admin else account.user_id

    def read(connection: Connection) -> list[dict[str, Any]]:
        now = connection.scalar(sa.select(now_ms())) or 0
        return [watches.watch_json(row, now) for row in watches.list_all(connection, owner_id)]

    return {"watches": await services.database.read_async(read)}


@router.post(
    "", status_code=201, summary="Watch a folder of the server", responses=documented(400, 401, 403, 404, 429)
)
async def create_watch(services: Server, account: WriterAccount, asked: NewWatch) -> dict[str, Any]:
    """Watch a folder: a job begins whenever a page or volume in it is new or changed. For users of the library."""
    require_library(services, account)
    return await watch_folder(services, account, asked)


@router.get("/{watch_id}", summary="Show a watched folder", responses=documented(401, 403, 404, 429))
async def show_watch(services: Server, account: CurrentAccount, watch_id: str) -> dict[str, Any]:
    """Return a watched folder with its state and its last job."""
    require(account, "jobs:read")

    def read(connection: Connection) -> dict[str, Any]:
        row = _own(connection, account, watch_id)
        return watches.watch_json(row, connection.scalar(sa.select(now_ms())) or 0)

    return await services.database.read_async(read)


@router.post("/{watch_id}/pause", summary="Pause a watched folder", responses=documented(401, 403, 404, 429))
async def pause_watch(services: Server, account: WriterAccount, watch_id: str) -> dict[str, Any]:
    """Begin no more jobs for a folder. A running one goes on."""
    await change_watch(services, account, watch_id, "pause")
    return await show_watch(services, account, watch_id)


@router.post(
    "/{watch_id}/resume", summary="Resume a watched folder", responses=documented(401, 403, 404, 429)
)
async def resume_watch(services: Server, account: WriterAccount, watch_id: str) -> dict[str, Any]:
    """Look at a folder again, also if its results are gone. What changed meanwhile is due."""
    await change_watch(services, account, watch_id, "resume")
    return await show_watch(services, account, watch_id)


@router.delete(
    "/{watch_id}", status_code=204, summary="Stop watching a folder", responses=documented(401, 403, 404, 429)
)
async def delete_watch(services: Server, account: WriterAccount, watch_id: str) -> Response:
    """Stop watching a folder. Its jobs and results stay."""
    await change_watch(services, account, watch_id, "remove")
    return Response(status_code=204)


def require_library(services: Services, account: Account) -> None:
    """Refuse a request of an account that may not use the library.

    Raises:
        ApiError: 403, the account may not; 404, the server has no library.
    """
    if not services.settings.root_folders:
        raise ApiError(404, "not_found", "This server has no library. It is started with --root DIR.")
    if not library.may_use(services.settings, account):
        raise ApiError(
            403,
            "forbidden",
            "The library is for administrators, and for users whom they name in the settings.",
        )


async def watch_folder(services: Services, account: Account, asked: NewWatch) -> dict[str, Any]:
    """Store a watched folder of a user of the library, and return it as JSON.

    Raises:
        FieldError: a path is not allowed, is watched already, or an option is wrong.
    """
    if is_address(asked.input) or is_address(asked.output or ""):
        raise FieldError("input", "a bucket cannot be watched: choose a folder of the server")
    params = read_params(asked.options, services.live.offered)
    source, output = await find_places(services, asked)
    if not await asyncio.to_thread(source.is_dir):
        raise FieldError("input", f"{source} is no folder: choose the folder that it is in")
    try:
        await asyncio.to_thread(check_links, services.settings.root_folders, source)
    except SettingsError as error:
        raise FieldError("input", str(error)) from None
    try:
        await asyncio.to_thread(is_folder, output / MARKER_FOLDER)
    except OSError as error:
        raise FieldError(
            "output", f"{output} cannot be used ({error.strerror}): choose another folder"
        ) from None
    new = watches.NewWatch(source=str(source), output=str(output), params=params, settle=asked.settle)

    def write(connection: Connection) -> dict[str, Any]:
        row = watches.create(connection, account, new)
        return watches.watch_json(row, row["created_at"])

    try:
        return await services.database.write_async(write)
    except SettingsError as error:
        raise FieldError("output", str(error)) from None


async def change_watch(services: Services, account: Account, watch_id: str, action: str) -> None:
    """Pause, resume or remove a watched folder. Who may no longer use the library may still end it.

    Raises:
        ApiError: 404, there is none; 403, the account may not.
    """

    def write(connection: Connection) -> None:
        _own(connection, account, watch_id)
        if action == "remove":
            watches.remove(connection, account, watch_id)
            return
        if action == "resume":
            require_library(services, account)
        watches.set_paused(connection, account, watch_id, paused=action == "pause")

    await services.database.write_async(write)


def _own(connection: Connection, account: Account, watch_id: str) -> Mapping[str, Any]:
    row = watches.find(connection, account, watch_id)
    if row is None:
        raise not_found("watched folder")
    return row
