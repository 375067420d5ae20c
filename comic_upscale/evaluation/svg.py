"""Charts as SVG, without a library or network access, readable on light and dark pages.

Colours are CSS variables with a fallback, so that the page around an SVG can set its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 28, 34
"""Pixels around the plot, for the labels of the axes."""

COLORS = ("#3b7dd8", "#d9822b", "#2f9e6e", "#a855c7", "#c2413b", "#8a8f98")
"""Colours that can be distinguished with red-green blindness, on white and on black."""


@dataclass(frozen=True, slots=True)
class Axis:
    """The mapping from values to pixels along one side."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def part(self, value: float) -> float:
        """Return the position of a value between the ends, 0 to 1."""
        return (value - self.low) / (self.high - self.low)


def axis(low: float, high: float, *, ticks: int = 5) -> Axis:
    """Return an axis over a range, with round numbers and the ends included."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    step = _round_step((high - low) / ticks)
    first, last = math.floor(low / step), math.ceil(high / step)
    return Axis(first * step, last * step, tuple(number * step for number in range(first, last + 1)))


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= step * 0.999)


def lay_out(
    horizontal: Axis,
    vertical: Axis,
    drawn: Sequence[str],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_texts: Sequence[str] | None = None,
) -> str:
    """Return an SVG with axes, their numbers and the content.

    Args:
        horizontal: the horizontal axis.
        vertical: the vertical axis.
        drawn: SVG elements, positioned with `x_of` and `y_of`.
        title: the title, also for screen readers.
        x_label: label of the horizontal axis.
        y_label: label of the vertical axis.
        x_texts: texts for the horizontal ticks instead of numbers.
    """
    rows = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>'
        for tick in vertical.ticks
        for y in [y_of(vertical, tick)]
    ]
    texts = x_texts or [number(tick) for tick in horizontal.ticks]
    columns = [
        f'<text class="tick" x="{x_of(horizontal, tick):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">'
        f"{escape(text)}</text>"
        for tick, text in zip(horizontal.ticks, texts, strict=True)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        f' aria-label="{escape(title, quote=True)}" font-family="sans-serif" font-size="12">'
        "<style>text{fill:var(--ink,#444)}.grid{stroke:var(--line,#ddd)}"
        ".mark{stroke:var(--ink,#444);stroke-dasharray:3 3}</style>"
        f"<title>{escape(title)}</title>"
        f"{''.join(rows)}{''.join(columns)}{''.join(drawn)}"
        f'<text class="below" x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escape(x_label)}</text>'
        f'<text class="above" x="4" y="14">{escape(y_label)}</text></svg>'
    )


def x_of(horizontal: Axis, value: float) -> float:
    """Return the pixel of a value along the horizontal axis."""
    return LEFT + horizontal.part(value) * (WIDTH - LEFT - RIGHT)


def y_of(vertical: Axis, value: float) -> float:
    """Return the pixel of a value along the vertical axis."""
    return HEIGHT - BOTTOM - vertical.part(value) * (HEIGHT - TOP - BOTTOM)


def number(value: float) -> str:
    """Return the label of a number, with no more digits than necessary."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
