"""Which pages a person should look at: scores held against bounds that were measured.

The bounds are data, `thresholds.toml`, with what they were measured on.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from comic_upscale.gate.scores import RawOutput, Scores, compare
from comic_upscale.imaging.pixels import NO_BORDERS, Borders, SampleArray, UInt8Array


@dataclass(frozen=True, slots=True)
class Bounds:
    """The worst scores that a page may have; what they mean: `Scores`."""

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
    """The least part of the source's contrast that must be left."""
    contrast_levels: float
    """Sources of less contrast than this are not asked for it."""
    tile_step: float
    handed_tint: float
    handed_tone: float
    handed_white: float
    handed_black: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says of a page."""

    scores: Scores
    reasons: tuple[str, ...]
    """In words, what a person should look at; empty for a page that passes."""

    @property
    def is_suspect(self) -> bool:
        """Whether the page should be looked at."""
        return bool(self.reasons)


def bounds_for(identity: str, fidelity: str = "faithful") -> Bounds:
    """Return the bounds that come with the package for what makes pages.

    Args:
        identity: the hash of a network's weights. A network that was measured has bounds of its own.
        fidelity: the class of the engine, as `EngineInfo.fidelity`; for what was not measured.

    Returns:
        The bounds of that network, else those of its class, else those of all models together.
    """
    table = thresholds()
    for model in table["measured"].values():
        if model["identity"] == identity:
            return Bounds(**model["bounds"])
    return Bounds(**table["bounds_of_fidelity"].get(fidelity, table["bounds"]))


def default_bounds() -> Bounds:
    """Return the bounds of all models together."""
    return Bounds(**thresholds()["bounds"])


@cache
def thresholds() -> dict[str, Any]:
    """Return the bounds that come with the package, as `thresholds.toml` has them."""
    text = files("comic_upscale.gate").joinpath("thresholds.toml").read_text("utf-8")
    return tomllib.loads(text)


def measure_raw_output(source: SampleArray, larger: SampleArray, borders: Borders = NO_BORDERS) -> RawOutput:
    """Keep what `judge` will ask of a page as the engine made it, before anything in it is put right.

    Args:
        source: uint8 or uint16, height x width x C, C 3 or 1.
        larger: of the same type, any larger height x width x the same C.
        borders: where tiles meet in the larger page.
    """
    return RawOutput.over(_high_bytes(source), _high_bytes(larger), borders)


def judge(
    source: SampleArray,
    larger: SampleArray,
    borders: Borders = NO_BORDERS,
    *,
    handed: RawOutput | None = None,
    bounds: Bounds | None = None,
) -> Verdict:
    """Hold a page against its source.

    Args:
        source: uint8 or uint16, height x width x C, C 3 or 1.
        larger: of the same type, any larger height x width x the same C.
        borders: where tiles meet in the larger page.
        handed: what `measure_raw_output` kept of the same page; None where nothing in it was put right.
        bounds: None for those of all models.
    """
    scores = compare(_high_bytes(source), _high_bytes(larger), borders, handed)
    return Verdict(scores, reasons(scores, bounds or default_bounds()))


def _high_bytes(samples: SampleArray) -> UInt8Array:
    """Return samples at 8 bits, 16 cut off: a fifth of the time that rounding takes, and both pages alike."""
    return (samples if samples.dtype == np.uint8 else samples >> 8).astype(np.uint8, copy=False)


def reasons(scores: Scores, bounds: Bounds) -> tuple[str, ...]:
    """Say in words what is beyond its bound, the gravest first."""
    has_contrast = scores.contrast_levels >= bounds.contrast_levels
    checks = (
        (has_contrast and scores.contrast < bounds.contrast, "flat where the source is not"),
        (scores.psnr < bounds.psnr, f"unlike its source: {scores.psnr:.1f} dB"),
        (scores.ssim < bounds.ssim, f"another structure than its source: SSIM {scores.ssim:.3f}"),
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
            scores.handed_tint > bounds.handed_tint,
            f"tinted by {scores.handed_tint:.1f} levels before tone was put right",
        ),
        (
            scores.handed_tone > bounds.handed_tone,
            f"flat areas off by {scores.handed_tone:.1f} levels before tone was put right",
        ),
        (
            scores.handed_white > bounds.handed_white,
            f"white paper off by {scores.handed_white:.1f} levels before it was put right",
        ),
        (
            scores.handed_black > bounds.handed_black,
            f"solid black off by {scores.handed_black:.1f} levels before it was put right",
        ),
    )
    return tuple(text for is_beyond, text in checks if is_beyond)
