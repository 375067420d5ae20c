"""The processor's cores, shared by engines that work side by side.

Two pages with a core each are done sooner than one after the other with both: threads that share a
layer wait for each other at its end, all the more where a core is at times taken by decoding or encoding.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

MOST_AT_ONCE = 16
"""Pages at once, however many cores there are: each has a native page in memory."""


class SharedCores:
    """Gives whoever works as many threads as there are cores for it now; safe from any thread.

    Args:
        count: threads that torch may use altogether, at least 1.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._busy = 0
        self._lock = threading.Lock()

    @property
    def pages_at_once(self) -> int:
        """How many engines should share the cores."""
        return min(self._count, MOST_AT_ONCE)

    @contextmanager
    def share(self) -> Iterator[int]:
        """Let this thread's torch use a fair part of the cores, all of them where nobody else works.

        The part is that of the moment at which work begins; it is given to the ``with`` block.
        """
        with self._lock:
            self._busy += 1
            threads = max(1, self._count // self._busy)
            # Within the lock: torch keeps the number for its threads, but also one for threads to come.
            torch.set_num_threads(threads)
        try:
            yield threads
        finally:
            with self._lock:
                self._busy -= 1

    def give_back(self) -> None:
        """Let torch use all cores again, in this thread and in those to come."""
        torch.set_num_threads(self._count)
