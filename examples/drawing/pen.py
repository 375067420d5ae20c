"""A sheet four times the page's size, and a pen that draws inked, cel-shaded shapes on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from drawing.paint import INK, PAPER, Colour, Paint

WIDTH, HEIGHT = 512, 768
SCALE = 4

Point = tuple[float, float] | tuple[float, float, int]
"""A point on a path; a third number marks a sharp corner."""


class Sheet:
    """The paper: an RGBA picture at `SCALE` times the page's size, addressed in page pixels."""

    def __init__(self, paper: Colour | None = PAPER, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
        background = (0, 0, 0, 0) if paper is None else (*paper, 255)
        self.image = Image.new("RGBA", (size[0] * SCALE, size[1] * SCALE), background)
        self.draw = ImageDraw.Draw(self.image)

    def pen(self) -> Pen:
        """A pen that draws in page pixels."""
        return Pen(self)

    def fill(self, mask: Image.Image, corner: tuple[int, int], paint: Paint, opacity: float = 1) -> None:
        """Lay paint where the mask is set; `corner` is the mask's place on the sheet."""
        if opacity < 1:
            mask = mask.point(lambda value: round(value * opacity))
        if isinstance(paint, tuple):
            ink = Image.new("RGBA", mask.size, (*paint, 255))
        else:
            x = (np.arange(mask.width) + corner[0] + 0.5) / SCALE
            y = (np.arange(mask.height) + corner[1] + 0.5) / SCALE
            ink = Image.fromarray(paint.colours(*np.meshgrid(x, y)).round().astype("uint8")).convert("RGBA")
        if opacity < 1:
            under = self.image.crop((*corner, corner[0] + mask.width, corner[1] + mask.height))
            ink.putalpha(mask)
            under.alpha_composite(ink)
            self.image.paste(under, corner)
        else:
            self.image.paste(ink, corner, mask)

    def inset(self, other: Sheet, path: np.ndarray) -> None:
        """Copy what lies inside the path from another sheet onto the same place here: a panel."""
        mask = Image.new("L", self.image.size)
        ImageDraw.Draw(mask).polygon([tuple(point) for point in path * SCALE], fill=255)
        self.image.paste(other.image, (0, 0), mask)

    def glow(self, x: float, y: float, radius: float, colour: Colour, strength: float = 0.8) -> None:
        """A soft light around a point."""
        reach = round(radius * SCALE)
        span = np.hypot(*np.mgrid[-reach:reach, -reach:reach]) / reach
        mask = Image.fromarray((np.clip(1 - span, 0, 1) ** 2 * 255 * strength).astype("uint8"))
        layer = Image.new("RGBA", mask.size, (*colour, 255))
        self.image.paste(layer, (round(x * SCALE) - reach, round(y * SCALE) - reach), mask)

    def sticker_edge(self, width: float) -> Sheet:
        """The same drawing with a white border around everything on it, as die-cut stickers have."""
        solid = self.image.getchannel("A").filter(ImageFilter.GaussianBlur(width * SCALE))
        edge = solid.point(lambda value: max(0, min(255, (value - 24) * 24)))
        out = Sheet(None)
        out.image.paste((*PAPER, 255), (0, 0), edge)
        out.image.alpha_composite(self.image)
        return out

    def shrunk(self, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image.Image:
        """The finished page at its own small size, with smooth edges."""
        return self.image.resize(size, Image.Resampling.BOX)


@dataclass(frozen=True)
class Pen:
    """Draws on a sheet, in coordinates that `at` may move, turn, scale and mirror."""

    sheet: Sheet
    matrix: np.ndarray = field(default_factory=lambda: np.eye(3))
    ink: Colour = INK
    weight: float = 1.7
    light: tuple[float, float] = (-0.5, -0.85)

    def at(self, x: float, y: float, size: float = 1, turn: float = 0, mirror: bool = False) -> Pen:
        """The same pen with its origin at (x, y), everything scaled, turned (degrees) or mirrored."""
        cos, sin = math.cos(math.radians(turn)) * size, math.sin(math.radians(turn)) * size
        flip = -1 if mirror else 1
        step = np.array([[cos * flip, -sin, x], [sin * flip, cos, y], [0, 0, 1]])
        return replace(self, matrix=self.matrix @ step)

    def inked(self, ink: Colour) -> Pen:
        """The same pen dipped in another colour."""
        return replace(self, ink=ink)

    @property
    def size(self) -> float:
        """How much larger than its own coordinates this pen draws."""
        return math.sqrt(abs(np.linalg.det(self.matrix[:2, :2])))

    def on_page(self, points: np.ndarray) -> np.ndarray:
        """Points of this pen's own coordinates, in page pixels."""
        return points @ self.matrix[:2, :2].T + self.matrix[:2, 2]

    def place(self, x: float, y: float) -> tuple[float, float]:
        """One point of this pen's own coordinates, in page pixels."""
        px, py = self.on_page(np.array([[x, y]]))[0]
        return float(px), float(py)

    def shape(
        self,
        path: np.ndarray,
        fill: Paint | None,
        shade: Paint | None = None,
        *,
        depth: float = 4,
        line: float = 1,
        opacity: float = 1,
    ) -> None:
        """A closed shape: filled, shaded on the side away from the light, outlined with a swelling line."""
        page = self.on_page(path) * SCALE
        if fill is not None:
            low = np.floor(page.min(axis=0)).astype(int) - 1
            size = np.ceil(page.max(axis=0)).astype(int) + 2 - low
            corner = (int(low[0]), int(low[1]))
            mask = Image.new("L", (int(size[0]), int(size[1])))
            ImageDraw.Draw(mask).polygon([tuple(point) for point in page - low], fill=255)
            mask, corner = _within(mask, corner, self.sheet.image.size)
            if mask is None:
                return
            self.sheet.fill(mask, corner, fill, opacity)
            if shade is not None:
                shift = depth * self.size * SCALE
                lit = Image.new("L", mask.size)
                lit.paste(mask, (round(self.light[0] * shift), round(self.light[1] * shift)))
                self.sheet.fill(ImageChops.subtract(mask, lit), corner, shade, opacity)
        if line:
            self._outline(page, line)

    def frame(self, path: np.ndarray, width: float) -> None:
        """A closed line of one even width, as ruled with a pen."""
        page = self.on_page(path) * SCALE
        page = _dense(np.concatenate([page, page[:1]]))
        self._draw_line(page, np.full(len(page), width * SCALE), self.ink)

    def stroke(
        self, path: np.ndarray, widths: Sequence[float] = (0.3, 1, 0.3), ink: Colour | None = None
    ) -> None:
        """An open line whose width runs through the given shares of the pen's weight."""
        page = _dense(self.on_page(path) * SCALE)
        at = np.linspace(0, 1, len(page))
        width = np.interp(at, np.linspace(0, 1, len(widths)), widths) * self._line_width()
        self._draw_line(page, width, ink or self.ink)

    def tube(
        self,
        path: np.ndarray,
        widths: Sequence[float],
        fill: Colour | Paint,
        *,
        line: float = 1,
        ribs: int = 0,
    ) -> None:
        """A bendy tube along a path (an arm, a tail), its widths in the pen's own coordinates, with `ribs` rings."""
        path = _dense(path, 0.7)
        at = np.linspace(0, 1, len(path))
        half = np.interp(at, np.linspace(0, 1, len(widths)), widths) / 2
        along = np.gradient(path, axis=0)
        along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
        side = np.stack([-along[:, 1], along[:, 0]], axis=1) * half[:, None]
        turn = np.linspace(0, math.pi, 12)[1:-1, None]
        tip = path[-1] + side[-1] * np.cos(turn) + along[-1] * half[-1] * np.sin(turn)
        self.shape(np.concatenate([path + side, tip, (path - side)[::-1]]), fill, line=line)
        for i in range(1, ribs + 1):
            k = i * (len(path) - 1) // (ribs + 1)
            bow = along[k] * half[k] * 0.35
            ring = curve(
                [tuple(path[k] + side[k]), tuple(path[k] + bow), tuple(path[k] - side[k])], closed=False
            )
            self.stroke(ring, (0.5, 0.7, 0.5))

    def _line_width(self) -> float:
        return self.weight * self.size**0.55 * SCALE

    def _outline(self, page: np.ndarray, line: float) -> None:
        page = _dense(np.concatenate([page, page[:1]]))
        along = np.gradient(page, axis=0)
        along[0] = along[-1] = page[1] - page[-2]
        x, y = page[:, 0], page[:, 1]
        way = 1 if np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) > 0 else -1
        outward = np.stack([along[:, 1], -along[:, 0]], axis=1) * way
        outward /= np.maximum(np.linalg.norm(outward, axis=1, keepdims=True), 1e-9)
        dark = np.maximum(0, -(outward @ np.array(self.light)))
        around = np.arange(len(page)) / max(1, len(page) - 1) * 2 * math.pi
        width = self._line_width() * line * (0.72 + 0.55 * dark + 0.1 * np.sin(3 * around + 1))
        self._draw_line(page, width, self.ink)

    def _draw_line(self, page: np.ndarray, width: np.ndarray, ink: Colour) -> None:
        draw, colour = self.sheet.draw, (*ink, 255)
        half = np.maximum(width, 1) / 2
        for (x, y), r in zip(page, half, strict=True):
            draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
        along = np.diff(page, axis=0)
        along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
        side = np.stack([-along[:, 1], along[:, 0]], axis=1)
        starts, ends = half[:-1, None] * side, half[1:, None] * side
        quads = np.stack([page[:-1] + starts, page[1:] + ends, page[1:] - ends, page[:-1] - starts], axis=1)
        for quad in quads:
            draw.polygon([tuple(point) for point in quad], fill=colour)


def curve(points: Sequence[Point], closed: bool = True, steps: int = 14) -> np.ndarray:
    """A smooth path through the points, with sharp corners at those that carry a third number."""
    points = list(points)
    corners = [i for i, point in enumerate(points) if len(point) == 3]
    flat = np.array([point[:2] for point in points], dtype=float)
    if closed and not corners:
        return _spline(np.concatenate([flat[-1:], flat, flat[:2]]), steps)[:-1]
    if closed:
        flat = np.roll(flat, -corners[0], axis=0)
        corners = [i - corners[0] for i in corners] + [len(points)]
        flat = np.concatenate([flat, flat[:1]])
    else:
        corners = sorted({0, *corners, len(points) - 1})
    parts = []
    for start, end in pairwise(corners):
        run = flat[start : end + 1]
        if len(run) == 2:
            parts.append(run)
            continue
        parts.append(_spline(np.concatenate([[2 * run[0] - run[1]], run, [2 * run[-1] - run[-2]]]), steps))
    return np.concatenate(parts)


def oval(x: float, y: float, rx: float, ry: float | None = None) -> np.ndarray:
    """An ellipse, or a circle."""
    around = np.linspace(0, 2 * math.pi, 72, endpoint=False)
    return np.stack([x + rx * np.cos(around), y + (ry or rx) * np.sin(around)], axis=1)


def slab(x0: float, y0: float, x1: float, y1: float, power: float = 4) -> np.ndarray:
    """A box with swelling sides and round corners; a higher power is squarer."""
    around = np.linspace(0, 2 * math.pi, 120, endpoint=False)
    cos, sin = np.cos(around), np.sin(around)
    x = (x0 + x1) / 2 + (x1 - x0) / 2 * np.sign(cos) * np.abs(cos) ** (2 / power)
    y = (y0 + y1) / 2 + (y1 - y0) / 2 * np.sign(sin) * np.abs(sin) ** (2 / power)
    return np.stack([x, y], axis=1)


def box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """A plain rectangle."""
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], dtype=float)


def line(*points: tuple[float, float]) -> np.ndarray:
    """Straight from point to point."""
    return np.array(points, dtype=float)


def _spline(p: np.ndarray, steps: int) -> np.ndarray:
    """A Catmull-Rom curve through all points but the first and last."""
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    parts = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(p[:-3], p[1:-2], p[2:-1], p[3:], strict=True)
    ]
    return np.concatenate([*parts, p[-2:-1]])


def _dense(path: np.ndarray, gap: float = 5) -> np.ndarray:
    """The same path with points no further than `gap` apart."""
    length = np.linalg.norm(np.diff(path, axis=0), axis=1)
    keep = np.concatenate([[True], length > 1e-6])
    path, total = path[keep], np.concatenate([[0], np.cumsum(length[length > 1e-6])])
    at = np.unique(np.concatenate([total, np.linspace(0, total[-1], max(2, math.ceil(total[-1] / gap)))]))
    return np.stack([np.interp(at, total, path[:, 0]), np.interp(at, total, path[:, 1])], axis=1)


def _within(
    mask: Image.Image, corner: tuple[int, int], size: tuple[int, int]
) -> tuple[Image.Image | None, tuple[int, int]]:
    """The part of a mask that lies on the sheet, and its place; None where nothing does."""
    left, top = max(0, -corner[0]), max(0, -corner[1])
    right = min(mask.width, size[0] - corner[0])
    bottom = min(mask.height, size[1] - corner[1])
    if right <= left or bottom <= top:
        return None, corner
    return mask.crop((left, top, right, bottom)), (corner[0] + left, corner[1] + top)
