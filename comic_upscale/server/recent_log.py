"""The lines that the server logged last, for administrators. They are in memory alone, and end with the server."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

MOST_LINES = 2000
LONGEST_LINE = 20_000
"""Characters of a line that are kept."""
LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of the log."""

    id: int
    """Grows with each line, and from one start of the server to the next."""
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
        # From the microsecond of the start on, so a reader of an earlier run misses no line.
        self._last_id = time.time_ns() // 1000

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line. `logging` holds the lock of this handler meanwhile."""
        try:
            text = self.format(record)[:LONGEST_LINE]
        except Exception:
            self.handleError(record)
            return
        self._last_id += 1
        self._lines.append(LogLine(self._last_id, int(record.created * 1000), record.levelname.lower(), text))

    def read(self, after: int = 0) -> list[LogLine]:
        """Return lines, the oldest first.

        Args:
            after: the id of the last line that was read. One that no line has yet counts as none: the clock was set
                back since.
        """
        self.acquire()
        try:
            found = list(self._lines)
            is_known = after <= self._last_id
        finally:
            self.release()
        return [line for line in found if line.id > after] if is_known else found

    async def follow(self, after: int, is_over: Callable[[], bool]) -> AsyncIterator[LogLine]:
        """Yield the lines after one, and then each new one.

        Args:
            after: as for `read`.
            is_over: asked twice a second whether to end.
        """
        while True:
            for line in self.read(after):
                after = line.id
                yield line
            if is_over():
                return
            await asyncio.sleep(LOOK_SECONDS)
