"""Lettering: balloons, captions, tails and sounds, with what they say and where it stands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFont

from training.pages import fonts
from training.pages.sheet import BLACK, WHITE, Colour, Fill, Sheet
from training.pages.strokes import Points, blob, box, by, closed, curve, disc, outlined, oval, star
from training.pages.words import Ruby

Box = tuple[int, int, int, int]
Balloon = Literal["oval", "round", "cloud", "burst", "box", "none"]

# These stand turned by a quarter when written from top to bottom.
_TURNED = frozenset("ー…—「」『』")
_SMALL = frozenset("ぁぃぅぇぉっゃゅょァィゥェォッャュョ")


@dataclass(frozen=True, slots=True)
class Lettering:
    """What one balloon, caption or sound says, and the pixels of the page it stands in."""

    text: str
    box: Box
    """Left, top, right and bottom; the last two lie just outside."""
    script: fonts.Script


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """The text in lines no wider than so many of the font's pixels, if its words allow it."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def block(
    text: str, font: ImageFont.FreeTypeFont, *, shape: float = 2.2, leading: float = 1.1, centred: bool = True
) -> tuple[Image.Image, str]:
    """Latin text set in lines, about `shape` times as wide as high: the mask of its ink, and the lines as set."""
    ascent, descent = font.getmetrics()
    step = (ascent + descent) * leading
    lines = wrapped(
        text, font, max(np.sqrt(font.getlength(text) * step * shape), max(map(font.getlength, text.split())))
    )
    wide = max(font.getlength(row) for row in lines)
    mask = Image.new("L", (int(wide + font.size / 2) + 8, int(step * len(lines) + descent) + 8), 0)
    draw = ImageDraw.Draw(mask)
    for i, row in enumerate(lines):
        x = 4 + ((wide - font.getlength(row)) / 2 if centred else 0)
        draw.text((round(x), round(4 + i * step)), row, fill=255, font=font)
    return _trimmed(mask), "\n".join(lines)


def columns(
    said: Ruby,
    font: ImageFont.FreeTypeFont,
    small: ImageFont.FreeTypeFont,
    *,
    most: int = 7,
    ruby: bool = True,
) -> tuple[Image.Image, str]:
    """Japanese text from top to bottom in columns from right to left, with readings beside it if asked."""
    letters = [
        (letter, reading if i == 0 else "", len(text))
        for text, reading in said
        for i, letter in enumerate(text)
    ]
    cell, gap = round(font.size * 1.02), round(font.size * (1.55 if ruby else 1.25))
    count = -(-len(letters) // most)
    rows = -(-len(letters) // count)
    mask = Image.new("L", (count * gap + cell, (rows + 2) * cell), 0)
    for i, (letter, reading, span) in enumerate(letters):
        x, y = (count - 1 - i // rows) * gap, (i % rows) * cell + cell // 2
        _upright(mask, letter, font, x, y, cell)
        if ruby and reading:
            pitch = min(small.size, cell * span / len(reading))
            for k, kana in enumerate(reading):
                _upright(mask, kana, small, x + cell, round(y + k * pitch), round(small.size))
    text = "".join(letter for letter, _, _ in letters)
    return _trimmed(mask), "\n".join(text[i : i + rows] for i in range(0, len(text), rows))


def rows_of_japanese(said: Ruby, font: ImageFont.FreeTypeFont, *, most: int = 9) -> tuple[Image.Image, str]:
    """Japanese text from left to right in rows."""
    text = "".join(piece for piece, _ in said)
    lines = [text[i : i + most] for i in range(0, len(text), most)]
    step = round(font.size * 1.3)
    mask = Image.new(
        "L", (round(max(map(font.getlength, lines))) + 12, round(step * len(lines) + font.size)), 0
    )
    draw = ImageDraw.Draw(mask)
    for i, row in enumerate(lines):
        draw.text((4, 4 + i * step), row, fill=255, font=font)
    return _trimmed(mask), "\n".join(lines)


def sound(text: str, path: Path, size: int, dice: Random, border: int) -> tuple[Image.Image, Image.Image]:
    """A sound in large letters, each turned and sized a little: the masks of its letters and of them with a border."""
    inner = Image.new("L", (round(size * (len(text) * 1.1 + 2)), size * 3), 0)
    outer = inner.copy()
    x, wave = size * 0.6, dice.uniform(-0.3, 0.3)
    for i, letter in enumerate(text):
        font = fonts.sized(path, max(round(size * dice.uniform(0.8, 1.2)), 6))
        y = round(size * (1 + wave * np.sin(i)))
        turn = dice.uniform(-14, 14)
        for mask, extra in ((outer, border), (inner, 0)):
            glyph = _glyph(letter, font, extra).rotate(turn, Image.Resampling.BICUBIC, expand=True)
            place = round(x + size / 2 - glyph.width / 2), round(y + size / 2 - glyph.height / 2)
            mask.paste(
                ImageChops.lighter(
                    mask.crop((*place, place[0] + glyph.width, place[1] + glyph.height)), glyph
                ),
                place,
            )
        x += max(font.getlength(letter), size * 0.3) * dice.uniform(0.85, 1.05)
    ink = outer.getbbox() or (0, 0, 1, 1)
    roomy = ink[0] - size // 2, ink[1], ink[2] + size // 2, ink[3]
    inner, outer = inner.crop(roomy), outer.crop(roomy)
    angle, shear = dice.uniform(-25, 25), dice.uniform(-0.4, 0.4)
    return _warped(inner, outer, angle, shear)


def balloon(
    kind: Balloon, x: float, y: float, width: float, height: float, dice: Random, *, air: float = 7
) -> Points:
    """The outline of a balloon around lettering of a size, centred at (x, y), with so much air between them."""
    w, h = width / 2, height / 2
    if kind == "oval":
        return oval(x, y, w * 1.3 + air * 0.8, h * 1.32 + air * 0.8, turn=dice.uniform(-0.03, 0.03))
    if kind == "cloud":
        return blob(x, y, w * 1.45 + air * 1.2, h * 1.5 + air * 1.2, dice.randint(8, 15), 0.14, dice)
    if kind == "burst":
        return star(x, y, w * 1.7 + air * 1.8, h * 1.75 + air * 1.8, dice.randint(11, 24), 0.24, dice)
    if kind == "round":
        return _rounded(x, y, w + air, h + air, min(air * dice.uniform(1.2, 2.4), w + air, h + air))
    return box(x - w - air * 0.8, y - h - air * 0.7, x + w + air * 0.8, y + h + air * 0.7)


def _rounded(x: float, y: float, w: float, h: float, r: float) -> Points:
    quarters = ((1, 1, 0.0), (-1, 1, 0.5), (-1, -1, 1.0), (1, -1, 1.5))
    arcs = [
        oval(x + a * (w - r), y + b * (h - r), r, start=s * np.pi, sweep=np.pi / 2) for a, b, s in quarters
    ]
    return np.vstack(arcs)


def tail(outline: Points, dice: Random, length: float) -> Points:
    """The tail of a balloon: a bent spike from inside the outline to a point below or beside it."""
    centre, (w, h) = outline.mean(axis=0), np.ptp(outline, axis=0) / 2
    angle = dice.choice((dice.uniform(0.3, 2.8), dice.uniform(0.3, 2.8), dice.uniform(3.5, 5.9)))
    way = np.array([np.cos(angle), np.sin(angle)])
    root, tip = centre + way * [w * 0.7, h * 0.7], centre + way * (by(w, h) + length)
    side = np.array([-way[1], way[0]]) * dice.uniform(4, 9)
    bend = (root + tip) / 2 + side * dice.uniform(-1.5, 1.5)
    return np.vstack(
        [
            curve([root + side, bend + side * 0.5, tip], steps=6),
            curve([tip, bend - side * 0.5, root - side], steps=6),
        ]
    )


def draw_balloon(
    sheet: Sheet, outline: Points, tails: list[Points], fill: Fill, ink: Fill, weight: float
) -> None:
    """A balloon with its tails, one outline around them all if it has a weight."""
    parts = [outline, *tails]
    if weight <= 0:
        sheet.fill(parts, fill)
        return
    rim = [piece for part in parts for piece in outlined(closed(part), weight * 2)]
    sheet.fill(rim, ink)
    sheet.fill(parts, fill)


def write(
    sheet: Sheet, mask: Image.Image, x: float, y: float, ink: Fill, *, halo: Colour | None = None
) -> Box:
    """Put a mask of lettering on the sheet, centred at (x, y); the box of pixels it fills, cut to the sheet."""
    scale = sheet.scale
    left, top = x - mask.width / scale / 2, y - mask.height / scale / 2
    if halo is not None:
        grown = Image.new("L", (mask.width + 4 * scale, mask.height + 4 * scale), 0)
        grown.paste(mask, (2 * scale, 2 * scale))
        for _ in range(max(scale // 2, 1)):
            grown = ImageChops.lighter(
                ImageChops.lighter(ImageChops.offset(grown, 2, 0), ImageChops.offset(grown, -2, 0)), grown
            )
            grown = ImageChops.lighter(
                ImageChops.lighter(ImageChops.offset(grown, 0, 2), ImageChops.offset(grown, 0, -2)), grown
            )
        sheet.stamp(grown, left - 2, top - 2, halo)
    sheet.stamp(mask, left, top, ink)
    limits = sheet.box
    right, bottom = left + mask.width / scale, top + mask.height / scale
    return (
        int(max(np.floor(left), limits[0])),
        int(max(np.floor(top), limits[1])),
        int(min(np.ceil(right), limits[2])),
        int(min(np.ceil(bottom), limits[3])),
    )


def bubbles(outline: Points, dice: Random) -> list[Points]:
    """The small ovals that lead from a thought to its thinker."""
    centre, (w, h) = outline.mean(axis=0), np.ptp(outline, axis=0) / 2
    angle = dice.uniform(0.4, 2.7)
    way = by(np.cos(angle), np.sin(angle))
    return [
        disc(centre + way * (by(w, h) * 1.05 + 13 * k + 5), 5.5 - 1.5 * k, 4.2 - 1.1 * k) for k in range(3)
    ]


def caption_ink(paper: Colour) -> Colour:
    """Black or white, whichever stands out from the paper."""
    return BLACK if sum(paper) > 330 else WHITE


def _glyph(letter: str, font: ImageFont.FreeTypeFont, border: int) -> Image.Image:
    left, top, right, bottom = font.getbbox(letter, stroke_width=border)
    mask = Image.new("L", (max(round(right - left), 1) + 8, max(round(bottom - top), 1) + 8), 0)
    ImageDraw.Draw(mask).text((4 - left, 4 - top), letter, fill=255, font=font, stroke_width=border)
    return mask


def _warped(
    inner: Image.Image, outer: Image.Image, angle: float, shear: float
) -> tuple[Image.Image, Image.Image]:
    matrix = (1.0, shear, -shear * inner.height / 2, 0.0, 1.0, 0.0)
    pair = [
        m.transform(m.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC).rotate(
            angle, Image.Resampling.BICUBIC, expand=True
        )
        for m in (inner, outer)
    ]
    ink = pair[1].getbbox() or (0, 0, 1, 1)
    return pair[0].crop(ink), pair[1].crop(ink)


def _upright(mask: Image.Image, letter: str, font: ImageFont.FreeTypeFont, x: int, y: int, cell: int) -> None:
    """One letter in its cell of a column; small marks keep their corner, lying marks are stood up."""
    tile = Image.new("L", (cell, cell), 0)
    draw = ImageDraw.Draw(tile)
    if letter in "。、":
        _, top, right, _ = font.getbbox(letter)
        draw.text((cell * 0.95 - right, cell * 0.08 - top), letter, fill=255, font=font)
    else:
        shift = cell * 0.1 if letter in _SMALL else 0
        draw.text((cell / 2 + shift, cell / 2 - shift), letter, fill=255, font=font, anchor="mm")
    if letter in _TURNED:
        tile = tile.transpose(Image.Transpose.ROTATE_270)
    mask.paste(ImageChops.lighter(mask.crop((x, y, x + cell, y + cell)), tile), (x, y))


def _trimmed(mask: Image.Image) -> Image.Image:
    return mask.crop(mask.getbbox() or (0, 0, 1, 1))
