"""The workers that are running, as records. Functions take the connection of a transaction."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import psutil
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.server import queue
from comic_upscale.server.database.schema import now_ms, workers
from comic_upscale.server.settings import ServerSettings
from comic_upscale.version import __version__


class WorkerEndedError(Exception):
    """A worker has ended, and no server starts it again."""


def home_of(settings: ServerSettings) -> str:
    """Return the name of a server to its own workers. It is the same after a restart.

    Servers that share a database differ by their machine or by their data folder. An SQLite database has one server.
    """
    if settings.database is None:
        return "server"
    place = f"{socket.gethostname()}:{settings.data.resolve()}"
    return hashlib.sha256(place.encode()).hexdigest()


def register(connection: Connection, worker_id: str, home: str | None = None) -> None:
    """Record that this process is a worker.

    Args:
        connection: in a transaction that writes.
        worker_id: the worker.
        home: the server that starts it, as `home_of` names it; None for a worker that was started by hand.
    """
    connection.execute(
        sa.insert(workers).values(
            id=worker_id, host=socket.gethostname(), pid=os.getpid(), state="idle", version=__version__, devices=[],
            models=[], home=home, started_at=now_ms(), last_seen_at=now_ms(),
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
    memory: int | None = None,
    cores: float | None = None,
) -> None:
    """Record a sign of life of a worker.

    Args:
        connection: in a transaction that writes.
        worker_id: the worker.
        job_id: the job that it runs.
        page_done: whether it finished a page since the last sign of life.
        devices: name and free memory of each device.
        models: the models that are loaded.
        memory: bytes of memory that it uses.
        cores: processor cores that it used on average since the last sign of life; 1.5 is one and a half.
    """
    values: dict[str, Any] = {
        "last_seen_at": now_ms(), "job_id": job_id, "state": "idle" if job_id is None else "busy",
        "devices": list(devices), "models": list(models), "memory": memory, "cores": cores,
    }  # fmt: skip
    if page_done:
        values["last_page_at"] = now_ms()
    connection.execute(sa.update(workers).where(workers.c.id == worker_id).values(values))


def end(
    connection: Connection, worker_id: str, last_words: str | None = None, *, page_done: bool = False
) -> int:
    """Record that a worker has ended, and return the number of jobs that it left running.

    Args:
        connection: in a transaction that writes.
        worker_id: the worker.
        last_words: why it died, if it did and that is known.
        page_done: whether it finished a page since the last sign of life.
    """
    values: dict[str, Any] = {"ended_at": now_ms(), "state": "ended", "job_id": None}
    if page_done:
        values["last_page_at"] = now_ms()
    connection.execute(
        sa.update(workers).where(workers.c.id == worker_id, workers.c.ended_at.is_(None)).values(values)
    )
    return queue.end_leases(connection, worker_id, last_words)


def drain(connection: Connection, worker_id: str) -> bool:
    """Let a worker take no new job, and end after those that it runs; return whether there is such a worker.

    A server does not start its own worker again until `undrain`.

    Raises:
        WorkerEndedError: it has ended, and no server starts it.
    """
    row = _find(connection, worker_id)
    if row is None:
        return False
    if row["ended_at"] is not None and row["home"] is None:
        raise WorkerEndedError
    connection.execute(sa.update(workers).where(workers.c.id == worker_id).values(drained_at=now_ms()))
    return True


def undrain(connection: Connection, worker_id: str) -> bool:
    """Let a server start its worker again, and return whether there is such a worker."""
    row = _find(connection, worker_id)
    if row is None:
        return False
    which = workers.c.id == worker_id if row["home"] is None else workers.c.home == row["home"]
    connection.execute(sa.update(workers).where(which).values(drained_at=None))
    return True


def is_drained(connection: Connection, *, worker_id: str | None = None, home: str | None = None) -> bool:
    """Return whether a worker, or the worker of a server, must take no job."""
    named = ((workers.c.id, worker_id), (workers.c.home, home))
    which = sa.or_(sa.false(), *(column == value for column, value in named if value is not None))
    # This form uses the index on every database.
    drained = sa.select(workers.c.id).where(workers.c.drained_at > 0, which)
    return connection.execute(drained.limit(1)).first() is not None


def any_drained(connection: Connection) -> bool:
    """Return whether a worker is drained."""
    drained = sa.select(workers.c.id).where(workers.c.drained_at > 0)
    return connection.execute(drained.limit(1)).first() is not None


def list_workers(connection: Connection, limit: int = 100) -> list[Mapping[str, Any]]:
    """Return the rows of the workers of the last days, running and drained ones first.

    Each has ``drained``, which is true for all workers of a server whose worker is drained.
    """
    is_over = sa.and_(workers.c.ended_at.is_not(None), workers.c.drained_at.is_(None))
    rows = (
        connection.execute(sa.select(workers).order_by(is_over, workers.c.last_seen_at.desc()).limit(limit))
        .mappings()
        .all()
    )
    homes = {row["home"] for row in rows if row["drained_at"] is not None} - {None}
    return [{**row, "drained": row["drained_at"] is not None or row["home"] in homes} for row in rows]


def _find(connection: Connection, worker_id: str) -> Mapping[str, Any] | None:
    wanted = sa.select(workers).where(workers.c.id == worker_id).with_for_update()
    row = connection.execute(wanted).mappings().first()
    return None if row is None else dict(row)


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
