"""What an area can be filled with: a flat colour, a gradient, screentone dots or pen hatching."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

Colour = tuple[int, int, int]

INK: Colour = (22, 18, 28)
PAPER: Colour = (255, 255, 255)


@dataclass(frozen=True)
class Tone:
    """Screentone: round dots on a turned grid, `pitch` page pixels apart, covering `level` of the paper.

    With `fade=(start, end, level)` the coverage runs from `level` at height `start` to the given one at `end`.
    """

    pitch: float
    level: float
    fade: tuple[float, float, float] | None = None
    angle: float = 45
    ink: Colour = INK
    paper: Colour = PAPER

    def colours(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The colour at each point, as an array with a last axis of three."""
        level: np.ndarray | float = self.level
        if self.fade:
            start, end, last = self.fade
            level = self.level + (last - self.level) * np.clip((y - start) / (end - start), 0, 1)
        turn = math.radians(self.angle)
        across = (x * math.cos(turn) + y * math.sin(turn)) / self.pitch
        along = (y * math.cos(turn) - x * math.sin(turn)) / self.pitch
        dots = np.hypot(across - np.round(across), along - np.round(along)) < np.sqrt(
            np.minimum(level, 0.5) / math.pi
        )
        across, along = across + 0.5, along + 0.5
        holes = np.hypot(across - np.round(across), along - np.round(along)) < np.sqrt(
            np.minimum(1 - np.asarray(level), 0.5) / math.pi
        )
        inked = np.where(np.asarray(level) > 0.5, ~holes, dots)
        return np.where(inked[..., None], np.array(self.ink), np.array(self.paper))


@dataclass(frozen=True)
class Hatch:
    """Parallel pen lines `pitch` page pixels apart and `width` wide, a little unsteady; `cross` adds a second set."""

    pitch: float
    width: float
    angle: float = 35
    cross: bool = False
    ink: Colour = INK
    paper: Colour = PAPER

    def colours(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The colour at each point, as an array with a last axis of three."""
        inked = self._lines(x, y, self.angle)
        if self.cross:
            inked |= self._lines(x, y, self.angle + 75)
        return np.where(inked[..., None], np.array(self.ink), np.array(self.paper))

    def _lines(self, x: np.ndarray, y: np.ndarray, angle: float) -> np.ndarray:
        turn = math.radians(angle)
        along = x * math.cos(turn) + y * math.sin(turn)
        across = y * math.cos(turn) - x * math.sin(turn) + 0.5 * np.sin(along / 9) + 0.3 * np.sin(along / 4.1)
        row = np.round(across / self.pitch)
        width = self.width * (0.75 + 0.35 * np.sin(along / 13 + row * 2.4))
        return np.abs(across - row * self.pitch) < width / 2


@dataclass(frozen=True)
class Gradient:
    """Colours that blend into one another along the way from one point to another, or outward in rings."""

    start: tuple[float, float]
    end: tuple[float, float]
    stops: tuple[Colour, ...]
    rings: bool = False

    def colours(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The colour at each point, as an array with a last axis of three."""
        dx, dy = self.end[0] - self.start[0], self.end[1] - self.start[1]
        reach = math.hypot(dx, dy)
        if self.rings:
            where = np.hypot(x - self.start[0], y - self.start[1]) / reach
        else:
            where = ((x - self.start[0]) * dx + (y - self.start[1]) * dy) / reach**2
        at = np.linspace(0, 1, len(self.stops))
        return np.stack([np.interp(where, at, [stop[c] for stop in self.stops]) for c in range(3)], axis=-1)


Paint = Colour | Tone | Hatch | Gradient
Pair = tuple[Paint, Paint]
Palette = Mapping[str, Pair]


def mixed(colour: Colour, other: Colour, amount: float) -> Colour:
    """`amount` of the way from one colour to another."""
    return tuple(round(a + (b - a) * amount) for a, b in zip(colour, other, strict=True))  # type: ignore[return-value]


def multiplied(palette: Palette, light: Colour, keep: Iterable[str] = ()) -> dict[str, Pair]:
    """A palette of flat colours seen in coloured light; the entries in `keep` glow by themselves."""

    def lit(paint: Paint) -> Paint:
        assert isinstance(paint, tuple)
        return tuple(c * part // 255 for c, part in zip(paint, light, strict=True))  # type: ignore[return-value]

    return {name: pair if name in keep else (lit(pair[0]), lit(pair[1])) for name, pair in palette.items()}
