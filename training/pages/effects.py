"""What is no thing but a feeling: speed, focus, bursts, and patches of pure pattern."""

from __future__ import annotations

import numpy as np

from training.pages.hand import Hand, random_tone
from training.pages.paint import darker, glow, lighter
from training.pages.scenery import Frame, bricks
from training.pages.sheet import BLACK, WHITE, Colour
from training.pages.strokes import Points, blob, box, closed, curve, needles, oval, rulings, star, stroke
from training.pages.tones import fading, toned


def focus(hand: Hand, frame: Frame, *, ink: Colour | None = None) -> None:
    """Lines from the rim towards a point."""
    dice = hand.dice
    left, top, right, bottom = frame
    rng = np.random.default_rng(dice.getrandbits(32))
    centre = (
        np.array([dice.uniform(left, right), dice.uniform(top, bottom)]) * 0.4
        + np.array([left + right, top + bottom]) * 0.3
    )
    count, reach = dice.randint(60, 320), np.hypot(right - left, bottom - top)
    angles = np.sort(rng.uniform(0, 2 * np.pi, count))
    way = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    inner = np.hypot(right - left, bottom - top) * dice.uniform(0.15, 0.3) * rng.uniform(0.7, 1.3, (count, 1))
    oblong = np.array([1, (bottom - top) / max(right - left, 1)])
    width = rng.uniform(0.4, 1, count) * dice.uniform(1, 14) * hand.manner.detail
    hand.sheet.fill(
        needles(centre + way * reach, centre + way * inner * oblong, width),
        hand.inked() if ink is None else ink,
    )


def speed(hand: Hand, frame: Frame, *, ink: Colour | None = None) -> None:
    """Parallel lines of a fast movement."""
    dice = hand.dice
    left, top, right, bottom = frame
    rng = np.random.default_rng(dice.getrandbits(32))
    count = dice.randint(30, 220)
    angle = dice.choice((0, np.pi / 2, dice.uniform(0, np.pi)))
    way = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-way[1], way[0]])
    reach = np.hypot(right - left, bottom - top)
    at = (
        np.array([(left + right) / 2, (top + bottom) / 2])
        + across * rng.uniform(-0.6, 0.6, (count, 1)) * reach
    )
    start = at - way * reach * rng.uniform(0.3, 0.7, (count, 1))
    end = at + way * reach * rng.uniform(-0.3, 0.7, (count, 1))
    width = rng.uniform(0.25, 1, count) ** 2 * dice.uniform(1, 6) * hand.manner.detail
    hand.sheet.fill(needles(start, end, width), hand.inked() if ink is None else ink)


def burst(hand: Hand, frame: Frame) -> None:
    """An explosion: spikes within spikes, smoke and splinters."""
    dice = hand.dice
    left, top, right, bottom = frame
    x, y, w, h = (left + right) / 2, (top + bottom) / 2, (right - left) / 2, (bottom - top) / 2
    colours = (hand.colour("roof"), hand.colour("glow"), WHITE)
    for k, colour in zip((0.9, 0.65, 0.4), colours, strict=True):
        hand.shape(star(x, y, w * k, h * k, dice.randint(9, 26), 0.4, dice), colour, 1.5)
    for _ in range(dice.randint(3, 9)):
        hand.shape(
            blob(
                dice.uniform(left, right),
                dice.uniform(top, bottom),
                w * 0.2,
                h * 0.15,
                dice.randint(5, 11),
                0.3,
                dice,
            ),
            hand.colour("haze"),
            1,
            shade=True,
        )
    shards = [
        star(dice.uniform(left, right), dice.uniform(top, bottom), 6, 4, 3, 0.5, dice)
        for _ in range(dice.randint(8, 40))
    ]
    hand.solid(shards)


def rings(hand: Hand, frame: Frame) -> None:
    """Concentric circles at changing distances, as echoes or as a dazzle."""
    dice = hand.dice
    left, top, right, bottom = frame
    hand.fill([box(*frame)], hand.colour("haze"))
    x, y = dice.uniform(left, right), dice.uniform(top, bottom)
    step, growth, r = dice.uniform(2, 8) * hand.manner.detail, dice.uniform(1, 1.05), 2.0
    circles: list[Points] = []
    while r < np.hypot(right - left, bottom - top) and len(circles) < 120:
        circles.append(closed(oval(x, y, r, r * dice.uniform(0.995, 1.005))))
        r, step = r + step, step * growth
    hand.lines(circles, min(0.7, 0.3 * step / hand.weight), "even")


def aura(hand: Hand, frame: Frame) -> None:
    """Light from somewhere, with sparkles in it."""
    dice = hand.dice
    left, top, right, bottom = frame
    x, y = dice.uniform(left, right), dice.uniform(top, bottom)
    reach = max(right - left, bottom - top)
    if hand.manner.medium in ("flat", "soft", "paint"):
        hand.sheet.fill(
            [box(*frame)],
            glow(x, y, reach * 0.7, lighter(hand.colour("glow"), 0.6), darker(hand.colour("sky"), 0.3)),
        )
    elif hand.manner.medium == "screentone":
        hand.sheet.fill(
            [box(*frame)],
            fading(
                random_tone(dice, hand.manner.detail), (left, top, 0.85), (right, bottom, 0.0), BLACK, WHITE
            ),
        )
    else:
        hand.fill([box(*frame)], hand.colour("sky"))
    sparkles = []
    for _ in range(dice.randint(6, 40)):
        a, b, r = dice.uniform(left, right), dice.uniform(top, bottom), dice.uniform(2, 14)
        sparkles.append(
            np.array(
                [
                    [a, b - r],
                    [a + r * 0.12, b - r * 0.12],
                    [a + r, b],
                    [a + r * 0.12, b + r * 0.12],
                    [a, b + r],
                    [a - r * 0.12, b + r * 0.12],
                    [a - r, b],
                    [a - r * 0.12, b - r * 0.12],
                ]
            )
        )
        sparkles.append(oval(dice.uniform(left, right), dice.uniform(top, bottom), dice.uniform(0.5, 4)))
    hand.white(sparkles)


def patches(hand: Hand, frame: Frame) -> None:
    """A quilt of patterns: every tone, hatch, weave and curve beside the others."""
    dice = hand.dice
    left, top, right, bottom = frame
    columns, rows = dice.randint(2, 4), dice.randint(2, 4)
    w, h = (right - left) / columns, (bottom - top) / rows
    for i in range(columns):
        for j in range(rows):
            cell = box(left + w * i, top + h * j, left + w * (i + 1), top + h * (j + 1))
            _patch(hand, cell)
            hand.lines([closed(cell)], 1, "even")


def _patch(hand: Hand, cell: Points) -> None:
    dice, detail = hand.dice, hand.manner.detail
    kind = dice.choice(
        ("tone", "fade", "hatch", "cross", "stipple", "bricks", "scales", "curls", "fur", "checks", "colour")
    )
    (left, top), (right, bottom) = cell.min(axis=0), cell.max(axis=0)
    colour = hand.colour(dice.choice(("cloth", "trim", "leaf", "roof", "metal")))
    hand.fill([cell], colour if kind == "colour" or not hand.manner.gray else WHITE)
    ink, paper = hand.manner.ink, (WHITE if hand.manner.gray else lighter(colour, 0.5))
    if kind == "tone":
        hand.sheet.fill([cell], toned(random_tone(dice, detail), dice.uniform(0.05, 0.9), ink, paper))
    elif kind == "fade":
        hand.sheet.fill(
            [cell],
            fading(
                random_tone(dice, detail),
                (left, top, dice.random()),
                (right, bottom, dice.random()),
                ink,
                paper,
            ),
        )
    elif kind in ("hatch", "cross"):
        hand.hatch(cell, dice.uniform(0.15, 0.7), cross=kind == "cross")
    elif kind == "stipple":
        hand.stipple(cell, dice.randint(80, 600), 1.2)
    elif kind == "bricks":
        bricks(hand, cell, dice.uniform(4, 12) * detail)
    elif kind == "scales":
        size = dice.uniform(4, 12) * detail
        arcs = [
            oval(x + size * (r % 2) / 2, y, size / 2, start=0, sweep=np.pi)
            for r, y in enumerate(np.arange(top, bottom, size / 2))
            for x in np.arange(left, right + size, size)
        ]
        hand.lines(arcs[:900], 0.5, "even", within=cell)
    elif kind == "curls":
        hand.lines(
            [_curl(hand, left, top, right, bottom) for _ in range(dice.randint(10, 60))],
            0.8,
            "both",
            within=cell,
        )
    elif kind == "fur":
        _fur(hand, cell)
    elif kind == "checks":
        size = dice.uniform(2, 10) * detail
        squares = [
            box(x, y, x + size, y + size)
            for r, y in enumerate(np.arange(top, bottom, size))
            for x in np.arange(left + size * (r % 2), right, size * 2)
        ]
        hand.sheet.fill(squares[:2500], ink, within=cell)


def _curl(hand: Hand, left: float, top: float, right: float, bottom: float) -> Points:
    dice = hand.dice
    x, y, r = dice.uniform(left, right), dice.uniform(top, bottom), dice.uniform(5, 30)
    t = np.linspace(0.2, 1, 30)
    a = t * dice.uniform(3, 14) + dice.uniform(0, 6)
    return np.stack([x + r * t * np.cos(a), y + r * t * np.sin(a)], axis=1)


def _fur(hand: Hand, cell: Points) -> None:
    dice = hand.dice
    (left, top), (right, bottom) = cell.min(axis=0), cell.max(axis=0)
    hairs = []
    for _ in range(int(min((right - left) * (bottom - top) / 30, 320))):
        x, y, way = dice.uniform(left, right), dice.uniform(top, bottom), dice.gauss(1.2, 0.3)
        length = dice.uniform(6, 18) * hand.manner.detail
        tip = [x + length * np.cos(way), y + length * np.sin(way)]
        hairs += stroke(
            curve([[x, y], [(x + tip[0]) / 2 + 2, (y + tip[1]) / 2], tip], steps=3),
            hand.weight * 0.6,
            "out",
            dice,
        )
    hand.sheet.fill(hairs, hand.inked(), within=cell)
    if dice.random() < 0.3:
        hand.sheet.fill(rulings(cell, 9, 1.2, 0.8, dice, jitter=0.4), WHITE, within=cell)
