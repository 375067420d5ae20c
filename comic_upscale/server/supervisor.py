"""Starts the worker as a child process when there is work, and starts it again after a crash, with growing delays."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.errors import ComicUpscaleError
from comic_upscale.processes import own_session
from comic_upscale.server import queue, workers
from comic_upscale.server.database.engine import Database
from comic_upscale.server.database.schema import jobs
from comic_upscale.server.ids import new_id
from comic_upscale.server.overrides import effective
from comic_upscale.server.settings import ServerSettings

log = logging.getLogger(__name__)

T = TypeVar("T")

LOOK_SECONDS = 1.0
"""How often the queue is checked without a wake-up."""
CRASH_WAIT_SECONDS = (1.0, 2.0, 5.0, 15.0, 60.0)
"""Waiting time after the first, second and later crashes in a row."""
CRASH_LOOP = 2
"""Crashes in a row that make the server degraded."""
_CLOCKS_MS = 60_000
LOOP_SECONDS = 30.0
"""A worker that lived for longer than this begins a new count of crashes."""
_FATAL = re.compile(r"(Fatal Python error: [A-Za-z][\w ,.:-]{0,150}|Timeout \([\d:.]+\)!)")
"""The line in which Python announces a fault."""
_FIELDS = ("job_id", "logger", "error")
"""Fields of a worker's lines that its server logs, too."""
_LONGEST_FIELD = 8000
STOP_SECONDS = 120.0
"""How long a stopping worker may take for its pages in progress."""


@dataclass(frozen=True, slots=True)
class WorkerCommand:
    """How a worker is started."""

    arguments: Sequence[str]
    """The program and its arguments; the supervisor adds ``--worker-id``."""
    environment: Mapping[str, str]
    """All variables of the process."""


class Supervisor:
    """Keeps one worker running while there is work, unless its worker is drained.

    Args:
        settings: of the server.
        database: of the server.
        command: starts the worker.
    """

    def __init__(self, settings: ServerSettings, database: Database, command: WorkerCommand) -> None:
        self._settings, self._database, self._command = settings, database, command
        self._home = workers.home_of(settings)
        self._wake = asyncio.Event()
        self._child: asyncio.subprocess.Process | None = None
        self._stopping = False
        self._crashes = 0
        self._not_before = 0.0
        self._fatal = ""
        self._reason = ""

    def wake(self) -> None:
        """Look at the queue now; call it on the event loop."""
        self._wake.set()

    def problems(self) -> list[str]:
        """Return what is wrong, in sentences."""
        if self._crashes < CRASH_LOOP:
            return []
        words = f": {self._reason}" if self._reason else ""
        return [f"the worker crashed {self._crashes} times in a row{words}"]

    async def run(self) -> None:
        """Start workers until `stop`. An error of the database is logged, and the next look may succeed."""
        await self._quietly(lambda: self._database.write_async(workers.end_dead))
        while not self._stopping:
            self._wake.clear()
            if time.monotonic() >= self._not_before and await self._has_work():
                await self._run_worker()
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), LOOK_SECONDS)

    async def stop(self) -> None:
        """Let the worker finish its pages in progress, then end it."""
        self._stopping = True
        self._wake.set()
        if (child := self._child) is None:
            return
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(child.wait(), STOP_SECONDS)
        except TimeoutError:
            self.kill()
            await child.wait()

    def kill(self) -> None:
        """End the worker at once. Its job continues with the next worker."""
        self._stopping = True
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                self._child.kill()

    async def _has_work(self) -> bool:
        return bool(await self._quietly(self._look))

    async def _look(self) -> bool:
        """Return whether there is work for a worker, and settle the jobs that no worker will take again."""
        if await self._database.read_async(queue.has_abandoned):
            await self._database.write_async(queue.set_aside)
        return await self._database.read_async(self._may_start)

    def _may_start(self, connection: Connection) -> bool:
        limit = effective(connection, self._settings).jobs_per_user
        return queue.has_work(connection, jobs_per_user=limit) and not workers.is_drained(
            connection, home=self._home
        )

    async def _run_worker(self) -> None:
        worker_id, began, began_at = new_id(), time.monotonic(), int(time.time() * 1000)
        try:
            child = await asyncio.create_subprocess_exec(
                *self._command.arguments, "--worker-id", worker_id,
                env=dict(self._command.environment),
                # The worker ends when this pipe closes, and so when this process is killed.
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
                # Ctrl-C at a terminal goes to the whole group. This process tells the worker itself.
                **own_session(),
            )  # fmt: skip
        except OSError as error:
            # Such as too little memory, or a Python that an update has removed.
            self._wait_after_crash(began, f"it cannot be started: {error.strerror or error}")
            return
        self._child = child
        self._fatal = ""
        log.info("worker started", extra={"pid": child.pid})
        if self._stopping:
            # `stop` came while the worker was being started, and found none.
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(signal.SIGTERM)
        try:
            await self._listen(child)
            code = await child.wait()
        finally:
            self._child = None
            if child.stdin is not None:
                child.stdin.close()
        words = None if code == 0 or self._stopping else _last_words(code, self._fatal)
        await self._quietly(
            lambda: self._database.write_async(lambda connection: workers.end(connection, worker_id, words))
        )
        if code == 0 or self._stopping:
            self._crashes = 0
            log.info("worker ended", extra={"pid": child.pid})
            return
        if await self._quietly(
            lambda: self._database.read_async(partial(_has_completed, worker_id, began_at))
        ):
            # Whatever ended it, it did its work until then.
            self._crashes = 0
        self._wait_after_crash(began, words or f"code {code}")

    def _wait_after_crash(self, began: float, reason: str) -> None:
        # A worker that lived for a while did some work: its end is no crash loop.
        self._crashes = 1 if time.monotonic() - began > LOOP_SECONDS else self._crashes + 1
        wait = CRASH_WAIT_SECONDS[min(self._crashes, len(CRASH_WAIT_SECONDS)) - 1]
        self._not_before = time.monotonic() + wait
        self._reason = reason
        log.error("worker crashed (%s); the next one starts in %g s", reason, wait)

    async def _listen(self, child: asyncio.subprocess.Process) -> None:
        """Log what the worker writes, until it closes its output."""
        assert child.stderr is not None
        while True:
            try:
                line = await child.stderr.readline()
            except ValueError:
                # A line longer than the buffer; its rest follows.
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            if text:
                if found := _FATAL.match(text):
                    self._fatal = found[1]
                _log_line(text)

    async def _quietly(self, call: Callable[[], Awaitable[T]]) -> T | None:
        try:
            return await call()
        except ComicUpscaleError as error:
            log.error("%s", error)
        except Exception:
            # The server goes on, which would end with this task.
            log.exception("worker: an unexpected error")
        return None


def _log_line(text: str) -> None:
    """Log a line of the worker, with its level and its fields if it is JSON."""
    try:
        fields = json.loads(text) if text.startswith("{") else None
        level = logging.getLevelNamesMapping()[fields["level"].upper()] if fields else logging.WARNING
        message = str(fields["message"]) if fields else text
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        fields, level, message = None, logging.WARNING, text
    extra = {name: str(value)[:_LONGEST_FIELD] for name, value in (fields or {}).items() if name in _FIELDS}
    log.log(level, "worker: %s", message[:_LONGEST_FIELD], extra=extra)


def _has_completed(worker_id: str, began_at: int, connection: Connection) -> bool:
    """Return whether a worker completed a job; ``began_at`` is its start in milliseconds since 1970."""
    done = sa.select(jobs.c.id).where(
        jobs.c.status == "completed",
        # An index has these two. The clock of the database may differ a little.
        jobs.c.updated_at >= began_at - _CLOCKS_MS,
        jobs.c.worker_id == worker_id,
    )
    return connection.execute(done.limit(1)).first() is not None


def _last_words(code: int, fatal: str) -> str:
    """Return why a worker died. Strangers see it: with their jobs, and in the health report.

    So it has no other line of the worker's output, which may name jobs and files of other users. Administrators find
    all lines in the log.

    Args:
        code: of its exit; negative for a signal.
        fatal: the line with which Python announces a fault; empty if there is none.
    """
    words = f"it exited with code {code}"
    if code < 0:
        try:
            words = f"it was killed by {signal.Signals(-code).name}"
        except ValueError:
            words = f"it was killed by signal {-code}"
        if -code == signal.SIGKILL:
            words += ", as the system does when memory runs out"
    return f"{words}: {fatal}" if fatal else words
