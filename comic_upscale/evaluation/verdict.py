"""What a trial says: which model restores most faithfully, and which one is worth its time."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from comic_upscale.evaluation.trial import LANCZOS, Standing, Trial

JUST_AS_GOOD = 0.003
"""SSIM by which one model may be behind another and still count as just as faithful: nobody sees it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to *which model for my comics*."""

    most_faithful: str
    """The highest mean SSIM over all pages and tracks."""
    recommended: str
    """The quickest of those that are just as faithful."""
    why: str
    """In a sentence or two."""


def judge(trial: Trial) -> Verdict:
    """Recommend a model: the quickest of those whose SSIM is that of the best.

    That is so where the mean of the differences, page by page, is at most `JUST_AS_GOOD`, or no more than
    twice its own standard error, so that other pages might well turn it round. SSIM on luma decides, since it
    looks at structure, which is what lines and lettering are; the other scores stand beside it in the table.

    Args:
        trial: with at least one page.
    """
    best = max(trial.standings, key=_fidelity)
    as_good = [standing for standing in trial.standings if _is_as_good(standing, best)]
    quickest = min(as_good, key=lambda standing: standing.seconds(trial.page_pixels))
    return Verdict(best.name, quickest.name, _why(trial, best, quickest, len(as_good)))


def _fidelity(standing: Standing) -> float:
    value = standing.mean("ssim")
    assert value is not None
    return value


def _is_as_good(standing: Standing, best: Standing) -> bool:
    gaps = _gaps(standing, best)
    mean = statistics.fmean(gaps)
    if mean <= JUST_AS_GOOD:
        return True
    # Of two or three pages no error can be told.
    return len(gaps) >= 4 and mean <= 2 * statistics.stdev(gaps) / math.sqrt(len(gaps))


def _gaps(standing: Standing, best: Standing) -> list[float]:
    """How far a model is behind on each page, in SSIM, means over the tracks."""
    pages = dict.fromkeys(turn.page for turn in best.turns)
    return [_on_page(best, page) - _on_page(standing, page) for page in pages]


def _on_page(standing: Standing, page: str) -> float:
    return statistics.fmean(turn.scores.ssim for turn in standing.turns if turn.page == page)


def _why(trial: Trial, best: Standing, chosen: Standing, as_good: int) -> str:
    pages = f"{len(trial.pages)} page{'s' if len(trial.pages) != 1 else ''}"
    seconds = chosen.seconds(trial.page_pixels)
    summary = f"{chosen.name}: SSIM {_fidelity(chosen):.4f} over {pages}, about {seconds:.2g} s a page"
    if chosen.name == LANCZOS:
        return f"{summary}. No model is more faithful to these pages than plain resampling"
    if chosen is best:
        if as_good > 1:
            return f"{summary}. It is the most faithful, and no model that is as good is faster"
        return f"{summary}. It is the most faithful, by a margin larger than the spread between pages"
    times = best.seconds(trial.page_pixels) / seconds
    return (
        f"{summary}. {best.name} is ahead by {statistics.fmean(_gaps(chosen, best)):.4f} SSIM, too small to "
        f"see or to be significant, and takes {times:.1f} times as long"
    )
