"""The seam between a job and whatever does its pages: tasks go in, outcomes come out.

A job claims its pages, hands each to an executor as a task, and puts in its place and records what comes back. An
executor knows no ledger, no plan, no volume and no output folder. So the pipeline of this machine, a remote machine
over SSH and whatever comes next are all the same to a job, and however many machines compute, one process alone
writes the ledger.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import Executor as Pool
from dataclasses import dataclass, field
from typing import ParamSpec, Protocol, TypeAlias, TypeVar

from comic_upscale.costs.spending import Spending
from comic_upscale.errors import ANIMATED, ComicUpscaleError, PageError
from comic_upscale.execution.events import Listener
from comic_upscale.execution.stop import StopRequest
from comic_upscale.ledger.records import PageFailed, PageSkipped
from comic_upscale.settings.job import FormatName, JobSettings

log = logging.getLogger(__name__)

T = TypeVar("T")
P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class SourceBytes:
    """The file of a page, in memory."""

    data: bytes
    seconds: float = 0.0
    """Seconds of a thread's work that getting it took: unpacking it, drawing it, hashing it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageTask:
    """A page that an executor should do."""

    row_id: int
    """Names the task; no two tasks of a run have one."""
    source: str
    """What the user calls the page."""
    format: FormatName
    """The format of the output; never ``auto``."""
    extension: str
    """The extension of the output's name, without the dot."""
    read: Callable[[], Awaitable[SourceBytes]]
    """Return the page's file; asked once, when its turn has come.

    Raises `PageError` where this page cannot be read, and `InputError` where none can any more."""
    sha256: str = ""
    """Of the page's file, hexadecimal, where it is known already; else empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageUpscaled:
    """A page that is done: its output, encoded and checked, which nobody has written yet."""

    row_id: int
    source_sha256: str
    width: int
    """Of the source, pixels, upright."""
    height: int
    """Of the source, pixels, upright."""
    output_width: int
    output_height: int
    data: bytes
    """The output, a whole file."""
    sha256: str
    """Of the output."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds in each of the stages that the executor has; see ``PageDone``."""
    waited: Mapping[str, float] = field(default_factory=dict)
    """Seconds that the page waited before stages."""
    notes: tuple[str, ...] = ()
    """What a person should know, a sentence each."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """How the page compares with its source, by the names of ``gate/scores.py``; empty where nobody looked."""
    suspect: tuple[str, ...] = ()
    """Why a person should look at it; empty for a page that passed."""
    made_at: float | None = None
    """When it was finished, by ``time.perf_counter``; None where its way to the output folder is not measured."""


PageOutcome: TypeAlias = PageUpscaled | PageFailed | PageSkipped
"""What became of a task: a value, also where it failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorInfo:
    """What an executor computes with."""

    device: str
    """In words, for the ledger: ``"cuda:0 (NVIDIA H200)"``, ``"box: NVIDIA H200"``."""
    precision: str
    """``"fp32"``, ``"fp16"`` or ``"bf16"``; empty where the executor cannot tell."""
    native_scale: int | None
    """The network's own factor; None where the executor cannot tell."""
    step: str | None = None
    """The one step that the executor takes with its tasks and no more; None for all of the way."""
    warnings: tuple[str, ...] = ()
    """What the user should know of the devices, a sentence each."""


@dataclass(slots=True)
class Activity:
    """What an executor is at, for a display; changed on the loop's thread."""

    in_hand: str | None = None
    """The source of the page that entered a network last."""
    doing: str | None = None
    """What is done besides pages, in words."""


class Executor(Protocol):
    """Does pages. Opened once, asked any number of times to process tasks, and closed, all in one event loop."""

    is_remote: bool
    """Whether a remote machine computes, whose stages and devices are not this run's to show."""
    activity: Activity
    """What it is at now."""

    async def has_accelerator(self, settings: JobSettings, on_progress: Listener) -> bool | None:
        """Tell, before it is opened, whether it computes on accelerators alone.

        Args:
            settings: of the job; the model may be ``auto`` still.
            on_progress: as for `open`.

        Returns:
            None where that is for the devices of this machine to say, as the settings name them.
        """

    async def open(
        self,
        settings: JobSettings,
        *,
        model: str,
        fingerprint: str,
        spending: Spending | None,
        on_progress: Listener,
    ) -> ExecutorInfo:
        """Make everything ready but the pages: weights, networks, devices.

        Args:
            settings: of the job: what decides its pixels, and the resources that may be used.
            model: what computes, in words.
            fingerprint: of the job, by which a machine knows it again.
            spending: the meter of the run, asked before each batch where the executor computes by itself.
            on_progress: is told of what takes a moment (`Preparing`, `Fetching`, `Sending`), on the loop's thread.

        Raises:
            WeightsError: no weights.
            DeviceError: a device is not there.
            RemoteError: another machine cannot do the work.
        """

    def info(self) -> ExecutorInfo:
        """Return what it computes with now: it may give half precision up on the way."""

    def process(self, tasks: AsyncIterator[PageTask], stop: StopRequest) -> AsyncGenerator[PageOutcome, None]:
        """Do tasks, and give each one's outcome as soon as it is there, in any order.

        Each task gets one outcome, unless a stop is asked for, or the executor takes one step only: then those
        that it has not begun get none. After the end it may be asked again. An outcome counts as held by the
        executor until the next one is asked for.

        Args:
            tasks: ends once nothing follows that does not depend on an outcome.
            stop: asks for an early end; the executor asks for it itself where the money does not last.

        Raises:
            DeviceError, RemoteError, InputError: what ended the work; what was in hand is lost.
        """

    def busy(self) -> dict[str, float]:
        """How busy each of its stages on this machine is, 0 to 1."""

    async def close(self) -> None:
        """Let go of everything, whether it was opened or not."""


def failed_page(
    row_id: int,
    source: str,
    error: PageError,
    *,
    size: tuple[int, int] = (0, 0),
    seconds: Mapping[str, float] | None = None,
) -> PageFailed | PageSkipped:
    """Return the outcome of a page that could not be done, or that the settings pass over as an animation.

    Args:
        row_id: of the page.
        source: of the page.
        error: what became of it.
        size: (width, height) of the source, as far as it is known.
        seconds: that it took in the stages.
    """
    if error.kind == ANIMATED:
        return skipped_page(row_id, source, error.kind, error.reason, size=size, seconds=seconds)
    return PageFailed(
        row_id=row_id, source=source, kind=error.kind, reason=error.reason, seconds=dict(seconds or {})
    )


def skipped_page(
    row_id: int,
    source: str,
    kind: str,
    reason: str,
    *,
    size: tuple[int, int],
    seconds: Mapping[str, float] | None = None,
) -> PageSkipped:
    """Return the outcome of a page that is left as it is; arguments as for `failed_page`."""
    return PageSkipped(
        row_id=row_id,
        source=source,
        kind=kind,
        reason=reason,
        width=size[0],
        height=size[1],
        seconds=dict(seconds or {}),
    )


def sha256_of_source(data: bytes) -> str:
    """The SHA-256 of a page's file, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def as_page_error(error: Exception, source: str) -> PageError:
    """Return what failed one page, as its failure; nobody may have foreseen it.

    Args:
        error: that a step with one page raised.
        source: of the page.

    Raises:
        ComicUpscaleError: the error itself, where it concerns more than this page.
    """
    if isinstance(error, PageError):
        return error
    if isinstance(error, MemoryError):
        return PageError("out-of-memory", "not enough memory for this page")
    if isinstance(error, ComicUpscaleError):
        raise error
    # One strange file must not end a run.
    log.error("an unforeseen error with %s", source, exc_info=error)
    return PageError("internal", f"an unforeseen error: {error!r}")


async def run_in(pool: Pool, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a function on a thread of a pool."""
    return await asyncio.get_running_loop().run_in_executor(pool, lambda: function(*args, **kwargs))
