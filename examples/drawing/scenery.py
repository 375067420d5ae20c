"""The garden and the things in it."""

from __future__ import annotations

import functools
import math
import random

import numpy as np
from PIL import Image

from drawing.paint import INK, PAPER, Colour, Gradient, Paint, Tone, mixed
from drawing.pen import HEIGHT, WIDTH, Pen, Sheet, box, curve, line, oval

WOOD: tuple[Colour, Colour] = ((206, 158, 106), (160, 112, 78))
GRASS: tuple[Colour, Colour] = ((140, 200, 92), (92, 162, 86))


def sky(pen: Pen, *stops: Colour, top: float = 0, foot: float = HEIGHT) -> None:
    """A sky over the whole sheet that blends downward through the colours."""
    pen.shape(box(-4, -4, WIDTH + 4, HEIGHT + 4), Gradient((0, top), (0, foot), stops), line=0)


def cloud(
    pen: Pen, x: float, y: float, size: float = 1, paint: Paint = PAPER, shade: Paint | None = None
) -> None:
    """A flat-bottomed cloud."""
    puffs = curve(
        [
            (-34, 8, 1), (-36, 0), (-28, -5), (-22, -5, 1), (-19, -14), (-8, -17), (-1, -12, 1),
            (6, -18), (17, -15), (19, -6, 1), (28, -8), (36, -2), (34, 8, 1), (0, 9),
        ]
    )  # fmt: skip
    pen.at(x, y, size).shape(puffs, paint, shade, depth=4, line=0.7)


def ground(
    pen: Pen, points: list[tuple[float, float]], fill: Paint, shade: Paint | None = None, *, line: float = 1
) -> None:
    """A hill or a lawn: everything under the line through the points."""
    ridge = curve([(x, y) for x, y in points], closed=False)
    path = np.concatenate([ridge, [[points[-1][0] + 9, HEIGHT + 30], [points[0][0] - 9, HEIGHT + 30]]])
    pen.shape(path, fill, shade, depth=6, line=line)


def tufts(
    pen: Pen, left: float, right: float, top: float, foot: float, count: int, seed: int, ink: Colour
) -> None:
    """Small tufts of grass, scattered."""
    chance = random.Random(seed)
    for _ in range(count):
        x, y = chance.uniform(left, right), chance.uniform(top, foot)
        for lean in (-3, 0, 3.5):
            blade = curve([(x + lean * 0.3, y), (x + lean * 0.6, y - 3), (x + lean, y - 6)], closed=False)
            pen.stroke(blade, (0.9, 0.3), ink=ink)


def tree(pen: Pen, x: float, y: float, size: float, leaf: Paint, shade: Paint, bark: Paint) -> None:
    """A round tree."""
    here = pen.at(x, y, size)
    here.shape(curve([(-5, 0, 1), (-3, -20), (-4, -34), (4, -34), (3, -20), (6, 0, 1)]), bark)
    crown = curve(
        [
            (-18, -30), (-27, -40, 1), (-30, -52), (-20, -60, 1), (-14, -74), (2, -74), (10, -68, 1),
            (24, -66), (26, -52, 1), (33, -42), (22, -31), (10, -30, 1), (0, -26),
        ]
    )  # fmt: skip
    here.shape(crown, leaf, shade, depth=8)
    for dx, dy in ((-14, -46), (0, -60), (10, -44), (-4, -40)):
        here.stroke(curve([(dx, dy), (dx + 4, dy + 3), (dx + 8, dy)], closed=False), (0.2, 0.8, 0.2))


def fence(
    pen: Pen, x0: float, x1: float, y: float, height: float, fill: Paint, shade: Paint, seed: int = 3
) -> None:
    """A picket fence standing on y."""
    chance = random.Random(seed)
    for up in (0.36, 0.72):
        pen.shape(box(x0, y - height * up, x1, y - height * up + height * 0.1), fill, line=0.8)
    wide, x = height * 0.2, x0
    while x < x1:
        lean, tall = chance.uniform(-1, 1), height * chance.uniform(0.95, 1.06)
        left, right = x + lean, x + wide + lean
        eaves = y - tall + wide / 2
        picket = line((x, y), (left, eaves), ((left + right) / 2, y - tall), (right, eaves), (x + wide, y))
        pen.shape(picket, fill, shade, depth=2.4, line=0.85)
        pen.stroke(line((x + wide * 0.4, y - tall * 0.6), (x + wide * 0.45, y - tall * 0.2)), (0.2, 0.5, 0.1))
        x += wide * 1.55


def greenhouse(
    pen: Pen, glass: Paint, frame: Paint, *, plants: Paint | None = None, shine: bool = True
) -> None:
    """A greenhouse, 110 wide and 84 tall, origin at the middle of its foot."""
    house = line((-55, 0), (-55, -48), (0, -84), (55, -48), (55, 0))
    pen.shape(house, glass)
    if plants:
        for x, tall in ((-44, 22), (-30, 30), (-14, 18), (20, 26), (36, 33), (47, 20)):
            leafy = curve(
                [(x - 6, -1, 1), (x - 9, -tall * 0.6), (x, -tall, 1), (x + 8, -tall * 0.5), (x + 6, -1, 1)]
            )
            pen.shape(leafy, plants, line=0.6)
    for x in (-55, -28, 28, 55):
        foot = -48 - (55 - abs(x)) * 36 / 55
        pen.shape(box(x - 1.6, foot, x + 1.6, 0), frame, line=0.6)
    for y in (-48, -24):
        pen.shape(box(-55, y - 1.4, 55, y + 1.4), frame, line=0.6)
    pen.shape(box(-11, -36, 11, 0), glass, line=0.9)
    pen.shape(box(-11, -19, 11, -17), frame, line=0.5)
    for side in (-1, 1):
        roof = line((side * 60, -44), (0, -84), (0, -90), (side * 63, -47))
        pen.shape(roof, frame, line=0.8)
    if shine:
        for x in (-46, -20, 36):
            pen.inked(PAPER).stroke(line((x, -28), (x + 9, -42)), (0.6, 1.6, 0.6))
            pen.inked(PAPER).stroke(line((x + 6, -28), (x + 11, -36)), (0.4, 1, 0.4))


def flower(
    pen: Pen, x: float, y: float, size: float, petal: Paint, heart: Paint, leaf: Paint, petals: int = 6
) -> None:
    """A flower on a stalk, standing on (x, y)."""
    here = pen.at(x, y, size)
    here.tube(curve([(0, 0), (1.5, -9), (0, -19)], closed=False), (2, 1.6), leaf, line=0.6)
    for side in (-1, 1):
        here.shape(curve([(0.8, -5, 1), (side * 6, -10), (side * 11, -8, 1), (side * 6, -4)]), leaf, line=0.6)
    for i in range(petals):
        turn = 2 * math.pi * i / petals + 0.3
        here.shape(oval(4.4 * math.cos(turn), -21 + 4.4 * math.sin(turn), 3.4), petal, line=0.6)
    here.shape(oval(0, -21, 2.9), heart, line=0.6)


def watering_can(pen: Pen, fill: Paint = (226, 86, 72), shade: Paint = (170, 52, 66)) -> None:
    """A can, held at its handle's top, its spout to the right and down."""
    can = pen.at(0, 0, turn=24)
    can.stroke(curve([(-12, 13), (-13, 2), (0, -3), (12, 2), (12, 10)], closed=False), (2.6, 2.8, 2.6))
    can.shape(line((12, 20), (33, 2), (36, 5), (13, 28)), fill, shade, depth=2)
    can.shape(line((30, -3), (41, 7), (37, 10), (29, 1)), fill, shade, depth=1)
    can.shape(
        curve([(-15, 10, 1), (0, 12), (15, 10, 1), (17, 34, 1), (0, 37), (-17, 34, 1)]), fill, shade, depth=4
    )
    can.stroke(curve([(-15.5, 16), (0, 18), (15.5, 16)], closed=False), (0.6, 0.8, 0.6))


def spray(pen: Pen, x: float, y: float, count: int, seed: int, drop: Paint = (190, 232, 255)) -> None:
    """Water falling in an arc to the right of (x, y)."""
    chance = random.Random(seed)
    for _ in range(count):
        far, t = chance.uniform(14, 42), chance.uniform(0.1, 1)
        dx, dy = x + far * t, y + 44 * t * t - 4 * t
        size = chance.uniform(0.7, 1.15)
        tear = curve([(-2.4, -3.6, 1), (1.4, -1), (1.6, 1.8), (-0.8, 1.6)])
        pen.at(dx, dy, size).shape(tear, drop, line=0.55)


def magnifier(pen: Pen, lens: Paint = (214, 240, 250), rim: Paint = (176, 190, 198)) -> None:
    """A magnifying glass, held by the handle, lens up."""
    pen.tube(line((0, 8), (0, -14)), (6.5, 5.5), WOOD[1] if rim != PAPER else INK)
    pen.shape(oval(0, -33, 21), rim)
    pen.shape(oval(0, -33, 17.5), lens, line=0.7)
    pen.inked(PAPER).stroke(curve([(-12, -36), (-8, -43), (-1, -46)], closed=False), (0.8, 2.2, 0.8))


def catnip(pen: Pen, colours: dict[str, Paint] | None = None) -> None:
    """The seed packet's picture, 40 x 40 around the origin: one leaf of catnip that could pass for a fish."""
    ink = colours or {
        "back": (150, 212, 236), "low": (102, 180, 214), "leaf": (88, 164, 92), "dark": (52, 118, 84),
        "bloom": (176, 120, 214), "deep": (128, 78, 176),
    }  # fmt: skip
    pen.shape(box(-20, -20, 20, 20), ink["back"], line=0)
    pen.shape(
        curve([(-20, 8, 1), (-8, 10), (6, 7), (20, 10, 1), (20, 20, 1), (-20, 20, 1)]), ink["low"], line=0
    )
    saw = []
    for i in range(7):
        t = i / 6
        saw += [
            (-15 + 22 * t, -9.5 * math.sin(math.pi * (t * 0.86 + 0.1)), 1),
            (-13 + 22 * t, -9 * math.sin(math.pi * (t * 0.86 + 0.12)) + 1.4),
        ]
    low = [(x, -y, *rest) for x, y, *rest in reversed(saw)]
    pen.shape(curve([(-17, 0, 1), *saw, (9, 0, 1), *low]), ink["leaf"], ink["dark"], depth=2.5, line=0.9)
    for side in (-1, 1):
        fin = curve([(8, 0, 1), (11, side * 8), (18, side * 11, 1), (16, side * 3)])
        pen.shape(fin, ink["leaf"], ink["dark"], depth=1.2, line=0.8)
    pen.stroke(curve([(-15, 0), (-3, 1), (10, 0)], closed=False), (0.3, 0.9, 0.9))
    for x in (-9, -4, 1):
        for side in (-1, 1):
            pen.stroke(line((x + 2, 0.6), (x - 2.5, side * 5.5)), (0.7, 0.2))
    pen.shape(oval(-11, -2.6, 1.7), PAPER, line=0.7)
    for x, y in ((-4, -13), (1, -15), (6, -13)):
        pen.stroke(curve([(x, y), (x * 0.7 + 1, -10), (2, -7.4)], closed=False), (0.6, 0.9))
    for x, y in ((-4, -13), (1, -15), (6, -13), (3, -12)):
        pen.shape(oval(x, y, 2.3), ink["bloom"], ink["deep"], depth=0.8, line=0.6)


@functools.cache
def _squares(count: int) -> Image.Image:
    """The packet's picture shrunk to a few pixels, which is all the packet has room for."""
    sheet = Sheet(size=(40, 40))
    catnip(sheet.pen().at(20, 20))
    return sheet.image.convert("RGB").resize((count, count), Image.Resampling.BOX)


def squares(pen: Pen, count: int, *, grey: float = 0, edge: float = 0.35) -> None:
    """That picture as squares, 40 x 40 around the origin; `grey` is the pitch of the tone to draw it in."""
    picture, side = _squares(count), 40 / count
    for y in range(count):
        for x in range(count):
            r, g, b = picture.getpixel((x, y))
            light = (0.3 * r + 0.59 * g + 0.11 * b) / 255
            paint: Paint = Tone(grey, float(np.clip((0.82 - light) * 1.25, 0, 0.8))) if grey else (r, g, b)
            at = (-20 + x * side, -20 + y * side)
            pen.shape(box(*at, at[0] + side, at[1] + side), paint, line=edge)


def packet(pen: Pen, count: int = 7, *, grey: float = 0) -> None:
    """A seed packet, 32 x 44 around the origin, with the picture in as many squares a side."""
    paper: tuple[Paint, Paint] = (PAPER, Tone(3.4, 0.15)) if grey else ((252, 240, 214), (222, 198, 160))
    band: Paint = INK if grey else (212, 74, 64)
    pen.shape(line((-16, -22), (16, -22), (16.5, 22), (-16.5, 22)), *paper, depth=2)
    pen.shape(line((-16, -22), (16, -22), (16, -14), (-16, -14)), band, line=0.7)
    for x in range(-12, 13, 6):
        pen.inked(PAPER).stroke(line((x - 1.4, -18), (x + 1.4, -18)), (1.3, 1.3))
    squares(pen.at(0, 2, 0.58), count, grey=grey, edge=0.22)
    pen.stroke(line((-9, 17.5), (9, 17.5)), (0.8, 0.8))


def stars(
    pen: Pen, count: int, foot: float, seed: int, clear: tuple[float, float, float, float] = (0, 0, 0, 0)
) -> None:
    """Small stars above `foot`, but none in the box that is to stay `clear`."""
    chance = random.Random(seed)
    for _ in range(count):
        x, y = chance.uniform(0, WIDTH), chance.uniform(0, foot)
        r = chance.choice((0.5, 0.6, 0.8, 1.1))
        if clear[0] < x < clear[2] and clear[1] < y < clear[3]:
            continue
        pen.shape(oval(x, y, r), mixed((150, 170, 230), PAPER, chance.random()), line=0)
        if r > 1:
            for turn in (0, 90):
                ray = pen.at(x, y, turn=turn)
                ray.stroke(line((-4.5, 0), (0, 0), (4.5, 0)), (0.1, 0.7, 0.1), ink=PAPER)


def burst_lines(
    pen: Pen,
    x: float,
    y: float,
    rx: float,
    ry: float,
    count: int,
    seed: int,
    ink: Colour = INK,
    thick: float = 3.4,
) -> None:
    """Focus lines: wedges from far outside that point at (x, y) and end around the ellipse about it."""
    chance = random.Random(seed)
    for i in range(count):
        turn = 2 * math.pi * (i + chance.uniform(-0.4, 0.4)) / count
        near = chance.uniform(1, 1.32)
        cos, sin = math.cos(turn), math.sin(turn)
        wide = chance.uniform(0.15, 1) ** 1.6 * thick
        far = 700
        wedge = line(
            (x + cos * rx * near, y + sin * ry * near),
            (x + cos * far - sin * wide * 3, y + sin * far + cos * wide * 3),
            (x + cos * far + sin * wide * 3, y + sin * far - cos * wide * 3),
        )
        pen.inked(ink).shape(wedge, ink, line=0)


def speed_lines(
    pen: Pen, left: float, right: float, top: float, foot: float, count: int, seed: int, slope: float = 0
) -> None:
    """Level streaks that start thick at one of the sides and thin out."""
    chance = random.Random(seed)
    for _ in range(count):
        y = chance.uniform(top, foot)
        far = (right - left) * chance.uniform(0.25, 0.8)
        thick = chance.choice((0.4, 0.6, 0.9, 1.6, 2.4))
        pen.stroke(line((left, y), (left + far, y + far * slope)), (thick, thick * 0.6, 0.1))


def plank_table(pen: Pen, x0: float, x1: float, y: float, fill: Paint, shade: Paint) -> None:
    """A potting table, its top at y."""
    for x in (x0 + 10, x1 - 18):
        pen.shape(box(x, y, x + 8, y + 90), fill, shade, depth=2)
    pen.shape(box(x0, y, x1, y + 9), fill, shade, depth=2)
    for x in range(round(x0) + 14, round(x1) - 24, 31):
        pen.stroke(curve([(x, y + 4), (x + 8, y + 3.4), (x + 18, y + 4.6)], closed=False), (0.2, 0.6, 0.2))


def shadow(pen: Pen, x: float, y: float, rx: float, paint: Paint | None = None) -> None:
    """What a figure throws on the ground it stands on."""
    if paint is None:
        pen.shape(oval(x, y, rx, rx * 0.2), (40, 60, 70), line=0, opacity=0.35)
    else:
        pen.shape(oval(x, y, rx, rx * 0.2), paint, line=0)
