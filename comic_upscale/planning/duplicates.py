"""Which pages may be duplicates, by their sizes alone, before any of them is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DuplicateCandidates:
    """What is known of pages that may be the same before any of them is read."""

    sizes: frozenset[int] = frozenset()
    """Bytes of sources that several pages have, one of which is to be done."""
    done: tuple[tuple[int, str, str], ...] = ()
    """Pages of such sizes that went through the network already: (row id, SHA-256 of the source, output)."""


NO_DUPLICATES = DuplicateCandidates()


def shared_sizes(todo: Iterable[int], others: Iterable[int]) -> frozenset[int]:
    """Return the sizes that a page to be done has in common with any other page.

    Args:
        todo: bytes of the sources that are to be done.
        others: bytes of all other sources.
    """
    counts, known = Counter(todo), frozenset(others)
    return frozenset(size for size, count in counts.items() if count > 1 or size in known)
