"""The gate in a run: which pages are done again, and when that stops being worth it."""

from __future__ import annotations

from dataclasses import asdict

from comic_upscale.engines.base import EngineInfo
from comic_upscale.engines.pages import finish
from comic_upscale.gate.verdict import Verdict, bounds_for, default_bounds, judge, measure_raw_output
from comic_upscale.imaging.pixels import Pixels

SUSPECT = "suspect"
"""The kind of a page that failed because it is suspect, with ``--strict``."""

HOPELESS_AFTER = 8
"""So many pages that were done again for nothing: then it is the network's way, and no accident."""


SMALLEST = 64
"""Pixels of a side below which a page is not looked at: a few edges are no ground for a judgement."""


class QualityGate:
    """Holds pages against their sources, and remembers whether doing them again has helped.

    Used from the loop's thread and from workers: what it counts changes on the loop's thread alone.

    Args:
        engine: what makes the pages, whose bounds they are held to; None for the bounds of all models.
    """

    def __init__(self, engine: EngineInfo | None = None) -> None:
        self._again = self._mended = 0
        self._bounds = default_bounds() if engine is None else bounds_for(engine.identity, engine.fidelity)

    @staticmethod
    def wants(source: Pixels) -> bool:
        """Whether a page is large enough to be judged."""
        return min(source.width, source.height) >= SMALLEST

    def finished(self, source: Pixels, page: Pixels) -> tuple[Pixels, Verdict]:
        """Finish a page, and judge it as it was and as it is then; called from a worker.

        Args:
            source: as the network was given it.
            page: as the engine handed it over.
        """
        # Before anything is put right, in place.
        handed = measure_raw_output(source.color, page.color, page.borders)
        page = finish(page)
        verdict = judge(source.color, page.color, page.borders, handed=handed, bounds=self._bounds)
        return page, verdict

    def wants_again(self, verdict: Verdict) -> bool:
        """Whether a page should be done again by the conservative path."""
        return verdict.is_suspect and (self._mended > 0 or self._again < HOPELESS_AFTER)

    def note_again(self, verdict: Verdict) -> None:
        """Take in what became of a page that was done again."""
        self._again += 1
        self._mended += not verdict.is_suspect


def recorded_scores(verdict: Verdict) -> dict[str, float]:
    """Return the scores as the ledger keeps them."""
    return {name: round(float(value), 4) for name, value in asdict(verdict.scores).items()}
