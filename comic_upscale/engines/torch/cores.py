"""The CPU cores, shared by engines that run in parallel.

Two pages with one core each finish sooner than one after the other with two cores. Threads that share a layer wait for
each other at its end, and longer if decoding or encoding takes one of the cores.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

MOST_AT_ONCE = 16
"""The most pages at once on any number of cores. Each needs the memory of a native page."""


@cache
def all_threads() -> int:
    """Return the threads that torch may use in total: those that it had when this was first asked.

    `SharedCores` changes what torch says, also in new threads, which then begin with a part.
    """
    return torch.get_num_threads()


class SharedCores:
    """Divides the cores among the engines that are currently working. Safe from any thread.

    Args:
        count: threads that torch may use in total, at least 1.
        engines: how many engines share them; None for as many as do best with a network that runs in strips.
    """

    def __init__(self, count: int, engines: int | None = None) -> None:
        self._count = count
        self.pages_at_once = min(count, MOST_AT_ONCE) if engines is None else engines
        """The number of engines that share the cores."""
        self._busy = 0
        self._lock = threading.Lock()

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
