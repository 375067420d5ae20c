"""The state of a server: its queue and its workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.server.database.schema import is_over, jobs, now_ms, queue, workers
from comic_upscale.server.queue import lease_is_over

ALIVE_SECONDS = 15.0
"""A worker counts as online for this long after its last sign of life."""
SILENT_SECONDS = 8.0
"""A worker that gave no sign of life for this long is reported. It gives one every 3 seconds."""
FORGET_SECONDS = 3600.0
"""A silent worker of another machine is reported for this long after its last sign of life."""


def queue_figures(connection: Connection) -> dict[str, Any]:
    """Return the figures of the queue and the workers."""
    now = connection.scalar(sa.select(now_ms())) or 0
    queued, oldest, running, stalled = connection.execute(
        sa.select(
            sa.func.count().filter(jobs.c.status == "queued"),
            sa.func.min(jobs.c.created_at).filter(jobs.c.status == "queued"),
            sa.func.count().filter(jobs.c.status == "running"),
            sa.func.count().filter(jobs.c.status == "running", lease_is_over()),
        ).where(jobs.c.status.in_(("queued", "running")))
    ).one()
    online = online_workers(connection)
    last_page = connection.scalar(sa.select(sa.func.max(workers.c.last_page_at)))
    state = connection.execute(sa.select(queue.c.paused, queue.c.maintenance)).one()
    return {
        "queue_length": queued,
        "running": running,
        "stalled": stalled,
        "workers_silent": _silent_workers(connection),
        "oldest_queued_seconds": None if oldest is None else round((now - oldest) / 1000, 1),
        "last_page_done_seconds": None if last_page is None else round((now - last_page) / 1000, 1),
        "workers_online": len(online),
        "gpu": [device for worker in online for device in worker["devices"]],
        "models_loaded": sorted({model for worker in online for model in worker["models"]}),
        "paused": state.paused,
        "maintenance": state.maintenance,
    }


def online_workers(connection: Connection) -> Sequence[Mapping[str, Any]]:
    """Return the rows of the workers that gave a sign of life."""
    silent = is_over(workers.c.last_seen_at + int(ALIVE_SECONDS * 1000), ALIVE_SECONDS * 1000)
    rows = connection.execute(sa.select(workers).where(workers.c.ended_at.is_(None), ~silent))
    return [dict(row) for row in rows.mappings()]


def running_jobs(connection: Connection) -> bool:
    """Return whether a worker runs a job, and renews its lease."""
    running = sa.select(jobs.c.id).where(jobs.c.status == "running", ~lease_is_over())
    return connection.execute(running.limit(1)).first() is not None


def _silent_workers(connection: Connection) -> int:
    """Return the number of workers that stopped giving signs of life without recording their end."""
    silent = sa.select(sa.func.count()).where(
        workers.c.ended_at.is_(None),
        is_over(workers.c.last_seen_at + int(SILENT_SECONDS * 1000), SILENT_SECONDS * 1000),
        workers.c.last_seen_at > now_ms() - int(FORGET_SECONDS * 1000),
    )
    return connection.scalar(silent) or 0
