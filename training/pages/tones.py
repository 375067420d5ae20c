"""Screentone: how much ink a tone lays at each place, and the four-colour screens of old comics."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from training.pages.sheet import Colour, Fill, Floats, Grid

Spot = Literal["round", "square", "diamond", "oval", "line"]

SPOTS: tuple[Spot, ...] = ("round", "square", "diamond", "oval", "line")

# Cyan, magenta, yellow and black: the screen's angle in degrees, and the colour of its ink on white.
_PRESS: tuple[tuple[float, Colour], ...] = (
    (15, (0, 158, 224)),
    (75, (228, 16, 122)),
    (0, (255, 232, 0)),
    (45, (28, 24, 26)),
)


@dataclass(frozen=True, slots=True)
class Tone:
    """A sheet of tone: the shape of its dots, their distance in pixels, the angle in degrees."""

    spot: Spot = "round"
    pitch: float = 4
    angle: float = 45

    def coverage(self, grid: Grid, density: Floats | float) -> Floats:
        """The share of ink (0 to 1) at each place, whose mean is the density asked there.

        A tone that is finer than the grid's finest is even: the density itself.
        """
        if self.frequency > grid.finest:
            return np.broadcast_to(np.float32(density), grid.shape)
        u, v = self._cells(grid)
        reach = np.interp(density, *_areas(self.spot)).astype(np.float32)
        edge = self.pitch * grid.scale
        cover: Floats = np.clip((reach - _distance(self.spot, u, v)) * edge + 0.5, 0, 1)
        return cover

    @property
    def frequency(self) -> float:
        """Of its dots along a row or a column, whichever is higher, in cycles a pixel."""
        a = np.deg2rad(self.angle)
        return float(max(abs(np.cos(a)), abs(np.sin(a)))) / self.pitch

    def _cells(self, grid: Grid) -> tuple[Floats, Floats]:
        a = np.deg2rad(self.angle)
        c, s = np.float32(np.cos(a) / self.pitch), np.float32(np.sin(a) / self.pitch)
        u, v = grid.x * c + grid.y * s, grid.y * c - grid.x * s
        return np.abs(u - np.rint(u)), np.abs(v - np.rint(v))


def toned(tone: Tone, density: Floats | float, ink: Colour, paper: Colour) -> Fill:
    """Ink on paper through a tone of one density."""
    return lambda grid: mixed(paper, ink, tone.coverage(grid, density))


def fading(
    tone: Tone, start: tuple[float, float, float], end: tuple[float, float, float], ink: Colour, paper: Colour
) -> Fill:
    """Ink on paper through a tone whose density changes from (x, y, density) to (x, y, density)."""

    def fill(grid: Grid) -> Floats:
        return mixed(paper, ink, tone.coverage(grid, slope(grid, start, end)))

    return fill


def sand(density: float, size: float, seed: int, ink: Colour, paper: Colour) -> Fill:
    """Ink scattered as irregular grains of about a size in pixels."""

    def fill(grid: Grid) -> Floats:
        rng = np.random.default_rng(seed)
        rows, columns = grid.shape
        step = max(round(size * grid.scale), 1)
        coarse = rng.random((rows // step + 1, columns // step + 1), dtype=np.float32)
        noise = np.repeat(np.repeat(coarse, step, axis=0), step, axis=1)[:rows, :columns]
        return mixed(paper, ink, (noise < density).astype(np.float32))

    return fill


def slope(grid: Grid, start: tuple[float, float, float], end: tuple[float, float, float]) -> Floats:
    """A value at each place that goes evenly from the start's to the end's, and stays beyond them."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = ((grid.x - start[0]) * dx + (grid.y - start[1]) * dy) / max(dx * dx + dy * dy, 1e-6)
    value: Floats = (start[2] + (end[2] - start[2]) * np.clip(along, 0, 1)).astype(np.float32)
    return value


def mixed(paper: Colour, ink: Colour, share: Floats) -> Floats:
    """Paper and ink by the share of ink; without an axis of colour where both are gray."""
    if len(set(paper)) == 1 and len(set(ink)) == 1:
        return paper[0] + (ink[0] - paper[0]) * share
    a, b = np.array(paper, dtype=np.float32), np.array(ink, dtype=np.float32)
    value: Floats = a + (b - a) * share[..., None]
    return value


def printed(colour: Colour, pitch: float) -> Fill:
    """A colour as four screens of ink print it on white, each at an angle of its own."""
    inks = _separated(colour)

    def fill(grid: Grid) -> Floats:
        page = np.full((*grid.shape, 3), 255, dtype=np.float32)
        for (angle, ink), density in zip(_PRESS, inks, strict=True):
            if density > 0.02:
                cover = Tone("round", pitch, angle).coverage(grid, density)
                page *= 1 - cover[..., None] * (1 - np.array(ink, dtype=np.float32) / 255)
        return page

    return fill


def _separated(colour: Colour) -> tuple[float, float, float, float]:
    cyan, magenta, yellow = (1 - v / 255 for v in colour)
    black = max(min(cyan, magenta, yellow) - 0.35, 0) * 1.2
    under = min(cyan, magenta, yellow) * 0.5 if black > 0 else 0
    # Old plates had few densities: a quarter, a half, solid.
    steps = [round(max(v - under, 0) * 4) / 4 for v in (cyan, magenta, yellow)]
    return steps[0], steps[1], steps[2], min(round(black * 4) / 4, 1)


def _distance(spot: Spot, u: Floats, v: Floats) -> Floats:
    if spot == "square":
        return np.maximum(u, v)
    if spot == "diamond":
        return (u + v) * np.float32(0.7071)
    if spot == "line":
        return np.broadcast_to(u, np.broadcast_shapes(u.shape, v.shape))
    if spot == "oval":
        return np.sqrt(u * u + (v * 0.62) ** 2)
    return np.sqrt(u * u + v * v)


@lru_cache(maxsize=8)
def _areas(spot: Spot) -> tuple[np.ndarray, np.ndarray]:
    """The density that each reach of a dot gives, measured on one cell."""
    at = ((np.arange(256) + 0.5) / 512).astype(np.float32)
    reach = np.sort(_distance(spot, at[None, :], at[:, None]).ravel())
    density = np.linspace(0, 1, 129)
    picked = reach[np.clip((density * (len(reach) - 1)).astype(int), 0, None)]
    # Half an edge further at the ends, so that no density leaves no ink at all and full density no gap.
    picked[0], picked[-1] = -1, 2
    return density, picked
