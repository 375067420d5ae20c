"""The interface for a caller that watches which pages are in flight: its process may not survive one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class PageWatch(Protocol):
    """Watches the pages of a run. Its methods are called on the thread of the event loop, and return at once."""

    @property
    def is_careful(self) -> bool:
        """Whether the next page has to wait until no other page is in flight."""

    def plan(self, sources: Sequence[str]) -> None:
        """Take the pages that the run will process."""

    def refuse(self, source: str) -> str | None:
        """Return why a page must not be processed; None if it may be."""

    def begin(self, source: str) -> None:
        """Note that a page is handed to the executor."""

    def end(self, source: str, *, done: bool) -> None:
        """Note that the result of a page is recorded."""
