"""The run on a remote machine: calls that do not outlast a stop, and restarts while pages are pending."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from comic_upscale.errors import EXIT_CEILING, ComicUpscaleError, RemoteError
from comic_upscale.execution.remote_host import PollResult, RemoteHost
from comic_upscale.execution.stop import CEILING, StopRequest

T = TypeVar("T")
P = ParamSpec("P")

MOST_STARTS = 3
"""A remote run that ends this often without finishing a page is not restarted."""

STOP_SECONDS = 30.0
"""How long the remote run may take to stop at the cost ceiling: this time costs money too."""

GRACE_SECONDS = 10.0
"""How long a call may go on after a stop. At the cost ceiling it ends at once."""

_LOOK_SECONDS = 0.1
_END_SECONDS = 10.0
"""How long a call may take to end after it was broken off."""


class HostThread:
    """The single thread that talks to a remote machine.

    Args:
        host: the machine.
    """

    def __init__(self, host: RemoteHost) -> None:
        self._host = host
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="remote")
        self._running: asyncio.Future[Any] | None = None
        self.seconds_left: Callable[[], float | None] = lambda: None
        """Returns how long a call may still go on: None without a limit, 0 if it must end now."""

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a method of the remote host, and break it off when its time is up.

        Raises:
            RemoteError: the method failed, or was broken off.
        """
        return await self._run(lambda: function(*args, **kwargs), self.seconds_left)

    async def call_within(self, seconds: float, function: Callable[[], T]) -> T:
        """Run a method of the remote host after others were broken off, for a number of seconds at most.

        Raises:
            RemoteError: the method failed, or was broken off.
        """
        self._host.recover()
        until = time.monotonic() + seconds
        return await self._run(function, lambda: max(0.0, until - time.monotonic()))

    def close(self) -> None:
        """Break off the call in progress, and end the thread."""
        if self._running is not None and not self._running.done():
            self._host.abort()
        self._thread.shutdown(cancel_futures=True)

    async def _run(self, call: Callable[[], T], seconds_left: Callable[[], float | None]) -> T:
        running = asyncio.get_running_loop().run_in_executor(self._thread, _outcome, call, self._host)
        self._running = running
        ends_at: float | None = None
        while True:
            await asyncio.wait({running}, timeout=_LOOK_SECONDS)
            if running.done():
                return running.result()
            left = seconds_left()
            if left is None:
                continue
            ends_at = time.monotonic() + left if ends_at is None else min(ends_at, time.monotonic() + left)
            if time.monotonic() >= ends_at:
                break
        self._host.abort()
        await asyncio.wait({running}, timeout=_END_SECONDS)
        if running.done():
            # It may have ended well at the last moment.
            return running.result()
        raise RemoteError("the remote machine does not answer")


def _outcome(call: Callable[[], T], host: RemoteHost) -> T:
    """Run a call; its error says which of its words belong in no record."""
    try:
        return call()
    except ComicUpscaleError as error:
        error.private = host.private_names()
        raise


class RemoteRun:
    """The run on the remote machine: polls it and restarts it.

    Args:
        host: the remote machine.
        thread: talks to it.
        retry_failed: whether pages that failed there earlier are tried again.
    """

    def __init__(self, host: RemoteHost, thread: HostThread, *, retry_failed: bool) -> None:
        self._host = host
        self._thread = thread
        self._settled: set[str] = set()
        self._settled_at_start = 0
        self._progress_at = time.monotonic()
        self.starts = 0
        """Starts since a page was last finished."""
        self.retries = retry_failed
        """Whether the next start tries failed pages again."""

    async def poll(self, known: Collection[str]) -> PollResult:
        """Poll the machine.

        Args:
            known: names of the pages that are on the machine.
        """
        result = await self._thread.call(self._host.poll)
        before = len(self._settled)
        # A poll repeats the newest results of the one before.
        self._settled |= {page.name for page in result.pages if page.name in known}
        if len(self._settled) > before:
            self.note_progress()
        return result

    def note_progress(self) -> None:
        """Count the time without a finished page from now on."""
        self._progress_at = time.monotonic()

    async def check_progress(self, seconds: float) -> None:
        """Stop the remote run if it has finished no page for this long: being alive is no progress.

        Raises:
            RemoteError: it has not.
        """
        if not seconds or time.monotonic() - self._progress_at < seconds:
            return
        try:
            state = await self._thread.call_within(STOP_SECONDS, self._host.stop)
            log = await self._thread.call_within(STOP_SECONDS, self._host.last_error)
        except RemoteError as error:
            state, log = "busy", str(error)
        end = "It was stopped" if state == "stopped" else "It could not be stopped"
        raise RemoteError(
            f"the remote run has finished no page for {seconds:,.0f} seconds (--page-timeout). {end}; its last output: "
            f"{log}. Run the same command again to continue"
        )

    async def restart(self, result: PollResult, stop: StopRequest) -> None:
        """Start the next remote run, unless the last one ended for a reason that would end this one too.

        Args:
            result: of the last poll; no run is alive.
            stop: requested if the remote run has reached the cost ceiling.

        Raises:
            RemoteError: there is such a reason, or several runs ended without finishing a page.
        """
        if self.starts:
            await self._check_exit(result, stop)
        if stop.requested:
            return
        if len(self._settled) > self._settled_at_start:
            self.starts = 0
        if self.starts >= MOST_STARTS:
            raise RemoteError(
                f"the remote run ended {self.starts} times without finishing a page: "
                f"{await self._thread.call(self._host.last_error)}"
            )
        self._settled_at_start = len(self._settled)
        retry, self.retries = self.retries, False
        await self._thread.call(lambda: self._host.start(retry_failed=retry))
        self.note_progress()
        self.starts += 1

    async def _check_exit(self, result: PollResult, stop: StopRequest) -> None:
        """Stop or raise if the last run ended for a reason that a restart does not fix."""
        if result.exit_code in (0, 1, None) or result.exit_code == 128 + 9:
            return
        error = await self._thread.call(self._host.last_error)
        if result.exit_code == EXIT_CEILING:
            stop.request(f"the remote run reached the cost ceiling: {error}", CEILING)
            return
        if result.exit_code in (129, 130, 143):
            raise RemoteError(f"the remote run was stopped: {error}. Run the same command again to continue")
        raise RemoteError(f"the remote run ended with exit code {result.exit_code}: {error}")
