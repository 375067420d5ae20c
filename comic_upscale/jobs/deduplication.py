"""Pages that are the same, byte for byte: blanks, credits at the end of every volume. One of them is computed.

Only a page whose size in bytes another page of the job has is looked at here, and discovery knows all sizes. When
identical pages are in flight, only the first is a task for the executor. The others wait for what becomes of it,
without holding anything: then each gets a copy of the recorded output, or the next of them is the first.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

from comic_upscale.errors import PageError
from comic_upscale.execution.base import PageUpscaled, run_in
from comic_upscale.execution.local.quality_gate import SMALLEST
from comic_upscale.imaging.target_size import grows, is_larger
from comic_upscale.jobs.context import JobContext
from comic_upscale.jobs.job_files import Outputs
from comic_upscale.settings.job import JobSettings
from comic_upscale.storage.base import OutputStore

T = TypeVar("T")

Key: TypeAlias = tuple[str, str]
"""The SHA-256 of a source, and the format that its output is written in: within a job, what decides an output."""


@dataclass(slots=True)
class _InFlight(Generic[T]):
    key: Key
    waiting: list[T] = field(default_factory=list)


class Deduplicator(Generic[T]):
    """Knows which pages are in flight or done that others may be the same as. Used on the loop's thread alone.

    Args:
        sizes: bytes of sources that several pages have.
        done: the row of a page that is done, by what decides its output.
    """

    def __init__(self, sizes: Set[int], done: Mapping[Key, int]) -> None:
        # A page has no bytes yet where it is drawn: those of a PDF.
        self._sizes = sizes - {0}
        self._done = dict(done)
        self._in_flight: dict[int, _InFlight[T]] = {}
        self._first: dict[Key, _InFlight[T]] = {}

    def may_have_duplicates(self, size: int) -> bool:
        """Whether a page of this many bytes may be the same as another one."""
        return size in self._sizes

    def waits(self, key: Key, page: T) -> bool:
        """Let a page wait where the same one is in flight; False where none is."""
        first = self._first.get(key)
        if first is None:
            return False
        first.waiting.append(page)
        return True

    def begin(self, key: Key, row_id: int) -> None:
        """Note that a page is in flight from now on, as the first of its kind."""
        self._first[key] = self._in_flight[row_id] = _InFlight(key)

    def done(self, key: Key) -> int | None:
        """The row of a page that is done and may be copied, as far as is known."""
        return self._done.get(key)

    def forget(self, key: Key, row_id: int) -> None:
        """Note that a page that is done cannot be copied."""
        if self._done.get(key) == row_id:
            del self._done[key]

    def settled(self, row_id: int, *, done: bool) -> list[T]:
        """Note that a page is no longer in flight, and return those that waited for it.

        Args:
            row_id: of the page; for one that is no first, nobody waits.
            done: whether it is recorded as done, so that the others can have its output.
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
    """The output of a page that is done, for another one that is the same."""

    outcome: PageUpscaled
    copied_from: str
    """The source of the page that is done."""


async def copy_output(
    context: JobContext, original: int, *, row_id: int, source_sha256: str, seconds: float
) -> Copy | None:
    """Return the output of a page that is done for another page of the same bytes.

    Args:
        context: of the run.
        original: row of the page that is done.
        row_id: of the page that is to have its output.
        source_sha256: of both.
        seconds: that reading and hashing the page took.

    Returns:
        None where the output is no longer there or not the recorded one, or this run would not make it just so.
    """
    page = await context.on_ledger(context.ledger.done_page, original)
    if page is None or page["source_sha256"] != source_sha256 or not _is_as_good(page, context.settings):
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
        notes=copied_notes(page),
        scores=json.loads(page["scores"]) if page["scores"] else {},
        suspect=(page["suspect"],) if page["suspect"] else (),
        made_at=ended,
    )
    return Copy(outcome, page["source"])


def _is_as_good(page: Mapping[str, Any], settings: JobSettings) -> bool:
    """Whether a page that is done is as this run would make it: neither refused, nor left, nor unseen by its gate."""
    size = (page["width"], page["height"])
    if size[0] * size[1] > settings.max_pixels:
        return False
    if settings.skip_larger_than is not None and is_larger(size, settings.skip_larger_than):
        return False
    if settings.strict and page["suspect"]:
        return False
    judged = min(size) >= SMALLEST and grows(size, (page["output_width"], page["output_height"]))
    return bool(page["scores"]) or not (settings.gate and judged)


def read_output(outputs: OutputStore, page: Mapping[str, Any]) -> bytes | None:
    """The bytes of a recorded output, from its file or its volume; None if they are gone or not the recorded ones.

    Args:
        outputs: of the job.
        page: a row of `Ledger.done_page`.
    """
    try:
        data = Outputs(outputs).read(page)
    except PageError:
        return None
    except Exception:  # whatever a ZIP that somebody edited may raise
        return None
    return data if hashlib.sha256(data).hexdigest() == page["output_sha256"] else None


def copied_notes(page: Mapping[str, Any]) -> tuple[str, ...]:
    """What a person should know of a page that got the output of ``page``."""
    own = (str(page["notes"]),) if page["notes"] else ()
    return (*own, f"the same page as {page['source']}, whose output was copied")
