"""Figures for Prometheus. Scrapes read a cached snapshot, so the database is queried once every few seconds at most."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Any, get_args

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.engine import Connection

from comic_upscale.server import health
from comic_upscale.server.database.engine import Database
from comic_upscale.server.database.schema import jobs
from comic_upscale.server.files import FileStore
from comic_upscale.server.jobs import Status

KEEP_SECONDS = 5.0


class Metrics:
    """The figures of a server.

    Args:
        database: of the server.
        files: the storage of the server.
    """

    def __init__(self, database: Database, files: FileStore) -> None:
        self._database, self._files = database, files
        self._lock = asyncio.Lock()
        self._text = b""
        self._until = 0.0

    async def text(self) -> bytes:
        """Return the figures in the text format of Prometheus, at most `KEEP_SECONDS` old.

        Raises:
            DatabaseError: the database cannot be used.
        """
        async with self._lock:
            if time.monotonic() >= self._until:
                figures = await self._database.read_async(_read)
                figures["free"] = await asyncio.to_thread(self._files.free_percent)
                registry = CollectorRegistry()
                registry.register(_Snapshot(figures))
                self._text = generate_latest(registry)
                self._until = time.monotonic() + KEEP_SECONDS
            return self._text


class _Snapshot(Collector):
    def __init__(self, figures: Mapping[str, Any]) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        by_status = GaugeMetricFamily(
            "comic_upscale_jobs", "Jobs by status, as long as they are kept.", labels=["status"]
        )
        for status in get_args(Status):
            by_status.add_metric([status], self._figures["statuses"].get(status, 0))
        yield by_status
        for name, help, value in (
            ("pages_done", "Pages of all jobs that are done.", self._figures["pages_done"]),
            ("pages_failed", "Pages of all jobs that failed.", self._figures["pages_failed"]),
            ("job_seconds_sum", "Seconds that completed jobs took.", self._figures["seconds"]),
            ("workers_online", "Workers that gave a sign of life.", self._figures["workers_online"]),
            ("jobs_stalled", "Running jobs whose lease has ended.", self._figures["stalled"]),
            (
                "oldest_queued_seconds",
                "Age of the oldest queued job.",
                self._figures["oldest_queued_seconds"] or 0,
            ),
            ("queue_paused", "Whether no job is claimed.", int(self._figures["paused"])),
            ("free_disk_percent", "Free share of the storage.", self._figures["free"]),
        ):
            if value is not None:
                yield GaugeMetricFamily(f"comic_upscale_{name}", help, value=float(value))


def _read(connection: Connection) -> dict[str, Any]:
    rows = connection.execute(
        sa.select(
            jobs.c.status,
            sa.func.count(),
            sa.func.coalesce(sa.func.sum(jobs.c.pages_done), 0),
            sa.func.coalesce(sa.func.sum(jobs.c.pages_failed), 0),
            sa.func.coalesce(sa.func.sum(jobs.c.seconds), 0.0),
        ).group_by(jobs.c.status)
    ).all()
    return {
        **health.queue_figures(connection),
        "statuses": {row[0]: row[1] for row in rows},
        "pages_done": sum(row[2] for row in rows),
        "pages_failed": sum(row[3] for row in rows),
        "seconds": sum(row[4] for row in rows if row[0] == "completed"),
    }
