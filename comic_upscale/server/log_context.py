"""Which request and which job a line of the log belongs to. Threads that a job starts take it along."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import threading
from collections.abc import Callable, Iterator

request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)
job_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("job_id", default=None)


@contextlib.contextmanager
def logged_as(variable: contextvars.ContextVar[str | None], value: str) -> Iterator[None]:
    """Let lines of the log inside the block name a request or a job."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


class AddContext(logging.Filter):
    """Adds ``request_id`` and ``job_id`` to the records of a handler, unless the line has its own."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add what is known, and keep the record."""
        for variable in (request_id, job_id):
            value = variable.get()
            if value is not None and not hasattr(record, variable.name):
                setattr(record, variable.name, value)
        return True


def new_thread(target: Callable[[], None], name: str) -> threading.Thread:
    """Return a thread, not started yet, whose lines of the log belong to the same request or job as this one."""
    context = contextvars.copy_context()
    return threading.Thread(target=lambda: context.run(target), name=name, daemon=True)
