"""Figures for Prometheus. Scrapes read a cached snapshot, so the database is queried once every few seconds at most."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.engine import Connection

from comic_upscale.server import health
from comic_upscale.server.database.engine import Database
from comic_upscale.server.database.schema import jobs, now_ms
from comic_upscale.server.jobs import ENDED, Status

KEEP_SECONDS = 5.0
BUDGET_SECONDS = 0.25
"""How long one snapshot may read jobs that ended before the server started. Very many take several snapshots."""
AT_ONCE = 10_000
SETTLED_MS = 60_000
_FOREVER = 1 << 62


class Metrics:
    """The figures of a server.

    Args:
        database: of the server.
        free_percent: returns the free share of the storage without waiting long; None if it is not known.
    """

    def __init__(self, database: Database, free_percent: Callable[[], Awaitable[float | None]]) -> None:
        self._database, self._free_percent = database, free_percent
        self._ended = _EndedJobs()
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
                figures = await self._database.read_async(self._read)
                figures["free"] = await self._free_percent()
                registry = CollectorRegistry()
                registry.register(_Snapshot(figures))
                self._text = generate_latest(registry)
                self._until = time.monotonic() + KEEP_SECONDS
            return self._text

    def _read(self, connection: Connection) -> dict[str, Any]:
        figures = health.queue_figures(connection)
        figures["statuses"] = {"queued": figures["queue_length"], "running": figures["running"]}
        ended = self._ended.read(connection)
        if ended is None:
            # A wrong number is worse than none for a minute.
            return {**figures, "pages_done": None, "pages_failed": None, "seconds": None}
        for status in ENDED:
            figures["statuses"][status] = ended.get(status, _Sums()).jobs
        done, failed = _pages_of_unfinished(connection)
        return {
            **figures,
            "pages_done": done + sum(each.pages_done for each in ended.values()),
            "pages_failed": failed + sum(each.pages_failed for each in ended.values()),
            "seconds": ended.get("completed", _Sums()).seconds,
        }


class _Snapshot(Collector):
    def __init__(self, figures: Mapping[str, Any]) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        by_status = GaugeMetricFamily(
            "comic_upscale_jobs",
            "Jobs by status. Those that have ended include jobs that were deleted since.",
            labels=["status"],
        )
        for status in get_args(Status):
            if (count := self._figures["statuses"].get(status)) is not None:
                by_status.add_metric([status], count)
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


class _EndedJobs:
    """Sums over all jobs that have ended, which are read once: each look goes on where the last one ended.

    A job that ended does not change any more. Jobs of the last minute are read each time, because a change becomes
    visible with its commit, which is later than its time.
    """

    def __init__(self) -> None:
        self._sums: dict[str, _Sums] = {}
        self._until = -1

    def read(self, connection: Connection) -> dict[str, _Sums] | None:
        """Return the sums by status; None while there are still jobs to read, which the next call goes on with."""
        settled = (connection.scalar(sa.select(now_ms())) or 0) - SETTLED_MS
        end = time.monotonic() + BUDGET_SECONDS
        while self._until < settled:
            if time.monotonic() >= end:
                return None
            later = (
                sa.select(jobs.c.updated_at)
                .where(jobs.c.updated_at > self._until, jobs.c.updated_at <= settled)
                .order_by(jobs.c.updated_at)
            )
            until = connection.scalar(later.offset(AT_ONCE - 1).limit(1))
            until = settled if until is None else until
            self._sums = _added(self._sums, _sums(connection, self._until, until))
            self._until = until
        return _added(self._sums, _sums(connection, self._until, _FOREVER))


@dataclass(frozen=True, slots=True)
class _Sums:
    jobs: int = 0
    pages_done: int = 0
    pages_failed: int = 0
    seconds: float = 0.0


def _sums(connection: Connection, after: int, until: int) -> dict[str, _Sums]:
    """Return the sums over the jobs whose end is in a range of times, by status."""
    columns = [
        sa.func.coalesce(sa.func.sum(each), 0)
        for each in (jobs.c.pages_done, jobs.c.pages_failed, jobs.c.seconds)
    ]
    rows = connection.execute(
        sa.select(jobs.c.status, sa.func.count(), *columns)
        .where(jobs.c.updated_at > after, jobs.c.updated_at <= until, jobs.c.status.in_(ENDED))
        .group_by(jobs.c.status)
    )
    return {
        status: _Sums(int(count), int(done), int(failed), float(seconds))
        for status, count, done, failed, seconds in rows
    }


def _added(one: Mapping[str, _Sums], other: Mapping[str, _Sums]) -> dict[str, _Sums]:
    def add(a: _Sums, b: _Sums) -> _Sums:
        return _Sums(
            a.jobs + b.jobs,
            a.pages_done + b.pages_done,
            a.pages_failed + b.pages_failed,
            a.seconds + b.seconds,
        )

    return {status: add(one.get(status, _Sums()), other.get(status, _Sums())) for status in {*one, *other}}


def _pages_of_unfinished(connection: Connection) -> tuple[int, int]:
    """Return the pages done and failed of running jobs."""
    done, failed = connection.execute(
        sa.select(
            sa.func.coalesce(sa.func.sum(jobs.c.pages_done), 0),
            sa.func.coalesce(sa.func.sum(jobs.c.pages_failed), 0),
        ).where(jobs.c.status == "running")
    ).one()
    return int(done), int(failed)
