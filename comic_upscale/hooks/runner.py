"""`HookRunner`: calls the hooks of a run, one after the other, on a thread of its own.

A slow hook holds up no page, and a hook that fails fails no run.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from comic_upscale.engines.program import Program
from comic_upscale.execution.events import Event, HooksFinished, JobFinished, JobStarted
from comic_upscale.execution.stop import StopRequest
from comic_upscale.hooks.http import HookError, UnreachableHookError
from comic_upscale.hooks.libraries import scan_kavita, scan_komga
from comic_upscale.hooks.secrets import hide, secret_values, without_secrets
from comic_upscale.hooks.webhook import Webhook
from comic_upscale.ledger.records import VolumeDone
from comic_upscale.retries import RetryPolicy
from comic_upscale.settings.hooks import HookSettings, split_command
from comic_upscale.settings.paths import replace_folder

VARIABLE_PREFIX = "COMIC_UPSCALE_HOOK_"
SCAN_AT_MOST_EVERY_SECONDS = 300.0
"""While a run goes on, libraries are scanned at most this often. At its end, they are always scanned."""

MORE_SECONDS = 5.0
"""After ``--hook-timeout``, the end of a run waits this long for its hooks to say that their time is over."""
STOPPED_SECONDS = 10.0
"""The longest wait for the hooks of a run that was stopped."""
_LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class _Happened:
    """What happened, for the hooks."""

    kind: str
    """``volume.done``, ``job.finished`` or ``job.interrupted``."""
    data: Mapping[str, Any]
    """For a webhook as it is, and for a program as variables."""


class HookRunner:
    """Listens to the events of runs, and calls hooks.

    Args:
        settings: the hooks.
        environment: the variables for programs, which get no secrets of this program and no keys of providers.
        stop: ends the wait for hooks, too.

    Raises:
        SettingsError: the secret of webhooks is not base64.
    """

    def __init__(
        self, settings: HookSettings, environment: Mapping[str, str], stop: StopRequest | None = None
    ) -> None:
        self._settings, self._environment = settings, without_secrets(environment)
        self._secrets = secret_values(environment, settings)
        self._webhook = (
            None if settings.webhook is None else Webhook(settings.webhook, settings.webhook_secret)
        )
        self._stop = stop or StopRequest()
        self._dead: set[str] = set()
        """Hooks whose server was not there in this run: their further messages are sent once, not repeated."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hooks")
        self._begin()
        self._waiting: list[tuple[str, Future[None]]] = []
        self._folders: dict[str, str] = {}
        self._scanned_at = -SCAN_AT_MOST_EVERY_SECONDS
        self._has_changes = False
        self._replaces = False
        """Whether the run replaces originals, at its end. Before, libraries have nothing new."""

    def _begin(self) -> None:
        """Make what `_give_up` ends."""
        self._program, self._ending = Program(), threading.Event()
        self._policy = RetryPolicy(
            seconds=self._settings.hook_timeout, wait=self._ending.wait, first_pause=1.0
        )

    def __call__(self, event: Event) -> None:
        """Take an event; return at once."""
        if isinstance(event, JobStarted):
            self._dead.clear()
            self._folders = {"input": event.input, "output": event.output, "ledger": event.ledger}
            self._replaces = Path(event.output) == replace_folder(Path(event.input))
        elif isinstance(event, VolumeDone):
            self._take_volume(event)
        elif isinstance(event, JobFinished):
            self._take_job(event)

    def finish(self) -> HooksFinished:
        """Wait for the hooks of a run, and return how they ended.

        All of them together have the time limit of one. A stop that comes meanwhile ends the wait.
        """
        waiting, self._waiting = self._waiting, []
        why = self._wait([future for _, future in waiting])
        failures = []
        for name, future in waiting:
            if future.cancelled() or not future.done():
                failures.append((name, why))
            elif (error := future.exception()) is not None:
                reason = str(error) if isinstance(error, HookError) else repr(error)
                failures.append((name, hide(reason, self._secrets)))
        return HooksFinished(ran=len(waiting), failures=tuple(failures))

    def _wait(self, futures: Sequence[Future[None]]) -> str:
        """Wait for hooks; end those that take too long, and return why."""
        was_stopped = self._stop.requested
        seconds = self._settings.hook_timeout + MORE_SECONDS
        until = time.monotonic() + (min(seconds, STOPPED_SECONDS) if was_stopped else seconds)
        while wait(futures, _LOOK_SECONDS).not_done:
            is_stopped = self._stop.requested and not was_stopped
            if not is_stopped and time.monotonic() < until:
                continue
            # The last one first: the thread must find none to begin.
            for future in reversed(futures):
                future.cancel()
            self._program.kill()
            self._ending.set()
            wait(futures, 2 * _LOOK_SECONDS)
            self._begin()
            if is_stopped or was_stopped:
                return "it had not ended when the run was stopped"
            return "the hooks of this run together took longer than --hook-timeout: raise it"
        return ""

    def close(self) -> None:
        """End the hook that runs, and call no further one."""
        self._ending.set()
        self._program.kill()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _take_volume(self, event: VolumeDone) -> None:
        self._has_changes = True
        file = event.output and os.path.join(self._folders.get("output", ""), event.output)  # noqa: PTH118 - text
        about = {"source": event.source, "file": file, "pages": event.pages, "notes": "; ".join(event.notes)}
        happened = _Happened("volume.done", {**self._folders, **about})
        self._call_program("--on-volume-done", self._settings.on_volume_done, happened)
        self._call_webhook(happened)
        if not self._replaces and time.monotonic() - self._scanned_at >= SCAN_AT_MOST_EVERY_SECONDS:
            self._scan()

    def _take_job(self, event: JobFinished) -> None:
        names = ("state", "total", "done", "done_now", "failed", "skipped", "pending", "suspects", "seconds")
        counts = {name: getattr(event, name) for name in (*names, "volumes", "volumes_done", "volumes_cut")}
        happened = _Happened(f"job.{event.state}", {**self._folders, **counts})
        self._call_program("--on-job-done", self._settings.on_job_done, happened)
        self._call_webhook(happened)
        changes = (event.done_now, event.moved_now, event.carried_now, event.replaced_now)
        if self._has_changes or any(changes):
            self._scan()

    def _scan(self) -> None:
        self._scanned_at, self._has_changes = time.monotonic(), False
        settings = self._settings
        for name, url, key, libraries, scan in (
            ("komga", settings.komga, settings.komga_key, settings.komga_library, scan_komga),
            ("kavita", settings.kavita, settings.kavita_key, settings.kavita_library, scan_kavita),
        ):
            if url is not None and key is not None:
                self._submit_message(f"--{name}", partial(scan, url, key, libraries))

    def _call_webhook(self, happened: _Happened) -> None:
        webhook = self._webhook
        if webhook is not None:
            self._submit_message("--webhook", partial(webhook.send, happened.kind, happened.data))

    def _call_program(self, flag: str, command: str | None, happened: _Happened) -> None:
        if command is not None:
            words = split_command(command, flag)
            self._submit(flag, lambda: self._run_program(words, happened))

    def _run_program(self, words: Sequence[str], happened: _Happened) -> None:
        described = {"event": happened.kind, **happened.data}
        variables = {f"{VARIABLE_PREFIX}{name.upper()}": str(value) for name, value in described.items()}
        try:
            ended = self._program.run(
                words,
                Path(tempfile.gettempdir()),
                self._settings.hook_timeout,
                environment={**self._environment, **variables},
                clean=lambda text: hide(text, self._secrets),
            )
        except (OSError, ValueError) as error:
            raise HookError(
                f"{words[0]} cannot be started: {getattr(error, 'strerror', None) or error}"
            ) from None
        if ended.timed_out:
            raise HookError(
                f"{words[0]} did not end within {self._settings.hook_timeout:g} seconds: raise --hook-timeout"
            )
        if ended.code:
            raise HookError(f"{words[0]} {ended.describe()}")

    def _submit_message(self, name: str, send: Callable[[RetryPolicy], None]) -> None:
        policy = self._policy

        def call() -> None:
            try:
                send(replace(policy, attempts=1) if name in self._dead else policy)
            except UnreachableHookError:
                self._dead.add(name)
                raise
            self._dead.discard(name)

        self._submit(name, call)

    def _submit(self, name: str, call: Callable[[], None]) -> None:
        self._waiting.append((name, self._thread.submit(call)))
