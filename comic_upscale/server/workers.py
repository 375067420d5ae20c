"""The workers that are running, as records. Functions take the connection of a transaction."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Any

import psutil
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.server import queue
from comic_upscale.server.database.schema import now_ms, workers
from comic_upscale.version import __version__


def register(connection: Connection, worker_id: str) -> None:
    """Record that this process is a worker."""
    connection.execute(
        sa.insert(workers).values(
            id=worker_id, host=socket.gethostname(), pid=os.getpid(), state="idle", version=__version__, devices=[],
            models=[], started_at=now_ms(), last_seen_at=now_ms(),
        )
    )  # fmt: skip


def seen(
    connection: Connection,
    worker_id: str,
    *,
    job_id: str | None,
    page_done: bool = False,
    devices: Sequence[dict[str, Any]] = (),
    models: Sequence[str] = (),
) -> None:
    """Record a sign of life of a worker.

    Args:
        connection: in a transaction that writes.
        worker_id: the worker.
        job_id: the job that it runs.
        page_done: whether it finished a page since the last sign of life.
        devices: name and free memory of each device.
        models: the models that are loaded.
    """
    values: dict[str, Any] = {
        "last_seen_at": now_ms(), "job_id": job_id, "state": "idle" if job_id is None else "busy",
        "devices": list(devices), "models": list(models),
    }  # fmt: skip
    if page_done:
        values["last_page_at"] = now_ms()
    connection.execute(sa.update(workers).where(workers.c.id == worker_id).values(values))


def end(connection: Connection, worker_id: str, last_words: str | None = None) -> int:
    """Record that a worker has ended, and return the number of jobs that it left running.

    Args:
        connection: in a transaction that writes.
        worker_id: the worker.
        last_words: why it died, if it did and that is known.
    """
    connection.execute(
        sa.update(workers)
        .where(workers.c.id == worker_id, workers.c.ended_at.is_(None))
        .values(ended_at=now_ms(), state="ended", job_id=None)
    )
    return queue.end_leases(connection, worker_id, last_words)


def end_dead(connection: Connection) -> int:
    """Record the end of the workers of this machine whose processes are gone, and return their number."""
    rows = connection.execute(
        sa.select(workers.c.id, workers.c.pid).where(
            workers.c.ended_at.is_(None), workers.c.host == socket.gethostname()
        )
    ).all()
    dead = [worker_id for worker_id, pid in rows if not psutil.pid_exists(pid)]
    for worker_id in dead:
        end(connection, worker_id)
    return len(dead)
