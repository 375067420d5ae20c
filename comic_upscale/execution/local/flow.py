"""What regulates the flow between stages: a budget of pixels, a place where equal pages meet, a stop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


CEILING = "max-cost"
"""The kind of a stop before a job costs more than it may."""


class StopRequest:
    """Asks a run to stop gracefully; may be set from any thread or signal handler."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.reason: str | None = None
        self.kind: str | None = None

    def request(self, reason: str, kind: str | None = None) -> None:
        """Ask for the stop; the first reason counts.

        Args:
            reason: for a person.
            kind: a short stable word for programs, where they should know it.
        """
        if not self._event.is_set():
            self.reason, self.kind = reason, kind
            self._event.set()

    @property
    def requested(self) -> bool:
        """Whether the run shall stop."""
        return self._event.is_set()


def total_memory() -> int:
    """Bytes of memory of this machine."""
    # Where an engine is, and not before: the import takes its time.
    import psutil

    return int(psutil.virtual_memory().total)


class PixelBudget:
    """Bounds how many pixels are in flight, first come first served.

    A page larger than the whole budget is let through when nothing else is in flight.
    """

    def __init__(self, pixels: int) -> None:
        self._size = pixels
        self._free = pixels
        self._turn = asyncio.Lock()
        self._released = asyncio.Event()

    async def take(self, pixels: int) -> int:
        """Wait until the pixels are free, take them, and return how many were taken."""
        pixels = min(pixels, self._size)
        async with self._turn:
            while self._free < pixels:
                self._released.clear()
                await self._released.wait()
            self._free -= pixels
        return pixels

    def give_back(self, pixels: int) -> None:
        """Free what `take` returned."""
        self._free += pixels
        self._released.set()


class BatchAssembler(Generic[T]):
    """Where decoded pages wait for others of their shape.

    A device that asks gets a full batch where there is one, else the pages that have waited longest,
    however few: a partial batch beats an idle device, and at the end of the input nothing waits.
    """

    def __init__(self) -> None:
        self._buckets: dict[Hashable, deque[T]] = {}
        self._closed = False
        self._changed = asyncio.Event()

    def add(self, key: Hashable, item: T) -> None:
        """Let an item wait with those of the same key."""
        self._buckets.setdefault(key, deque()).append(item)
        self._changed.set()

    def close(self) -> None:
        """Say that no item will follow."""
        self._closed = True
        self._changed.set()

    async def take(self, limit: Callable[[T], int]) -> list[T]:
        """Return the next batch, all of one key; empty when closed and nothing is left.

        Args:
            limit: how many items like this one the device takes at once, at least 1.
        """
        while not self._buckets:
            if self._closed:
                return []
            self._changed.clear()
            await self._changed.wait()
        # Buckets stand in the order in which their oldest item came.
        key = next(
            (key for key, bucket in self._buckets.items() if len(bucket) >= limit(bucket[0])),
            next(iter(self._buckets)),
        )
        bucket = self._buckets.pop(key)
        batch = [bucket.popleft() for _ in range(min(len(bucket), limit(bucket[0])))]
        if bucket:
            self._buckets[key] = bucket
        return batch
