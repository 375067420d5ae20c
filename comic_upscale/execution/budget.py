"""A limit on the amount of work in flight."""

from __future__ import annotations

import asyncio


class Budget:
    """Limits the pixels or bytes in flight, first come first served.

    A page larger than the whole budget passes when nothing else is in flight.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._free = size
        self._turn = asyncio.Lock()
        self._released = asyncio.Event()

    async def take(self, amount: int) -> int:
        """Wait until this amount is free, take it, and return the amount taken."""
        amount = min(amount, self._size)
        async with self._turn:
            while self._free < amount:
                self._released.clear()
                await self._released.wait()
            self._free -= amount
        return amount

    def give_back(self, amount: int) -> None:
        """Return an amount that `take` returned."""
        self._free += amount
        self._released.set()
