"""Whether an engine has a device to itself: torch counts the memory of all engines of a process together."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


class Occupancy:
    """Counts the batches on each device. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: Counter[str] = Counter()
        self._begun: Counter[str] = Counter()

    @contextmanager
    def batch_on(self, device: torch.device) -> Iterator[Callable[[], bool]]:
        """Count a batch, and yield a function that returns whether no other one has run on the device meanwhile."""
        name = str(device)
        with self._lock:
            was_free = not self._running[name]
            self._running[name] += 1
            self._begun[name] += 1
            mine = self._begun[name]
        try:
            yield lambda: was_free and self._begun[name] == mine
        finally:
            with self._lock:
                self._running[name] -= 1


OCCUPANCY = Occupancy()
"""The batches of this process."""
