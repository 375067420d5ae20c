"""What can be done with a job besides following it: run it again, and share it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import Header
from pydantic import BaseModel, Field
from sqlalchemy.engine import Connection

from comic_upscale.server import audit, idempotency, jobs, requeue
from comic_upscale.server.accounts import Account
from comic_upscale.server.api.access import CurrentAccount, Server, require
from comic_upscale.server.api.errors import ApiError, documented
from comic_upscale.server.api.jobs import own_job, own_row
from comic_upscale.server.api.routing import api_router
from comic_upscale.server.api.uploads import check_open
from comic_upscale.server.library import may_use
from comic_upscale.server.links import SHARED_SECONDS, Link
from comic_upscale.server.params import read_changes
from comic_upscale.server.quotas import check_quotas
from comic_upscale.server.services import Services

router = api_router(prefix="/api/v1/jobs", tags=["jobs"])


class Again(BaseModel):
    """What is different when a job runs again."""

    options: dict[str, str] = Field(
        default={},
        max_length=50,
        description="Fields of an upload, such as factor or model. The other options stay.",
        examples=[{"factor": "3"}],
    )


class Share(BaseModel):
    """A link that shows a job to anybody who has it."""

    path: str
    """On the server of the pages."""
    url: str | None
    """The whole address, if the server knows its own (``PUBLIC_URL``)."""
    expires_at: str


@router.post(
    "/{job_id}/again",
    status_code=202,
    summary="Run a job again",
    responses=documented(400, 401, 403, 404, 409, 429, 503, 507),
)
async def run_again(
    services: Server,
    account: CurrentAccount,
    job_id: str,
    again: Again,
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
) -> dict[str, Any]:
    """Queue a job that has ended as a new job over the same files, with other options. The old job stays.

    The limits of uploads count. Send the same ``Idempotency-Key`` again to get the same new job again, for 24 hours.
    """
    return await queue_again(services, account, job_id, again.options, idempotency_key)


@router.post("/{job_id}/share", summary="Share a job", responses=documented(401, 403, 404, 409, 429))
async def share_job(services: Server, account: CurrentAccount, job_id: str) -> Share:
    """Return a signed link. Whoever has it sees the job and its pages for seven days, without an account.

    Deleting the job ends the link.
    """
    require(account, "jobs:write")
    if account.is_anonymous:
        raise ApiError(403, "forbidden", "Jobs without an account cannot be shared.")
    row = await own_job(services, account, job_id)
    if row["input"] is not None:
        raise ApiError(
            409,
            "no_pages",
            "Only jobs over uploads can be shared: the pages of this job are in a folder of the server.",
        )
    path = f"/shared/{services.links.sign(Link('share', job_id))}"
    await services.database.write_async(
        lambda connection: audit.record(connection, account, "job.share", job_id)
    )
    host = services.settings.public_url
    expires_at = datetime.now(UTC) + timedelta(seconds=SHARED_SECONDS)
    return Share(
        path=path,
        url=None if host is None else f"{host}{path}",
        expires_at=expires_at.isoformat(timespec="seconds").replace("+00:00", "Z"),
    )


async def queue_again(
    services: Services,
    account: Account,
    job_id: str,
    options: Mapping[str, str],
    key: str | None = None,
) -> dict[str, Any]:
    """Queue a job that has ended as a new job, and return that as JSON.

    Args:
        services: of the server.
        account: who asks; the limits of uploads count for users and visitors.
        job_id: the job that has ended.
        options: fields of an upload that differ; empty ones do not.
        key: the ``Idempotency-Key``; without one, a job is queued each time.

    Raises:
        ApiError: the job is another's, has not ended, or may not run again.
        FieldError: an option is wrong.
        KeyReusedError: the key came with another request.
        QuotaError: the user has sent as much as allowed.
    """
    require(account, "jobs:write")
    changes = read_changes(options, services.live.offered)
    if not account.is_admin:
        await check_open(services, account)
    asked = hashlib.sha256(json.dumps(["again", job_id, changes], sort_keys=True).encode()).hexdigest()

    def write(connection: Connection) -> dict[str, Any]:
        row = own_row(connection, account, job_id)
        earlier = idempotency.find_job(connection, account, key, asked)
        new = _requeue(connection, services, account, row, changes) if earlier is None else earlier
        if earlier is None:
            idempotency.remember(connection, account, key, asked, new["id"])
            if row["owner_id"] != account.user_id:
                given = {name: text for name, text in options.items() if text}
                audit.record(connection, account, "job.requeue", job_id, new=new["id"], options=given)
        return jobs.job_json(connection, new)

    created = await services.database.write_async(write)
    services.wake()
    return created


def _requeue(
    connection: Connection,
    services: Services,
    account: Account,
    row: Mapping[str, Any],
    changes: Mapping[str, Any],
) -> Mapping[str, Any]:
    if row["input"] is not None and not (account.is_admin or may_use(services.settings, account)):
        raise ApiError(403, "forbidden", "Jobs over folders of the server are for users of its library.")
    if not account.is_admin:
        check_quotas(connection, account, 0)
    new = requeue.requeue(connection, row, changes)
    if new is None:
        raise ApiError(409, "not_ended", f"The job has not ended: it is {row['status']}.")
    return new
