"""The quality gate in a run: which pages are upscaled again, and when to stop trying."""

from __future__ import annotations

from dataclasses import asdict

from comic_upscale.engines.base import EngineInfo
from comic_upscale.engines.pages import finish
from comic_upscale.gate.measures import MeasurePlan
from comic_upscale.gate.scores import RawOutput
from comic_upscale.gate.verdict import (
    Verdict,
    bounds_for,
    default_bounds,
    judge,
    measure_raw_output,
)
from comic_upscale.imaging.pixels import Pixels

SUSPECT = "suspect"
"""The kind of a page that failed because it is suspect, with ``--strict``."""

HOPELESS_AFTER = 8
"""After this many second attempts without success, the cause is the network, so no further page is repeated."""

SMALLEST = 64
"""Pages with a shorter side below this many pixels are not judged: they have too few edges."""


class QualityGate:
    """Compares pages with their sources, and remembers whether second attempts have helped.

    Used from the event loop and from workers; the counters change on the thread of the event loop only.

    Args:
        engine: decides the bounds; None for the default bounds.
        repeats: whether suspect pages may be upscaled again.
        looks_for_texture: whether to look for texture that the network invented.
    """

    def __init__(
        self, engine: EngineInfo | None = None, *, repeats: bool = True, looks_for_texture: bool = False
    ) -> None:
        self._repeats, self._looks_for_texture = repeats, looks_for_texture
        self._is_billed = engine is not None and engine.billing == "call"
        self._repeated = self._repaired = 0
        self._bounds = default_bounds() if engine is None else bounds_for(engine.identity, engine.fidelity)

    @staticmethod
    def wants(source: Pixels) -> bool:
        """Whether a page is large enough to be judged."""
        return min(source.width, source.height) >= SMALLEST

    def finished(self, source: Pixels, page: Pixels) -> tuple[Pixels, Verdict]:
        """Post-process a page, and judge it before and after that; called from a worker.

        Args:
            source: the input of the network.
            page: the raw output of the engine.
        """
        work = page.device_work
        if work is not None:
            # Without it, the finished page would be taken for the raw one.
            assert work.raw_small is not None, "finished on a device without measures for the gate"
            # A device finishes only pages that it upscaled in one piece.
            raw = RawOutput(work.raw_small)
        else:
            # Measured first, since `finish` changes the page in place.
            raw = measure_raw_output(source.color, page.color, page.borders)
            page = finish(page)
        verdict = judge(
            source.color,
            page.color,
            page.borders,
            raw=raw,
            bounds=self._bounds,
            whitens_paper=source.paper is not None,
            looks_for_texture=self._looks_for_texture,
            device_work=work,
        )
        return page, verdict

    def plan_measures(self, source: tuple[int, ...], larger: tuple[int, ...]) -> MeasurePlan | None:
        """Return how a device measures outputs for this gate; None if the host has to.

        Args:
            source: shape of the sources.
            larger: shape of the outputs.
        """
        return MeasurePlan.of(source, larger, looks_for_texture=self._looks_for_texture)

    def wants_again(self, verdict: Verdict, *, is_kept: bool = False) -> bool:
        """Return whether a page should be upscaled again, by the conservative path.

        Args:
            verdict: on the page.
            is_kept: whether the answers of a service that is billed by call are kept, so that nothing is asked again.
        """
        if not self._repeats or not verdict.is_suspect or verdict.only_invents:
            return False
        if self._is_billed:
            # Without filters, at the cost of no call: whether that helped other pages says nothing.
            return is_kept
        return self._repaired > 0 or self._repeated < HOPELESS_AFTER

    def wants_fallback(self, verdict: Verdict) -> bool:
        """Return whether a page should be upscaled again by the fallback network.

        It costs little, and it is asked of every such page: whether it helped others says nothing of the next.
        """
        return self._repeats and verdict.only_invents

    def note_again(self, verdict: Verdict) -> None:
        """Record the verdict of a second attempt."""
        self._repeated += 1
        self._repaired += not verdict.is_suspect


def recorded_scores(verdict: Verdict) -> dict[str, float]:
    """Return the scores for the ledger."""
    return {name: round(float(value), 4) for name, value in asdict(verdict.scores).items()}
