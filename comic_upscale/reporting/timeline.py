"""The progress of a job over time: pages per second and seconds per stage, from the ledger."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

STAGES = ("decode", "upscale", "encode", "place")

BINS = 60
"""The most points of a chart."""


@dataclass(frozen=True, slots=True)
class Bin:
    """A piece of the working time."""

    start: float
    """Seconds of work before it, without pauses between runs."""
    seconds: float
    """Its length."""
    pages: int
    """Pages that were finished in it."""
    stages: tuple[float, ...]
    """Mean seconds per page in each of `STAGES`; 0 if no page was finished."""

    @property
    def rate(self) -> float:
        """Pages a second."""
        return self.pages / self.seconds


@dataclass(frozen=True, slots=True)
class Spread:
    """The distribution of a stage's seconds over the pages."""

    stage: str
    median: float
    slow: float
    """The 95th percentile."""
    share: float
    """Of the sum over all stages."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """The working time of a job."""

    seconds: float
    """Time of all runs from their first page on, without pauses between them."""
    start_seconds: float
    """Time of all runs before their first page: reading the input, loading the network."""
    pages: int
    """Pages finished in them."""
    bins: tuple[Bin, ...]
    """The pieces of time, in order; empty if too few pages have a time."""
    starts: tuple[float, ...]
    """The start of each run except the first, in seconds of work."""
    spreads: tuple[Spread, ...]
    """For each stage that was timed."""

    @property
    def rate(self) -> float | None:
        """Pages a second of working time; None where nothing was timed."""
        return self.pages / self.seconds if self.pages and self.seconds > 0 else None


def make_timeline(runs: Sequence[Mapping[str, Any]], pages: Sequence[Mapping[str, Any]]) -> Timeline:
    """Arrange the runs of a job one after another, with their pages.

    Args:
        runs: runs by the columns of the ledger, in order.
        pages: finished pages. A page adopted from another job has no run and no time.
    """
    finished: dict[int, list[tuple[datetime, Mapping[str, Any]]]] = {}
    for page in pages:
        time = _time(page["finished_at"])
        if page["run_id"] is not None and time is not None:
            finished.setdefault(page["run_id"], []).append((time, page))
    total = starting = 0.0
    starts: list[float] = []
    placed: list[tuple[float, Mapping[str, Any]]] = []
    for run in runs:
        mine = finished.get(run["id"], [])
        start = _time(run["started_at"])
        if start is None or not mine:
            continue
        ends = [_time(run["ended_at"]) or _time(run["heartbeat_at"]) or start, *(time for time, _ in mine)]
        # As in the run itself, time starts with the first page.
        first = max(start, min(time - timedelta(seconds=_whole(page)) for time, page in mine))
        starts.append(total)
        placed += [(total + max(0.0, (time - first).total_seconds()), page) for time, page in mine]
        total += max(0.0, (max(ends) - first).total_seconds())
        starting += (first - start).total_seconds()
    return Timeline(
        seconds=total,
        start_seconds=starting,
        pages=len(placed),
        bins=_bins(placed, total),
        starts=tuple(starts[1:]),
        spreads=_spreads(pages),
    )


def _bins(placed: Sequence[tuple[float, Mapping[str, Any]]], total: float) -> tuple[Bin, ...]:
    # Each point needs a few pages, otherwise it is noise.
    count = min(BINS, len(placed) // 3)
    if count < 2 or total <= 0:
        return ()
    width = total / count
    groups: list[list[Mapping[str, Any]]] = [[] for _ in range(count)]
    for at, page in placed:
        groups[min(count - 1, int(at / width))].append(page)
    return tuple(
        Bin(number * width, width, len(group), tuple(_mean(group, stage) for stage in STAGES))
        for number, group in enumerate(groups)
    )


def _whole(page: Mapping[str, Any]) -> float:
    """Return the seconds of a page in all its stages."""
    return sum((page[f"{stage}_seconds"] or 0.0 for stage in STAGES), start=0.0)


def _mean(pages: Sequence[Mapping[str, Any]], stage: str) -> float:
    seconds = _seconds(pages, stage)
    return statistics.fmean(seconds) if seconds else 0.0


def _spreads(pages: Sequence[Mapping[str, Any]]) -> tuple[Spread, ...]:
    timed = {stage: sorted(_seconds(pages, stage)) for stage in STAGES}
    whole = sum(sum(seconds) for seconds in timed.values())
    return tuple(
        Spread(
            stage=stage,
            median=statistics.median(seconds),
            slow=seconds[min(len(seconds) - 1, int(0.95 * len(seconds)))],
            share=sum(seconds) / whole if whole else 0.0,
        )
        for stage, seconds in timed.items()
        if seconds
    )


def _seconds(pages: Sequence[Mapping[str, Any]], stage: str) -> list[float]:
    return [value for page in pages if (value := page[f"{stage}_seconds"]) is not None]


def _time(text: str | None) -> datetime | None:
    try:
        return None if text is None else datetime.fromisoformat(text)
    except ValueError:
        return None
