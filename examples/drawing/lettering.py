"""Balloons, captions and sound effects; every balloon is sized by the words in it."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from drawing.paint import INK, PAPER, Colour
from drawing.pen import SCALE, Pen, Sheet, box, curve, line, oval

FONTS = {
    "comic": ("opentype/comic-neue/ComicNeue-Bold.otf", "fonts-comic-neue"),
    "stress": ("opentype/comic-neue/ComicNeue-BoldItalic.otf", "fonts-comic-neue"),
    "bang": ("truetype/reggae/ReggaeOne-Regular.ttf", "fonts-reggae"),
}
FONT_FOLDER = Path("/usr/share/fonts")
LEADING = 1.1


class FontMissingError(Exception):
    """A font is not installed."""


@functools.cache
def font(name: str, size: float) -> ImageFont.FreeTypeFont:
    """One of the fonts, at a size in page pixels."""
    file, package = FONTS[name]
    if not (FONT_FOLDER / file).is_file():
        raise FontMissingError(f"{FONT_FOLDER / file} is missing; install it with: apt-get install {package}")
    return ImageFont.truetype(FONT_FOLDER / file, round(size * SCALE), layout_engine=ImageFont.Layout.BASIC)


def _runs(words: str, face: str) -> list[tuple[str, str]]:
    """A line cut into (text, font) where *asterisks* stress words."""
    parts = words.split("*")
    return [(part, "stress" if i % 2 and face == "comic" else face) for i, part in enumerate(parts) if part]


def line_width(words: str, size: float, face: str = "comic") -> float:
    """How wide one line of lettering is, in page pixels."""
    return sum(font(name, size).getlength(part) for part, name in _runs(words, face)) / SCALE


def letter(
    sheet: Sheet,
    x: float,
    y: float,
    text: str,
    size: float = 12,
    colour: Colour = INK,
    face: str = "comic",
    align: str = "centre",
) -> None:
    """Lines of lettering around (x, y), the middle of the block, or to the right of it with align="left"."""
    rows = text.split("\n")
    cap = -font(face, size).getbbox("H", anchor="ls")[1]
    top = y * SCALE - (len(rows) - 1) * size * LEADING * SCALE / 2 + cap / 2
    for i, row in enumerate(rows):
        start = x * SCALE - (line_width(row, size, face) * SCALE / 2 if align == "centre" else 0)
        for part, name in _runs(row, face):
            at = (round(start), round(top + i * size * LEADING * SCALE))
            sheet.draw.text(at, part, font=font(name, size), fill=(*colour, 255), anchor="ls")
            start += font(name, size).getlength(part)


def _room(text: str, size: float, power: float) -> tuple[float, float]:
    """The half width and half height of the smallest balloon that holds the words with air around them."""
    rows = text.split("\n")
    widths = [line_width(row, size) / 2 + size * 0.42 for row in rows]
    pitch = size * LEADING
    tops = [abs(i - (len(rows) - 1) / 2) * pitch + size * 0.62 for i in range(len(rows))]
    wide, high = max(widths), max(tops) * 1.06
    grow = max(
        ((w / wide) ** power + (h / high) ** power) ** (1 / power) for w, h in zip(widths, tops, strict=True)
    )
    return wide * grow, high * grow


def _tail(start: tuple[float, float], tip: tuple[float, float], width: float, bend: float) -> np.ndarray:
    """A pointed, slightly bent tail from inside a balloon to beside a speaker."""
    (x0, y0), (x1, y1) = start, tip
    length = math.hypot(x1 - x0, y1 - y0)
    nx, ny = -(y1 - y0) / length, (x1 - x0) / length
    mx, my = (x0 + x1) / 2 + nx * bend, (y0 + y1) / 2 + ny * bend
    half, mid = width / 2, width / 3.6
    return np.concatenate(
        [
            curve([(x0 + nx * half, y0 + ny * half), (mx + nx * mid, my + ny * mid), (x1, y1)], closed=False),
            curve([(x1, y1), (mx - nx * mid, my - ny * mid), (x0 - nx * half, y0 - ny * half)], closed=False),
        ]
    )


def balloon(
    sheet: Sheet,
    x: float,
    y: float,
    text: str,
    tip: tuple[float, float] | None = None,
    *,
    size: float = 12,
    kind: str = "speech",
    paper: Colour = PAPER,
    ink: Colour = INK,
    bend: float = 5,
    edge: float = 1.5,
) -> tuple[float, float, float, float]:
    """A balloon around (x, y), its tail's tip at `tip`; kinds: speech, burst, thought, whisper. Returns its box."""
    power = 2.5
    rx, ry = _room(text, size, power)
    around = np.linspace(0, 2 * math.pi, 160, endpoint=False)
    cos, sin = np.cos(around), np.sin(around)
    body = np.stack(
        [
            x + rx * np.sign(cos) * np.abs(cos) ** (2 / power),
            y + ry * np.sign(sin) * np.abs(sin) ** (2 / power),
        ],
        axis=1,
    )
    parts = [body]
    if kind == "burst":
        parts = [_burst(x, y, rx, ry)]
    elif kind == "thought":
        parts = [body, *_lobes(x, y, rx, ry)]
    if tip and kind == "thought":
        parts += [
            oval(x + (tip[0] - x) * t, y + (tip[1] - y) * t, r, r * 0.85)
            for t, r in ((0.66, 4), (0.84, 2.8), (1, 1.8))
        ]
    elif tip:
        reach = math.hypot(tip[0] - x, tip[1] - y)
        start = (x + (tip[0] - x) / reach * min(rx, ry) * 0.6, y + (tip[1] - y) / reach * min(rx, ry) * 0.6)
        parts.append(_tail(start, tip, max(7.5, size * 0.8), bend))
    for part in parts:
        outline = [tuple(point) for point in np.concatenate([part, part[:2]]) * SCALE]
        if kind == "whisper" and part is body:
            _dashes(sheet, part, ink, edge)
            continue
        sheet.draw.line(outline, fill=(*ink, 255), width=round(edge * 2 * SCALE), joint="curve")
    for part in parts:
        sheet.draw.polygon([tuple(point) for point in part * SCALE], fill=(*paper, 255))
    letter(sheet, x, y, text, size, ink if paper != INK else PAPER)
    return x - rx, y - ry, x + rx, y + ry


def _burst(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    chance = random.Random(f"{x} {y}")
    count = 2 * max(7, round((rx + ry) / 10))
    turn = np.linspace(0, 2 * math.pi, 400)
    gone = np.concatenate([[0], np.cumsum(np.hypot(rx * np.diff(np.cos(turn)), ry * np.diff(np.sin(turn))))])
    points = []
    for i in range(count * 2):
        way = (i + 1 + chance.uniform(-0.25, 0.25)) / (count * 2) % 1
        angle = np.interp(way * gone[-1], gone, turn)
        spike = chance.uniform(0.4, 0.66) * ry if i % 2 else 0.08 * ry
        points.append((x + (rx + spike) * math.cos(angle), y + (ry + spike) * math.sin(angle)))
    return line(*points)


def _lobes(x: float, y: float, rx: float, ry: float) -> list[np.ndarray]:
    count = max(9, round((rx + ry) / 7))
    turns = [2 * math.pi * i / count for i in range(count)]
    size = (rx + ry) * math.pi / count * 0.62
    return [oval(x + rx * 0.93 * math.cos(t), y + ry * 0.93 * math.sin(t), size, size * 0.85) for t in turns]


def _dashes(sheet: Sheet, path: np.ndarray, ink: Colour, edge: float) -> None:
    ring = np.concatenate([path, path[:1]]) * SCALE
    for i in range(0, len(ring) - 3, 5):
        sheet.draw.line([tuple(p) for p in ring[i : i + 4]], fill=(*ink, 255), width=round(edge * 2 * SCALE))


def caption(
    sheet: Sheet,
    x: float,
    y: float,
    text: str,
    *,
    size: float = 11.5,
    paper: Colour = (255, 243, 196),
    ink: Colour = INK,
    frame: Colour = INK,
) -> tuple[float, float, float, float]:
    """A caption box with its top left corner at (x, y). Returns its box."""
    rows = text.split("\n")
    wide = max(line_width(row, size) for row in rows) + size * 1.0
    high = len(rows) * size * LEADING + size * 0.55
    pen = Pen(sheet, ink=frame)
    pen.shape(box(x, y, x + wide, y + high), paper, line=0)
    pen.frame(box(x, y, x + wide, y + high), 1.5)
    letter(sheet, x + size * 0.5, y + high / 2, text, size, ink, align="left")
    return x, y, x + wide, y + high


def sound(
    sheet: Sheet,
    x: float,
    y: float,
    text: str,
    size: float,
    *,
    fill: Colour,
    edge: Colour = INK,
    rim: Colour | None = None,
    turn: float = 0,
    growth: float = 0,
    face: str = "bang",
    tight: float = 0.94,
    steps: Sequence[float] = (0, -2, 1.5, -1, 2),
    down: bool = False,
) -> None:
    """A sound effect from (x, y) on: big loose letters, each a little higher, lower and larger than the last."""
    heading = math.radians(turn)
    letters = []
    for i, sign in enumerate(text):
        scale = size * (1 + growth * i)
        wide = font(face, scale).getlength(sign) / SCALE * tight
        step = scale * 0.92 if down else wide
        off = steps[i % len(steps)] * scale / 40
        if down:
            centre = (x + off, y + step / 2)
            y += step
        else:
            centre = (x + math.cos(heading) * wide / 2, y + math.sin(heading) * wide / 2 + off)
            x, y = x + math.cos(heading) * wide, y + math.sin(heading) * wide
        lying = 90 if down and sign == "ー" else 0  # a long vowel stands upright in a column
        letters.append((sign, scale, centre, lying - turn + off * 3))
    layers = [(edge, 0.075), (fill, 0)]
    if rim:
        layers.insert(0, (rim, 0.14))
    for colour, border in layers:
        for sign, scale, centre, tilt in letters:
            _stamp(sheet, sign, font(face, scale), centre, tilt, colour, round(border * scale * SCALE))


def _stamp(
    sheet: Sheet,
    sign: str,
    face: ImageFont.FreeTypeFont,
    centre: tuple[float, float],
    tilt: float,
    colour: Colour,
    border: int,
) -> None:
    side = round(face.size * 2.2)
    mask = Image.new("L", (side, side))
    ImageDraw.Draw(mask).text(
        (side / 2, side / 2), sign, font=face, fill=255, anchor="mm", stroke_width=border
    )
    mask = mask.rotate(tilt, Image.Resampling.BICUBIC)
    at = (round(centre[0] * SCALE - side / 2), round(centre[1] * SCALE - side / 2))
    sheet.image.paste((*colour, 255), at, mask)
