"""The heartbeat of a job: renews the lease, stores the progress, and learns that the job should stop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from types import TracebackType
from typing import Any

from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from comic_upscale.console.text import page_count
from comic_upscale.errors import DatabaseError, SettingsError
from comic_upscale.execution.events import Event, JobFinished, JobStarted, Progress
from comic_upscale.execution.stop import StopRequest
from comic_upscale.ledger.records import PageDone, PageFailed
from comic_upscale.server import job_log, queue
from comic_upscale.server.database.engine import Database
from comic_upscale.worker.background import Background

log = logging.getLogger(__name__)

CANCELED, LOST, TIMEOUT, STOPPING = "canceled", "lost", "timeout", "stopping"
"""Kinds of stop requests."""

STORE_SECONDS = 1.0
"""Progress is stored this often at most."""
_LOOK_SECONDS = 0.1
FAILURES_KEPT = 50
"""Failed pages that are listed with a job."""


class Heartbeat(Background):
    """Keeps a claim alive inside a ``with`` block.

    Args:
        database: of the server.
        claimed: the job.
        outer: the stop request of the worker, which stops the job too.
        timeout: seconds after which the job is stopped; None for no limit.
        page_done: is set for each finished page, and outlives the job.
    """

    def __init__(
        self,
        database: Database,
        claimed: queue.Claim,
        outer: StopRequest,
        timeout: float | None,
        page_done: threading.Event | None = None,
    ) -> None:
        super().__init__("heartbeat")
        self._database, self._claimed, self._outer, self._timeout = database, claimed, outer, timeout
        self.stop = StopRequest()
        """Stops the job."""
        self.started: JobStarted | None = None
        """The header of the run, once it has begun."""
        self._page_done, self._pages_done = page_done or threading.Event(), 0
        self._lock = threading.Lock()
        self._progress: dict[str, Any] = {}
        self._pixels = int(claimed.job["pixels"])
        self._failures: dict[str, Mapping[str, str]] = {
            each["source"]: each for each in claimed.job.get("failures") or ()
        }
        self._lines: list[str] = []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the thread, and send what was said last."""
        super().__exit__(kind, error, trace)
        self._flush()

    def say(self, line: str) -> None:
        """Append a line to the log of the job."""
        with self._lock:
            self._lines.append(line)

    def take(self, event: Event) -> None:
        """Take an event of the run."""
        if isinstance(event, JobStarted):
            self.started = event
            # Those of an earlier attempt are no news.
            self._pages_done = event.done
            self.say(
                f"run of {page_count(event.total)}: {event.done} done before, {event.failed} failed before, "
                f"{event.todo} to do; model {event.model}, device {event.device or 'none needed'}"
            )
            self.note(
                pages_total=event.total, pages_done=event.done, pages_failed=event.failed, model=event.model,
                device=event.device,
            )  # fmt: skip
        elif isinstance(event, Progress):
            self.note(
                pages_total=event.total, pages_done=event.done, pages_failed=event.failed,
                within=[asdict(page) for page in event.within] or None,
            )  # fmt: skip
        elif isinstance(event, PageDone):
            # A job of moments ends without an event about its progress.
            self._page_done.set()
            self._pixels += event.output_width * event.output_height
            self.note(pixels=self._pixels)
            if self._failures.pop(event.source, None) is not None:
                self._note_failures()
        elif isinstance(event, PageFailed):
            self.say(f"{event.source}: {event.kind}: {event.reason}")
            self._failures[event.source] = {
                "source": event.source, "kind": event.kind, "reason": event.reason,
            }  # fmt: skip
            self._note_failures()
        elif isinstance(event, JobFinished):
            self.say(f"{event.state}: {event.done} pages done, {event.failed} failed, {event.seconds:.1f} s")
            for warning in event.warnings:
                self.say(warning)

    @property
    def pixels(self) -> int:
        """Pixels of the outputs that this job has made, by earlier workers too."""
        return self._pixels

    def _note_failures(self) -> None:
        """Show failed pages with their reasons while the job runs."""
        self.note(failures=list(self._failures.values())[:FAILURES_KEPT])

    def note(self, **progress: Any) -> None:
        """Store columns of the job with the next beat, such as ``pages_done``."""
        with self._lock:
            if (done := progress.get("pages_done", 0)) > self._pages_done:
                self._pages_done = done
                self._page_done.set()
            self._progress.update(progress)

    def _run(self) -> None:
        try:
            self._keep_alive()
        except Exception:
            # Without renewals the lease ends, and another worker takes the job.
            log.exception("job %s: its heartbeat failed", self._claimed.job_id)
            self.stop.request("the heartbeat of the job failed", LOST)

    def _keep_alive(self) -> None:
        began = renewed = stored_at = time.monotonic()
        stored: dict[str, Any] = {}
        has_tried = False
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
            due = now - stored_at >= STORE_SECONDS or (bool(progress) and not has_tried)
            # Without progress, too: a heartbeat renews the lease, and learns of a cancellation.
            if not due:
                continue
            stored_at = now
            has_tried = has_tried or bool(progress)
            if self._beat(changed):
                stored, renewed = progress, now
            elif now - renewed > queue.LEASE_SECONDS:
                # The database has been away for so long that another worker may hold the job.
                self.stop.request("the lease could not be renewed", LOST)

    def _flush(self) -> None:
        """Store the last lines of the log, whoever holds the job now."""
        lines = self._take_lines()
        if not lines:
            return
        try:
            self._database.write(lambda connection: job_log.add(connection, self._claimed.job_id, lines))
        except (DatabaseError, SettingsError, IntegrityError) as error:
            # The job is gone, or the database is away. The job itself matters more.
            log.warning("job %s: its log is incomplete: %s", self._claimed.job_id, error)

    def _take_lines(self) -> list[str]:
        with self._lock:
            lines, self._lines = self._lines, []
        return lines

    def _put_back(self, lines: list[str]) -> None:
        with self._lock:
            self._lines[:0] = lines

    def _beat(self, changed: dict[str, Any]) -> bool:
        lines = self._take_lines()

        def write(connection: Connection) -> bool:
            canceled = queue.heartbeat(connection, self._claimed, **changed)
            job_log.add(connection, self._claimed.job_id, lines)
            return canceled

        try:
            canceled = self._database.write(write)
        except queue.LostLeaseError:
            # So it is, too, when a beat meets the end of the job. Its last lines are for `_flush`.
            self._put_back(lines)
            self.stop.request("another worker holds the job", LOST)
            return True
        except DatabaseError as error:
            log.error("%s", error)
            self._put_back(lines)
            return False
        if canceled:
            self.stop.request("the job was canceled", CANCELED)
        return True
