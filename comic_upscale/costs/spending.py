"""What a job has cost so far, and stopping it before it costs more than it may."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

SECONDS_AN_HOUR = 3600.0

ENDING_SECONDS = 1.0
"""Kept back for what ends a run behind its last page: records, closing, handing the device back."""


def dollars(seconds: float, price: float) -> float:
    """What so many seconds cost at so many dollars an hour."""
    return seconds * price / SECONDS_AN_HOUR


class Spending:
    """The meter of one run, from the moment that it is made; may be read from any thread.

    Args:
        price: dollars an hour.
        most: the ceiling in dollars, for the whole job; None for none.
        before: dollars that earlier runs of the job have cost.
        clock: seconds, going forward.
    """

    def __init__(
        self,
        price: float,
        most: float | None = None,
        before: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.price = price
        self.most = most
        self._before = before
        self._clock = clock
        self._start = clock()
        self._lock = threading.Lock()
        self._seconds_per_pixel = 0.0
        self._tail_seconds = ENDING_SECONDS

    def spent(self) -> float:
        """Dollars that the job has cost by now, earlier runs included."""
        return self._before + dollars(self._clock() - self._start, self.price)

    def note_batch(self, pixels: int, seconds: float) -> None:
        """Remember what a batch took on its device; the slowest counts."""
        with self._lock:
            self._seconds_per_pixel = max(self._seconds_per_pixel, seconds / max(pixels, 1))

    def note_tail(self, seconds: float) -> None:
        """Remember what a page took from its device to its record; the slowest counts."""
        with self._lock:
            self._tail_seconds = max(self._tail_seconds, ENDING_SECONDS + seconds)

    def allows(self, pixels: int = 0, seconds: float = 0.0) -> bool:
        """Whether so many more input pixels can be taken on, and brought to their record, below the ceiling.

        Args:
            pixels: of the next batch.
            seconds: that something else will take before it.

        Before anything was measured the first batch is taken on: only it can say what a batch takes.
        """
        if self.most is None:
            return True
        with self._lock:
            more = seconds + pixels * self._seconds_per_pixel + self._tail_seconds
        return self.spent() + dollars(more, self.price) <= self.most

    def why(self, seconds: float = 0.0) -> str:
        """The reason to stop, for a person; with the seconds that `allows` was asked about."""
        ahead = f", and {seconds:.0f} s go by before the first page" if seconds >= 1 else ""
        return f"--max-cost ${self.most:g}: ${self.spent():.4g} spent at ${self.price:g} an hour{ahead}"
