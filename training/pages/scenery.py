"""Places and things: streets, rooms, woods, water, machines, and the sky over them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np

from training.pages.hand import Hand
from training.pages.paint import darker, faded, glow, lighter
from training.pages.sheet import BLACK, WHITE, luma
from training.pages.strokes import (
    Points,
    blob,
    box,
    closed,
    curve,
    disc,
    line,
    needles,
    outlined,
    oval,
    points,
)

Frame = tuple[float, float, float, float]


def sky(hand: Hand, frame: Frame) -> None:
    """Sky over the whole frame: flat, fading, or with the sun in it, and clouds."""
    dice = hand.dice
    left, top, right, bottom = frame
    colour, haze = hand.colour("sky"), hand.colour("haze")
    if hand.manner.medium in ("flat", "soft", "paint") and dice.random() < 0.6:
        blend = faded((left, top), (left, bottom), colour, haze)
        if dice.random() < 0.3:
            blend = glow(
                dice.uniform(left, right),
                dice.uniform(top, bottom),
                (right - left) * 0.6,
                lighter(haze, 0.4),
                colour,
            )
        hand.sheet.fill([box(*frame)], blend)
    else:
        hand.fill([box(*frame)], colour)
    if luma(colour) < 90:
        _stars(hand, frame)
    elif dice.random() < 0.6:
        for _ in range(dice.randint(1, 4)):
            cloud(
                hand,
                dice.uniform(left, right),
                dice.uniform(top, (top + bottom) / 2),
                (right - left) * dice.uniform(0.08, 0.25),
            )


def cloud(hand: Hand, x: float, y: float, size: float) -> None:
    """A cloud."""
    area = blob(x, y, size, size * hand.dice.uniform(0.3, 0.6), hand.dice.randint(6, 13), 0.3, hand.dice)
    hand.shape(
        area,
        hand.dice.choice((WHITE, lighter(hand.colour("sky"), 0.7))),
        hand.dice.choice((0, 0.7, 1)),
        shade=hand.dice.random() < 0.5,
    )


def street(hand: Hand, frame: Frame) -> None:
    """Buildings with windows, side by side, some with a side in shadow."""
    dice = hand.dice
    left, top, right, bottom = frame
    sky(hand, frame)
    x = left - 20
    while x < right:
        wide = dice.uniform(0.12, 0.35) * (right - left)
        roof = top + (bottom - top) * dice.uniform(0.05, 0.6)
        _building(
            hand, x, roof, x + wide, bottom, hand.colour(dice.choice(("wall", "roof", "metal", "wood")))
        )
        x += wide * dice.uniform(0.8, 1.3)
    if dice.random() < 0.4:
        wires = [
            curve(
                [[left, y], [(left + right) / 2, y + dice.uniform(8, 40)], [right, y + dice.uniform(-30, 30)]]
            )
            for y in np.linspace(top + 4, top + 40, dice.randint(2, 5))
        ]
        hand.lines(wires, 0.6, "even")


def room(hand: Hand, frame: Frame) -> None:
    """A room in perspective: floor, walls, a window, shelves."""
    dice = hand.dice
    left, top, right, bottom = frame
    eye = np.array([dice.uniform(left, right), top + (bottom - top) * dice.uniform(0.3, 0.55)])
    back = [
        np.array(c) + (eye - np.array(c)) * dice.uniform(0.45, 0.6)
        for c in ((left, top), (right, top), (right, bottom), (left, bottom))
    ]
    x0, y0, x1, y1 = back[0][0], max(back[0][1], back[1][1]), back[1][0], min(back[2][1], back[3][1])
    if x1 < x0 + 4 or y1 < y0 + 4:
        x0, x1, y0, y1 = left + 20, right - 20, top + 20, bottom - 40
    wall, floor = hand.colour("wall"), hand.colour("wood")
    hand.shape(points((left, bottom), (x0, y1), (x1, y1), (right, bottom)), floor)
    hand.shape(points((left, top), (x0, y0), (x0, y1), (left, bottom)), darker(wall, 0.15))
    hand.shape(points((right, top), (x1, y0), (x1, y1), (right, bottom)), darker(wall, 0.3))
    hand.shape(points((left, top), (x0, y0), (x1, y0), (right, top)), lighter(wall, 0.4))
    hand.shape(box(x0, y0, x1, y1), wall)
    count = dice.randint(6, 22)
    boards = [
        np.array([a, b])
        for a, b in zip(
            np.linspace([x0, y1], [x1, y1], count),
            np.linspace([left - 90, bottom], [right + 90, bottom], count),
            strict=True,
        )
    ]
    if dice.random() < 0.6:
        boards += [
            line((left - 90, y), (right + 90, y))
            for y in y1 + (bottom - y1) * np.linspace(0, 1, dice.randint(4, 9)) ** 1.8
        ]
    hand.lines(boards, 0.5, "even", within=points((left, bottom), (x0, y1), (x1, y1), (right, bottom)))
    w, h = x1 - x0, y1 - y0
    window = box(x0 + w * 0.12, y0 + h * 0.15, x0 + w * 0.5, y0 + h * 0.65)
    hand.shape(window, hand.colour("sky"), 1.4)
    hand.lines(
        [
            line((x0 + w * 0.31, y0 + h * 0.15), (x0 + w * 0.31, y0 + h * 0.65)),
            line((x0 + w * 0.12, y0 + h * 0.4), (x0 + w * 0.5, y0 + h * 0.4)),
        ],
        1,
        "even",
    )
    _shelf(hand, x0 + w * 0.58, y0 + h * 0.1, x0 + w * 0.94, y1)


def wood(hand: Hand, frame: Frame) -> None:
    """Hills, trees and grass."""
    dice = hand.dice
    left, top, right, bottom = frame
    sky(hand, frame)
    for k in range(dice.randint(1, 3)):
        y = top + (bottom - top) * (0.4 + 0.15 * k)
        ridge = curve(
            [
                [left - 10, y],
                *(
                    [left + (right - left) * t, y + dice.uniform(-0.12, 0.12) * (bottom - top)]
                    for t in (0.25, 0.5, 0.75)
                ),
                [right + 10, y],
            ]
        )
        hill = np.vstack([ridge, [[right + 10, bottom + 9], [left - 10, bottom + 9]]])
        hand.shape(hill, lighter(hand.colour("leaf"), 0.45 - 0.2 * k), 0.9)
    for _ in range(dice.randint(1, 5)):
        tree(
            hand,
            dice.uniform(left, right),
            dice.uniform(top + (bottom - top) * 0.6, bottom),
            (bottom - top) * dice.uniform(0.3, 0.7),
        )
    grass(hand, (left, bottom - (bottom - top) * 0.2, right, bottom + 6))


def tree(hand: Hand, x: float, foot: float, height: float) -> None:
    """A tree: trunk, crown, leaves and bark."""
    dice = hand.dice
    wide = height * dice.uniform(0.05, 0.1)
    top = foot - height * 0.55
    trunk = curve(
        [
            [x - wide, foot],
            [x - wide * 0.6, (foot + top) / 2],
            [x - wide * 0.5, top],
            [x + wide * 0.5, top],
            [x + wide * 0.6, (foot + top) / 2],
            [x + wide, foot],
        ]
    )
    hand.shape(trunk, hand.colour("wood"), 1, shade=True)
    bark = [
        line(
            (x + wide * t, foot - height * 0.05), (x + wide * t * 0.6, top + height * dice.uniform(0, 0.3)), 6
        )
        for t in np.linspace(-0.6, 0.6, 5)
    ]
    hand.lines(bark, 0.5, "both", within=trunk)
    leaf = hand.colour("leaf")
    for k in range(dice.randint(2, 4)):
        r = height * dice.uniform(0.18, 0.32)
        crown = blob(
            x + dice.uniform(-0.3, 0.3) * height * 0.8,
            top - dice.uniform(-0.05, 0.3) * height,
            r,
            r * 0.8,
            dice.randint(8, 18),
            0.2,
            dice,
        )
        hand.shape(crown, darker(leaf, 0.12 * (k % 2)), 1, shade=True)
        _leaves(hand, crown, int(min(r * 1.2, 60)))


def grass(hand: Hand, frame: Frame) -> None:
    """Blades of grass over a strip."""
    dice = hand.dice
    left, top, right, bottom = frame
    rng = np.random.default_rng(dice.getrandbits(32))
    count = int(min((right - left) * 0.6, 260))
    roots = np.stack([rng.uniform(left, right, count), rng.uniform(top, bottom, count)], axis=1)
    tips = roots + np.stack([rng.normal(0, 5, count), -rng.uniform(6, 26, count)], axis=1)
    hand.sheet.fill(
        needles(roots, tips, rng.uniform(0.8, 2.4, count) * hand.manner.detail),
        hand.inked(hand.colour("leaf")),
    )


def water(hand: Hand, frame: Frame) -> None:
    """The sea, a horizon, the light on the waves."""
    dice = hand.dice
    left, top, right, bottom = frame
    sky(hand, frame)
    level = top + (bottom - top) * dice.uniform(0.3, 0.6)
    if dice.random() < 0.6:
        hand.shape(
            oval(dice.uniform(left, right), level - (bottom - top) * 0.12, (bottom - top) * 0.1),
            hand.colour("glow"),
            0.8,
        )
    sea = box(left - 5, level, right + 5, bottom + 5)
    hand.shape(sea, darker(hand.colour("sky"), 0.35), 0.8)
    waves: list[Points] = []
    lights: list[Points] = []
    for _ in range(dice.randint(50, 160)):
        y = level + (bottom - level) * dice.random() ** 1.5
        near = 0.1 + (y - level) / max(bottom - level, 1)
        x, wide = dice.uniform(left, right), near * dice.uniform(10, 70)
        path = curve(
            [
                [x - wide, y],
                [x - wide / 2, y - near * 5],
                [x, y],
                [x + wide / 2, y - near * 4],
                [x + wide, y],
            ],
            steps=4,
        )
        (waves if dice.random() < 0.5 else lights).append(path)
    hand.lines(waves, 0.7, "both")
    hand.sheet.fill(
        [
            piece
            for path in lights
            for piece in outlined(path, np.sin(np.linspace(0, np.pi, len(path))) * 2.2 * hand.manner.detail)
        ],
        WHITE,
    )


def machine(hand: Hand, frame: Frame) -> None:
    """Plates, rivets, pipes, gears, dials and grilles."""
    dice = hand.dice
    left, top, right, bottom = frame
    metal = hand.colour("metal")
    hand.fill([box(*frame)], darker(metal, dice.choice((0, 0.3, 0.7))))
    w, h = right - left, bottom - top
    for _ in range(dice.randint(3, 8)):
        x, y = dice.uniform(left, right), dice.uniform(top, bottom)
        a, b = w * dice.uniform(0.06, 0.25), h * dice.uniform(0.06, 0.25)
        plate = box(x - a, y - b, x + a, y + b)
        hand.shape(
            plate,
            dice.choice((metal, hand.colour("trim"), lighter(metal, 0.5))),
            1.1,
            shade=dice.random() < 0.5,
        )
        corners = plate + np.sign([x, y] - plate) * 4 * hand.manner.detail
        hand.lines([closed(disc(c, 1.6 * hand.manner.detail)) for c in corners], 0.5, "even")
        if dice.random() < 0.5:
            slots = [
                box(x - a * 0.6, v, x + a * 0.6, v + b * 0.07)
                for v in np.linspace(y - b * 0.6, y + b * 0.6, dice.randint(3, 9))
            ]
            hand.solid(slots)
    for _ in range(dice.randint(1, 4)):
        _pipe(hand, frame)
    for _ in range(dice.randint(1, 4)):
        gear(hand, dice.uniform(left, right), dice.uniform(top, bottom), min(w, h) * dice.uniform(0.08, 0.28))


def gear(hand: Hand, x: float, y: float, size: float) -> None:
    """A gear wheel or a dial."""
    dice = hand.dice
    teeth = dice.randint(8, 28)
    a = np.linspace(0, 2 * np.pi, teeth * 4, endpoint=False)
    r = size * np.tile([1, 1, 0.84, 0.84], teeth)
    hand.shape(np.stack([x + r * np.cos(a), y + r * np.sin(a)], axis=1), hand.colour("metal"), 1, shade=True)
    hand.lines(
        [closed(oval(x, y, size * k)) for k in np.linspace(0.2, 0.74, dice.randint(2, 7))], 0.7, "even"
    )
    ticks = [
        np.array([[x + size * k * np.cos(t), y + size * k * np.sin(t)] for k in (0.6, 0.72)])
        for t in np.linspace(0, 2 * np.pi, 37)
    ]
    hand.lines(ticks, 0.5, "even")
    hand.shape(oval(x, y, size * 0.16), dice.choice((WHITE, BLACK, hand.colour("glow"))), 0.8)


def bricks(hand: Hand, area: Points, size: float) -> None:
    """The joints of a brick wall over an area, some bricks filled."""
    left, top, right, bottom = (float(v) for v in (*area.min(axis=0), *area.max(axis=0)))
    joints, dark = [], []
    for row, y in enumerate(np.arange(top, bottom, size)):
        joints.append(line((left, y), (right, y), 2))
        for x in np.arange(left - size * (row % 2), right, size * 2):
            joints.append(line((x, y), (x, y + size)))
            if hand.dice.random() < 0.08:
                dark.append(box(x, y, x + size * 2, y + size))
    hand.sheet.fill(dark, hand.inked(), within=area, opacity=1 if hand.manner.gray else 0.4)
    hand.lines(joints, 0.45, "even", within=area)


def _building(
    hand: Hand, left: float, top: float, right: float, bottom: float, colour: tuple[int, int, int]
) -> None:
    dice = hand.dice
    front = box(left, top, right, bottom + 5)
    hand.shape(front, colour, 1)
    depth = (right - left) * dice.uniform(0.1, 0.3)
    rise = depth * dice.uniform(-0.6, 0.6)
    side = points((right, top), (right + depth, top + rise), (right + depth, bottom + 5), (right, bottom + 5))
    hand.shape(side, darker(colour, 0.45), 1)
    if dice.random() < 0.3:
        bricks(hand, front, dice.uniform(4, 9) * hand.manner.detail)
    columns, rows = dice.randint(2, 7), max(int((bottom - top) / dice.uniform(14, 40)), 1)
    w, h = (right - left) / columns, (bottom - top) / rows
    panes = [
        box(left + w * (i + 0.25), top + h * (j + 0.2), left + w * (i + 0.75), top + h * (j + 0.75))
        for i in range(columns)
        for j in range(min(rows, 24))
    ]
    lit = [p for p in panes if dice.random() < 0.4]
    glass = hand.colour(dice.choice(("sky", "glow", "trim")))
    hand.sheet.fill(panes, BLACK if dice.random() < 0.5 else darker(colour, 0.5))
    hand.fill(lit, glass)
    hand.lines([closed(p) for p in panes], 0.5, "even")
    if dice.random() < 0.5:
        hand.shape(box(left - 3, top - 5, right + 3, top + 2), lighter(colour, 0.3), 0.9)


def _shelf(hand: Hand, left: float, top: float, right: float, bottom: float) -> None:
    dice = hand.dice
    hand.shape(box(left, top, right, bottom), hand.colour("wood"), 1)
    levels = np.linspace(top, bottom, dice.randint(3, 7))
    for y0, y1 in pairwise(levels):
        x = left + 2
        while x < right - 4:
            wide = min(dice.uniform(2.5, 8), right - x - 1)
            book = box(x, y0 + (y1 - y0) * dice.uniform(0.1, 0.4), x + wide, y1)
            hand.shape(book, hand.colour(dice.choice(("cloth", "trim", "roof", "leaf", "haze"))), 0.5)
            x += wide
        hand.lines([line((left, y1), (right, y1), 2)], 1, "even")


def _leaves(hand: Hand, crown: Points, count: int) -> None:
    dice = hand.dice
    low, span = crown.min(axis=0), np.ptp(crown, axis=0)
    arcs = []
    for _ in range(count):
        x, y = low + span * [dice.random(), dice.random()]
        arcs.append(oval(x, y, dice.uniform(2, 5), start=dice.uniform(0, 6), sweep=dice.uniform(1.5, 3)))
    hand.lines(arcs, 0.55, "both", hand.colour("leaf"), within=crown)


def _pipe(hand: Hand, frame: Frame) -> None:
    dice = hand.dice
    left, top, right, bottom = frame
    wide = dice.uniform(5, 24) * hand.manner.detail
    x, y = dice.uniform(left, right), dice.uniform(top, bottom)
    route = (
        points((left - 9, y), (x, y), (x, bottom + 9))
        if dice.random() < 0.5
        else points((x, top - 9), (x, y), (right + 9, y))
    )
    _tube(hand, route, wide)
    for at in (0.3, 0.7):
        cx, cy = route[0] + (route[1] - route[0]) * at
        level = abs(route[1, 1] - route[0, 1]) < 1
        half = (2.5, wide * 0.65) if level else (wide * 0.65, 2.5)
        hand.shape(box(cx - half[0], cy - half[1], cx + half[0], cy + half[1]), hand.colour("trim"), 0.9)


def _tube(hand: Hand, route: Points, wide: float) -> None:
    metal, edge = hand.colour("metal"), hand.weight * 2
    bend = np.vstack(
        [line(tuple(route[0]), tuple(route[1]), 6), line(tuple(route[1]), tuple(route[2]), 6)[1:]]
    )
    for width, colour in ((wide + edge, None), (wide, metal), (wide * 0.25, lighter(metal, 0.7))):
        pieces: Iterable[Points] = outlined(bend, width)
        hand.sheet.fill(list(pieces), hand.inked() if colour is None else colour)


def _stars(hand: Hand, frame: Frame) -> None:
    dice = hand.dice
    left, top, right, bottom = frame
    detail = hand.manner.detail
    spots = [
        oval(dice.uniform(left, right), dice.uniform(top, bottom), detail * dice.choice((0.3, 0.5, 0.7, 1.2)))
        for _ in range(dice.randint(40, 220))
    ]
    hand.white(spots)
    if dice.random() < 0.5:
        x, y, r = (
            dice.uniform(left, right),
            dice.uniform(top, (top + bottom) / 2),
            (right - left) * dice.uniform(0.05, 0.12),
        )
        hand.fill([oval(x, y, r)], hand.colour("glow"))
