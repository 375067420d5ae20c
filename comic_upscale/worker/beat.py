"""The heartbeat of a job: renews the lease, stores the progress, and learns that the job should stop."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Any, Self

from comic_upscale.errors import DatabaseError
from comic_upscale.execution.events import Event, JobStarted, Progress
from comic_upscale.execution.stop import StopRequest
from comic_upscale.server import queue
from comic_upscale.server.database.engine import Database

log = logging.getLogger(__name__)

CANCELED, LOST, TIMEOUT, STOPPING = "canceled", "lost", "timeout", "stopping"
"""Kinds of stop requests."""

STORE_SECONDS = 1.0
"""Progress is stored this often at most."""
_LOOK_SECONDS = 0.1


class Heartbeat:
    """Keeps a claim alive inside a ``with`` block.

    Args:
        database: of the server.
        claimed: the job.
        outer: the stop request of the worker, which stops the job too.
        timeout: seconds after which the job is stopped; None for no limit.
    """

    def __init__(
        self, database: Database, claimed: queue.Claim, outer: StopRequest, timeout: float | None
    ) -> None:
        self._database, self._claimed, self._outer, self._timeout = database, claimed, outer, timeout
        self.stop = StopRequest()
        """Stops the job."""
        self.started: JobStarted | None = None
        """The header of the run, once it has begun."""
        self.has_new_page = False
        self._lock = threading.Lock()
        self._progress: dict[str, Any] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()

    def take(self, event: Event) -> None:
        """Take an event of the run."""
        if isinstance(event, JobStarted):
            self.started = event
            self._note(
                pages_total=event.total, pages_done=event.done, pages_failed=event.failed, model=event.model,
                device=event.device,
            )  # fmt: skip
        elif isinstance(event, Progress):
            self._note(pages_total=event.total, pages_done=event.done, pages_failed=event.failed)

    def _note(self, **progress: Any) -> None:
        with self._lock:
            if progress.get("pages_done", 0) > self._progress.get("pages_done", 0):
                self.has_new_page = True
            self._progress.update(progress)

    def _run(self) -> None:
        began = renewed = stored_at = time.monotonic()
        stored: dict[str, Any] = {}
        while not self._ended.wait(_LOOK_SECONDS):
            now = time.monotonic()
            if self._outer.requested:
                self.stop.request(self._outer.reason or "the worker stops", STOPPING)
            if self._timeout is not None and now - began > self._timeout:
                self.stop.request(f"the job took longer than {self._timeout:g} seconds", TIMEOUT)
            with self._lock:
                progress = dict(self._progress)
            changed = {name: value for name, value in progress.items() if stored.get(name) != value}
            # What an earlier worker did counts as progress at once: it resets the number of attempts.
            due = now - stored_at >= STORE_SECONDS or bool(progress and not stored)
            # Without progress, too: a heartbeat renews the lease, and learns of a cancellation.
            if not due:
                continue
            stored_at = now
            if self._beat(changed):
                stored, renewed = progress, now
            elif now - renewed > queue.LEASE_SECONDS:
                # The database has been away for so long that another worker may hold the job.
                self.stop.request("the lease could not be renewed", LOST)

    def _beat(self, changed: dict[str, Any]) -> bool:
        try:
            canceled = self._database.write(
                lambda connection: queue.heartbeat(connection, self._claimed, **changed)
            )
        except queue.LostLeaseError:
            self.stop.request("another worker holds the job", LOST)
            return True
        except DatabaseError as error:
            log.error("%s", error)
            return False
        if canceled:
            self.stop.request("the job was canceled", CANCELED)
        return True
