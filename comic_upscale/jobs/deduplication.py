"""Pages that are the same, byte for byte: blanks, credits at the end of every volume. One of them is upscaled.

A page is only looked at here if another one of the job has as many bytes, which the names and sizes that
discovery found tell at no cost. Of pages that are the same and in hand at one time the first goes on, and
the others wait for what becomes of it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

from comic_upscale.errors import PageError
from comic_upscale.jobs.job_files import Outputs
from comic_upscale.storage.base import OutputStore

T = TypeVar("T")

Key: TypeAlias = tuple[str, str]
"""The SHA-256 of a source, and the format that its output is written in: within a job, what decides an output."""


@dataclass(slots=True)
class _InHand(Generic[T]):
    key: Key
    waiting: list[T] = field(default_factory=list)
    data: bytes = b""
    """The source, once somebody waits: one copy for all of them."""


class Deduplicator(Generic[T]):
    """Knows which pages are in hand or done that others may be the same as. Used on the loop's thread alone.

    Args:
        sizes: bytes of sources that may have twins.
        done: the row of a page that is done, by what decides its output.
    """

    def __init__(self, sizes: Set[int], done: Mapping[Key, int]) -> None:
        self._sizes = sizes
        self._done = dict(done)
        self._in_hand: dict[int, _InHand[T]] = {}
        self._first: dict[Key, _InHand[T]] = {}
        self._open = 0
        self._nobody_waits = asyncio.Event()
        self._nobody_waits.set()

    def may_have(self, size: int) -> bool:
        """Whether a page of so many bytes may be the same as another one."""
        return size in self._sizes

    def begin(self, key: Key, row_id: int, work: T, data: bytes) -> bool:
        """Take a page in hand; False if the same one is in hand, for which this one waits from now on.

        Args:
            key: of the page.
            row_id: of the page.
            work: what to return once the wait is over.
            data: the source.
        """
        first = self._first.get(key)
        if first is None:
            self._first[key] = self._in_hand[row_id] = _InHand(key)
            return True
        first.waiting.append(work)
        first.data = data
        self._open += 1
        self._nobody_waits.clear()
        return False

    def done(self, key: Key) -> int | None:
        """The row of a page that is done and may be copied, as far as is known."""
        return self._done.get(key)

    def forget(self, key: Key) -> None:
        """Note that the page that was done cannot be copied."""
        self._done.pop(key, None)

    def settled(self, row_id: int, *, done: bool = False) -> tuple[list[T], bytes]:
        """Note that a page is no longer in hand, and return those that waited for it, with their source.

        Each of them is to be told of by `went_on`.

        Args:
            row_id: of the page; one that was never taken in hand is none that others wait for.
            done: whether it is recorded as done, so that the others can have its output.
        """
        first = self._in_hand.pop(row_id, None)
        if first is None:
            return [], b""
        del self._first[first.key]
        if done:
            self._done[first.key] = row_id
        return first.waiting, first.data

    def went_on(self) -> None:
        """Note that a page that had waited has gone on, or waits anew."""
        self._open -= 1
        if self._open == 0:
            self._nobody_waits.set()

    async def until_nobody_waits(self) -> None:
        """Wait until every page that waited has gone on."""
        await self._nobody_waits.wait()


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
