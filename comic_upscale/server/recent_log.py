"""The lines that the server logged last, for administrators. They are in memory alone, and end with the server."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass

MOST_LINES = 2000
LONGEST_LINE = 20_000
"""Characters of a line that are kept."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of the log."""

    id: int
    """Counts the lines since the server started, from 1."""
    at: int
    """Milliseconds since 1970, by the clock of this machine."""
    level: str
    """``info``, ``warning``, ``error`` or another level in lower case."""
    text: str


class RecentLog(logging.Handler):
    """Keeps the last `MOST_LINES` lines. Its formatter removes secrets, as those of the other handlers do."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[LogLine] = deque(maxlen=MOST_LINES)
        self._count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line. `logging` holds the lock of this handler meanwhile."""
        try:
            text = self.format(record)[:LONGEST_LINE]
        except Exception:
            self.handleError(record)
            return
        self._count += 1
        self._lines.append(LogLine(self._count, int(record.created * 1000), record.levelname.lower(), text))

    def read(self, after: int = 0) -> list[LogLine]:
        """Return lines, the oldest first.

        Args:
            after: the id of the last line that was read. An id of an earlier run of the server counts as none.
        """
        self.acquire()
        try:
            found = list(self._lines)
            is_earlier = after > self._count
        finally:
            self.release()
        return found if is_earlier else [line for line in found if line.id > after]
