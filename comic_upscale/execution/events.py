"""The events of a run, and the meters behind them. The run does not know who shows them.

Events are delivered on the thread of the event loop, one at a time, in order.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from comic_upscale.ledger.records import PageDone, PageFailed, PageProgress, PageSkipped, VolumeDone

RATE_WINDOW_SECONDS = 60.0
STAGES = ("decode", "upscale", "encode", "place")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparing:
    """A preparation that takes a moment, such as reading the folder or loading the network."""

    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A message for the user that belongs to no page, such as a drive that a watch waits for."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HooksFinished:
    """The hooks of a run have ended. Their failures never fail the run."""

    ran: int
    """Hooks that were called."""
    failures: tuple[tuple[str, str], ...] = ()
    """(hook, reason) of those that failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetching:
    """Weights are being downloaded."""

    name: str
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """A large file is being sent to a remote machine: weights, or an image."""

    name: str
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStarted:
    """The header of a run: its pages, model, device and ledger."""

    input: str
    output: str
    ledger: str
    total: int
    """Pages of the job."""
    todo: int
    """Pages that this run will process."""
    done: int
    """Pages done by earlier runs, whose outputs still exist."""
    failed: int
    """Pages that failed in earlier runs and are not tried again."""
    skipped: int
    scale: float | None
    """None if the size is given in another way."""
    model: str
    native_scale: int | None
    """The network's own factor; None when there is nothing to do, so no network is loaded."""
    device: str | None
    precision: str | None
    batch: str
    workers: int
    size: str = ""
    """The requested size, for display: ``"scale 2.5"``, ``"width 2000"``."""
    model_auto: bool = False
    """Whether ``auto`` chose the model, now or when the job started."""
    denoise: float | None = None
    """The denoise strength, 0..1; None if none was requested."""
    passed_over: dict[str, int] = field(default_factory=dict)
    """The number of ignored files in the input, by reason."""
    warnings: tuple[str, ...] = ()
    volumes: int = 0
    """Archives that contain pages of the job."""
    selection: str = ""
    """The part of the input that this run looks at, for display; empty for all of it."""
    profile: str = ""
    """The profile of the job: a name or the path of a file; empty for none."""
    rules: tuple[str, ...] = ()
    """The rules for single pages, for display, in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The progress of the run, twice a second."""

    total: int
    done: int
    failed: int
    skipped: int
    pending: int
    pages_per_second: float | None
    eta_seconds: float | None
    in_hand: str | None
    """The source of the page that last entered the network."""
    bottleneck: str | None
    """The stage that slows down the others, once one is found."""
    busy: dict[str, float]
    """How busy each stage is, 0 to 1."""
    stopping: str | None = None
    """Why the run is stopping, once a stop is requested."""
    doing: str | None = None
    """Work other than upscaling pages, such as sending them to a remote machine."""
    paused: bool = False
    """Whether the run is paused: it begins no further page."""
    within: tuple[PageProgress, ...] = ()
    """What is done of the pages in progress, if their engine tells: ``flux`` and ``imagen`` do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFinished:
    """The end of a run."""

    state: str
    """``finished``, or ``interrupted`` (by a stop request, or by too many failures)."""
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
    """The first failures, and volumes that are incomplete because of failed pages: (source, kind, reason)."""
    volumes: int = 0
    """Archives of the job."""
    volumes_done: int = 0
    """Archives whose outputs are complete."""
    carried_now: int = 0
    """Other files that this run copied: sidecars, and on request all others."""
    warnings: tuple[str, ...] = ()
    """A sentence for each other file that was not copied."""
    stopped_by: str | None = None
    """``max-cost`` if the cost ceiling interrupted the run, ``max-failures`` if too many pages failed, ``spot-notice``
    if the cloud takes the machine back; else None."""
    step: str | None = None
    """``push``, ``run`` or ``pull`` if only this remote step was requested; else None."""
    spent: float | None = None
    """Dollars that the job has cost, including earlier runs; None if no price is known."""
    price: float | None = None
    """Dollars per hour of this run."""
    suspects: int = 0
    """Finished pages that the quality gate rejected."""
    copied_now: int = 0
    """Pages among ``done_now`` that are duplicates, and got copies of other outputs."""
    orphans: int = 0
    """Outputs whose sources are no longer in the input. No other figure counts them."""
    earlier: int = 0
    """Outputs of earlier settings under other names, such as those of another format. No other figure counts them."""
    earlier_bytes: int = 0
    """Bytes of these outputs."""
    moved_now: int = 0
    """Outputs that this run moved because their sources were renamed."""
    volumes_cut: int = 0
    """Archives among ``volumes_done`` that are cut short or damaged, so that pages may be missing."""
    output_bytes: int = 0
    """Bytes of all outputs of the job."""
    replaced_now: int = 0
    """Originals that this run replaced by their outputs."""
    replaced: int = 0
    """Originals that were replaced by this run and earlier ones."""


Event: TypeAlias = (
    Note
    | HooksFinished
    | Preparing
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
    """Return a progress callback for a transfer on another thread; it takes name, bytes done and total bytes.

    Args:
        emit: takes the events, on the thread of the current event loop.
        kind: of the events.
    """
    loop = asyncio.get_running_loop()

    def on_progress(name: str, done: int, total: int) -> None:
        loop.call_soon_threadsafe(emit, kind(name=name, done_bytes=done, total_bytes=total))

    return on_progress


class StageMeter:
    """How busy a stage is: the share of its workers that are active, averaged over some seconds.

    It counts active items, not finished ones, so a page that takes a minute shows from its first second.

    Args:
        places: number of workers.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._active = 0
        self._work = 0.0
        self._since = time.monotonic()
        self._read_at, self._read_work = self._since, 0.0
        self.busy = 0.0

    def begin(self) -> None:
        """Note that an item has started."""
        self._advance()
        self._active += 1

    def end(self) -> None:
        """Note that an item has ended."""
        self._advance()
        self._active -= 1

    def sample(self) -> float:
        """Return how busy the stage is, 0 to 1, smoothed over the calls."""
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
    """Pages per second over the last minute."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()
        self._start = time.monotonic()

    def count(self) -> None:
        """Note that a page has finished."""
        self._times.append(time.monotonic())

    def rate(self) -> float | None:
        """Return pages per second; None before the first page has finished."""
        instant = time.monotonic()
        while self._times and instant - self._times[0] > RATE_WINDOW_SECONDS:
            self._times.popleft()
        elapsed = min(instant - self._start, RATE_WINDOW_SECONDS)
        return len(self._times) / elapsed if self._times and elapsed > 0 else None
