"""The gate in a run: which pages are done again, and when that stops being worth it."""

from __future__ import annotations

from dataclasses import asdict

from comic_upscale.gate.verdict import Verdict, judge
from comic_upscale.pages.page import Pixels

SUSPECT = "suspect"
"""The kind of a page that failed because it is suspect, with ``--strict``."""

HOPELESS_AFTER = 8
"""So many pages that were done again for nothing: then it is the network's way, and no accident."""


SMALLEST = 64
"""Pixels of a side below which a page is not looked at: a few edges are no ground for a judgement."""


class Gatekeeper:
    """Holds pages against their sources, and remembers whether doing them again has helped.

    Used from the loop's thread and from workers: what it counts changes on the loop's thread alone.
    """

    def __init__(self) -> None:
        self._again = self._mended = 0

    @staticmethod
    def wants(source: Pixels) -> bool:
        """Whether a page is large enough to be judged."""
        return min(source.width, source.height) >= SMALLEST

    @staticmethod
    def look(source: Pixels, page: Pixels) -> Verdict:
        """Judge a page; called from a worker.

        Args:
            source: as the network was given it.
            page: as it would be written.
        """
        return judge(source.color, page.color, page.borders)

    def wants_again(self, verdict: Verdict) -> bool:
        """Whether a page should be done again by the safest path."""
        return verdict.is_suspect and (self._mended > 0 or self._again < HOPELESS_AFTER)

    def note_again(self, verdict: Verdict) -> None:
        """Take in what became of a page that was done again."""
        self._again += 1
        self._mended += not verdict.is_suspect


def recorded_scores(verdict: Verdict) -> dict[str, float]:
    """Return the scores as the ledger keeps them."""
    return {name: round(float(value), 4) for name, value in asdict(verdict.scores).items()}
