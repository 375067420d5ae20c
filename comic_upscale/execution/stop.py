"""Requests to stop or pause a run: flags that any thread or signal handler may set. Imports nothing heavy."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

CEILING = "max-cost"
"""The kind of a stop because of the cost ceiling."""

FAILURES = "max-failures"
"""The kind of a stop because too many pages have failed."""

SPOT = "spot-notice"
"""The kind of a stop because the cloud takes the machine back."""

_LOOK_SECONDS = 0.2
"""How often a wait looks whether the run may go on, or should stop."""


class StopRequest:
    """Requests a graceful stop of a run, or a pause; may be set from any thread or signal handler."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.reason: str | None = None
        self.kind: str | None = None
        self.has_begun = False
        """Whether the run has begun. Before, there is no page in flight to finish, and nothing to record."""
        self.is_paused = False
        """Whether the run should begin no further page for now. A stop counts more than a pause."""
        self._inner: StopRequest | None = None

    def for_next_run(self) -> StopRequest:
        """Return the request of the next one of several runs, one after the other: this request stops that run, too.

        What stops the run itself, such as its cost ceiling, does not stop the others.
        """
        inner = StopRequest()
        self._inner = inner
        # It may have come meanwhile, in a signal handler.
        if self.requested:
            inner.request(self.reason or "", self.kind)
        return inner

    def request(self, reason: str, kind: str | None = None) -> None:
        """Request the stop; the first reason is kept.

        Args:
            reason: for the user.
            kind: a short stable word for programs, if they need to tell this stop from others.
        """
        if not self._event.is_set():
            self.reason, self.kind = reason, kind
            self._event.set()
            if self._inner is not None:
                self._inner.request(reason, kind)

    @property
    def requested(self) -> bool:
        """Whether the run should stop."""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait for the stop, at most this long, and return whether it was requested."""
        deadline = time.monotonic() + seconds
        # In slices: on Windows, the handler of Ctrl-C runs only after a wait, not during it.
        while not self.requested and (left := deadline - time.monotonic()) > 0:
            self._event.wait(min(left, _LOOK_SECONDS))
        return self.requested

    async def comes_before(self, event: asyncio.Event) -> bool:
        """Wait for the event or the stop, and return whether the stop came first."""
        while not event.is_set() and not self.requested:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(event.wait(), _LOOK_SECONDS)
        return not event.is_set()

    async def while_paused(self) -> None:
        """Return when the run is not paused, or should stop."""
        # Both flags are set by other threads, so no event of asyncio can be awaited.
        while self.is_paused and not self.requested:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_SECONDS)
