"""The hand: what one page's artist does the same way everywhere - ink, colour, shade and hatch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal

import numpy as np

from training.pages.paint import Grain, darker, faded, graphite, lighter, textured
from training.pages.sheet import BLACK, WHITE, Colour, Fill, Sheet, luma
from training.pages.strokes import Points, Taper, closed, curve, outlined, oval, rulings, stroke, wobbled
from training.pages.tones import SPOTS, Tone, fading, printed, sand, toned

Medium = Literal["screentone", "hatching", "flat", "paint", "soft", "print", "pencil"]


@dataclass(frozen=True, slots=True)
class Manner:
    """How a whole page is drawn; lengths are in pixels of the page."""

    medium: Medium
    gray: bool
    colours: dict[str, Colour]
    ink: Colour = BLACK
    weight: float = 1.4
    taper: Taper = "both"
    wobble: float = 0.3
    detail: float = 1
    """How large a stroke, a dot or a hatch is, against a page 960 pixels high."""
    holds: bool = False
    """Whether outlines take a dark shade of the colour they enclose."""
    tone: Tone = field(default_factory=Tone)
    light: float = 2.2
    """Where the light does not come from, in radians."""
    grain: Grain | None = None


def random_tone(dice: Random, detail: float = 1) -> Tone:
    """A sheet of tone as the shops have them, and some as they have not."""
    angle = dice.choice((0, 15, 30, 45, 45, 45, 60, 75, dice.uniform(0, 90)))
    finest, coarsest = dice.choices(((2.2, 3.2), (2.8, 4.5), (4, 6.5), (6, 12)), (4, 5, 3, 0.8))[0]
    pitch = dice.uniform(finest, coarsest)
    spot = dice.choice(("round", "round", "round", *SPOTS))
    return Tone(spot, min(pitch, 4.5 if spot == "line" else 12) * detail, angle)


class Hand:
    """Draws on one sheet in the page's manner."""

    def __init__(self, sheet: Sheet, manner: Manner, dice: Random) -> None:
        self.sheet, self.manner, self.dice = sheet, manner, dice
        self.weight = manner.weight * manner.detail

    def colour(self, role: str) -> Colour:
        """The page's colour for a role."""
        return self.manner.colours[role]

    def shape(
        self,
        area: Points,
        colour: Colour,
        weight: float = 1,
        *,
        shade: bool = False,
        within: Points | None = None,
    ) -> None:
        """Colour an area and draw its outline, so many times the page's weight of line."""
        self.fill([area], colour, within=within)
        if shade:
            self.shade(area, colour)
        if weight > 0:
            self.lines([closed(area)], weight, "brush" if weight > 1 else "even", colour, within=within)

    def fill(self, areas: Sequence[Points], colour: Colour, *, within: Points | None = None) -> None:
        """Colour areas as the medium does: with tone, hatching, flat colour or paint."""
        if not areas:
            return
        self.sheet.fill(areas, self._poured(colour, areas[0]), within=within)
        if self.manner.medium in ("hatching", "pencil") and 40 < luma(colour) < 225:
            if self.manner.medium == "pencil" and self.dice.random() < 0.5:
                return
            for area in areas[:12]:
                self.hatch(area, 1 - luma(colour) / 255, within=within)
        elif self.manner.medium == "paint" and within is None:
            self._worked(areas[0], colour)

    def lines(
        self,
        paths: Iterable[Points],
        weight: float = 1,
        taper: Taper | None = None,
        colour: Colour | None = None,
        *,
        within: Points | None = None,
        without: Points | None = None,
    ) -> None:
        """Draw lines in ink, or in the dark shade of the colour they enclose where the page is so inked."""
        manner, dice = self.manner, self.dice
        pieces: list[Points] = []
        for path in paths:
            steady = wobbled(path, manner.wobble * manner.detail, dice)
            pieces += stroke(steady, self.weight * weight, taper or manner.taper, dice)
        self.sheet.fill(pieces, self.inked(colour), within=within, without=without)

    def inked(self, colour: Colour | None = None) -> Fill:
        """What the pen leaves."""
        manner = self.manner
        if manner.medium == "pencil" and manner.grain is not None:
            return graphite(manner.grain, 0.72, 0.11)
        if manner.holds and colour is not None and luma(colour) > 30:
            return darker(colour, 0.62)
        return manner.ink

    def solid(self, areas: Sequence[Points], *, within: Points | None = None) -> None:
        """Fill areas with ink."""
        self.sheet.fill(areas, self.inked(), within=within)

    def white(self, areas: Sequence[Points], *, within: Points | None = None) -> None:
        """Fill areas with white."""
        self.sheet.fill(areas, WHITE, within=within)

    def hatch(
        self,
        area: Points,
        darkness: float,
        *,
        within: Points | None = None,
        angle: float | None = None,
        cross: bool | None = None,
    ) -> None:
        """Hatch an area so densely that about this share of it is ink; dark areas are crossed."""
        dice, detail = self.dice, self.manner.detail
        turn = dice.uniform(0, np.pi) if angle is None else angle
        thick = max(self.weight * dice.uniform(0.35, 0.8), 0.45 * detail)
        crossed = darkness > 0.5 if cross is None else cross
        share = darkness * (0.6 if crossed else 1)
        pitch = float(np.clip(thick / max(share, 0.08), thick * 1.7, 14 * detail))
        inks = rulings(area, pitch, turn, thick, dice)
        if crossed:
            inks += rulings(area, pitch, turn + dice.choice((0.5, 0.8, 1.57)), thick, dice)
        self.sheet.fill(
            inks, self.inked(), within=area, without=None if within is None else _outside(area, within)
        )

    def stipple(self, area: Points, count: int, size: float = 1) -> None:
        """Scatter dots of ink over an area, thinning away from one side."""
        dice, detail = self.dice, self.manner.detail
        low, span = area.min(axis=0), np.ptp(area, axis=0)
        dots = []
        for _ in range(min(count, 700)):
            x, y = low + span * [dice.random(), dice.random() ** 1.8]
            dots.append(oval(x, y, detail * size * dice.uniform(0.35, 1)))
        self.sheet.fill(dots, self.inked(), within=area)

    def shade(self, area: Points, colour: Colour, depth: float = 0.22) -> None:
        """Put the side of an area that is away from the light in shadow."""
        dice, medium = self.dice, self.manner.medium
        size = float(np.ptp(area, axis=0).min()) * dice.uniform(0.12, 0.3)
        lit = area - size * np.array([np.cos(self.manner.light), np.sin(self.manner.light)])
        dark = darker(colour, depth + dice.uniform(-0.05, 0.15))
        if medium in ("hatching", "pencil"):
            thick = max(self.weight * 0.5, 0.45 * self.manner.detail)
            inks = rulings(area, thick * dice.uniform(2.2, 5), dice.uniform(0.4, 1.2), thick, dice)
            self.sheet.fill(inks, self.inked(), within=area, without=lit)
        elif medium == "paint":
            self.daub(area, dark, without=lit)
        elif medium == "soft":
            self.sheet.fill([area], dark, without=lit, opacity=dice.uniform(0.4, 0.9))
        else:
            self.sheet.fill([area], self._poured(dark, area, plain=True), without=lit)
            if medium == "flat" and dice.random() < 0.4:
                self.sheet.fill([area], darker(dark, 0.2), without=area - 1.8 * (area - lit))

    def daub(self, area: Points, colour: Colour, *, without: Points | None = None, strokes: int = 14) -> None:
        """Paint an area with see-through strokes of a broad brush."""
        dice = self.dice
        low, span = area.min(axis=0), np.ptp(area, axis=0)
        turn = dice.uniform(0, np.pi)
        for _ in range(strokes):
            at = low + span * [dice.random(), dice.random()]
            reach = float(span.max()) * dice.uniform(0.15, 0.5)
            way = np.array([np.cos(turn), np.sin(turn)]) * reach
            bend = np.array([dice.gauss(0, 0.15), dice.gauss(0, 0.15)]) * reach
            path = curve([at - way, at + bend, at + way], steps=5)
            tint = (
                lighter(colour, dice.uniform(0, 0.25))
                if dice.random() < 0.5
                else darker(colour, dice.uniform(0, 0.2))
            )
            wide = max(float(span.min()) * dice.uniform(0.05, 0.22), 1.5)
            brushed = stroke(path, wide, dice.choice(("both", "out", "even")), dice)
            self.sheet.fill(brushed, tint, within=area, without=without, opacity=dice.uniform(0.25, 0.8))

    def _worked(self, area: Points, colour: Colour) -> None:
        """Leave the marks of the brush: strokes over a large area, or the dark rim of a wash that dried."""
        chance = self.dice.random()
        if chance < 0.3 and np.ptp(area, axis=0).min() > 30:
            self.daub(area, colour)
        elif chance < 0.6:
            wet = self.dice.uniform(1.5, 4) * self.manner.detail
            for wide, opacity in ((2 * wet, 0.15), (wet, 0.3)):
                self.sheet.fill(
                    outlined(closed(area), wide), darker(colour, 0.4), within=area, opacity=opacity
                )

    def _poured(self, colour: Colour, area: Points, *, plain: bool = False) -> Fill:
        manner, dice = self.manner, self.dice
        if manner.medium == "screentone":
            return self._screened(colour, area)
        if manner.medium == "hatching":
            return manner.ink if luma(colour) <= 40 else WHITE
        if manner.medium == "pencil" and manner.grain is not None:
            return WHITE if luma(colour) > 215 else graphite(manner.grain, (255 - luma(colour)) / 360, 0.035)
        if manner.medium == "print":
            return printed(colour, manner.tone.pitch)
        if manner.medium == "paint" and manner.grain is not None:
            return textured(self._blend(colour, area), manner.grain, dice.uniform(3, 11))
        if manner.medium == "soft" and not plain and dice.random() < 0.5:
            return self._blend(colour, area)
        return colour

    def _blend(self, colour: Colour, area: Points) -> Fill:
        (x0, y0), (x1, y1) = area.min(axis=0), area.max(axis=0)
        other = self.dice.choice((darker(colour, 0.35), lighter(colour, 0.5), self.colour("haze")))
        return faded((x0, y0), (self.dice.choice((x0, x1)), y1), colour, other)

    def _screened(self, colour: Colour, area: Points) -> Fill:
        dice, manner = self.dice, self.manner
        density = 1 - luma(colour) / 255
        if density < 0.05:
            return WHITE
        if density > 0.93:
            return manner.ink
        if dice.random() < 0.1:
            value = luma(colour)
            return value, value, value
        if dice.random() < 0.07:
            return sand(
                density * 0.7, dice.uniform(0.5, 1.6) * manner.detail, dice.getrandbits(32), manner.ink, WHITE
            )
        tone = manner.tone if dice.random() < 0.6 else random_tone(dice, manner.detail)
        if dice.random() < 0.3:
            (x0, y0), (x1, y1) = area.min(axis=0), area.max(axis=0)
            ends = (x0, y0, density), (dice.choice((x0, x1)), y1, dice.choice((0.0, density * 0.3)))
            first, last = ends if dice.random() < 0.5 else ends[::-1]
            return fading(tone, first, last, manner.ink, WHITE)
        return toned(tone, density, manner.ink, WHITE)


def _outside(area: Points, kept: Points) -> Points:
    """All about the area but for `kept`: to take it away is to keep within `kept`."""
    low, high = (
        np.minimum(area.min(axis=0), kept.min(axis=0)) - 2,
        np.maximum(area.max(axis=0), kept.max(axis=0)) + 2,
    )
    frame = np.array([low, [high[0], low[1]], high, [low[0], high[1]], low])
    return np.vstack([frame, kept, kept[:1], low])
