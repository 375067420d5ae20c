"""The interface between a job and its executors: tasks go in, outcomes come out.

A job claims its pages, hands each to an executor as a task, writes the output to its place and records it. An executor
knows no ledger, no plan, no volume and no output folder. So a job treats the pipeline of this machine, a remote machine
over SSH and any later executor alike. However many machines compute, one process writes the ledger.
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
    """Seconds of thread time for unpacking, drawing and hashing it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageTask:
    """A page for an executor."""

    row_id: int
    """Identifies the task within a run."""
    source: str
    """The user's name of the page."""
    format: FormatName
    """The format of the output; never ``auto``."""
    extension: str
    """The extension of the output's name, without the dot."""
    read: Callable[[], Awaitable[SourceBytes]]
    """Return the page's file. Called at most once.

    Raises `PageError` if this page cannot be read, and `InputError` if no page can."""
    sha256: str = ""
    """Of the page's file, hexadecimal; empty if it is not known yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageUpscaled:
    """A finished page: its output, encoded and checked, not written anywhere yet."""

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
    """Seconds in each stage of the executor; see ``PageDone``."""
    waited: Mapping[str, float] = field(default_factory=dict)
    """Seconds that the page waited before stages."""
    notes: tuple[str, ...] = ()
    """What a person should know, a sentence each."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Comparison with the source, by the names of ``gate/scores.py``; empty if the gate did not see the page."""
    suspect: tuple[str, ...] = ()
    """Why a person should look at it; empty for a page that passed."""
    made_at: float | None = None
    """Time at which it was finished, by ``time.perf_counter``; None if the time to its place is not measured."""


PageOutcome: TypeAlias = PageUpscaled | PageFailed | PageSkipped
"""The result of a task. A failure is a value too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorInfo:
    """The devices and the network of an executor."""

    device: str
    """In words, for the ledger: ``"cuda:0 (NVIDIA H200)"``, ``"box: NVIDIA H200"``."""
    precision: str
    """``"fp32"``, ``"fp16"`` or ``"bf16"``; empty if unknown."""
    native_scale: int | None
    """The network's own factor; None if unknown, or if the engine makes any size."""
    step: str | None = None
    """The only step that the executor takes, such as ``"push"``; None if it takes all of them."""
    warnings: tuple[str, ...] = ()
    """What the user should know of the devices, a sentence each."""


@dataclass(slots=True)
class Activity:
    """The current activity of an executor, for a display; changed on the loop's thread."""

    in_hand: str | None = None
    """Source of the page that entered the network last."""
    doing: str | None = None
    """Work other than pages, in words."""


class Executor(Protocol):
    """Processes pages. It is opened once, processes tasks any number of times, and is closed, in one event loop."""

    is_remote: bool
    """Whether a remote machine computes. Its stages and devices are not shown by this run."""
    activity: Activity
    """The current activity."""

    async def has_accelerator(self, settings: JobSettings, on_progress: Listener) -> bool | None:
        """Return, before it is opened, whether it computes on accelerators only.

        Args:
            settings: of the job; the model may be ``auto`` still.
            on_progress: as for `open`.

        Returns:
            None if the devices of this machine decide that, as the settings name them.
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
        """Prepare everything but the pages: weights, networks, devices.

        Args:
            settings: of the job: those that decide its pixels, and its resources.
            model: name of the model.
            fingerprint: of the job, by which a machine recognises it.
            spending: the meter of the run. An executor that computes itself asks it before each batch.
            on_progress: gets the events `Preparing`, `Fetching` and `Sending`, on the loop's thread.

        Raises:
            WeightsError: no weights.
            DeviceError: a device is not there.
            RemoteError: the remote machine cannot do the work.
        """

    def info(self) -> ExecutorInfo:
        """Return its current state: an engine may give up half precision during a run."""

    def process(self, tasks: AsyncIterator[PageTask], stop: StopRequest) -> AsyncGenerator[PageOutcome, None]:
        """Process tasks, and yield the outcome of each as soon as it is ready, in any order.

        Each task gets one outcome. After a stop, or if the executor takes only one step, tasks that were not begun
        get none. `process` may be called again after its end. The executor accounts for the memory of an outcome
        until the next one is requested.

        Args:
            tasks: its end must not depend on outcomes.
            stop: requests an early end. The executor requests it itself if the money does not last.

        Raises:
            DeviceError, RemoteError, InputError: the error that ended the work; pages in flight are lost.
        """

    def busy(self) -> dict[str, float]:
        """Return how busy each of its stages on this machine is, 0 to 1."""

    async def close(self) -> None:
        """Release everything, whether it was opened or not."""


def failed_page(
    row_id: int,
    source: str,
    error: PageError,
    *,
    size: tuple[int, int] = (0, 0),
    seconds: Mapping[str, float] | None = None,
) -> PageFailed | PageSkipped:
    """Return the outcome of a page that failed, or that is skipped as an animation.

    Args:
        row_id: of the page.
        source: of the page.
        error: the reason.
        size: (width, height) of the source, if known.
        seconds: in each stage.
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
    """Return the outcome of a page that is skipped; arguments as for `failed_page`."""
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
    """Turn an error of one page into its failure, also an unforeseen one.

    Args:
        error: raised by a step with one page.
        source: of the page.

    Raises:
        ComicUpscaleError: the error itself, if it concerns more than this page.
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
