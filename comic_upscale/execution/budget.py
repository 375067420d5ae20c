"""A bound on how much is in flight."""

from __future__ import annotations

import asyncio


class Budget:
    """Bounds how much is in flight, in pixels or in bytes, first come first served.

    A page larger than the whole budget is let through when nothing else is in flight.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._free = size
        self._turn = asyncio.Lock()
        self._released = asyncio.Event()

    async def take(self, amount: int) -> int:
        """Wait until so much is free, take it, and return how much was taken."""
        amount = min(amount, self._size)
        async with self._turn:
            while self._free < amount:
                self._released.clear()
                await self._released.wait()
            self._free -= amount
        return amount

    def give_back(self, amount: int) -> None:
        """Free what `take` returned."""
        self._free += amount
        self._released.set()
