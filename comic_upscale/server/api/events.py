"""Server-sent events: the state of jobs whenever it changes. A stream that broke goes on by ``Last-Event-ID``."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import AsyncIterable, Mapping
from typing import Annotated, Any

from fastapi import Depends, Header
from fastapi.sse import EventSourceResponse, ServerSentEvent

from comic_upscale.server.api.access import CurrentAccount, Server, require
from comic_upscale.server.api.errors import ApiError, documented
from comic_upscale.server.api.jobs import own_job
from comic_upscale.server.api.routing import api_router

router = api_router(prefix="/api/v1/jobs", tags=["events"])

RECONNECT_MS = 2_000
_TEXTS_KEPT = 100
_texts: OrderedDict[int, tuple[Mapping[str, Any], str]] = OrderedDict()


async def _check_job(services: Server, account: CurrentAccount, job_id: str) -> None:
    require(account, "jobs:read")
    await own_job(services, account, job_id)


async def _check_list(account: CurrentAccount) -> None:
    require(account, "jobs:read")
    if account.is_anonymous:
        raise ApiError(
            403, "forbidden", "Without an account, jobs cannot be listed: follow your job by its id."
        )


@router.get(
    "/events", summary="Follow your jobs", response_class=EventSourceResponse, dependencies=[Depends(_check_list)],
    responses=documented(401, 403, 429),
)  # fmt: skip
async def follow_jobs(services: Server, account: CurrentAccount) -> AsyncIterable[ServerSentEvent]:
    """Send the state of each job when it changes."""
    yield ServerSentEvent(comment="connected", retry=RECONNECT_MS)
    async for job in services.hub.follow_all(account.user_id):
        yield ServerSentEvent(event="job", raw_data=_text_of(job))


@router.get(
    "/{job_id}/events", summary="Follow a job", response_class=EventSourceResponse,
    dependencies=[Depends(_check_job)], responses=documented(401, 404, 429),
)  # fmt: skip
async def follow_job(
    services: Server, job_id: str, last_event_id: Annotated[str | None, Header(max_length=32)] = None
) -> AsyncIterable[ServerSentEvent]:
    """Send the state of a job now and whenever it changes; the stream ends with the job."""
    seen = event_number(last_event_id)
    yield ServerSentEvent(comment="connected", retry=RECONNECT_MS)
    async for job in services.hub.follow(job_id, seen):
        yield ServerSentEvent(event="job", id=str(job["revision"]), raw_data=_text_of(job))


def event_number(text: str | None) -> int | None:
    """Return the id of the last event that a reader got; None for one that the server never sent."""
    return int(text) if text and text.isascii() and text.isdigit() else None


def _text_of(job: Mapping[str, Any]) -> str:
    """Return the state of a job as JSON. All of its viewers get one object, which is written once."""
    known = _texts.get(id(job))
    if known is not None:
        return known[1]
    text = json.dumps(job)
    # While it is kept, no other object has its identity.
    _texts[id(job)] = job, text
    if len(_texts) > _TEXTS_KEPT:
        _texts.popitem(last=False)
    return text
