"""Colour: palettes, gradients, glows, and the textures of paint, pencil and paper."""

from __future__ import annotations

import colorsys
from random import Random

import numpy as np
from PIL import Image

from training.pages.sheet import Colour, Fill, Floats, Grid
from training.pages.tones import mixed, slope

ROLES = (
    "skin",
    "hair",
    "cloth",
    "trim",
    "sky",
    "haze",
    "ground",
    "wall",
    "roof",
    "leaf",
    "wood",
    "metal",
    "glow",
)

_HUES = {
    "skin": 0.07, "hair": 0.09, "sky": 0.57, "haze": 0.1, "ground": 0.11, "wall": 0.08, "roof": 0.02, "leaf": 0.3,
    "wood": 0.08, "metal": 0.58, "glow": 0.14,
}  # fmt: skip


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """A colour by hue, saturation and value, each 0 to 1."""
    r, g, b = colorsys.hsv_to_rgb(hue % 1, min(max(saturation, 0), 1), min(max(value, 0), 1))
    return round(r * 255), round(g * 255), round(b * 255)


def palette(dice: Random) -> dict[str, Colour]:
    """A colour for every role: by day, by night, pale, loud, or of one hue."""
    mood = dice.choices(("day", "night", "pale", "loud", "sepia", "neon"), (5, 2, 2, 3, 1, 1))[0]
    base = dice.random()
    colours = {}
    for role in ROLES:
        hue = _HUES.get(role, dice.random()) + dice.gauss(0, 0.04)
        value, saturation = dice.uniform(0.45, 1), dice.uniform(0.2, 0.75)
        if role in ("hair", "cloth", "trim", "roof", "wall") and dice.random() < 0.6:
            hue = dice.random()
        if role == "skin":
            value, saturation = dice.choice((0.98, 0.95, 0.8, 0.55)), dice.uniform(0.15, 0.5)
        colours[role] = _in_mood(mood, base, hue, saturation, value, dice)
    if mood == "loud":
        colours["cloth"], colours["trim"] = dice.sample(
            [(228, 0, 20), (10, 30, 220), (250, 215, 0), (230, 0, 120)], 2
        )
    return colours


def _in_mood(mood: str, base: float, hue: float, saturation: float, value: float, dice: Random) -> Colour:
    if mood == "night":
        return hsv(0.63 + (hue - 0.63) * 0.3, saturation * 0.9, value * 0.55)
    if mood == "pale":
        return hsv(hue, saturation * 0.5, 0.75 + value * 0.25)
    if mood == "loud":
        return hsv(hue, saturation * 1.6, value * 1.1)
    if mood == "sepia":
        return hsv(base * 0.15 + 0.02 * dice.random(), saturation * 0.6, value)
    if mood == "neon":
        return hsv(dice.choice((base, base + 0.5, 0.8)), 0.9, dice.choice((0.2, 0.35, 1)))
    return hsv(hue, saturation, value)


def gray_palette(dice: Random) -> dict[str, Colour]:
    """A gray for every role; skin is nearly always the paper's white."""
    grays = {role: dice.choice((255, 255, 225, 200, 170, 140, 105, 70, 0)) for role in ROLES}
    grays["skin"] = dice.choice((255, 255, 255, 225))
    grays["sky"] = dice.choice((255, 255, 225, 190, 120, 0))
    grays["haze"] = 255
    return {role: (v, v, v) for role, v in grays.items()}


def darker(colour: Colour, share: float) -> Colour:
    """The colour in shadow, a little bluer."""
    keep = 1 - share
    return round(colour[0] * keep), round(colour[1] * keep * 0.99), round(colour[2] * min(keep * 1.08, 1))


def lighter(colour: Colour, share: float) -> Colour:
    """The colour on its way to white."""
    r, g, b = (round(v + (255 - v) * share) for v in colour)
    return r, g, b


def faded(start: tuple[float, float], end: tuple[float, float], first: Colour, last: Colour) -> Fill:
    """One colour passing evenly into another from place to place."""
    return lambda grid: mixed(first, last, slope(grid, (*start, 0.0), (*end, 1.0)))


def glow(x: float, y: float, radius: float, inner: Colour, outer: Colour) -> Fill:
    """Light from a point, fading into the outer colour."""

    def fill(grid: Grid) -> Floats:
        far = ((grid.x - x) ** 2 + (grid.y - y) ** 2) / (radius * radius)
        return mixed(inner, outer, 1 - np.exp(-2 * far))

    return fill


class Grain:
    """Noise over a whole page, in octaves, from which fillings take their texture."""

    def __init__(
        self, width: int, height: int, scale: int, seed: int, *, coarsest: float = 120, finest: float = 1.5
    ) -> None:
        rng = np.random.default_rng(seed)
        self._scale = scale
        size = width * scale, height * scale
        total = np.zeros((size[1], size[0]), dtype=np.float32)
        cell, weight = coarsest, 1.0
        while cell >= finest:
            small = rng.standard_normal(
                (max(int(height / cell), 2), max(int(width / cell), 2)), dtype=np.float32
            )
            total += np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)) * np.float32(
                weight
            )
            cell, weight = cell / 2.6, weight * 0.72
        self._noise: Floats = total / total.std()

    def at(self, grid: Grid) -> Floats:
        """The noise at a grid of places: mean about 0, deviation about 1."""
        x = np.clip((grid.x[0] * self._scale).astype(int), 0, self._noise.shape[1] - 1)
        y = np.clip((grid.y[:, 0] * self._scale).astype(int), 0, self._noise.shape[0] - 1)
        # Contiguous in nearly every case: a slice is far quicker than picking rows and columns.
        if x[-1] - x[0] == len(x) - 1 and y[-1] - y[0] == len(y) - 1:
            return self._noise[y[0] : y[-1] + 1, x[0] : x[-1] + 1]
        return self._noise[np.ix_(y, x)]


def textured(fill: Fill, grain: Grain, amount: float) -> Fill:
    """A filling made lighter and darker by the grain, by about so many levels."""

    def poured(grid: Grid) -> Floats:
        values = np.asarray(fill, dtype=np.float32) if isinstance(fill, tuple) else fill(grid)
        noise = grain.at(grid) * np.float32(amount)
        if values.ndim == 2:
            return values + noise
        return values + noise[..., None]

    return poured


def graphite(grain: Grain, darkness: float, tooth: float) -> Fill:
    """Pencil: a gray of a darkness (0 to 1), uneven by about `tooth` where the paper's fibres stand up."""

    def fill(grid: Grid) -> Floats:
        share: Floats = 255 - 255 * np.clip(darkness + tooth * grain.at(grid), 0, 0.92)
        return share

    return fill
