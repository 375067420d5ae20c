"""Find suspect pages: compare scores with measured bounds.

The bounds and the material on which they were measured are in `thresholds.toml`.
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

from comic_upscale.gate.scores import RawOutput, Scores, compare
from comic_upscale.imaging.gray import high_bytes
from comic_upscale.imaging.pixels import NO_BORDERS, Borders, DeviceWork, SampleArray

_MEASURED = 384 * 576
"""Pixels of the pieces of pages on which the bounds were measured (`benchmarks/gate_pages.py`)."""
_MOST_TIMES = 4.0
"""The most by which a bound of a small page is wider: a shift by half a pixel and a tint of six levels stay visible."""
_MOST_INVENTED = 5
"""Blocks with invented texture on a page, from which it is suspect. A single one may be a crisp corner."""
_MOST_INVENTED_GROUP = 3
"""Blocks that touch each other, from which the eye sees an island."""
_MEANS = ("brightness", "tint", "shift", "white_drift", "black_drift", "chroma", "raw_tint", "raw_tone",
          "raw_white", "raw_black")  # fmt: skip
"""Scores that are means over the page."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The worst scores of a page that passes. `Scores` explains them."""

    psnr: float
    ssim: float
    worst_block: float
    brightness: float
    tint: float
    shift: float
    white_drift: float
    black_drift: float
    chroma: float
    tile_shift: float
    seam: float
    contrast: float
    """The smallest share of the source's contrast that must remain."""
    contrast_levels: float
    """Contrast is not checked for sources with less contrast than this."""
    tile_step: float
    raw_tint: float
    raw_tone: float
    raw_white: float
    raw_black: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict of the gate on a page."""

    scores: Scores
    reasons: tuple[str, ...]
    """Why the page is suspect, as text; empty for a page that passes."""

    @property
    def is_suspect(self) -> bool:
        """Whether the page is suspect."""
        return bool(self.reasons)

    @property
    def only_invents(self) -> bool:
        """Whether the page is suspect because of its invented texture alone."""
        return len(self.reasons) == 1 and _has_invented(self.scores)

    def has_half_the_texture_of(self, other: Verdict) -> bool:
        """Return whether a page has at most half of the invented texture of another."""
        return 2 * self.scores.invented <= other.scores.invented

    def cleared(self) -> Verdict:
        """Return the verdict with its scores and without its reasons."""
        return replace(self, reasons=())


def bounds_for(identity: str, fidelity: str = "faithful") -> Bounds:
    """Return the bounds for an engine.

    Args:
        identity: the hash of a network's weights. Each measured network has its own bounds.
        fidelity: the engine's `EngineInfo.fidelity`, for networks that were not measured.

    Returns:
        The bounds of the network, or of its class, or of all models together.
    """
    table = thresholds()
    for model in table["measured"].values():
        if model["identity"] == identity:
            return Bounds(**model["bounds"])
    return Bounds(**table["bounds_of_fidelity"].get(fidelity, table["bounds"]))


def default_bounds() -> Bounds:
    """Return the bounds of all models together."""
    return Bounds(**thresholds()["bounds"])


def bounds_of_size(bounds: Bounds, height: int, width: int) -> Bounds:
    """Return the bounds for a small page.

    The bounds were measured on pieces of `_MEASURED` pixels. A smaller page is a part of such a piece. The mean of a
    part differs more than the mean of the whole, by the square root of their areas if the parts are independent. The
    bounds of parts (the worst block, tiles and seams) hold for all pages.

    Args:
        bounds: for pages of the measured size.
        height: of the source, pixels.
        width: of the source, pixels.
    """
    times = min(_MOST_TIMES, math.sqrt(_MEASURED / (height * width)))
    if times <= 1:
        return bounds
    means = {name: times * getattr(bounds, name) for name in _MEANS}
    return replace(bounds, **means, contrast=1 - times * (1 - bounds.contrast))


@cache
def thresholds() -> dict[str, Any]:
    """Return the content of `thresholds.toml`."""
    text = files("comic_upscale.gate").joinpath("thresholds.toml").read_text("utf-8")
    return tomllib.loads(text)


def measure_raw_output(source: SampleArray, larger: SampleArray, borders: Borders = NO_BORDERS) -> RawOutput:
    """Measure the raw output of the engine for `judge`, before it is corrected.

    Args:
        source: uint8 or uint16, height x width x C, C 3 or 1.
        larger: the same type, any larger height x width x the same C.
        borders: the borders between tiles in the upscaled page.
    """
    return RawOutput.over(high_bytes(source), high_bytes(larger), borders)


def judge(
    source: SampleArray,
    larger: SampleArray,
    borders: Borders = NO_BORDERS,
    *,
    raw: RawOutput | None = None,
    bounds: Bounds | None = None,
    whitens_paper: bool = False,
    looks_for_texture: bool = False,
    device_work: DeviceWork | None = None,
) -> Verdict:
    """Judge an upscaled page by its source.

    Args:
        source: uint8 or uint16, height x width x C, C 3 or 1.
        larger: the same type, any larger height x width x the same C.
        borders: the borders between tiles in the upscaled page.
        raw: the result of `measure_raw_output` for the same page; None if nothing was corrected.
        bounds: for pages of ordinary size; None for those of all models.
        whitens_paper: whether paper may become a little lighter.
        looks_for_texture: whether to look for invented texture, which takes about 10 ms for a page of 512 x 768.
        device_work: what a device has measured of the upscaled page.
    """
    # Truncation is the same for both pages.
    scores = compare(
        high_bytes(source),
        high_bytes(larger),
        borders,
        raw,
        whitens_paper=whitens_paper,
        looks_for_texture=looks_for_texture,
        device_work=device_work,
    )
    bounds = bounds_of_size(bounds or default_bounds(), source.shape[0], source.shape[1])
    return Verdict(scores, reasons(scores, bounds))


def reasons(scores: Scores, bounds: Bounds) -> tuple[str, ...]:
    """Return the scores that are out of bounds, as text, the most serious first."""
    has_contrast = scores.contrast_levels >= bounds.contrast_levels
    checks = (
        (has_contrast and scores.contrast < bounds.contrast, "flat, though the source is not"),
        (scores.psnr < bounds.psnr, f"unlike its source: {scores.psnr:.1f} dB"),
        (scores.ssim < bounds.ssim, f"structure differs from its source: SSIM {scores.ssim:.3f}"),
        (
            scores.worst_block > bounds.worst_block,
            f"a part unlike its source: {scores.worst_block:.0f} levels",
        ),
        (scores.shift > bounds.shift, f"shifted by {scores.shift:.2f} pixels of the source"),
        (scores.brightness > bounds.brightness, f"brighter or darker by {scores.brightness:.1f} levels"),
        (scores.tint > bounds.tint, f"tinted by {scores.tint:.1f} levels"),
        (scores.chroma > bounds.chroma, f"colour of {scores.chroma:.1f} levels on gray"),
        (scores.white_drift > bounds.white_drift, f"white paper off by {scores.white_drift:.1f} levels"),
        (scores.black_drift > bounds.black_drift, f"solid black off by {scores.black_drift:.1f} levels"),
        (
            scores.tile_shift > bounds.tile_shift,
            f"a tile shifted by {scores.tile_shift:.2f} pixels of the source",
        ),
        (scores.seam > bounds.seam, f"a seam between tiles, {scores.seam:.1f} levels"),
        (scores.tile_step > bounds.tile_step, f"a seam: a tile off by {scores.tile_step:.1f} levels"),
        (
            scores.raw_tint > bounds.raw_tint,
            f"tinted by {scores.raw_tint:.1f} levels before tone correction",
        ),
        (
            scores.raw_tone > bounds.raw_tone,
            f"flat areas off by {scores.raw_tone:.1f} levels before tone correction",
        ),
        (
            scores.raw_white > bounds.raw_white,
            f"white paper off by {scores.raw_white:.1f} levels before correction",
        ),
        (
            scores.raw_black > bounds.raw_black,
            f"solid black off by {scores.raw_black:.1f} levels before correction",
        ),
        (_has_invented(scores), f"texture that the source does not have, in {scores.invented:.0f} places"),
    )
    return tuple(text for is_beyond, text in checks if is_beyond)


def _has_invented(scores: Scores) -> bool:
    return scores.invented >= _MOST_INVENTED or scores.invented_group >= _MOST_INVENTED_GROUP
