"""What a run tells while it works: events, and the meters behind them. Who shows them is not its business.

Events are delivered on the thread of the event loop, one at a time, in order.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from comic_upscale.ledger.records import PageDone, PageFailed, PageSkipped, VolumeDone

RATE_WINDOW_SECONDS = 60.0
STAGES = ("decode", "upscale", "encode", "place")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparing:
    """Something that takes a moment before the first page: reading the folder, loading the network."""

    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetching:
    """Weights are being downloaded."""

    name: str
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """A large file is on its way to another machine: weights, or an image."""

    name: str
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStarted:
    """The header: what will be done, with what, and where it is recorded."""

    input: str
    output: str
    ledger: str
    total: int
    """Pages of the job."""
    todo: int
    """Pages that this run takes on."""
    done: int
    """Pages done by earlier runs, and still there."""
    failed: int
    """Pages that failed in earlier runs and are not tried again."""
    skipped: int
    scale: float | None
    """None where pages are sized in another way."""
    model: str
    native_scale: int | None
    """The network's own factor; None when there is nothing to do, and so no network."""
    device: str | None
    precision: str | None
    batch: str
    workers: int
    size: str = ""
    """How large pages shall be, in words: ``"scale 2.5"``, ``"width 2000"``."""
    model_auto: bool = False
    """Whether ``auto`` chose the model, now or when the job began."""
    passed_over: dict[str, int] = field(default_factory=dict)
    """How many files of the input are no pages, by reason."""
    warnings: tuple[str, ...] = ()
    volumes: int = 0
    """Archives that the pages, or some of them, are in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the run is, twice a second."""

    total: int
    done: int
    failed: int
    skipped: int
    pending: int
    pages_per_second: float | None
    eta_seconds: float | None
    in_hand: str | None
    """The source of the page that entered the network last."""
    bottleneck: str | None
    """The stage that holds the others back, once one is seen to."""
    busy: dict[str, float]
    """How busy each stage is, 0 to 1."""
    stopping: str | None = None
    """Why the run is about to stop, once that is asked for."""
    doing: str | None = None
    """What the run does besides pages: sending them to another machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFinished:
    """The end of a run, whatever it was."""

    state: str
    """``finished``, or ``interrupted`` (a stop was asked for, or too many pages failed)."""
    reason: str | None
    """Why it was interrupted."""
    total: int
    done: int
    """Pages done in all."""
    done_now: int
    """Pages done by this run."""
    failed: int
    skipped: int
    pending: int
    seconds: float
    pages_per_second: float | None
    output: str
    ledger: str
    failures: tuple[tuple[str, str, str], ...] = ()
    """The first failures, and volumes that wait for failed pages: (source, kind, reason)."""
    volumes: int = 0
    """Archives of the job."""
    volumes_done: int = 0
    """Those of them whose outputs are complete."""
    carried_now: int = 0
    """Files that are no pages (sidecars, others on request) and that this run copied."""
    warnings: tuple[str, ...] = ()
    """A sentence for each such file that was not copied."""
    stopped_by: str | None = None
    """``max-cost`` where the ceiling interrupted the run; None otherwise."""
    step: str | None = None
    """``push``, ``run`` or ``pull`` where another machine was asked for no more than that step; None otherwise."""
    spent: float | None = None
    """Dollars that the job has cost, its earlier runs included; None where no price was ever said."""
    price: float | None = None
    """Dollars an hour of this run."""
    suspects: int = 0
    """Pages done that a person should look at."""
    copied_now: int = 0
    """Pages among ``done_now`` that are the same as others, byte for byte, and got copies of their outputs."""


Event: TypeAlias = (
    Preparing
    | Fetching
    | Sending
    | JobStarted
    | PageDone
    | PageFailed
    | PageSkipped
    | VolumeDone
    | Progress
    | JobFinished
)
Listener: TypeAlias = Callable[[Event], None]


def from_thread(emit: Listener, kind: type[Fetching] | type[Sending]) -> Callable[[str, int, int], None]:
    """Return what a download or an upload on another thread tells its progress: name, bytes done, bytes in all.

    Args:
        emit: takes the events, on the thread of the loop that runs now.
        kind: of the events.
    """
    loop = asyncio.get_running_loop()

    def on_progress(name: str, done: int, total: int) -> None:
        loop.call_soon_threadsafe(emit, kind(name=name, done_bytes=done, total_bytes=total))

    return on_progress


class StageMeter:
    """How busy a stage is: the share of its places that work at the moment, averaged over some seconds.

    Counts what is in work, not what has finished, so a page of a minute shows from its first second.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._active = 0
        self._work = 0.0
        self._since = time.monotonic()
        self._read_at, self._read_work = self._since, 0.0
        self.busy = 0.0

    def begin(self) -> None:
        """One more item is in work."""
        self._advance()
        self._active += 1

    def end(self) -> None:
        """One item less is in work."""
        self._advance()
        self._active -= 1

    def sample(self) -> float:
        """Return how busy the stage is, 0 to 1; smoothed from call to call."""
        self._advance()
        elapsed = self._since - self._read_at
        if elapsed > 0:
            share = min((self._work - self._read_work) / (elapsed * self._places), 1.0)
            weight = min(elapsed / 5.0, 1.0)
            self.busy += weight * (share - self.busy)
            self._read_at, self._read_work = self._since, self._work
        return self.busy

    def _advance(self) -> None:
        instant = time.monotonic()
        self._work += self._active * (instant - self._since)
        self._since = instant


class RateMeter:
    """Pages a second over the last minute."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()
        self._start = time.monotonic()

    def count(self) -> None:
        """One page has finished."""
        self._times.append(time.monotonic())

    def rate(self) -> float | None:
        """Pages a second; None before the first page has finished."""
        instant = time.monotonic()
        while self._times and instant - self._times[0] > RATE_WINDOW_SECONDS:
            self._times.popleft()
        elapsed = min(instant - self._start, RATE_WINDOW_SECONDS)
        return len(self._times) / elapsed if self._times and elapsed > 0 else None
