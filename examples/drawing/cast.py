"""The cast: Trowel, a robot gardener with a seedling in his hat, and Pixel, a cat."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from drawing.paint import INK, PAPER, Pair, Palette, Tone, multiplied
from drawing.pen import Pen, curve, line, oval, slab

DAY: dict[str, Pair] = {
    "shell": ((74, 160, 158), (44, 116, 128)),
    "head": ((246, 226, 176), (217, 180, 124)),
    "visor": ((38, 40, 66), (28, 28, 50)),
    "glow": ((164, 248, 196), (98, 214, 170)),
    "straw": ((245, 204, 98), (213, 155, 62)),
    "band": ((212, 74, 64), (164, 46, 58)),
    "leaf": ((122, 192, 76), (72, 146, 74)),
    "tube": ((176, 190, 198), (128, 144, 160)),
    "boot": ((150, 98, 66), (110, 66, 52)),
    "apron": ((92, 130, 72), (66, 98, 66)),
    "fur": ((242, 152, 62), (212, 110, 48)),
    "stripe": ((186, 88, 40), (186, 88, 40)),
    "belly": ((255, 244, 224), (236, 208, 178)),
    "nose": ((226, 112, 116), (226, 112, 116)),
    "eye": ((226, 240, 120), (180, 206, 84)),
}

NIGHT = multiplied(DAY, (120, 136, 206), keep=("glow", "eye"))

_PAPER: Pair = (PAPER, PAPER)
TONES: dict[str, Pair] = {
    "shell": (Tone(3.6, 0.2), Tone(3.6, 0.48)),
    "head": (PAPER, Tone(3.6, 0.16)),
    "visor": (INK, INK),
    "glow": _PAPER,
    "straw": (PAPER, Tone(3.6, 0.2)),
    "band": (INK, INK),
    "leaf": (Tone(3, 0.36), Tone(3, 0.55)),
    "tube": (PAPER, Tone(3.6, 0.25)),
    "boot": (INK, INK),
    "apron": (Tone(3, 0.42), Tone(3, 0.6)),
    "fur": (Tone(4.4, 0.12), Tone(4.4, 0.36)),
    "stripe": (INK, INK),
    "belly": _PAPER,
    "nose": (INK, INK),
    "eye": _PAPER,
}

Prop = Callable[[Pen], None]


def trowel(
    pen: Pen,
    colours: Palette,
    mood: str = "round",
    *,
    look: tuple[float, float] = (0, 0),
    left: tuple[float, float] = (-30, -30),
    right: tuple[float, float] = (30, -30),
    in_left: Prop | None = None,
    in_right: Prop | None = None,
    nod: float = 0,
    hat: bool = True,
) -> None:
    """Trowel from his boots up, 125 units tall, origin between his boots; `left` and `right` place his hands."""
    tube = colours["tube"][0]
    for x in (-11, 11):
        pen.tube(line((x, -24), (x * 1.05, -7)), (9, 9), tube, ribs=3)
        foot = curve([(x - 10, 0, 1), (x - 9, -7), (x - 1, -11), (x + 8, -7), (x + 11, 0, 1)])
        pen.shape(foot, *colours["boot"], depth=2)
    body = curve([(-19, -66), (0, -70), (19, -66), (24, -45), (21, -24), (0, -19), (-21, -24), (-24, -45)])
    pen.shape(body, *colours["shell"], depth=6)
    apron = curve(
        [(-14, -47, 1), (0, -45), (14, -47, 1), (17, -29), (12, -23), (0, -21), (-12, -23), (-17, -29)]
    )
    pen.shape(apron, *colours["apron"], depth=3, line=0.8)
    pen.stroke(curve([(-14, -47), (-17, -56), (-19, -62)], closed=False), (0.8, 0.8))
    pen.stroke(curve([(14, -47), (17, -56), (19, -62)], closed=False), (0.8, 0.8))
    pen.stroke(
        curve([(-8, -38, 1), (-7, -30), (0, -28), (7, -30), (8, -38, 1)], closed=False), (0.5, 0.9, 0.5)
    )
    pen.stroke(line((-8, -38), (8, -38)), (0.7, 0.7))
    pen.shape(curve([(0, -31, 1), (-4, -35), (0, -43, 1), (4, -35)]), *colours["leaf"], depth=1, line=0.6)
    for x, y in ((-8, -61), (0, -62.5), (8, -61)):
        pen.shape(oval(x, y, 1.5), colours["tube"][0], line=0.5)
    pen.tube(line((0, -67), (0, -74)), (11, 11), tube, ribs=2)
    trowel_head(pen.at(0, -74, turn=nod), colours, mood, look=look, hat=hat)
    for side, hand, prop in ((-1, left, in_left), (1, right, in_right)):
        _arm(pen, colours, side, hand, prop)


def _arm(pen: Pen, colours: Palette, side: int, hand: tuple[float, float], prop: Prop | None) -> None:
    shoulder = (side * 21.0, -58.0)
    reach = np.hypot(hand[0] - shoulder[0], hand[1] - shoulder[1])
    sag = max(3.0, 17 - reach * 0.25)
    elbow = ((shoulder[0] + hand[0]) / 2 + side * sag * 0.8, (shoulder[1] + hand[1]) / 2 + sag * 0.7)
    pen.shape(oval(*shoulder, 7.5), *colours["shell"], depth=2)
    pen.tube(curve([shoulder, elbow, hand], closed=False), (9, 8, 8), colours["tube"][0], ribs=6)
    angle = np.degrees(np.arctan2(hand[1] - elbow[1], hand[0] - elbow[0]))
    grip = pen.at(*hand, turn=float(angle))
    if prop:
        prop(pen.at(*hand))
    pen.shape(oval(*hand, 6.6), *colours["head"], depth=2)
    for turn in (-34, 4, 40):
        finger = grip.at(3, 0, turn=turn)
        finger.tube(line((1, 0), (6.5, 0)), (4.6, 4.4), colours["head"][0], line=0.8)
    grip.shape(oval(2.5, 0, 3.6, 4.6), colours["head"][0], line=0)


def trowel_head(
    pen: Pen, colours: Palette, mood: str = "round", *, look: tuple[float, float] = (0, 0), hat: bool = True
) -> None:
    """His head, origin at the neck: 52 units wide, 50 tall with the hat."""
    for side in (-1, 1):
        pen.shape(slab(side * 27 - 4, -25, side * 27 + 4, -9), *colours["band"], depth=2)
    pen.shape(slab(-26, -36, 26, 2, 3.2), *colours["head"], depth=5)
    pen.shape(slab(-20, -28, 20, -8, 3.4), *colours["visor"], depth=2.5, line=0.9)
    _visor_eyes(pen.at(look[0], -18 + look[1]), colours, mood)
    pen.stroke(
        curve([(-17, -22), (-15, -25.4), (-9, -26.2)], closed=False), (0.3, 0.9, 0.3), ink=(150, 160, 190)
    )
    for x in (-6, -2, 2, 6):
        pen.stroke(line((x, -4.6), (x, -1.2)), (0.7, 0.7))
    if hat:
        straw_hat(pen.at(0, -33), colours)


def _visor_eyes(pen: Pen, colours: Palette, mood: str) -> None:
    glow = colours["glow"][0]
    assert isinstance(glow, tuple)
    bright = pen.inked(glow)
    for side in (-1, 1):
        x = side * 9
        if mood == "happy":
            bright.stroke(curve([(x - 5, 2.5), (x, -4), (x + 5, 2.5)], closed=False), (1.2, 1.9, 1.2))
        elif mood == "flat":
            bright.stroke(line((x - 5, 0), (x + 5, 0)), (1.8, 1.8))
        elif mood == "squint":
            bright.stroke(line((x - side * 4, -4), (x + side * 1 - side * 5, 0), (x - side * 4, 4)), (1, 1))
            bright.stroke(line((x + side * 4, -4), (x - side * 3, 0), (x + side * 4, 4)), (1.5, 1.7, 1.5))
        elif mood == "worried":
            bright.shape(oval(x, 1, 4, 4.4), glow, line=0)
            bright.stroke(line((x - 5 * side, -7.6), (x + 5 * side, -5)), (1, 1.4, 1))
        elif mood == "wide":
            bright.shape(oval(x, 0, 6.2, 7), glow, line=0)
            pen.shape(oval(x, 0, 2.4, 2.8), colours["visor"][0], line=0)
        else:
            bright.shape(oval(x, 0, 4.2, 5.6), glow, line=0)


def straw_hat(pen: Pen, colours: Palette) -> None:
    """His hat with the seedling, origin at the middle of the brim."""
    brim = curve([(-40, 2), (-24, -4), (0, -5), (24, -4), (40, 2), (26, 7), (0, 8), (-26, 7)])
    pen.shape(brim, *colours["straw"], depth=3)
    crown = curve([(-21, 1, 1), (-19, -12), (-11, -20), (0, -21), (11, -20), (19, -12), (21, 1, 1), (0, 5)])
    pen.shape(crown, *colours["straw"], depth=5)
    band = curve([(-20.6, -6, 1), (0, -2), (20.6, -6, 1), (21, 1, 1), (0, 5), (-21, 1, 1)])
    pen.shape(band, *colours["band"], depth=2, line=0.8)
    for x, y, far in ((-14, -12, 8), (-3, -16, 9), (6, -11, 7), (-32, 1, 7), (24, 3, 8), (-6, 6.2, 9)):
        pen.stroke(curve([(x, y), (x + far / 2, y + 0.6), (x + far, y + 0.2)], closed=False), (0.2, 0.6, 0.2))
    seedling(pen.at(1, -20), colours)


def seedling(pen: Pen, colours: Palette) -> None:
    """Two leaves on a stalk, origin at the ground."""
    pen.tube(curve([(0, 0), (-1, -6), (1, -12)], closed=False), (2.6, 2), colours["leaf"][1], line=0.7)
    pen.shape(
        curve([(1, -12, 1), (-5, -20), (-14, -17, 1), (-9, -11)]), *colours["leaf"], depth=1.6, line=0.8
    )
    pen.shape(curve([(1, -12, 1), (6, -22), (17, -21, 1), (11, -12)]), *colours["leaf"], depth=1.6, line=0.8)
    pen.stroke(curve([(0, -12.5), (-6, -14.5), (-11, -16)], closed=False), (0.5, 0.2))
    pen.stroke(curve([(2, -13), (8, -17), (13, -19.5)], closed=False), (0.5, 0.2))


def pixel(
    pen: Pen,
    colours: Palette,
    mood: str = "calm",
    *,
    look: tuple[float, float] = (0, 0),
    nod: float = 0,
    tail: str = "up",
) -> None:
    """Pixel sitting, 62 units tall, origin on the ground between the front paws."""
    if tail == "up":
        way = curve([(12, -5), (26, -6), (32, -18), (27, -30), (32, -42)], closed=False)
    elif tail == "hang":
        way = curve([(10, -4), (20, -2), (23, 10), (19, 22), (25, 31)], closed=False)
    else:
        way = curve([(10, -5), (24, -2), (22, 3), (4, 3), (-10, 1)], closed=False)
    pen.tube(way, (6.5, 7.5, 7, 6.5), colours["fur"][0])
    for t in (0.35, 0.52, 0.69, 0.86):
        k = int(t * (len(way) - 1))
        along = way[k + 1] - way[k - 1]
        normal = np.array([-along[1], along[0]]) / np.linalg.norm(along) * 3
        pen.stroke(
            line(tuple(way[k] - normal), tuple(way[k] + normal)),
            (1.4, 2.2, 1.4),
            ink=_flat(colours, "stripe"),
        )
    body = curve([(-8, -36), (-13, -24), (-18, -9), (-15, 0), (0, 1), (15, 0), (18, -9), (13, -24), (8, -36)])
    pen.shape(body, *colours["fur"], depth=4)
    for side in (-1, 1):
        for y, far in ((-19, 5), (-14, 6.5), (-9, 6)):
            stripe = curve([(side * (14.5 - y * -0.12 + 2), y), (side * (14 - far), y + 1.5)], closed=False)
            pen.stroke(stripe, (2.2, 0.4), ink=_flat(colours, "stripe"))
    bib = curve([(-6, -32), (-7.5, -24), (-4, -15), (0, -12), (4, -15), (7.5, -24), (6, -32)])
    pen.shape(bib, *colours["belly"], depth=2, line=0)
    for side in (-1, 1):
        pen.stroke(
            curve([(side * 1.2, -13), (side * 1.6, -6), (side * 1.0, -2)], closed=False), (0.3, 0.9, 0.7)
        )
        paw = curve([(side * 1, 1), (side * 1, -4), (side * 6, -6), (side * 10.5, -3), (side * 10, 1.4)])
        pen.shape(paw, *colours["belly"], depth=1.5)
        for x in (4.2, 7.2):
            pen.stroke(line((side * x, -1.8), (side * x, 1.2)), (0.3, 0.8))
    pixel_head(pen.at(0, -34, turn=nod), colours, mood, look=look)


def pixel_head(pen: Pen, colours: Palette, mood: str = "calm", *, look: tuple[float, float] = (0, 0)) -> None:
    """The cat's head, origin at the chin's middle: 44 units wide, 34 tall with the ears."""
    head = curve(
        [
            (-17, -30, 1), (-9, -25.5), (0, -26.5), (9, -25.5), (17, -30, 1), (18.5, -20), (19, -13),
            (22.5, -7.5, 1), (19.4, -6), (19.8, -2.6, 1), (12.5, 2), (0, 4), (-12.5, 2), (-19.8, -2.6, 1),
            (-19.4, -6), (-22.5, -7.5, 1), (-19, -13), (-18.5, -20),
        ]
    )  # fmt: skip
    pen.shape(head, *colours["fur"], depth=3.2)
    for side in (-1, 1):
        ear = curve([(side * 15.8, -27, 1), (side * 16.4, -20), (side * 10.5, -23.2)])
        pen.shape(ear, colours["nose"][0] if colours is not TONES else PAPER, line=0.5)
        for y, tip in ((-9.5, 14.5), (-5.5, 14)):
            stripe = curve([(side * 18.2, y), (side * tip, y + 0.6)], closed=False)
            pen.stroke(stripe, (2.2, 0.3), ink=_flat(colours, "stripe"))
    for x, top, foot in ((-4.6, -25.6, -19.5), (0, -26, -17.5), (4.6, -25.6, -19.5)):
        pen.stroke(line((x, top), (x * 0.8, foot)), (2.4, 0.3), ink=_flat(colours, "stripe"))
    muzzle = curve([(0, -8.2), (5, -6.6), (10, -4), (9, 0.6), (0, 2.6), (-9, 0.6), (-10, -4), (-5, -6.6)])
    pen.shape(muzzle, *colours["belly"], depth=1, line=0)
    _cat_eyes(pen, colours, mood, look)
    pen.shape(curve([(-2.7, -7.6), (0, -8.2), (2.7, -7.6), (0, -4.8, 1)]), colours["nose"][0], line=0.7)
    _cat_mouth(pen, colours, mood)
    for side in (-1, 1):
        for y, drop in ((-5, -2.5), (-3.4, 0.6), (-1.8, 3.6)):
            pen.stroke(
                curve(
                    [(side * 8, y), (side * 18, y + drop * 0.4), (side * 28, y + drop * 1.6)], closed=False
                ),
                (0.7, 0.5, 0.15),
            )


def _cat_mouth(pen: Pen, colours: Palette, mood: str) -> None:
    if mood in ("sparkle", "wide"):
        mouth = curve([(-4.6, -2.8, 1), (0, -3.8, 1), (4.6, -2.8, 1), (3.8, 0.4), (0, 2.6), (-3.8, 0.4)])
        pen.shape(mouth, colours["band"][1], line=0.8)
    elif mood == "flat":
        pen.stroke(curve([(-4.5, -1.4), (0, -2.6), (4.5, -1.4)], closed=False), (0.5, 1, 0.5))
    else:
        pen.stroke(
            curve([(-6.5, -2.8), (-3.6, -0.6), (0, -3.2, 1), (3.6, -0.6), (6.5, -2.8)], closed=False),
            (0.4, 1, 1, 0.4),
        )
    if mood not in ("sparkle", "wide"):
        pen.stroke(line((0, -4.8), (0, -3)), (0.8, 0.8))


def _cat_eyes(pen: Pen, colours: Palette, mood: str, look: tuple[float, float]) -> None:
    for side in (-1, 1):
        x, y = side * 9.4, -13.2
        if mood in ("happy", "asleep"):
            rise = -3.6 if mood == "happy" else 2.6
            pen.stroke(
                curve([(x - 4.6, y + 1), (x, y + 1 + rise), (x + 4.6, y + 1)], closed=False), (0.7, 1.5, 0.7)
            )
        elif mood == "dizzy":
            pen.shape(oval(x, y, 5.4, 5.6), colours["eye"][0], line=0.9)
            turns = np.linspace(0, 4.6 * np.pi, 60)
            swirl = np.stack([x + turns / 3.1 * np.cos(turns), y + turns / 3.1 * np.sin(turns)], axis=1)
            pen.stroke(swirl, (0.6, 0.9, 0.7))
        else:
            wide = mood in ("wide", "sparkle")
            rx, ry = (5.6, 6.2) if wide else (4.8, 5.2)
            pen.shape(oval(x, y, rx, ry), *colours["eye"], depth=-1.4)
            px = x + look[0]
            pen.shape(oval(px, y + look[1], 3.9 if wide else 1.7, 4.7 if wide else 4.2), INK, line=0)
            pen.shape(oval(px - 1.4, y - 2 + look[1], 1.5 if wide else 0.9), PAPER, line=0)
            if mood == "sparkle":
                pen.shape(oval(px + 1.5, y + 2, 0.9), PAPER, line=0)
            if mood == "flat":
                lid = curve(
                    [(x - 6, y - 6.5, 1), (x + 6, y - 6.5, 1), (x + 5.4, y - 1, 1), (x - 5.4, y - 1, 1)]
                )
                pen.shape(lid, colours["fur"][0], line=0)
                pen.stroke(line((x - 5.6, y - 1), (x + 5.6, y - 1)), (0.8, 1.3, 0.8))


def _flat(colours: Palette, name: str) -> tuple[int, int, int]:
    paint = colours[name][0]
    assert isinstance(paint, tuple)
    return paint
