"""Deduplication: identical pages, such as blanks or the credits of every volume, are computed only once.

Only pages whose size in bytes occurs more than once are considered; discovery knows all sizes. When identical pages
are in flight, only the first becomes a task for the executor. The others wait for its outcome without using a worker
or budget. Then each gets a copy of the recorded output, or, if the first failed, the next one becomes the first.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

from comic_upscale.errors import PageError
from comic_upscale.execution.base import PageUpscaled, run_in
from comic_upscale.execution.quality_gate import SMALLEST
from comic_upscale.imaging.target_size import grows, skip_reason
from comic_upscale.jobs.context import JobContext
from comic_upscale.jobs.job_files import Outputs
from comic_upscale.ledger.queries import recorded_numbers
from comic_upscale.settings.job import JobSettings
from comic_upscale.storage.base import OutputStore

T = TypeVar("T")

Key: TypeAlias = tuple[str, str]
"""The SHA-256 of a source, its output format and the rules for its path: within a job, these decide the output."""


@dataclass(slots=True)
class _InFlight(Generic[T]):
    key: Key
    waiting: list[T] = field(default_factory=list)


class Deduplicator(Generic[T]):
    """Tracks pages in flight and done that may have duplicates. Used on the thread of the event loop only.

    Args:
        sizes: sizes in bytes that several sources share.
        done: the row of a finished page, by its key.
    """

    def __init__(self, sizes: Set[int], done: Mapping[Key, int]) -> None:
        # Rendered pages, those of a PDF, have no size in bytes.
        self._sizes = sizes - {0}
        self._done = dict(done)
        self._in_flight: dict[int, _InFlight[T]] = {}
        self._first: dict[Key, _InFlight[T]] = {}

    def may_have_duplicates(self, size: int) -> bool:
        """Return whether a page of this many bytes may have duplicates."""
        return size in self._sizes

    def waits(self, key: Key, page: T) -> bool:
        """Add a page to those that wait for an identical page in flight; return False if there is none."""
        first = self._first.get(key)
        if first is None:
            return False
        first.waiting.append(page)
        return True

    def begin(self, key: Key, row_id: int) -> None:
        """Note that a page is in flight, as the first with its key."""
        self._first[key] = self._in_flight[row_id] = _InFlight(key)

    def done(self, key: Key) -> int | None:
        """Return the row of a finished page that may be copied, if one is known."""
        return self._done.get(key)

    def forget(self, key: Key, row_id: int) -> None:
        """Note that a finished page cannot be copied."""
        if self._done.get(key) == row_id:
            del self._done[key]

    def settle(self, row_id: int, *, done: bool) -> list[T]:
        """Note that a page is no longer in flight, and return the pages that waited for it.

        Args:
            row_id: of the page; pages wait only for the first with a key.
            done: whether it is recorded as done, so its output can be copied.
        """
        first = self._in_flight.pop(row_id, None)
        if first is None:
            return []
        del self._first[first.key]
        if done:
            self._done[first.key] = row_id
        return first.waiting


@dataclass(frozen=True, slots=True)
class Copy:
    """The output of a finished page, for a duplicate."""

    outcome: PageUpscaled
    copied_from: str
    """The source of the finished page."""


async def copy_output(
    context: JobContext, original: int, *, row_id: int, source_sha256: str, seconds: float
) -> Copy | None:
    """Return the output of a finished page, as the outcome of a duplicate.

    Args:
        context: of the run.
        original: row of the finished page.
        row_id: of the duplicate.
        source_sha256: of both.
        seconds: for reading and hashing the duplicate.

    Returns:
        None if the output is missing or has changed, or if this run would make a different one.
    """
    page = await context.on_ledger(context.ledger.done_page, original)
    if page is None or page["source_sha256"] != source_sha256 or not _would_match(page, context.settings):
        return None
    start = time.perf_counter()
    data = await run_in(context.files, read_output, context.stores.outputs, page)
    if data is None:
        return None
    ended = time.perf_counter()
    outcome = PageUpscaled(
        row_id=row_id,
        source_sha256=source_sha256,
        width=page["width"],
        height=page["height"],
        output_width=page["output_width"],
        output_height=page["output_height"],
        data=data,
        sha256=page["output_sha256"],
        seconds={"decode": seconds + ended - start},
        notes=notes_of_copy(page),
        scores=recorded_numbers(page["scores"]),
        suspect=(page["suspect"],) if page["suspect"] else (),
        own_settings=page["own_settings"],
        made_at=ended,
    )
    return Copy(outcome, page["source"])


def _would_match(page: Mapping[str, Any], settings: JobSettings) -> bool:
    """Return whether this run would give a finished page the same result: not refuse, skip or newly judge it."""
    size = (page["width"], page["height"])
    if size[0] * size[1] > settings.max_pixels:
        return False
    if skip_reason(size, settings) is not None:
        return False
    if settings.strict and page["suspect"]:
        return False
    judged = min(size) >= SMALLEST and grows(size, (page["output_width"], page["output_height"]))
    return bool(page["scores"]) or not (settings.gate and judged)


def read_output(outputs: OutputStore, page: Mapping[str, Any]) -> bytes | None:
    """Return a recorded output, from its file or its volume; None if it is missing or has changed.

    Args:
        outputs: of the job.
        page: a row of `Ledger.done_page`.
    """
    try:
        data = Outputs(outputs).read(page)
    except PageError:
        return None
    except Exception:  # an edited ZIP may raise anything
        return None
    return data if hashlib.sha256(data).hexdigest() == page["output_sha256"] else None


def notes_of_copy(page: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the notes for a page that got a copy of the output of ``page``."""
    own = (str(page["notes"]),) if page["notes"] else ()
    return (*own, f"duplicate of {page['source']}: its output was copied")
