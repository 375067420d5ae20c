"""Asking a run to stop: one flag that any thread or signal handler may raise. Imports nothing."""

from __future__ import annotations

import threading

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
        """Whether the run should stop."""
        return self._event.is_set()
