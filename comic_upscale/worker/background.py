"""Work that goes on beside a job, on a thread of its own."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from comic_upscale.server.log_context import new_thread


class Background(ABC):
    """Runs `_run` on a thread until the end of a block; a context manager.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._ended = threading.Event()
        """Set at the end of the block. `_run` returns soon after."""
        self._thread = new_thread(self._run, name)

    def __enter__(self) -> Self:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the thread, and wait for it."""
        self._ended.set()
        self._thread.join()

    @abstractmethod
    def _run(self) -> None:
        """Work until `_ended` is set."""
