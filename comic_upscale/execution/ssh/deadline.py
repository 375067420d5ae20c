"""Deadlines for steps that block: when the time is up, another thread breaks the step off."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType

_LONGEST_WAIT = 3600.0
"""The longest wait at once, in seconds; the system accepts no infinite one."""


class Deadline:
    """A time limit for a step that blocks; a context manager.

    The step is not trusted to look at the clock: it may be blocked in a library, or in the system.

    Args:
        seconds: time for the step.
        on_expired: called once, on another thread, when the time is up. It must make the step return or raise.
    """

    def __init__(self, seconds: float, on_expired: Callable[[], None]) -> None:
        self.expired = False
        """Whether the time was up before the step ended."""
        self._on_expired = on_expired
        self._until = time.monotonic() + seconds
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._watch, name="deadline", daemon=True)

    def __enter__(self) -> Deadline:
        """Start the clock."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the clock."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join()

    def restart(self, seconds: float) -> None:
        """Give the rest of the step this many seconds from now."""
        with self._changed:
            self._until = time.monotonic() + seconds
            self._changed.notify()

    def extend(self, seconds: float, most: float) -> None:
        """Give the step more time.

        Args:
            seconds: time to add.
            most: the most time that it may then have, seconds from now.
        """
        # The watching thread notices it when it wakes up at the earlier time.
        self._until = min(self._until + seconds, time.monotonic() + most)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock inside the block, for example while the user is asked."""
        left = self._until - time.monotonic()
        self.restart(float("inf"))
        try:
            yield
        finally:
            self.restart(left)

    def _watch(self) -> None:
        with self._changed:
            while not self._ended:
                left = self._until - time.monotonic()
                if left <= 0:
                    self.expired = True
                    break
                self._changed.wait(min(left, _LONGEST_WAIT))
        if self.expired:
            self._on_expired()
