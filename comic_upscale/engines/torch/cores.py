"""The CPU cores, shared by engines that run in parallel.

Two pages with one core each finish sooner than one after the other with two cores. Threads that share a layer wait for
each other at its end, and longer if decoding or encoding takes one of the cores.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

MOST_AT_ONCE = 16
"""The most pages at once on any number of cores. Each needs the memory of a native page."""


class SharedCores:
    """Divides the cores among the engines that are currently working. Safe from any thread.

    Args:
        count: threads that torch may use in total, at least 1.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._busy = 0
        self._lock = threading.Lock()

    @property
    def pages_at_once(self) -> int:
        """The number of engines that should share the cores."""
        return min(self._count, MOST_AT_ONCE)

    @contextmanager
    def share(self) -> Iterator[int]:
        """Let torch use a fair share of the cores in this thread: all of them if no other engine is working.

        The share is decided when the work begins. It is the value of the ``with`` statement.
        """
        with self._lock:
            self._busy += 1
            threads = max(1, self._count // self._busy)
            # Inside the lock, because torch also stores the number for new threads.
            torch.set_num_threads(threads)
        try:
            yield threads
        finally:
            with self._lock:
                self._busy -= 1

    def give_back(self) -> None:
        """Let torch use all cores again, in this thread and in new threads."""
        torch.set_num_threads(self._count)
