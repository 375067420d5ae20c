"""What regulates the flow between stages: the memory there is for it, and the place where equal pages meet."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


def total_memory() -> int:
    """Bytes of memory of this machine."""
    # Where an engine is, and not before: the import takes its time.
    import psutil

    return int(psutil.virtual_memory().total)


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
