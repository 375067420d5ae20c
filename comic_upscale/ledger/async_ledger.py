"""The thread of a ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


class AsyncLedger:
    """The one thread that owns a ledger."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")

    async def __call__(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function on the ledger's thread."""
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, lambda: function(*args, **kwargs)
        )

    def wait(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function on the ledger's thread, and wait for it on another thread than that of the event loop."""
        return self._thread.submit(function, *args, **kwargs).result()

    def shut_down(self) -> None:
        """Wait for all calls, then end the thread."""
        self._thread.shutdown()
