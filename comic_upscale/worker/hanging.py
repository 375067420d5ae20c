"""A job that does not stop at its timeout ends its worker."""

from __future__ import annotations

import contextlib
import faulthandler
import threading
import time
from collections.abc import Iterator

HANG_SECONDS = 60.0
"""How long a job may take to stop after its timeout."""


@contextlib.contextmanager
def no_hanging(timeout: float | None) -> Iterator[None]:
    """End the process, with the stacks of its threads as its last words, if a job does not stop at its timeout.

    Native code in an endless loop hears no request to stop. The process has one such timer, and two jobs may run: it
    goes by the one that should end first.
    """
    if timeout is None:
        yield
        return
    job = object()
    _set_deadline(job, time.monotonic() + timeout + HANG_SECONDS)
    try:
        yield
    finally:
        _set_deadline(job, None)


_deadlines: dict[object, float] = {}
_deadlines_lock = threading.Lock()


def _set_deadline(job: object, deadline: float | None) -> None:
    with _deadlines_lock:
        if deadline is None:
            del _deadlines[job]
        else:
            _deadlines[job] = deadline
        faulthandler.cancel_dump_traceback_later()
        if _deadlines:
            left = max(min(_deadlines.values()) - time.monotonic(), 0.001)
            faulthandler.dump_traceback_later(left, exit=True)
