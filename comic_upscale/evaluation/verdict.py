"""The conclusion of a trial: the most faithful model, and the recommended one."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from comic_upscale.evaluation.trial import LANCZOS, Standing, Trial

JUST_AS_GOOD = 0.003
"""The largest difference in SSIM with which two models count as equally faithful. It is invisible."""

ENOUGH_PAGES = 4
"""Fewer pages give no useful standard error."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to *which model for my comics*."""

    most_faithful: str
    """The highest mean SSIM over all pages and tracks."""
    recommended: str
    """The fastest of the models that are as faithful."""
    why: str
    """The reason, in a sentence or two."""


def judge(trial: Trial) -> Verdict:
    """Recommend a model: the fastest of those whose SSIM is as good as the best.

    It is as good if the mean of the differences, page by page, is at most `JUST_AS_GOOD`, or at most twice its standard
    error, so that other pages could reverse it. SSIM of luma decides, because it measures structure, and lines and
    lettering are structure. The table shows the other scores too.

    Args:
        trial: a trial with at least one page.
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
    return len(gaps) >= ENOUGH_PAGES and mean <= 2 * statistics.stdev(gaps) / math.sqrt(len(gaps))


def _gaps(standing: Standing, best: Standing) -> list[float]:
    """Return the distance in SSIM from the best model on each page, as means over the tracks."""
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
        if len(trial.pages) < ENOUGH_PAGES:
            return f"{summary}. It is the most faithful"
        return f"{summary}. It is the most faithful, by a margin larger than the spread between pages"
    times = best.seconds(trial.page_pixels) / seconds
    return (
        f"{summary}. {best.name} is ahead by {statistics.fmean(_gaps(chosen, best)):.4f} SSIM, too small to "
        f"see or to be significant, and takes {times:.1f} times as long"
    )
