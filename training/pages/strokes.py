"""Lines as an inker draws them: curves through knots, and strokes that swell, taper and tremble."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Points: TypeAlias = NDArray[np.float64]
Taper = Literal["even", "both", "out", "in", "brush"]

# Pillow's polygons own their edge pixels too, which makes every stroke this much wider (in pixels of the page).
_FAT = 0.2
_MOST_TURN = 2.0
_SHARP = 0.5
_UNIT = np.stack([np.cos(np.arange(14) * np.pi / 7), np.sin(np.arange(14) * np.pi / 7)], axis=1) / 2


def points(*pairs: tuple[float, float]) -> Points:
    """The points given, as an array."""
    return np.array(pairs, dtype=np.float64)


def curve(knots: ArrayLike, *, closed: bool = False, steps: int = 8) -> Points:
    """A smooth (Catmull-Rom) curve through all knots."""
    p = np.asarray(knots, dtype=np.float64)
    p = np.vstack([p[-1:], p, p[:2]]) if closed else np.vstack([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    a, b, c, d = p[:-3, None], p[1:-2, None], p[2:-1, None], p[3:, None]
    t = (np.arange(steps) / steps)[None, :, None]
    body = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    flat = body.reshape(-1, 2)
    return flat if closed else np.vstack([flat, p[-2:-1]])


def by(x: float, y: float) -> Points:
    """One point, or a way to move."""
    return np.array([x, y], dtype=np.float64)


def line(start: tuple[float, float], end: tuple[float, float], steps: int = 1) -> Points:
    """A straight line in so many steps."""
    return np.linspace(start, end, steps + 1)


def box(left: float, top: float, right: float, bottom: float) -> Points:
    """A rectangle's corners, clockwise from the upper left."""
    return points((left, top), (right, top), (right, bottom), (left, bottom))


def oval(
    x: float,
    y: float,
    rx: float,
    ry: float | None = None,
    *,
    turn: float = 0,
    start: float = 0,
    sweep: float = 2 * np.pi,
) -> Points:
    """An ellipse, or the arc of it that sweeps so many radians from the start; finer where it is larger."""
    ry = rx if ry is None else ry
    n = int(np.clip(6 + 2.5 * np.sqrt(max(rx, ry)) * abs(sweep), 10, 240))
    whole = abs(sweep) > 2 * np.pi - 1e-6
    a = start + np.arange(n) * (sweep / (n if whole else n - 1))
    px, py = rx * np.cos(a), ry * np.sin(a)
    c, s = np.cos(turn), np.sin(turn)
    return np.stack([x + c * px - s * py, y + s * px + c * py], axis=1)


def disc(centre: Points, rx: float, ry: float | None = None) -> Points:
    """A circle or an upright ellipse about a point."""
    return oval(float(centre[0]), float(centre[1]), rx, ry)


def blob(x: float, y: float, rx: float, ry: float, bumps: int, depth: float, dice: Random) -> Points:
    """A round shape with so many outward bumps, as a cloud or a tree's crown has."""
    a = np.linspace(0, 2 * np.pi, bumps * 8, endpoint=False)
    bulge = np.abs(np.sin(a * bumps / 2 + dice.uniform(0, 6)))
    uneven = 1 + 0.08 * np.sin(a * 3 + dice.uniform(0, 6)) + 0.06 * np.sin(a * 5 + dice.uniform(0, 6))
    r = uneven * (1 - depth + depth * bulge)
    return np.stack([x + rx * r * np.cos(a), y + ry * r * np.sin(a)], axis=1)


def star(x: float, y: float, rx: float, ry: float, spikes: int, depth: float, dice: Random) -> Points:
    """A burst with so many uneven spikes."""
    n = spikes * 2
    a = (
        np.linspace(0, 2 * np.pi, n, endpoint=False)
        + np.array([dice.uniform(-0.6, 0.6) for _ in range(n)]) * np.pi / n
    )
    r = np.array([(1 - depth) if i % 2 else dice.uniform(1, 1 + depth) for i in range(n)])
    return np.stack([x + rx * r * np.cos(a), y + ry * r * np.sin(a)], axis=1)


def placed(shape: Points, x: float, y: float, size: float, turn: float = 0, *, flip: bool = False) -> Points:
    """A shape drawn about (0, 0) in units of one, put at a place, in a size, turned by radians."""
    c, s = np.cos(turn), np.sin(turn)
    p = shape * [-1, 1] if flip else shape
    turned: Points = size * p @ np.array([[c, s], [-s, c]]) + by(x, y)
    return turned


def wobbled(path: Points, amount: float, dice: Random, wave: float = 18) -> Points:
    """The path as an unsteady hand draws it: off by about the amount, slowly changing along the way."""
    if amount <= 0 or len(path) < 3:
        return path
    along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(path, axis=0).T))]) / wave
    off = [
        sum(np.sin(along * dice.uniform(0.6, 2.2) * k + dice.uniform(0, 6.3)) / k for k in (1, 2.3))
        * amount
        * 0.6
        for _ in range(2)
    ]
    moved = np.stack(off, axis=1)
    if np.hypot(*(path[0] - path[-1])) < 1e-6:
        # A closed line must come back to where it started.
        t = np.linspace(0, 1, len(path))
        moved *= np.minimum(1, 8 * np.minimum(t, 1 - t))[:, None]
    unsteady: Points = path + moved
    return unsteady


def widths(count: int, width: float, taper: Taper, dice: Random) -> NDArray[np.float64]:
    """The width of a stroke at each of its points."""
    t = np.linspace(0, 1, count)
    if taper == "both":
        shape = np.sin(np.pi * t) ** 0.7
    elif taper == "out":
        shape = (1 - t) ** 0.8
    elif taper == "in":
        shape = t**0.8
    elif taper == "brush":
        swell = 0.7 + 0.5 * np.sin(t * dice.uniform(2, 7) + dice.uniform(0, 6)) ** 2
        shape = swell * np.minimum(1, 0.15 + 5 * np.minimum(t, 1 - t))
    else:
        shape = np.ones(count)
    wide: NDArray[np.float64] = np.maximum(width * shape, 0.06)
    return wide


def closed(path: Points) -> Points:
    """The path with its first point again at its end."""
    return np.vstack([path, path[:1]])


def outlined(path: Points, width: NDArray[np.float64] | float) -> list[Points]:
    """The polygons that together cover a stroke along a path, each too short to cross itself."""
    wide = np.broadcast_to(np.asarray(width, dtype=np.float64), (len(path),))
    w = np.maximum(wide - _FAT, 0.05)
    # A path may stand still for a step: it has no direction there.
    moving = np.append(True, np.abs(path[1:] - path[:-1]).max(axis=1) > 1e-6)
    if not moving.all():
        path, w = path[moving], w[moving]
    if len(path) < 3:
        return [_ribbon(path, w)] if len(path) == 2 else []
    steps = path[1:] - path[:-1]
    heading = np.arctan2(steps[:, 1], steps[:, 0])
    turns = np.abs((heading[1:] - heading[:-1] + np.pi) % (2 * np.pi) - np.pi)
    sharp = turns > _SHARP
    bends = np.floor(np.cumsum(np.where(sharp, _MOST_TURN, turns)) / _MOST_TURN)
    cuts = [0, *(np.flatnonzero(np.diff(bends, prepend=0)) + 1).tolist(), len(path) - 1]
    pieces = [_ribbon(path[start : end + 1], w[start : end + 1]) for start, end in pairwise(cuts)]
    pieces += [path[i] + _UNIT * w[i] for i in cuts[1:-1] if w[i] > 0.7 and (sharp[i - 1] or w[i] > 3)]
    if w[0] > 0.7 and np.abs(path[0] - path[-1]).max() < 1e-6:
        pieces.append(path[0] + _UNIT * w[0])
    return pieces


def _ribbon(path: Points, width: NDArray[np.float64]) -> Points:
    ahead = np.empty_like(path)
    ahead[0], ahead[-1] = path[1] - path[0], path[-1] - path[-2]
    ahead[1:-1] = path[2:] - path[:-2]
    ahead *= (width / 2 / np.maximum(np.hypot(ahead[:, 0], ahead[:, 1]), 1e-9))[:, None]
    side = np.column_stack([-ahead[:, 1], ahead[:, 0]])
    return np.vstack([path + side, (path - side)[::-1]])


def stroke(path: Points, width: float, taper: Taper, dice: Random) -> list[Points]:
    """The polygons of one stroke of the pen."""
    if len(path) == 2 and taper != "even":
        path = np.linspace(path[0], path[1], 7)
    return outlined(path, widths(len(path), width, taper, dice))


def needles(starts: Points, ends: Points, width: NDArray[np.float64] | float) -> list[Points]:
    """Straight strokes, as wide as said where they start and pointed where they end."""
    ahead = ends - starts
    side = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1)
    side = (
        side
        / np.maximum(np.hypot(side[:, 0], side[:, 1]), 1e-9)[:, None]
        * (np.asarray(width) / 2).reshape(-1, 1)
    )
    return list(np.stack([starts + side, ends, starts - side], axis=1))


def rulings(
    area: Points, pitch: float, angle: float, width: float, dice: Random, *, jitter: float = 0.1
) -> list[Points]:
    """Parallel strokes over all of an area (to be kept within it), so far apart, at an angle in radians."""
    centre, reach = area.mean(axis=0), np.hypot(*np.ptp(area, axis=0)) / 2 + pitch
    count = int(np.clip(2 * reach / pitch, 1, 1500))
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    at = np.linspace(-reach, reach, count) + np.array([dice.gauss(0, jitter * pitch) for _ in range(count)])
    tilt = np.array([dice.gauss(0, jitter * pitch) for _ in range(count)])
    wide = (
        max(width - _FAT, 0.05)
        * np.array([dice.uniform(1 - jitter, 1 + jitter) for _ in range(count)])[:, None]
        / 2
    )
    a = centre - along * reach + across * at[:, None]
    b = centre + along * reach + across * (at + tilt)[:, None]
    return list(
        np.stack([a - across * wide, b - across * wide, b + across * wide, a + across * wide], axis=1)
    )
