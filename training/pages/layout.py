"""Panels: how a page is cut into frames, straight or slanted, with gutters, bleeds and insets."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from random import Random

import numpy as np

from training.pages.strokes import Points, box


@dataclass(frozen=True, slots=True)
class Layout:
    """The frames of a page, in reading order; insets, drawn over the others, come last."""

    frames: tuple[Points, ...]
    insets: tuple[Points, ...] = ()


def cut(
    dice: Random, width: float, height: float, *, panels: int, gutter: float, margin: float, slant: float = 0
) -> Layout:
    """A page cut into so many panels; a slant of 0 keeps all right angles, 0.2 is steep."""
    quads = [box(margin, margin, width - margin, height - margin)]
    while len(quads) < panels:
        largest = max(range(len(quads)), key=lambda i: _area(quads[i]))
        quads[largest : largest + 1] = _halved(quads[largest], dice, slant)
    frames = tuple(shrunk(quad, gutter / 2) for quad in quads)
    insets = tuple(_inset(dice, dice.choice(frames)) for _ in range(dice.choice((0, 0, 0, 1, 2))))
    return Layout(frames, insets)


def rows(dice: Random, width: float, height: float, *, panels: int, gutter: float) -> Layout:
    """Wide panels one below the other, uneven in height and in gutter, as in a strip that is scrolled."""
    feet = np.cumsum([dice.uniform(0.6, 1.6) for _ in range(panels)])
    feet = np.concatenate([[0], feet / feet[-1]]) * height
    frames = []
    for top, foot in pairwise(feet):
        side = dice.choice((0, 0, gutter, gutter * 2))
        inner = dice.uniform(0.3, 1) * gutter
        frames.append(box(side - 1, top + inner, width - side + 1, foot - inner))
    return Layout(tuple(frames))


def tiers(dice: Random, width: float, height: float, *, count: int, gutter: float, margin: float) -> Layout:
    """So many bands of one or two upright panels each: an order of reading nobody can mistake."""
    feet = np.cumsum([dice.uniform(0.8, 1.2) for _ in range(count)])
    feet = margin + np.concatenate([[0], feet / feet[-1]]) * (height - 2 * margin)
    frames = []
    for top, foot in pairwise(feet):
        sides = np.cumsum([dice.uniform(0.85, 1.15) for _ in range(dice.choice((1, 2, 2)))])
        sides = margin + np.concatenate([[0], sides / sides[-1]]) * (width - 2 * margin)
        frames += [shrunk(box(a, top, b, foot), gutter / 2) for a, b in pairwise(sides)]
    return Layout(tuple(frames))


def shrunk(quad: Points, by: float) -> Points:
    """A convex shape whose edges have all moved inwards."""
    after = np.roll(quad, -1, axis=0)
    ahead = after - quad
    inward = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1) / np.maximum(np.hypot(*ahead.T), 1e-9)[:, None]
    start = quad + inward * by
    corners = []
    for i in range(len(quad)):
        p, d, q, e = start[i - 1], ahead[i - 1], start[i], ahead[i]
        cross = d[0] * e[1] - d[1] * e[0]
        along = ((q[0] - p[0]) * e[1] - (q[1] - p[1]) * e[0]) / (cross if abs(cross) > 1e-9 else 1e-9)
        corners.append(p + d * along)
    return np.array(corners)


def bounds(shape: Points) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a shape."""
    (left, top), (right, bottom) = shape.min(axis=0), shape.max(axis=0)
    return float(left), float(top), float(right), float(bottom)


def _area(quad: Points) -> float:
    x, y = quad.T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def _halved(quad: Points, dice: Random, slant: float) -> list[Points]:
    left, top, right, bottom = bounds(quad)
    tall = (bottom - top) > (right - left) * dice.uniform(0.6, 1.3)
    # Cut between two opposite sides: down the left and right, or along the top and foot.
    a, b, c, d = quad if tall else np.roll(quad, -1, axis=0)
    at = dice.uniform(0.36, 0.64)
    tilt = dice.uniform(-slant, slant)
    left_cut, right_cut = a + (d - a) * (at - tilt / 2), b + (c - b) * (at + tilt / 2)
    first, second = np.array([a, b, right_cut, left_cut]), np.array([left_cut, right_cut, c, d])
    if tall:
        return [first, second]
    return [np.roll(second, 1, axis=0), np.roll(first, 1, axis=0)]


def _inset(dice: Random, host: Points) -> Points:
    left, top, right, bottom = bounds(host)
    w, h = (right - left) * dice.uniform(0.22, 0.4), (bottom - top) * dice.uniform(0.2, 0.4)
    x = dice.choice((left + 6, right - w - 6))
    y = dice.choice((top + 6, bottom - h - 6))
    return box(x, y, x + w, y + h)
