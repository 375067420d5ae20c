"""Jobs: list, state, cancel, delete, result."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import Query, Response
from fastapi.responses import RedirectResponse
from sqlalchemy.engine import Connection

from comic_upscale.server import accounts, audit, jobs, queue
from comic_upscale.server.accounts import Account
from comic_upscale.server.api.access import CurrentAccount, Server, require
from comic_upscale.server.api.downloads import link_to
from comic_upscale.server.api.errors import ApiError, documented, not_found
from comic_upscale.server.api.routing import api_router
from comic_upscale.server.jobs import Status
from comic_upscale.server.services import Services

router = api_router(prefix="/api/v1/jobs", tags=["jobs"])


@router.get("", summary="List your jobs", responses=documented(400, 401, 429))
async def list_jobs(
    services: Server,
    account: CurrentAccount,
    status: Status | None = None,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> dict[str, Any]:
    """Return jobs, the latest first, and a cursor for the next page."""
    require(account, "jobs:read")
    if account.is_anonymous:
        raise ApiError(
            403, "forbidden", "Without an account, jobs cannot be listed: keep the id of your job."
        )
    return await read_list(services, account, status=status, cursor=cursor, limit=limit)


@router.get("/{job_id}", summary="Show a job", responses=documented(401, 404, 429))
async def show_job(services: Server, account: CurrentAccount, job_id: str) -> dict[str, Any]:
    """Return the state of a job."""
    require(account, "jobs:read")

    def read(connection: Connection) -> dict[str, Any] | None:
        row = jobs.find_job(connection, account, job_id)
        return None if row is None else jobs.job_json(connection, row)

    found = await services.database.read_async(read)
    if found is None:
        raise not_found("job")
    return found


@router.post("/{job_id}/cancel", summary="Cancel a job", responses=documented(401, 403, 404, 409, 429))
async def cancel_job(services: Server, account: CurrentAccount, job_id: str) -> dict[str, Any]:
    """Cancel a queued job at once, or ask its worker to stop after the pages in progress."""
    require(account, "jobs:write")

    def write(connection: Connection) -> str | None:
        row = own_row(connection, account, job_id)
        _record_foreign(connection, account, "job.cancel", row)
        return queue.request_cancel(connection, job_id)

    status = await services.database.write_async(write)
    if status in ("completed", "failed"):
        raise ApiError(409, "already_ended", f"The job has already ended: it is {status}.")
    return await show_job(services, account, job_id)


@router.delete(
    "/{job_id}",
    status_code=204,
    summary="Delete a job with its files",
    responses=documented(401, 403, 404, 409, 429),
)
async def delete_job(services: Server, account: CurrentAccount, job_id: str) -> Response:
    """Delete a job, its results and its originals; the files of a folder stay. Cancel a running job first."""
    require(account, "jobs:write")

    def write(connection: Connection) -> list[str] | None:
        row = own_row(connection, account, job_id)
        keys = jobs.delete_job(connection, job_id)
        if keys is not None:
            _record_foreign(connection, account, "job.delete", row)
        return keys

    keys = await services.database.write_async(write)
    if keys is None:
        raise ApiError(409, "running", "The job is running: cancel it first, then delete it.")
    for key in keys:
        await asyncio.to_thread(services.files.delete, key)
    return Response(status_code=204)


@router.get(
    "/{job_id}/result",
    status_code=307,
    summary="Download the result",
    responses=documented(401, 404, 409, 429),
)
async def download_result(
    services: Server, account: CurrentAccount, job_id: str, format: Literal["zip", "cbz"] | None = None
) -> RedirectResponse:
    """Redirect to a signed link that is valid for some minutes. Several files come in one ZIP."""
    require(account, "jobs:read")
    row = await own_job(services, account, job_id)
    if row["status"] != "completed":
        raise ApiError(409, "not_completed", f"The job has no result: it is {row['status']}.")
    files = await services.database.read_async(
        lambda connection: jobs.files_of(connection, "result", job_id=job_id)
    )
    if not files:
        raise not_found("result")
    return link_to(services, files, purpose="results", object_id=job_id, title=row["title"], format=format)


async def read_list(
    services: Services,
    account: Account,
    *,
    status: Status | None,
    cursor: str | None,
    limit: int,
    everyone: bool = False,
    owner: str | None = None,
) -> dict[str, Any]:
    """Return one page of the list of jobs, the latest first, and the cursor for the next page.

    Args:
        services: of the server.
        account: whose jobs are listed.
        status: only jobs with it.
        cursor: as the client sent it.
        limit: of the page.
        everyone: jobs of all users, with the id of each owner.
        owner: of all users, only jobs of the one with this name.

    Raises:
        ApiError: 400, the cursor is none, or there is no such user.
    """
    before = read_cursor(cursor)

    def read(connection: Connection) -> dict[str, Any]:
        owner_id = None if owner is None else owner_of(connection, owner)
        rows = jobs.list_jobs(
            connection,
            account,
            status=status,
            before=before,
            limit=limit,
            everyone=everyone,
            owner_id=owner_id,
        )
        shown = jobs.jobs_json(connection, rows)
        if everyone:
            shown = [job | {"owner_id": row["owner_id"]} for job, row in zip(shown, rows, strict=True)]
        following = write_cursor(rows[-1]["created_at"], rows[-1]["id"]) if len(rows) == limit else None
        return {"jobs": shown, "next_cursor": following}

    return await services.database.read_async(read)


def owner_of(connection: Connection, name: str) -> str:
    """Return the id of a user by the name.

    Raises:
        ApiError: 400, there is no such user.
    """
    user = accounts.find_user(connection, name)
    if user is None:
        raise ApiError(400, "invalid", f"There is no user named {name[:64]!r}.", field="owner")
    return str(user["id"])


async def own_job(services: Services, account: Account, job_id: str) -> Mapping[str, Any]:
    """Return the row of a job that the account may see.

    Raises:
        ApiError: 404.
    """
    return await services.database.read_async(lambda connection: own_row(connection, account, job_id))


def own_row(connection: Connection, account: Account, job_id: str) -> Mapping[str, Any]:
    """Return the row of a job that the account may see, within a transaction; errors as for `own_job`."""
    row = jobs.find_job(connection, account, job_id)
    if row is None:
        raise not_found("job")
    return row


def _record_foreign(connection: Connection, account: Account, action: str, row: Mapping[str, Any]) -> None:
    """Record what an administrator does to a job of somebody else."""
    if row["owner_id"] != account.user_id:
        audit.record(connection, account, action, row["id"], owner_id=row["owner_id"])


def read_cursor(text: str | None) -> tuple[int, str] | None:
    """Return the place in a list that a cursor stands for.

    Raises:
        ApiError: 400, it is no cursor.
    """
    if text is None:
        return None
    try:
        at, job_id = json.loads(base64.urlsafe_b64decode(text.encode()))
        if type(at) is int and isinstance(job_id, str) and 0 <= at < 1 << 62 and "\0" not in job_id:
            return at, job_id
    except (ValueError, TypeError):
        pass
    raise ApiError(400, "invalid", "This is no cursor: use next_cursor of the page before.", field="cursor")


def write_cursor(at: int, job_id: str) -> str:
    """Return the cursor for the page after a job."""
    return base64.urlsafe_b64encode(json.dumps([at, job_id]).encode()).decode()
