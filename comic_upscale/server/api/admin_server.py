"""Administration of the server itself: settings, sessions of all users, and the logs of jobs."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, Callable, Mapping
from typing import Annotated, Any

from fastapi import Body, Header, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy.engine import Connection

from comic_upscale.server import audit, job_log, jobs, overrides, sessions
from comic_upscale.server.accounts import Account
from comic_upscale.server.api.access import AdminAccount, Server
from comic_upscale.server.api.errors import documented, not_found
from comic_upscale.server.api.events import RECONNECT_MS, event_number
from comic_upscale.server.api.routing import api_router
from comic_upscale.server.jobs import iso
from comic_upscale.server.recent_log import MOST_LINES, LogLine
from comic_upscale.server.services import Services
from comic_upscale.server.settings import ServerSettings
from comic_upscale.settings.options import definitions

router = api_router(
    prefix="/api/v1/admin", tags=["administration"], responses=documented(400, 401, 403, 404, 429)
)

LONGEST_STREAM_SECONDS = 300

Changes = Annotated[
    dict[str, Any],
    Body(
        description="New values by name; null returns to the value that the server was started with.",
        examples=[{"retention_days": 7, "max_files": None}],
    ),
]


@router.get("/settings", summary="Show the settings that can be changed")
async def show_settings(services: Server, admin: AdminAccount) -> dict[str, Any]:
    """Return each setting with its value now, and the value that the server was started with."""
    return _settings_json(services.live.settings, services.live.started)


@router.post("/settings", summary="Change settings")
async def change_settings(services: Server, admin: AdminAccount, changes: Changes) -> dict[str, Any]:
    """Change limits, accepted types and retention. They are in force at once, and survive a restart."""
    return await store_settings(services, admin, changes)


async def store_settings(
    services: Services,
    admin: Account,
    changes: Mapping[str, Any],
    check: Callable[[ServerSettings], None] = lambda now: None,
) -> dict[str, Any]:
    """Change settings, and return all of them as JSON.

    Args:
        services: of the server.
        admin: who changes them.
        changes: values by name, as JSON.
        check: may refuse the change by the settings in force, in the transaction of the change.

    Raises:
        SettingsError: as for `overrides.change`.
    """
    started = services.live.started

    def write(connection: Connection) -> ServerSettings:
        check(overrides.effective(connection, started))
        changed = overrides.change(connection, started, changes, user_id=admin.user_id)
        audit.record(connection, admin, "settings.change", None, changes=changes)
        return changed

    changed = await services.database.write_async(write)
    await services.live.refresh(now=True)
    return _settings_json(changed, started)


@router.get("/sessions", summary="List the sessions of all users")
async def list_sessions(services: Server, admin: AdminAccount) -> dict[str, Any]:
    """Return all sessions, the one used last first."""
    rows = await services.database.read_async(sessions.list_all)
    return {
        "sessions": [
            {
                **{name: row[name] for name in ("id", "user", "address", "agent")},
                **{name: iso(row[name]) for name in ("created_at", "last_seen_at", "expires_at")},
                "is_current": row["id"] == admin.session_id,
            }
            for row in rows
        ]
    }


@router.delete("/sessions/{session_id}", status_code=204, summary="End a session of any user")
async def end_session(services: Server, admin: AdminAccount, session_id: str) -> None:
    """End a session."""

    def write(connection: Connection) -> bool:
        found = sessions.end(connection, session_id)
        if found:
            audit.record(connection, admin, "session.end", session_id)
        return found

    if not await services.database.write_async(write):
        raise not_found("session")


@router.get("/jobs/{job_id}/logs", summary="Read the log of a job")
async def read_logs(
    services: Server,
    admin: AdminAccount,
    job_id: str,
    after: Annotated[int, Query(ge=0, le=1 << 62)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> dict[str, Any]:
    """Return what the workers did with a job, the first line first; ``after`` is the id of the last line read."""

    def read(connection: Connection) -> list[dict[str, Any]] | None:
        if jobs.find_job(connection, admin, job_id) is None:
            return None
        return job_log.read(connection, job_id, after=after, limit=limit)

    rows = await services.database.read_async(read)
    if rows is None:
        raise not_found("job")
    return {"lines": [{**row, "at": iso(row["at"])} for row in rows]}


@router.get("/log", summary="Read the log of the server")
async def read_server_log(
    services: Server,
    admin: AdminAccount,
    after: Annotated[int, Query(ge=0, le=1 << 62)] = 0,
    limit: Annotated[int, Query(ge=1, le=MOST_LINES)] = 200,
) -> dict[str, Any]:
    """Return what this server and its own worker logged since the start, the first line first, without secrets.

    The server keeps the last 2,000 lines. ``after`` is the id of the last line read.
    """
    return {"lines": [_line_json(line) for line in services.recent_log.read(after)[:limit]]}


@router.get("/log/events", summary="Follow the log of the server", response_class=EventSourceResponse)
async def follow_server_log(
    services: Server,
    admin: AdminAccount,
    after: Annotated[int, Query(ge=0, le=1 << 62)] = 0,
    last_event_id: Annotated[str | None, Header(max_length=32)] = None,
) -> AsyncIterable[ServerSentEvent]:
    """Send the lines after one, and each new line. The stream ends after five minutes, and goes on by Last-Event-ID."""
    # The next request shows whether the account still is an administrator's.
    until = time.monotonic() + LONGEST_STREAM_SECONDS
    yield ServerSentEvent(comment="connected", retry=RECONNECT_MS)
    async for line in services.recent_log.follow(
        event_number(last_event_id) or after, lambda: services.hub.is_closed or time.monotonic() > until
    ):
        yield ServerSentEvent(event="line", id=str(line.id), data=_line_json(line))


def _line_json(line: LogLine) -> dict[str, Any]:
    return {"id": line.id, "at": iso(line.at), "level": line.level, "line": line.text}


def _settings_json(now: ServerSettings, started: ServerSettings) -> dict[str, Any]:
    values, first = overrides.as_json(now), overrides.as_json(started)
    help = {option.name: option.opt.help for option in definitions(ServerSettings)}
    return {
        "settings": [
            {"name": name, "value": values[name], "started_with": first[name], "help": help[name]}
            for name in overrides.CHANGEABLE
        ]
    }
