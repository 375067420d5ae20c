"""Find pages that may be duplicates, by file size alone, before any is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DuplicateCandidates:
    """Pages that may be duplicates, known before any is read."""

    sizes: frozenset[int] = frozenset()
    """File sizes, in bytes, that a pending page shares with another page."""
    done: tuple[tuple[int, str, str, str], ...] = ()
    """Finished pages with such sizes: (row id, SHA-256 of the source, source, output)."""


NO_DUPLICATES = DuplicateCandidates()


def shared_sizes(todo: Iterable[int], others: Iterable[int]) -> frozenset[int]:
    """Return the sizes that a pending page shares with any other page.

    Args:
        todo: bytes of the pending sources.
        others: bytes of all other sources.
    """
    counts, known = Counter(todo), frozenset(others)
    return frozenset(size for size, count in counts.items() if count > 1 or size in known)
