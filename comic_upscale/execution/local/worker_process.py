"""A process that does the steps of pages for one thread: pixels pass through shared memory; a crash costs one page.

It is a plain child of this program. One of ``multiprocessing`` would import the program's main module again in each
process: a script that calls the Python interface need not guard its main module.

It ends by itself when the other end of its connection closes, however this program ends.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import signal
import socket
import subprocess
import sys
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from comic_upscale.errors import PageError
from comic_upscale.execution.local.steps import PageSteps

CRASH = "crash"
"""The kind of a page whose worker process ended."""

_ALIGNMENT = 64
_READY = "ready"
_END_SECONDS = 5


class StartError(Exception):
    """A worker process could not be started."""


@dataclass(frozen=True, slots=True)
class _Message:
    """A pickled value, and where its arrays lie in the shared memory."""

    value: bytes
    places: tuple[tuple[int, int], ...]
    """(offset, length) of each array, in bytes."""


class _SharedMemory:
    """Anonymous memory that two processes map; it grows, and ends with them."""

    def __init__(self, file: int) -> None:
        self.file = file
        """The file descriptor."""
        self._map: mmap.mmap | None = None

    def view(self, size: int) -> memoryview:
        """Return at least this many bytes of it, at least 1."""
        if self._map is None or len(self._map) < size:
            if os.fstat(self.file).st_size < size:
                # With room to grow: pages of one job are alike but not equal.
                os.ftruncate(self.file, size + size // 4)
            # The old map is released with the last array in it.
            self._map = mmap.mmap(self.file, 0)
        return memoryview(self._map)

    def close(self) -> None:
        """Release this process's hold."""
        self._map = None
        with contextlib.suppress(OSError):
            os.close(self.file)


class _Channel:
    """Sends and receives values; arrays are copied through shared memory, one for each direction."""

    def __init__(self, connection: Connection, incoming: _SharedMemory, outgoing: _SharedMemory) -> None:
        self._connection = connection
        self._incoming = incoming
        self._outgoing = outgoing

    def send(self, value: Any) -> None:
        """Send a value. The other side has read the one before, since each message is answered.

        Raises:
            OSError: the other side has ended.
        """
        found: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps(value, protocol=5, buffer_callback=found.append)
        arrays = [np.frombuffer(buffer.raw(), dtype=np.uint8) for buffer in found]
        places, end = [], 0
        for array in arrays:
            places.append((end, array.size))
            end += -(-array.size // _ALIGNMENT) * _ALIGNMENT
        if end:
            memory = self._outgoing.view(end)
            for (offset, length), array in zip(places, arrays, strict=True):
                # numpy releases the interpreter lock while it copies.
                np.copyto(np.frombuffer(memory, np.uint8, length, offset), array)
        self._connection.send_bytes(pickle.dumps(_Message(pickled, tuple(places))))

    def receive(self, *, in_place: bool) -> Any:
        """Receive a value.

        Args:
            in_place: leave its arrays in the shared memory, where they are valid until the next message.

        Raises:
            EOFError, OSError: the other side has ended.
        """
        message: _Message = pickle.loads(self._connection.recv_bytes())
        if not message.places:
            return pickle.loads(message.value)
        memory = self._incoming.view(max(offset + length for offset, length in message.places))
        shared = [np.frombuffer(memory, np.uint8, length, offset) for offset, length in message.places]
        arrays: Sequence[Any] = shared if in_place else [array.copy() for array in shared]
        return pickle.loads(message.value, buffers=arrays)

    def close(self) -> None:
        """End the connection, and release the memory."""
        self._connection.close()
        self._incoming.close()
        self._outgoing.close()


class WorkerProcess:
    """A process that does steps, started at the first call and again after it crashed; used by one thread at a time.

    Args:
        steps: what it does; they are copied.
    """

    def __init__(self, steps: PageSteps) -> None:
        self._steps = steps
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: _Channel | None = None

    def call(self, step: str, args: tuple[Any, ...]) -> Any:
        """Do a step in the process, and return its result.

        Raises:
            PageError: of the step, or ``"crash"`` if the process ended.
            StartError: the process does not start.
        """
        if self._process is not None and self._process.poll() is not None:
            # It ended while it had nothing to do, so this page is not to blame.
            self._end()
        channel = self._channel or self._start()
        try:
            channel.send((step, args))
            del args
            ok, result = channel.receive(in_place=False)
        except (EOFError, OSError) as error:
            reason = f"a worker process ended while it processed this page ({self._end()})"
            raise PageError(CRASH, reason) from error
        if not ok:
            raise result
        return result

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._end()

    def _start(self) -> _Channel:
        """Start the process, and wait until it is ready.

        Raises:
            StartError: it does not start.
        """
        try:
            self._spawn()
            assert self._channel is not None
            self._channel.send(self._steps)
            ready = self._channel.receive(in_place=False)
            assert ready == _READY
        except (OSError, EOFError) as error:
            how = f" ({self._end()})" if self._process is not None else ""
            raise StartError(f"{error or type(error).__name__}{how}") from error
        return self._channel

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        outgoing, incoming = (_SharedMemory(os.memfd_create("comic-upscale")) for _ in range(2))
        channel = _Channel(Connection(ours.detach()), incoming, outgoing)
        files = (theirs.fileno(), outgoing.file, incoming.file)
        # One process per core is busy already, so libraries start no threads of their own.
        code = (
            "import os, sys; os.environ.update(OPENBLAS_NUM_THREADS='1', OMP_NUM_THREADS='1'); "
            f"sys.path[:] = {sys.path!r}; "
            f"from comic_upscale.execution.local.worker_process import serve; serve{files!r}"
        )
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", code], pass_fds=files, stdin=subprocess.DEVNULL
                )
        except OSError:
            channel.close()
            raise
        self._channel = channel

    def _end(self) -> str:
        """End the process, and return how it ended."""
        process, self._process = self._process, None
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
        assert process is not None
        try:
            code = process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def serve(connection: int, incoming: int, outgoing: int) -> None:
    """Do steps until the other side closes the connection; the program of the process.

    Args:
        connection: file descriptor of the connection.
        incoming: file descriptor of the memory that the other side writes.
        outgoing: file descriptor of the memory that the other side reads.
    """
    # Ctrl-C reaches all processes of a terminal. The run decides what to do; this process ends with the connection.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    # As in the commands: what Pillow thinks of a file is not for the user, who is told by notes and failures.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    channel = _Channel(Connection(connection), _SharedMemory(incoming), _SharedMemory(outgoing))
    with contextlib.suppress(EOFError, OSError):
        steps: PageSteps = channel.receive(in_place=False)
        channel.send(_READY)
        while True:
            _answer(channel, steps)


def _answer(channel: _Channel, steps: PageSteps) -> None:
    """Do one step. Nothing of it stays alive: its arrays are in memory that the next message overwrites."""
    step, args = channel.receive(in_place=True)
    try:
        answer = (True, getattr(steps, step)(*args))
    except Exception as error:
        answer = (False, _that_travels(error))
    channel.send(answer)


def _that_travels(error: Exception) -> Exception:
    """Return an error with its traceback as a note, or a plain one in place of an error that cannot be pickled."""
    if isinstance(error, PageError):
        return error
    error.add_note("In a worker process:\n" + "".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{error!r}\n" + "\n".join(error.__notes__))
    return error
