"""Run a program of the user with a time limit, keep the end of its output, and kill it with all its children."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from comic_upscale.processes import kill_session, own_session

_TAIL_BYTES = 4096
"""How many bytes of the end of a program's output are kept."""
_REASON_CHARS = 300
"""How many characters of this go into the reason of a failure."""

_running: set[subprocess.Popen[bytes]] = set()
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended."""

    code: int
    """Its exit code, or the negative number of the signal that ended it."""
    timed_out: bool
    """Whether it was killed because it exceeded its time limit."""
    last_words: str
    """The end of its standard output and standard error, printable and on one line."""

    def describe(self) -> str:
        """Return how it ended, for the reason of a failure."""
        how = f"ended with exit code {self.code}"
        if self.code < 0:
            with contextlib.suppress(ValueError):
                how = f"was ended by {signal.Signals(-self.code).name}"
        return f"{how}: {self.last_words}" if self.last_words else f"{how} without any output"


class Program:
    """One call of a program at a time; `kill` may come from any thread."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._is_killed = False

    def run(
        self,
        words: Sequence[str],
        folder: Path,
        seconds: float,
        environment: Mapping[str, str] | None = None,
        clean: Callable[[str], str] = str,
    ) -> Ended:
        """Run a program in a folder, and wait for its end.

        Standard input is empty. The program runs in its own session, so Ctrl-C in the terminal does not reach it.

        Args:
            words: the program and its arguments.
            folder: its working directory.
            seconds: the time limit. After it, the program and all that it has started are killed.
            environment: its variables. Default: those of this process.
            clean: removes from its output what no message may have.

        Raises:
            OSError: it cannot be started.
        """
        with _lock:
            process = subprocess.Popen(
                words,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                **own_session(),
            )
            _running.add(process)
            self._process = process
        if self._is_killed:
            kill_session(process)
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
                kill_session(process)
            with _lock:
                _running.discard(process)
                self._process = None
        # A background process may hold the pipe open, so its end is not waited for.
        reader.join(1)
        return Ended(process.returncode, timed_out, _in_one_line(bytes(tail), clean))

    def kill(self) -> None:
        """Kill the running program, if any, and every program that is started from now on."""
        self._is_killed = True
        with _lock:
            process = self._process
        if process is not None:
            kill_session(process)


def kill_running() -> None:
    """Kill every running program. For a process that is about to end abruptly."""
    # Without the lock, because a signal handler may run while its own thread holds it.
    for process in tuple(_running):
        kill_session(process)


def _keep_tail(stream: IO[bytes], tail: bytearray) -> None:
    """Read to the end, and keep the end of the output in bounded memory."""
    with contextlib.suppress(OSError, ValueError), stream:
        while chunk := os.read(stream.fileno(), 65536):
            tail += chunk
            del tail[:-_TAIL_BYTES]


def _in_one_line(tail: bytes, clean: Callable[[str], str]) -> str:
    # Before it is cut: half of a secret would not be found.
    text = clean(tail.decode("utf-8", "replace"))
    text = "".join(char if char.isprintable() else " " for char in text)
    text = " ".join(text.split())
    return text if len(text) <= _REASON_CHARS else f"...{text[-_REASON_CHARS:]}"
