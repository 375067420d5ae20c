"""A child process for work that may crash, hang or use too much memory. It is ended if it exceeds its limits.

A request is a JSON object. An answer is a JSON object and bytes. The child answers one request at a time, for any
number of threads. It starts with the first request and ends with this process, even if that is killed, because it
reads requests only until its input is closed.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from comic_upscale.processes import own_session

_FRAME = struct.Struct(">IQ")
"""The header of each message: the bytes of its JSON and of the data after it."""
_LONGEST_JSON = 1 << 20
_LOOKS = 0.25
"""Seconds between two checks of the resources that a request uses."""
_PIPE = 1 << 20
_LAST_WORDS = 2.0
"""Seconds for a child to end by itself."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one request."""

    seconds: float
    """Processor time."""
    wall_seconds: float
    """Time until the answer, also on a busy machine."""
    memory: int
    """Resident memory of the child, bytes."""


class HelperLostError(Exception):
    """The child ended without an answer, by itself or because a request exceeded its limits.

    Args:
        reason: a clause such as ``"took more than 60 s"``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Helper:
    """A child process that runs one module.

    Args:
        module: its ``main`` reads requests by `read_message` and answers by `write_message`.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def ask(self, request: Mapping[str, Any], limits: Limits) -> tuple[dict[str, Any], bytes]:
        """Send a request and wait for its answer.

        Args:
            request: can be written as JSON.
            limits: of this request.

        Raises:
            HelperLostError: there is no answer.
            OSError: no child can be started.
        """
        with self._lock:
            child = self._running()
            assert child.stdin is not None
            assert child.stdout is not None
            watch = _Watch(child, limits)
            answer = None
            try:
                with watch, contextlib.suppress(OSError, ValueError):
                    write_message(child.stdin, request)
                    answer = read_message(child.stdout)
            except BaseException:
                # A signal interrupted this request. The next answer of the child would belong to it.
                child.kill()
                self._end(child)
                raise
            if answer is None:
                self._end(child)
                raise watch.lost(child.returncode)
            return answer

    @property
    def runs(self) -> bool:
        """Return whether a child is running, which may have state from earlier requests."""
        child = self._child
        return child is not None and self._owner == os.getpid() and child.poll() is None

    def close(self) -> None:
        """End the child, if any, even while a thread waits for its answer."""
        child = self._child
        if child is None or self._owner != os.getpid():
            return
        if not self._lock.acquire(timeout=_LAST_WORDS):
            child.kill()
            self._lock.acquire()
        try:
            if self._child is not None:
                self._end(self._child)
        finally:
            self._lock.release()

    def _running(self) -> subprocess.Popen[bytes]:
        child = self._child
        if child is not None and self._owner == os.getpid():
            if child.poll() is None:
                return child
            self._end(child)
        # After a fork the child belongs to the other process, and only one process may use it.
        self._child, self._owner = self._start(), os.getpid()
        atexit.unregister(self.close)
        atexit.register(self.close)
        return self._child

    def _start(self) -> subprocess.Popen[bytes]:
        if getattr(sys, "frozen", False) or not sys.executable:
            # The executable of a frozen program is that program, not Python.
            raise OSError(errno.ENOEXEC, "there is no Python to run it")
        # With the import paths of this process, and without running its main module again.
        code = (
            "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
            f"import {self._module} as module; module.main()"
        )
        child = subprocess.Popen(
            [sys.executable, "-c", code, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Ctrl-C goes to this process only, which finishes the pages in flight.
            **own_session(),
        )
        _widen(child.stdout)
        return child

    def _end(self, child: subprocess.Popen[bytes]) -> None:
        self._child = None
        for pipe in (child.stdin, child.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        try:
            child.wait(_LAST_WORDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _widen(pipe: IO[bytes] | None) -> None:
    """Enlarge the buffer of a pipe where the system supports it, because pages are megabytes."""
    if pipe is None or sys.platform != "linux":
        return
    import fcntl

    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE)


@dataclass(slots=True)
class _Watch:
    """Ends a child that exceeds its limits during a request."""

    child: subprocess.Popen[bytes]
    limits: Limits
    _over: str = ""
    _done: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> _Watch:
        self._thread = threading.Thread(target=self._check_limits, name="helper-watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        assert self._thread is not None
        self._thread.join()

    def lost(self, code: int | None) -> HelperLostError:
        """Return the error for a child that gave no answer."""
        if self._over:
            return HelperLostError(self._over)
        # The system ended it, for its time or memory, or for a fault.
        how = f"was ended by signal {-code}" if code is not None and code < 0 else f"ended with code {code}"
        return HelperLostError(how)

    def _check_limits(self) -> None:
        if self._done.wait(_LOOKS):
            return
        import psutil

        began = time.monotonic()
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self.child.pid)
            used_before: float | None = None
            while not self._done.wait(_LOOKS):
                used, memory = sum(process.cpu_times()[:2]), process.memory_info().rss
                used_before = used if used_before is None else used_before
                if used - used_before > self.limits.seconds:
                    self._over = f"took more than {self.limits.seconds:g} s"
                elif time.monotonic() - began > self.limits.wall_seconds:
                    self._over = f"took more than {self.limits.wall_seconds:g} s"
                elif memory > self.limits.memory:
                    self._over = f"took more than {self.limits.memory:,} bytes of memory"
                if self._over:
                    self.child.kill()
                    return


def write_message(file: IO[bytes], words: Mapping[str, Any], data: bytes = b"") -> None:
    """Write a request or an answer.

    Raises:
        OSError: the other side is closed.
    """
    head = json.dumps(words).encode()
    file.write(_FRAME.pack(len(head), len(data)) + head)
    file.write(data)
    file.flush()


def read_message(file: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """Read a request or an answer. Return None at the end of the file or for an incomplete message.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON.
    """
    frame = file.read(_FRAME.size)
    if len(frame) < _FRAME.size:
        return None
    length, size = _FRAME.unpack(frame)
    head = file.read(length) if length <= _LONGEST_JSON else b""
    data = file.read(size) if len(head) == length else b""
    words = json.loads(head) if len(head) == length and len(data) == size else None
    return (words, data) if isinstance(words, dict) else None
