"""A process that does the steps of pages for one thread: pixels pass through shared memory; a crash costs one page.

It is a plain child of this program. One of ``multiprocessing`` would import the program's main module again in each
process: a script that calls the Python interface need not guard its main module.

It ends by itself when the other end of its connection closes, even in the middle of a step, however this program ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from comic_upscale.errors import PageError
from comic_upscale.execution.base import CRASH
from comic_upscale.execution.local.steps import Handover, PageSteps

_ALIGNMENT = 64
_KEPT_BYTES = 64 << 20
"""More shared memory than this is given back after each step, since only large pages need it."""
_LARGEST_KEPT_ARRAY = 32 << 20
"""Larger arrays are given back to the system at once. It is the most that glibc allows."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""The numbers of these options in glibc's ``malloc.h``."""
_READY = "ready"
_START_SECONDS = 60
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
        """Return at least this many bytes of it, at least 1.

        Raises:
            MemoryError: there is not so much memory.
        """
        try:
            # The other side may have given memory back, so the size of the map does not say what is there.
            if os.fstat(self.file).st_size < size:
                # With room to grow: pages of one job are alike but not equal.
                os.ftruncate(self.file, size + size // 4)
            if self._map is None or len(self._map) < size:
                # The old map is released with the last array in it.
                self._map = mmap.mmap(self.file, 0)
        except OSError as error:
            raise MemoryError(str(error)) from error
        return memoryview(self._map)

    def trim(self) -> None:
        """Give a lot of memory back, once neither side uses its content."""
        if os.fstat(self.file).st_size > _KEPT_BYTES:
            self._map = None
            os.ftruncate(self.file, 0)

    def close(self) -> None:
        """Release this process's hold."""
        self._map = None
        os.close(self.file)


def anonymous_file() -> int:
    """Return the descriptor of a new file that exists in memory alone.

    Raises:
        OSError: the system has no such files, or too many are open.
    """
    if hasattr(os, "memfd_create"):
        return os.memfd_create("comic-upscale")
    # Pythons that are built for old systems, as conda's are, lack the function where the system has it.
    try:
        create = ctypes.CDLL(None, use_errno=True).memfd_create
    except (AttributeError, OSError, TypeError) as error:
        raise OSError("this system has no anonymous files") from error
    close_on_exec = 1
    file = int(create(b"comic-upscale", close_on_exec))
    if file < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return file


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

    def wait(self, seconds: float) -> bool:
        """Wait for a message or the end of the other side, and return whether it came in time."""
        return self._connection.poll(seconds)

    def trim(self) -> None:
        """Give the memory of large pages back, after an answer."""
        self._incoming.trim()
        self._outgoing.trim()

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
        """Do a step in the process, and return its result. Pixels that are handed over are released once they are sent.

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
            for arg in args:
                if isinstance(arg, Handover):
                    arg.pixels = None
            ok, result = channel.receive(in_place=False)
            channel.trim()
        except (EOFError, OSError) as error:
            reason = f"a worker process ended while it processed this page ({self._end()})"
            raise PageError(CRASH, reason) from error
        except BaseException:
            # Out of memory, for example. The rest of this answer must not be read as the next one.
            self._end()
            raise
        if ok:
            return result
        try:
            raise result
        finally:
            # Without this, the error and this frame keep each other, and with them the page.
            del result

    def hang_up(self) -> None:
        """Let the process end by itself, without waiting for it."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

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
            if not self._channel.wait(_START_SECONDS):
                raise OSError(f"it was not ready after {_START_SECONDS} seconds")
            ready = self._channel.receive(in_place=False)
            assert ready == _READY
        except (OSError, EOFError, MemoryError) as error:
            how = f" ({self._end()})" if self._process is not None else ""
            raise StartError(f"{error or type(error).__name__}{how}") from error
        except BaseException:
            self.close()
            raise
        return self._channel

    def _spawn(self) -> None:
        if getattr(sys, "frozen", False) or not sys.executable:
            # The executable of a frozen program is that program, not Python.
            raise OSError("there is no Python to run it")
        outgoing = _SharedMemory(anonymous_file())
        try:
            incoming = _SharedMemory(anonymous_file())
        except OSError:
            outgoing.close()
            raise
        ours, theirs = socket.socketpair()
        channel = _Channel(Connection(ours.detach()), incoming, outgoing)
        files = (theirs.fileno(), outgoing.file, incoming.file)
        # One process per core is busy already, so libraries start no threads of their own. A signal to the whole group
        # or service must not cost the page in work: the run decides what to do, and this process follows.
        code = (
            "import os, signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
            "os.environ.update(OPENBLAS_NUM_THREADS='1', OMP_NUM_THREADS='1'); "
            f"sys.path[:] = {sys.path!r}; "
            f"from comic_upscale.execution.local.worker_process import serve; serve{files!r}"
        )
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", code],
                    pass_fds=files,
                    stdin=subprocess.DEVNULL,
                    # A process that hangs must not hold a pipe of this program open.
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    # Ctrl-C goes to this program alone.
                    start_new_session=True,
                )
        except BaseException:
            channel.close()
            raise
        self._channel = channel

    def _end(self) -> str:
        """End the process, and return how it ended."""
        self.hang_up()
        process, self._process = self._process, None
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
    threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
    _keep_freed_memory()
    # Pillow's warnings about odd files are hidden, as in the commands. The user gets notes and failures instead.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    channel = _Channel(Connection(connection), _SharedMemory(incoming), _SharedMemory(outgoing))
    steps: PageSteps = channel.receive(in_place=False)
    channel.send(_READY)
    while True:
        _answer(channel, steps)


def _keep_freed_memory() -> None:
    """Have the C library keep the memory of a page for the next one. Fresh memory costs a page some milliseconds."""
    with contextlib.suppress(AttributeError, OSError):
        set_option = ctypes.CDLL(None).mallopt
        set_option(_MMAP_THRESHOLD, _LARGEST_KEPT_ARRAY)
        set_option(_TRIM_THRESHOLD, _KEPT_BYTES)


def _end_with(connection: int) -> None:
    """End this process when the other side hangs up, also while a step runs."""
    poll = select.poll()
    poll.register(connection, 0)
    while not any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll()):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


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
    lines = traceback.format_exception(error)
    # Its frames hold the page.
    error = error.with_traceback(None)
    if isinstance(error, PageError):
        return error
    error.add_note("In a worker process:\n" + "".join(lines))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{error!r}\n" + "\n".join(error.__notes__))
    return error
