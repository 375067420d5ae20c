"""Flow control between stages: the available memory, and the assembly of batches."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


def total_memory() -> int:
    """Return the memory of this machine, in bytes."""
    # Imported only when engines are open, since the import is slow.
    import psutil

    return int(psutil.virtual_memory().total)


class BatchLimits:
    """Remembers the batch sizes of devices. A device is asked again after each of its batches.

    A device that is computing reports too small a size, because its memory is in use. Its previous answer then counts
    if it was larger.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[int, int, int]] = {}
        """How many batches had ended, the answer of the device, and the batch size."""

    def find(self, key: Hashable, ended: int, *, is_idle: bool, ask: Callable[[], int]) -> int:
        """Return a batch size, at least 1.

        Args:
            key: the device, and what the batch consists of.
            ended: how many batches of the device have ended.
            is_idle: whether the device has no work.
            ask: asks the device.
        """
        known = self._known.get(key)
        if known is None or known[0] != ended:
            answer = ask()
            limit = answer if known is None or is_idle else max(answer, known[1])
            known = self._known[key] = (ended, answer, limit)
        return known[2]


class BatchAssembler(Generic[T]):
    """Collects decoded pages into batches of one shape.

    An idle device gets a full batch if there is one, else the pages that have waited longest, however few. A partial
    batch is better than an idle device, and at the end of the input no page is left waiting. A device that has work
    gets only full batches of what it prefers: others fill meanwhile.

    Who takes a batch says what became of it: `done`, or `put_back`. Until then the others wait, since it may come back.
    """

    def __init__(self) -> None:
        self._buckets: dict[Hashable, deque[T]] = {}
        self._closed = False
        self._taken = 0
        """Batches of which nobody has said what became of them."""
        self._changed = asyncio.Event()

    def add(self, key: Hashable, item: T) -> None:
        """Add an item to those of the same key."""
        self._buckets.setdefault(key, deque()).append(item)
        self._changed.set()

    def close(self) -> None:
        """Note that no item will follow."""
        self._closed = True
        self._changed.set()

    async def take(
        self,
        limit: Callable[[T], int],
        *,
        prefers: Callable[[T], bool] = lambda _: True,
        is_idle: Callable[[], bool] = lambda: True,
    ) -> list[T]:
        """Return the next batch, all of one key; empty when closed and nothing is left or can come back.

        Args:
            limit: returns the batch size of the device for items like this one, at least 1.
            prefers: says which items the device takes first. The others wait as long as there are such items. They
                come to their turn, since the pixel budget lets no more pages in while they wait.
            is_idle: says whether the device has no work. It becomes so before `done` or `put_back` is called.
        """
        while (key := self._choose(limit, prefers, is_idle)) is None:
            if self._closed and not self._taken and not self._buckets:
                return []
            self._changed.clear()
            await self._changed.wait()
        # It may raise, and nothing is taken yet.
        count = limit(self._buckets[key][0])
        bucket = self._buckets.pop(key)
        batch = [bucket.popleft() for _ in range(min(len(bucket), count))]
        if bucket:
            self._buckets[key] = bucket
        self._taken += 1
        return batch

    def _choose(
        self, limit: Callable[[T], int], prefers: Callable[[T], bool], is_idle: Callable[[], bool]
    ) -> Hashable | None:
        """Return the key of the next batch; None if there is none for this device yet."""
        # Buckets are in the order of their oldest items.
        preferred = [key for key, bucket in self._buckets.items() if prefers(bucket[0])]
        keys = preferred or (list(self._buckets) if is_idle() else [])
        full = (key for key in keys if len(self._buckets[key]) >= limit(self._buckets[key][0]))
        # Once no item follows, no batch fills.
        is_taken_short = keys and (self._closed or is_idle())
        return next(full, keys[0] if is_taken_short else None)

    def done(self) -> None:
        """Note that a batch will not come back."""
        self._taken -= 1
        self._changed.set()

    def put_back(self, key: Hashable, batch: list[T]) -> None:
        """Return a batch that a device could not process; it is the next to be taken."""
        bucket = self._buckets.pop(key, deque())
        bucket.extendleft(reversed(batch))
        self._buckets = {key: bucket, **self._buckets}
        self.done()
