"""The cost of a job so far, and the check that stops it before it exceeds its ceiling."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

SECONDS_AN_HOUR = 3600.0

ENDING_SECONDS = 1.0
"""Reserve for the end of a run after its last page: records, closing, releasing the device."""


def dollars(seconds: float, price: float) -> float:
    """Return the cost of a time in seconds at a price in dollars per hour."""
    return seconds * price / SECONDS_AN_HOUR


class Spending:
    """The meter of one run. It starts when it is created, and any thread may read it.

    Args:
        price: dollars per hour.
        most: the ceiling in dollars for the whole job; None for no ceiling.
        before: cost of the job's earlier runs in dollars.
        clock: a monotonic clock in seconds.
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
        self._billed = 0.0
        self.on_bill: Callable[[float], None] | None = None
        """Records dollars that were billed, or that were not after all (negative). It must not return before they are
        kept."""
        self._clock = clock
        self._start = clock()
        self._lock = threading.Lock()
        self._seconds_per_pixel = 0.0
        self._tail_seconds = ENDING_SECONDS

    def spent(self) -> float:
        """Return the cost of the job so far in dollars, including earlier runs."""
        return self._before + self._billed + dollars(self._clock() - self._start, self.price)

    def try_bill(self, amount: float) -> bool:
        """Record a call that is billed, before it is made, unless the job would exceed its ceiling.

        Args:
            amount: dollars, at least 0.

        Returns:
            Whether the call may be made.
        """
        with self._lock:
            # A sum of prices that equals the ceiling may be a little above it in binary.
            if self.most is not None and self.spent() + amount > self.most + 1e-9:
                return False
            self._bill(amount)
            return True

    def refund(self, amount: float) -> None:
        """Take back the record of a call that was not billed in the end, such as one that was refused."""
        with self._lock:
            self._bill(-amount)

    def _bill(self, amount: float) -> None:
        # Recorded first: after a kill, too much is counted and never too little.
        if self.on_bill is not None:
            self.on_bill(amount)
        self._billed += amount

    def note_batch(self, pixels: int, seconds: float) -> None:
        """Record the time of a batch on its device. The slowest batch counts."""
        with self._lock:
            self._seconds_per_pixel = max(self._seconds_per_pixel, seconds / max(pixels, 1))

    def note_tail(self, seconds: float) -> None:
        """Record the time of a page from its device to its record. The slowest page counts."""
        with self._lock:
            self._tail_seconds = max(self._tail_seconds, ENDING_SECONDS + seconds)

    def allows(self, pixels: int = 0, seconds: float = 0.0) -> bool:
        """Return whether a batch of this many input pixels can be processed and recorded below the ceiling.

        Args:
            pixels: input pixels of the next batch.
            seconds: time that something else needs first.

        Before anything is measured, the first batch is allowed, because only it can show the time of a batch.
        """
        if self.most is None:
            return True
        with self._lock:
            more = seconds + pixels * self._seconds_per_pixel + self._tail_seconds
        return self.spent() + dollars(more, self.price) <= self.most

    def why(self, seconds: float = 0.0) -> str:
        """Return the reason to stop as text, with the seconds given to `allows`."""
        ahead = f", and {seconds:.0f} s go by before the first page" if seconds >= 1 else ""
        hourly = f" at ${self.price:g} an hour" if self.price else ""
        return f"--max-cost ${self.most:g}: ${self.spent():.4g} spent{hourly}{ahead}"
