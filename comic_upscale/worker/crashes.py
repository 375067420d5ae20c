"""Which page a worker did not survive: a page that ends three workers is set aside, and the job goes on.

A file in the folder of the job names the pages in flight. If it names some when the next attempt begins, the worker
died with them. From then on, each of these pages is processed alone, so that only one can be blamed for the next death.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

DEATHS = 3
"""A page that ended this many workers is set aside."""
PAGES_IN_A_ROW = 3
"""After this many pages were set aside and none was finished in between, the job is set aside."""
_FILE = "in-flight.json"
_LONGEST_WORDS = 300


@dataclass(slots=True)
class _Record:
    """The content of the file."""

    begun: list[str] = field(default_factory=list)
    """The pages in flight, by source."""
    deaths: dict[str, int] = field(default_factory=dict)
    """How many workers ended with each page in flight. A page that is finished is removed."""
    words: dict[str, str] = field(default_factory=dict)
    """The last words of the last of these workers."""
    in_a_row: list[str] = field(default_factory=list)
    """Pages that were set aside since the last page that was finished."""


class CrashWatch:
    """Watches the pages of one attempt at a job; a `PageWatch`.

    Args:
        folder: of the job.
        last_words: of the worker that held the job before, if it died and left some.
    """

    def __init__(self, folder: Path, last_words: str | None = None) -> None:
        self._path = folder / _FILE
        self._record = _read(self._path)
        self.has_suspects = bool(self._record.begun)
        """Whether the worker before died with pages in flight."""
        for source in self._record.begun:
            self._record.deaths[source] = self._record.deaths.get(source, 0) + 1
            if last_words:
                self._record.words[source] = last_words.strip()[:_LONGEST_WORDS]
        self._record.begun = []
        self._write()

    @property
    def has_given_up(self) -> bool:
        """Whether one page after the other ends the worker, so that the fault is not with a page."""
        return len(self._record.in_a_row) >= PAGES_IN_A_ROW

    @property
    def is_careful(self) -> bool:
        """Whether the next page is processed alone."""
        return any(count < DEATHS for count in self._record.deaths.values())

    def plan(self, sources: Sequence[str]) -> None:
        """Forget pages that are not processed any more: they were finished just before the worker died."""
        for source in self._record.deaths.keys() - set(sources):
            self._forget(source)
        self._write()

    def refuse(self, source: str) -> str | None:
        """Return why a page is set aside; None if it may be processed."""
        deaths = self._record.deaths.get(source, 0)
        if deaths < DEATHS:
            return None
        if source not in self._record.in_a_row:
            self._record.in_a_row.append(source)
        words = self._record.words.get(source)
        self._forget(source)
        self._write()
        reason = f"{deaths} workers ended while they processed this page, so it was set aside"
        return f"{reason}. The last words: {words}" if words else reason

    def begin(self, source: str) -> None:
        """Note that a page is in flight, before anything is done with it."""
        self._record.begun.append(source)
        self._write()

    def end(self, source: str, *, done: bool) -> None:
        """Note that a page is in flight no longer."""
        with contextlib.suppress(ValueError):
            self._record.begun.remove(source)
        self._forget(source)
        if done:
            self._record.in_a_row.clear()
        self._write()

    def close(self) -> None:
        """Note that the attempt ends and the worker lives: no page in flight is to blame."""
        self._record.begun = []
        self._write()

    def _forget(self, source: str) -> None:
        self._record.deaths.pop(source, None)
        self._record.words.pop(source, None)

    def _write(self) -> None:
        """Write the file whole. It has to survive this process and not the machine, so it is not flushed."""
        new = self._path.with_suffix(".new")
        # On a full disk, the pages themselves say what is wrong.
        with contextlib.suppress(OSError):
            new.write_text(json.dumps(asdict(self._record)), encoding="utf-8")
            new.replace(self._path)


def _read(path: Path) -> _Record:
    try:
        return _Record(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return _Record()
