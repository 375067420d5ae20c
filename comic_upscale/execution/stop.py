"""A request to stop a run: a flag that any thread or signal handler may set. Imports nothing heavy."""

from __future__ import annotations

import threading

CEILING = "max-cost"
"""The kind of a stop because of the cost ceiling."""


class StopRequest:
    """Requests a graceful stop of a run; may be set from any thread or signal handler."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.reason: str | None = None
        self.kind: str | None = None
        self.has_begun = False
        """Whether the run has begun. Before, there is no page in flight to finish, and nothing to record."""

    def request(self, reason: str, kind: str | None = None) -> None:
        """Request the stop; the first reason is kept.

        Args:
            reason: for the user.
            kind: a short stable word for programs, if they need to tell this stop from others.
        """
        if not self._event.is_set():
            self.reason, self.kind = reason, kind
            self._event.set()

    @property
    def requested(self) -> bool:
        """Whether the run should stop."""
        return self._event.is_set()
