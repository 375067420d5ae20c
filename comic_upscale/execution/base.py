"""The interface between a job and an executor: tasks go in, outcomes come out.

A job claims its pages, hands each to an executor as a task, then places and records the outcome. An executor knows
no ledger, no plan, no volume and no output folder. So every executor looks the same to a job: the local pipeline, a
worker, remote machines over SSH, a cluster. However many machines compute, only one process writes the ledger.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import Executor as Pool
from dataclasses import dataclass, field
from pathlib import Path
from typing import ParamSpec, Protocol, TypeAlias, TypeVar

from comic_upscale.costs.spending import Spending
from comic_upscale.errors import ANIMATED, ComicUpscaleError, PageError
from comic_upscale.execution.events import Listener
from comic_upscale.execution.stop import StopRequest
from comic_upscale.ledger.records import PageFacts, PageFailed, PageProgress, PageSkipped
from comic_upscale.settings.job import FormatName, JobSettings

log = logging.getLogger(__name__)

CRASH = "crash"
"""The kind of failure of a page that a process did not survive."""

T = TypeVar("T")
P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class SourceBytes:
    """The file of a page, in memory."""

    data: bytes
    seconds: float = 0.0
    """Thread time spent on getting it, in seconds: unpacking, rendering, hashing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageTask:
    """A page for an executor."""

    row_id: int
    """Identifies the task; unique in a run."""
    source: str
    """The name of the page for the user."""
    format: FormatName
    """The format of the output; never ``auto``."""
    extension: str
    """The extension of the output's name, without the dot."""
    read: Callable[[], Awaitable[SourceBytes]]
    """Returns the file of the page; called when the page is needed. A second call reads it again.

    Raises `PageError` if this page cannot be read, and `InputError` if no page can be read any more."""
    sha256: str = ""
    """Of the file of the page, hexadecimal; empty if not known yet."""
    address: Path | None = None
    """Of the file of the page in a bucket, where any machine can read it; None if only `read` has it."""
    points: tuple[int, int] | None = None
    """The shades of 8 bits that become black and white in its volume, for levels per volume; None if it needs none."""


@dataclass(frozen=True, slots=True)
class StoredOutput:
    """An output that an executor has written to the store of the outputs, under a name of its own."""

    name: str
    size: int
    """Bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageUpscaled(PageFacts):
    """A finished page: its output, encoded and checked, but not written yet."""

    data: bytes
    """The output, a complete file; empty if it is stored."""
    sha256: str
    """Of the output."""
    answers: tuple[str, ...] = ()
    """Pages in `AnswerStore` whose answers are deleted once this page is recorded."""
    made_at: float | None = None
    """When it was finished, by ``time.perf_counter``; None if the time until it is placed is not measured."""
    stored: StoredOutput | None = None
    """The output, if it is in the store of the outputs already."""

    @property
    def size(self) -> int:
        """Bytes of the output."""
        return len(self.data) if self.stored is None else self.stored.size


PageOutcome: TypeAlias = PageUpscaled | PageFailed | PageSkipped
"""The result of a task; a failure is a value too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorInfo:
    """The device and network of an executor."""

    device: str
    """For display and for the ledger: ``"cuda:0 (NVIDIA H200)"``, ``"box: NVIDIA H200"``."""
    precision: str
    """``"fp32"``, ``"fp16"``, ``"bf16"`` or ``"int8"``; empty if unknown."""
    native_scale: int | None
    """The network's own factor; None if unknown."""
    step: str | None = None
    """The only step that the executor takes with its tasks; None if it completes them."""
    warnings: tuple[str, ...] = ()
    """Warnings about the devices, a sentence each."""


@dataclass(slots=True)
class Activity:
    """What an executor is doing, for a display; changed on the thread of the event loop."""

    in_hand: str | None = None
    """The source of the page that a network, a worker or an actor was given last."""
    doing: str | None = None
    """Work other than upscaling pages, for display."""
    within: dict[int, PageProgress] = field(default_factory=dict)
    """What is done of the pages in engines that tell, by row id. Empty with engines whose pages take seconds."""


class Executor(Protocol):
    """Processes pages. It is opened once, processes tasks any number of times, and is closed, all in one event loop."""

    is_remote: bool
    """Whether a remote machine computes; the run then shows no stages and devices of its own."""
    activity: Activity
    """What it is doing now."""

    async def has_accelerator(self, settings: JobSettings, on_progress: Listener) -> bool | None:
        """Return, before it is opened, whether it computes on GPUs only.

        Args:
            settings: of the job; the model may still be ``auto``.
            on_progress: as for `open`.

        Returns:
            None if the devices in the settings, on this machine, decide that.
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
        """Prepare everything except the pages: weights, networks, devices.

        Args:
            settings: of the job.
            model: its name, for display.
            fingerprint: of the job; identifies it on a remote machine.
            spending: the cost meter of the run; a local executor asks it before each batch.
            on_progress: called with `Preparing`, `Fetching` and `Sending` events, on the thread of the event loop.

        Raises:
            WeightsError: the weights are missing.
            DeviceError: a device is missing.
            RemoteError: the remote machine cannot do the work.
        """

    def info(self) -> ExecutorInfo:
        """Return its current device and precision: it may give up half precision during the run."""

    def process(self, tasks: AsyncIterator[PageTask], stop: StopRequest) -> AsyncGenerator[PageOutcome, None]:
        """Process tasks, and yield the outcome of each as soon as it is ready, in any order.

        Each task gets one outcome, unless a stop is requested or the executor takes one step only. Tasks that
        have not started then get none. The method may be called again after the end. An outcome counts as held by
        the executor until the caller requests the next one.

        Args:
            tasks: ends when every further task would depend on an outcome.
            stop: requests an early end; the executor requests it itself at the cost ceiling.

        Raises:
            DeviceError, RemoteError, InputError: the work cannot go on; pages in flight are lost.
        """

    def busy(self) -> dict[str, float]:
        """Return how busy each of its stages on this machine is, 0 to 1."""

    async def close(self) -> None:
        """Release everything; may be called without `open`."""


def failed_page(
    row_id: int,
    source: str,
    error: PageError,
    *,
    size: tuple[int, int] = (0, 0),
    seconds: Mapping[str, float] | None = None,
) -> PageFailed | PageSkipped:
    """Return the outcome of a page that failed, or of an animation that the settings skip.

    Args:
        row_id: of the page.
        source: of the page.
        error: why it failed or is skipped.
        size: (width, height) of the source; zeros if unknown.
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
    """Return the SHA-256 of the file of a page, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def as_page_error(error: Exception, source: str) -> PageError:
    """Return the failure of a page for any error, even an unexpected one.

    Args:
        error: raised by a step for this page.
        source: of the page.

    Raises:
        ComicUpscaleError: the error itself, if it affects more than this page.
    """
    if isinstance(error, PageError):
        return error
    if isinstance(error, MemoryError):
        return PageError("out-of-memory", "not enough memory for this page")
    if isinstance(error, ComicUpscaleError):
        raise error
    # One unusual file must not end a run.
    log.error("unforeseen error with %s", source, exc_info=error)
    return PageError("internal", f"unforeseen error: {error!r}")


async def run_in(pool: Pool, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a function on a thread of a pool."""
    return await asyncio.get_running_loop().run_in_executor(pool, lambda: function(*args, **kwargs))
