"""How a larger page compares with the page that it was made from: numbers that are cheap to get.

The larger page is shrunk to the size of its source, where the two should be the same but for what the
network cleaned away. What went wrong then stands out: in the whole page (swapped, black, tinted,
shifted), in a part of it (a tile from elsewhere), or along a line (a seam).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageStat

from comic_upscale.pages.page import UInt8Array

BLOCK = 32
"""Side of the squares that parts of a page are compared in, in source pixels."""
LARGE = 4_194_304
"""Pixels of a source from which both pages are compared at this size: it keeps the memory bounded."""
_SSIM_BLOCK = 8
_SSIM_C1, _SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_REACH = 3
"""Source pixels around a solid pixel that must be solid too: the shrink mixes in no more than that."""
_FEWEST_SOLID = 64
"""Solid pixels below which nothing is said of a page's white or black."""
_FAINT = 6
"""Levels between the channels of a pixel that still count as gray: what JPEG leaves in a gray scan."""
_SEAM_SPAN = 64
"""Rows or columns that a line is followed for, at least, to be a seam rather than part of a drawing."""

_DRAWN_STEP = 4.0
"""Levels of a step in the source, in the mean along a column, from which a line is taken as drawn."""
_LEAST_STEP = 0.1
"""Levels that count as the usual step at least: a page without any difference has no seam."""
_ROWS = 256
"""Rows of the larger page that are shrunk at once."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scores:
    """What was measured of one page. Levels are of 0..255, lengths in pixels of the source."""

    psnr: float
    """Luma of the shrunk page against the source, dB; 99 where they are equal."""
    ssim: float
    """Mean structural similarity of luma over squares of 8 pixels; 1 where they are equal."""
    worst_block: float
    """Root of the mean squared difference of luma in the worst square of `BLOCK` pixels, levels."""
    brightness: float
    """Mean difference over the page and its channels, levels."""
    tint: float
    """How far the mean difference of a channel lies from that of all channels, levels; 0 for gray pages."""
    shift: float
    """How far the picture lies from where it was, by the differences along its edges."""
    white_drift: float
    """Mean distance from 255 where the source is solid white, levels; 0 where there is none."""
    black_drift: float
    """Mean distance from 0 where the source is solid black, levels; 0 where there is none."""
    chroma: float
    """Mean distance between the channels where the source has next to none, levels."""
    seam: float
    """The strongest step of the difference along a straight line, over what is usual on the page."""
    contrast: float
    """Standard deviation of luma over that of the source; 1 for a source that is flat itself."""
    contrast_levels: float
    """Standard deviation of the source's luma, levels: a flat source cannot lose its contrast."""


def compare(source: UInt8Array, larger: UInt8Array) -> Scores:
    """Measure a page against the one that it was made from.

    Args:
        source: uint8, height x width x C, C 3 or 1.
        larger: uint8, any larger height x width x the same C.
    """
    height, width = source.shape[:2]
    if height * width > LARGE:
        share = (LARGE / (height * width)) ** 0.5
        height, width = max(1, round(height * share)), max(1, round(width * share))
        source = _shrunk(source, width, height)
    small = _shrunk(larger, width, height)
    before, after = _luma(source), _luma(small)
    difference = after - before
    mean_square = float(np.square(difference).mean())
    deviation = float(before.std())
    moves = np.subtract(_means(small), _means(source))
    return Scores(
        psnr=99.0 if mean_square < 1e-5 else float(10 * np.log10(255**2 / mean_square)),
        ssim=_ssim(before, after),
        worst_block=_worst_block(difference),
        brightness=abs(float(moves.mean())),
        tint=float(np.abs(moves - moves.mean()).max()),
        shift=_shift(before, difference),
        white_drift=_drift(before, after, 255),
        black_drift=_drift(before, after, 0),
        chroma=_chroma(source, small),
        seam=max(_seam(before, difference), _seam(before.T, difference.T)),
        contrast=float(after.std()) / deviation if deviation >= 1 else 1.0,
        contrast_levels=deviation,
    )


def _shrunk(larger: UInt8Array, width: int, height: int) -> UInt8Array:
    plane = larger[:, :, 0] if larger.shape[2] == 1 else larger
    # Of two pixels and more the whole part is a plain mean, which takes half of the time off.
    across, down = max(1, plane.shape[1] // width), max(1, plane.shape[0] // height)
    box = (0, 0, plane.shape[1] / across, plane.shape[0] / down)
    # As quick as a triangle, and sharper; a box would take two pixels here and three there at 2.5 times.
    image = _reduced(plane, across, down).resize((width, height), Image.Resampling.HAMMING, box)
    return np.asarray(image).reshape(height, width, -1)


def _reduced(plane: UInt8Array, across: int, down: int) -> Image.Image:
    """Shrink by whole factors, some rows at a time: Pillow's own copy of a large page takes 600 MB and more."""
    if (across, down) == (1, 1):
        return Image.fromarray(np.ascontiguousarray(plane))
    rows = down * max(1, _ROWS // down)
    strips = (np.ascontiguousarray(plane[start : start + rows]) for start in range(0, len(plane), rows))
    return Image.fromarray(
        np.concatenate([np.asarray(Image.fromarray(strip).reduce((across, down))) for strip in strips])
    )


def _luma(pixels: UInt8Array) -> Floats:
    if pixels.shape[2] == 1:
        return pixels[:, :, 0].astype(np.float32)
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"), dtype=np.float32)


def _ssim(before: Floats, after: Floats) -> float:
    """SSIM with plain means over squares that do not overlap; on pages of less than a square, 1."""
    a, b = _squares(before, _SSIM_BLOCK), _squares(after, _SSIM_BLOCK)
    if a.size == 0:
        return 1.0
    mean_a, mean_b = a.mean(axis=(1, 3)), b.mean(axis=(1, 3))
    square_a = np.square(a).mean(axis=(1, 3)) - np.square(mean_a)
    square_b = np.square(b).mean(axis=(1, 3)) - np.square(mean_b)
    both = (a * b).mean(axis=(1, 3)) - mean_a * mean_b
    similar = (2 * mean_a * mean_b + _SSIM_C1) * (2 * both + _SSIM_C2)
    scale = (np.square(mean_a) + np.square(mean_b) + _SSIM_C1) * (square_a + square_b + _SSIM_C2)
    return float((similar / scale).mean())


def _worst_block(difference: Floats) -> float:
    squares = _squares(np.square(difference), BLOCK)
    if squares.size == 0:
        return float(np.sqrt(np.square(difference).mean()))
    return float(np.sqrt(squares.mean(axis=(1, 3)).max()))


def _squares(plane: Floats, side: int) -> Floats:
    """Cut a plane into squares: rows of squares x side x columns of squares x side; edges are left out."""
    rows, columns = plane.shape[0] // side, plane.shape[1] // side
    return plane[: rows * side, : columns * side].reshape(rows, side, columns, side)


def _means(pixels: UInt8Array) -> list[float]:
    """The mean of each channel, by Pillow's histogram: ten times as fast as NumPy along samples three apart."""
    plane = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
    return ImageStat.Stat(Image.fromarray(np.ascontiguousarray(plane))).mean


def _shift(before: Floats, difference: Floats) -> float:
    """The move that explains the difference best, by least squares over the gradient (Lucas and Kanade, 1981)."""
    if min(before.shape) < 3:
        return 0.0
    down = (before[2:, 1:-1] - before[:-2, 1:-1]) / 2
    right = (before[1:-1, 2:] - before[1:-1, :-2]) / 2
    inner = difference[1:-1, 1:-1]
    products = np.array(
        [[np.vdot(down, down), np.vdot(down, right)], [np.vdot(down, right), np.vdot(right, right)]],
        dtype=np.float64,
    )
    if np.linalg.det(products) < 1e-3 * float(np.trace(products)) ** 2 + 1e-6:
        return 0.0
    toward = np.array([np.vdot(down, inner), np.vdot(right, inner)], dtype=np.float64)
    return float(np.linalg.norm(np.linalg.solve(products, -toward)))


def _drift(before: Floats, after: Floats, level: int) -> float:
    solid = _eroded(_eroded(before == level).T).T
    if np.count_nonzero(solid) < _FEWEST_SOLID:
        return 0.0
    return abs(float(after[solid].mean()) - level)


def _eroded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep what is set with `_REACH` neighbours above and below; the page's edge counts as set."""
    kept = mask.copy()
    for step in range(1, _REACH + 1):
        kept[:-step] &= mask[step:]
        kept[step:] &= mask[:-step]
    return kept


def _chroma(source: UInt8Array, small: UInt8Array) -> float:
    if source.shape[2] == 1:
        return 0.0
    before = _spread(source)
    gray = before <= _FAINT
    # On a page of colour the odd gray pixel lies at an edge, where the shrink mixes colours.
    if 2 * np.count_nonzero(gray) < gray.size:
        return 0.0
    after = _spread(small)
    return max(0.0, float(after[gray].mean()) - float(before[gray].mean()))


def _spread(pixels: UInt8Array) -> UInt8Array:
    """Levels between the highest and the lowest channel of each pixel."""
    red, green, blue = pixels[:, :, 0], pixels[:, :, 1], pixels[:, :, 2]
    highest = np.maximum(np.maximum(red, green), blue)
    return highest - np.minimum(np.minimum(red, green), blue)


def _seam(before: Floats, difference: Floats) -> float:
    """The strongest step between two columns, over the page's usual one, away from edges of the drawing."""
    height, width = difference.shape
    pieces = height // _SEAM_SPAN
    if pieces == 0 or width < 16:
        return 0.0
    # Signed, so that the texture of the difference cancels out and a seam's own step is left. A seam runs
    # across the page: the median over pieces of it is not moved by an edge that is drawn in some.
    step = np.median(np.abs(_steps(difference, pieces)), axis=0)
    drawn = np.median(np.abs(_steps(before, pieces)), axis=0)
    # The shrink blurs a panel's border, which is straight as well: its neighbours say nothing of seams.
    near = np.lib.stride_tricks.sliding_window_view(np.pad(drawn, _REACH), 2 * _REACH + 1).max(axis=1)
    plain = near < _DRAWN_STEP
    if np.count_nonzero(plain) < 16:
        return 0.0
    return float(step[plain].max()) / (float(np.median(step[plain])) + _LEAST_STEP)


def _steps(plane: Floats, pieces: int) -> Floats:
    """Mean step from each column to the next, in pieces of `_SEAM_SPAN` rows: pieces x width - 1."""
    rows = plane[: pieces * _SEAM_SPAN].reshape(pieces, _SEAM_SPAN, plane.shape[1])
    return np.diff(rows.mean(axis=1), axis=1)
