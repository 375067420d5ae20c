"""Runs a program of the user's: with a time limit, its last words kept, and killed with all that it has started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

_TAIL_BYTES = 4096
"""The end of what a program says that is kept."""
_REASON_CHARS = 300
"""The end of that which goes into the reason of a failure."""

_running: set[subprocess.Popen[bytes]] = set()
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended."""

    code: int
    """Its exit code; negative: the number of the signal that ended it."""
    timed_out: bool
    """Whether it was killed since its time was up."""
    last_words: str
    """The end of what it wrote to standard output and standard error, in one line, printable."""

    def describe(self) -> str:
        """Return how it ended, for the reason of a failure."""
        how = f"ended with exit code {self.code}"
        if self.code < 0:
            with contextlib.suppress(ValueError):
                how = f"was ended by {signal.Signals(-self.code).name}"
        return f"{how}: {self.last_words}" if self.last_words else f"{how} and said nothing"


class Program:
    """One call of a program at a time; `kill` may come from any thread."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._is_killed = False

    def run(self, words: Sequence[str], folder: Path, seconds: float) -> Ended:
        """Run a program in a folder, and wait for its end.

        Standard input is empty. It runs in a session of its own, so that Ctrl-C in the terminal is not meant for it.

        Args:
            words: the program and its arguments.
            folder: its working directory.
            seconds: after which it is killed, and whatever it has started.

        Raises:
            OSError: it cannot be started.
        """
        with _lock:
            process = subprocess.Popen(
                words,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            _running.add(process)
            self._process = process
        if self._is_killed:
            _kill(process)
        assert process.stdout is not None
        tail = bytearray()
        reader = threading.Thread(target=_keep_tail, args=(process.stdout, tail), daemon=True)
        reader.start()
        timed_out = False
        try:
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                timed_out = True
        finally:
            if process.poll() is None:
                _kill(process)
            with _lock:
                _running.discard(process)
                self._process = None
        # What it has started in the background may hold the other end; its words are not waited for.
        reader.join(1)
        return Ended(process.returncode, timed_out, _in_one_line(bytes(tail)))

    def kill(self) -> None:
        """Kill the program that runs, if one does, and any that is started from now on."""
        self._is_killed = True
        with _lock:
            process = self._process
        if process is not None:
            _kill(process)


def kill_running() -> None:
    """Kill every program that runs, for a process that is about to end without a further word."""
    # Without the lock: a signal handler may come while its own thread holds it.
    for process in tuple(_running):
        _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a program and whatever it has started, whether or not that has stayed in its session."""
    children: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        children = psutil.Process(process.pid).children(recursive=True)
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    for child in children:
        with contextlib.suppress(psutil.Error):
            child.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)


def _keep_tail(stream: IO[bytes], tail: bytearray) -> None:
    """Read to the end, however much it is, and keep the last of it."""
    with contextlib.suppress(OSError, ValueError), stream:
        while chunk := os.read(stream.fileno(), 65536):
            tail += chunk
            del tail[:-_TAIL_BYTES]


def _in_one_line(tail: bytes) -> str:
    text = "".join(char if char.isprintable() else " " for char in tail.decode("utf-8", "replace"))
    text = " ".join(text.split())
    return text if len(text) <= _REASON_CHARS else f"...{text[-_REASON_CHARS:]}"
