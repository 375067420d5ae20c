"""Jobs over folders of the server's own machine: the same jobs as those of ``comic-upscale run``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field
from sqlalchemy.engine import Connection

from comic_upscale.errors import SettingsError
from comic_upscale.server import audit, jobs
from comic_upscale.server.accounts import Account
from comic_upscale.server.api.access import AdminAccount, Server
from comic_upscale.server.api.errors import documented
from comic_upscale.server.api.routing import api_router
from comic_upscale.server.buckets import find_in_bucket
from comic_upscale.server.buckets import output_in_place as bucket_output
from comic_upscale.server.params import FieldError, read_params
from comic_upscale.server.queue import Lane
from comic_upscale.server.roots import check_output, find_below, output_in_place
from comic_upscale.server.services import Services
from comic_upscale.settings.places import is_address

router = api_router(prefix="/api/v1/admin", tags=["administration"], responses=documented(400, 401, 403, 429))

PathText = Annotated[str, Field(min_length=1, max_length=4000)]


class FolderJob(BaseModel):
    """A job over a folder of the server's machine."""

    input: Annotated[
        PathText,
        Field(
            description="A folder, volume or image below a --root of the server: its path, the path relative to the "
            "first root, or an address such as s3://bucket/prefix.",
            examples=["manga/Berserk"],
        ),
    ]
    output: Annotated[
        PathText | None,
        Field(
            description="Output folder below a --root, or an address. Default: the folder upscaled inside the input."
        ),
    ] = None
    options: Annotated[
        dict[str, str], Field(max_length=50, description="Fields of an upload.", examples=[{"factor": "2x"}])
    ] = {}


@router.post("/jobs", status_code=202, summary="Upscale a folder of the server")
async def create_folder_job(services: Server, admin: AdminAccount, asked: FolderJob) -> dict[str, Any]:
    """Queue a job over a folder. Its ledger is in the output folder, so a second job continues the first one.

    Links are followed, but none may lead out of the allowed folders.
    """
    return await queue_folder_job(services, admin, asked, "batch")


async def queue_folder_job(
    services: Services, admin: Account, asked: FolderJob, lane: Lane
) -> dict[str, Any]:
    """Queue a job over a folder or file, and return it as JSON.

    Raises:
        FieldError: a path is not allowed, or an option is wrong.
    """
    if is_address(asked.input):
        return await _queue_bucket_job(services, admin, asked, lane)
    params = read_params(asked.options, services.live.offered)
    source, output = await find_places(services, asked)
    return await _store(services, admin, str(source), str(output), params, lane)


async def find_places(services: Services, asked: FolderJob) -> tuple[Path, Path]:
    """Return the real paths of the input and the output of a job over a folder or file of this machine.

    Raises:
        FieldError: a path is not allowed.
    """
    if is_address(asked.output or ""):
        raise FieldError(
            "output", "the results of a folder go into a folder: give its path, or leave the output out"
        )
    source = await _find(services, "input", asked.input, must_exist=True)
    output = (
        await asyncio.to_thread(output_in_place, source)
        if asked.output is None
        else await _find(services, "output", asked.output, must_exist=False)
    )
    await _check_output(output)
    if output == source or source.is_relative_to(output):
        raise FieldError("output", "the output folder must not contain the input: choose another one")
    roots = services.settings.root_folders
    if any(output == root for root in await asyncio.to_thread(lambda: [root.resolve() for root in roots])):
        raise FieldError("output", "the output must be a folder below the root, not the root itself")
    return source, output


async def _queue_bucket_job(
    services: Services, admin: Account, asked: FolderJob, lane: Lane
) -> dict[str, Any]:
    """Queue a job over a bucket; its output is in a bucket or in a folder."""
    params, buckets = read_params(asked.options, services.live.offered), services.settings.root_buckets
    field = "input"
    try:
        source = find_in_bucket(buckets, asked.input)
        field = "output"
        if asked.output is not None and not is_address(asked.output):
            folder = await _find(services, "output", asked.output, must_exist=False)
            await _check_output(folder)
            return await _store(services, admin, source.address, str(folder), params, lane)
        output = bucket_output(source) if asked.output is None else find_in_bucket(buckets, asked.output)
        if output.contains(source):
            raise SettingsError("the output must not contain the input: choose another one")
    except SettingsError as error:
        raise FieldError(field, str(error)) from None
    return await _store(services, admin, source.address, output.address, params, lane)


async def _store(
    services: Services, admin: Account, source: str, output: str, params: dict[str, Any], lane: Lane
) -> dict[str, Any]:
    def write(connection: Connection) -> dict[str, Any]:
        row = jobs.create_folder_job(
            connection, admin, source=source, output=output, params=params, lane=lane
        )
        audit.record(connection, admin, "job.create", row["id"], input=source, output=output)
        return jobs.job_json(connection, row)

    created = await services.database.write_async(write)
    services.wake()
    return created


async def _check_output(folder: Path) -> None:
    try:
        await asyncio.to_thread(check_output, folder)
    except SettingsError as error:
        raise FieldError("output", str(error)) from None


async def _find(services: Services, field: str, text: str, *, must_exist: bool) -> Path:
    try:
        return await asyncio.to_thread(
            find_below, services.settings.root_folders, text, must_exist=must_exist
        )
    except SettingsError as error:
        raise FieldError(field, str(error)) from None
