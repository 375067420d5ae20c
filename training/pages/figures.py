"""The people of the pages: faces, eyes, hair, and whole figures, simple but in many kinds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import TypeAlias

import numpy as np

from training.pages.hand import Hand
from training.pages.paint import darker, lighter
from training.pages.sheet import BLACK, WHITE, Colour
from training.pages.strokes import Points, box, by, curve, line, oval, placed, points, stroke

_Put: TypeAlias = Callable[[Points], Points]

_HEAD = curve(
    points(
        (-0.72, -0.3),
        (-0.69, 0.2),
        (-0.45, 0.66),
        (0, 0.96),
        (0.45, 0.66),
        (0.69, 0.2),
        (0.72, -0.3),
        (0, -0.95),
    ),
    closed=True,
    steps=14,
)


def face(hand: Hand, x: float, y: float, size: float, *, small: bool = False, bust: bool = True) -> None:
    """A head, on neck and shoulders if asked; `size` is half the head's height."""
    dice, turn, flip = hand.dice, hand.dice.gauss(0, 0.12), hand.dice.random() < 0.5
    skin, hair, cloth = hand.colour("skin"), hand.colour("hair"), hand.colour("cloth")

    def put(shape: Points) -> Points:
        return placed(shape, x, y, size, turn, flip=flip)

    light = 0.6 if small else 1
    look = dice.uniform(-0.16, 0.16)
    if dice.random() < 0.7:
        hand.shape(put(_mane(dice)), hair, light)
    if bust:
        _bust(hand, put, cloth, skin, light)
    ears = [put(oval(side * 0.72, 0.12, 0.13, 0.22)) for side in (-1, 1)]
    for ear in ears:
        hand.shape(ear, skin, 0.8 * light)
    head = put(_HEAD * [dice.uniform(0.9, 1.08), dice.uniform(0.92, 1.04)])
    hand.shape(head, skin, 1.2 * light, shade=dice.random() < 0.6)
    if small:
        hand.solid([put(oval(s * 0.3 + look, 0.14, 0.07, 0.1)) for s in (-1, 1)])
    else:
        _features(hand, put, look, size)
    _fringe(hand, put, hair, light, size)


def eyes(hand: Hand, x: float, y: float, size: float) -> None:
    """A pair of eyes, close to."""
    style = hand.dice.choice(("large", "narrow", "large"))
    for side in (-1, 1):
        _eye(hand, partial(placed, x=x + side * size * 1.3, y=y, size=size * 1.6, flip=side < 0), 0, style)
        brow = curve(points((-0.55, -0.5), (-0.05, -0.68), (0.5, -0.62)))
        hand.lines([placed(brow, x + side * size * 1.3, y, size * 1.4, 0, flip=side < 0)], 3, "both")


def figure(hand: Hand, x: float, foot: float, height: float) -> None:
    """A person standing, walking or pointing, with their feet at (x, foot)."""
    dice, u = hand.dice, height / 8
    cloth, trim, skin = hand.colour("cloth"), hand.colour("trim"), hand.colour("skin")
    lean, stride = dice.uniform(-0.5, 0.5), dice.uniform(0.2, 1.3)
    hip, neck = np.array([x, foot - 4 * u]), np.array([x + lean * u, foot - 6.7 * u])
    for side in (-1, 1):
        knee = hip + by(side * stride * u * 0.7, 2 * u)
        _limb(hand, [hip, knee, np.array([x + side * stride * u, foot])], (0.95 * u, 0.7 * u, 0.5 * u), trim)
        hand.solid([oval(x + side * stride * u + 0.25 * u, foot, 0.55 * u, 0.24 * u)])
    back, front = dice.uniform(0.3, 2.6), dice.uniform(-0.6, 2.6)
    _arm(hand, neck + by(-0.75 * u, 0.3 * u), u, np.pi - back, cloth, skin)
    waist, broad = (neck * 0.4 + hip * 0.6), dice.uniform(0.75, 1.05) * u
    right = [
        neck + by(0.3 * u, 0),
        neck + by(broad, 0.25 * u),
        waist + by(broad * 0.7, 0),
        hip + by(broad * 0.8, 0.3 * u),
    ]
    left = [
        hip + by(-broad * 0.8, 0.3 * u),
        waist + by(-broad * 0.7, 0),
        neck + by(-broad, 0.25 * u),
        neck + by(-0.3 * u, 0),
    ]
    torso = np.vstack([curve(right, steps=5), curve(left, steps=5)])
    hand.shape(torso, cloth, 1, shade=True)
    if dice.random() < 0.5:
        hand.lines([np.array([neck, hip])], 0.6)
    _arm(hand, neck + by(0.75 * u, 0.3 * u), u, front, cloth, skin)
    hand.shape(box(neck[0] - 0.25 * u, neck[1] - 0.4 * u, neck[0] + 0.25 * u, neck[1] + 0.15 * u), skin, 0.8)
    face(hand, float(neck[0]), float(neck[1] - 0.75 * u), 0.8 * u, small=u < 16, bust=False)


def crowd(hand: Hand, left: float, right: float, y: float, size: float) -> None:
    """Heads side by side, row before row."""
    for row in range(hand.dice.randint(1, 3)):
        x = left - size * hand.dice.random()
        while x < right + size:
            face(
                hand,
                x,
                y + row * size * 1.3 + hand.dice.uniform(-0.2, 0.2) * size,
                size * 0.75,
                small=size < 22,
            )
            x += size * hand.dice.uniform(1.4, 2)


def _arm(hand: Hand, shoulder: Points, u: float, angle: float, cloth: Colour, skin: Colour) -> None:
    bend = angle - hand.dice.uniform(0, 1.2)
    elbow = shoulder + 1.4 * u * np.array([np.cos(angle), np.sin(angle)])
    wrist = elbow + 1.3 * u * np.array([np.cos(bend), np.sin(bend)])
    _limb(hand, [shoulder, elbow, wrist], (0.6 * u, 0.5 * u, 0.4 * u), cloth)
    hand.shape(oval(wrist[0], wrist[1], 0.32 * u, 0.26 * u, turn=bend), skin, 0.8)


def _limb(hand: Hand, joints: list[Points], wide: tuple[float, float, float], colour: Colour) -> None:
    path = curve(joints, steps=6)
    ahead = np.gradient(path, axis=0)
    side = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1) / np.maximum(np.hypot(*ahead.T), 1e-9)[:, None]
    half = np.interp(np.linspace(0, 2, len(path)), [0, 1, 2], wide)[:, None] / 2
    hand.shape(
        np.vstack([path + side * half, (path - side * half)[::-1]]), colour, 1, shade=hand.dice.random() < 0.4
    )


def _bust(hand: Hand, put: _Put, cloth: Colour, skin: Colour, light: float) -> None:
    neck = put(points((-0.28, 0.6), (0.28, 0.6), (0.34, 1.5), (-0.34, 1.5)))
    wide = hand.dice.uniform(1.2, 1.7)
    coat = put(
        curve(
            points(
                (-0.34, 1.2),
                (0, 1.45),
                (0.34, 1.2),
                (wide, 1.6),
                (wide + 0.2, 4),
                (-wide - 0.2, 4),
                (-wide, 1.6),
            ),
            closed=True,
        )
    )
    hand.shape(neck, skin, 0.9 * light, shade=True)
    hand.shape(coat, cloth, 1.1 * light, shade=True)
    folds = [
        put(curve([[s * 0.5 * wide, 1.9], [s * 0.55 * wide, 2.3], [s * 0.4 * wide, 3]])) for s in (-1, 1)
    ]
    hand.lines([put(line((0, 1.5), (0.05, 4), 4)), *folds], 0.7 * light)


def _mane(dice: Random) -> Points:
    long = dice.uniform(0.3, 2.6)
    return curve(
        points(
            (-0.95, -0.2),
            (-0.7, -0.95),
            (0, -1.25),
            (0.7, -0.95),
            (0.95, -0.2),
            (1 + dice.uniform(-0.1, 0.3), long),
            (0, long * 0.7 + 0.3),
            (-1 - dice.uniform(-0.1, 0.3), long),
        ),
        closed=True,
        steps=14,
    )


def _fringe(hand: Hand, put: _Put, hair: Colour, light: float, size: float) -> None:
    dice = hand.dice
    count = dice.randint(3, 8)
    roots = np.linspace(np.pi * 1.02, np.pi * 1.98, 12)
    top = np.stack([0.82 * np.cos(roots), -0.22 + 0.88 * np.sin(roots)], axis=1)
    tips: list[list[float]] = []
    for i, x in enumerate(np.linspace(0.74, -0.74, count * 2 + 1)):
        low = dice.uniform(-0.25, 0.12) if i % 2 else dice.uniform(-0.62, -0.42)
        tips.append([float(x), low + 0.35 * abs(float(x))])
    area = put(np.vstack([top, tips]))
    hand.shape(area, hair, light)
    if size < 18:
        return
    crown = [0.0, -1.05]
    strands = [
        curve([crown, [t[0] * 0.75, -0.72], [t[0] * dice.uniform(0.9, 1), t[1] - 0.08]], steps=6)
        for t in tips[1::2]
    ]
    more = [
        curve([crown, [x * 0.7, -0.75], [x, dice.uniform(-0.5, -0.25)]], steps=6)
        for x in np.linspace(-0.7, 0.7, int(min(size / 3, 26)))
    ]
    dark = sum(hair) < 150 and hand.manner.medium != "pencil"
    pieces = [put(p) for p in strands + more]
    if dark:
        shine = [piece for p in pieces for piece in stroke(p[2:], hand.weight * 0.8, "both", dice)]
        hand.sheet.fill(shine, WHITE if hand.manner.gray else lighter(hair, 0.55), within=area)
    else:
        hand.lines(pieces, 0.5, "both", hair, within=area)


def _features(hand: Hand, put: _Put, look: float, size: float) -> None:
    dice = hand.dice
    style = dice.choice(("large", "large", "narrow", "dots", "shut"))
    for side in (-1, 1):
        _eye(hand, partial(_socket, put=put, side=side, look=look), look, style)
    tilt = dice.uniform(-0.12, 0.12)
    brows = [
        curve([[s * 0.14 + look, -0.2 + tilt], [s * 0.34 + look, -0.28], [s * 0.54 + look, -0.2 - tilt]])
        for s in (-1, 1)
    ]
    hand.lines([put(b) for b in brows], dice.uniform(1, 2.6), "both")
    nose = dice.choice(
        ([[0.02, 0.2], [0.1, 0.42], [-0.02, 0.46]], [[-0.05, 0.43], [0.02, 0.47], [0.07, 0.43]])
    )
    hand.lines([put(curve(np.array(nose) + by(look, 0)))], 0.9)
    _mouth(hand, put, look)
    if dice.random() < 0.35:
        blush = [
            put(line((s * 0.5 + look + i * 0.06, 0.36), (s * 0.5 + look + i * 0.06 - 0.05, 0.46), 2))
            for s in (-1, 1)
            for i in range(-2, 2)
        ]
        hand.lines(blush, 0.5, "both")


def _socket(shape: Points, put: _Put, side: int, look: float) -> Points:
    return put(shape * [0.5 * side, 0.5] + by(0.33 * side + look, 0.1))


def _mouth(hand: Hand, put: _Put, look: float) -> None:
    dice = hand.dice
    wide, at = dice.uniform(0.08, 0.3), points((look, 0.68))
    smile = dice.uniform(-0.05, 0.08)
    lip = curve([[-wide, 0], [0, smile], [wide, 0]])
    if dice.random() < 0.5:
        hand.lines([put(lip + at)], 1.1, "both")
        return
    open_mouth = put(
        np.vstack([lip, curve([[wide * 0.9, 0.02], [0, dice.uniform(0.1, 0.26)], [-wide * 0.9, 0.02]])])
        + at
        - [0, 0.04]
    )
    hand.shape(open_mouth, dice.choice((BLACK, WHITE, darker(hand.colour("skin"), 0.6))), 0.9)
    if dice.random() < 0.4:
        hand.white([put(np.vstack([lip, (lip + by(0, 0.05))[::-1]]) * [0.8, 1] + at - by(0, 0.03))])


def _eye(hand: Hand, put: _Put, look: float, style: str) -> None:
    """One eye in a space about one wide; the nose is towards negative x."""
    dice = hand.dice
    if style == "dots":
        hand.solid([put(oval(0, 0.05, 0.13, 0.17))])
        return
    if style == "shut":
        hand.lines([put(curve([[-0.4, 0.05], [0, 0.22], [0.42, 0]]))], 1.6, "both")
        return
    tall = 0.42 if style == "large" else 0.22
    lid = curve([[-0.42, 0.12], [-0.1, -tall], [0.3, -tall * 0.8], [0.5, 0.05]], steps=6)
    low = curve([[0.5, 0.05], [0.2, tall * 0.85], [-0.25, tall * 0.8], [-0.42, 0.12]], steps=6)
    ball = put(np.vstack([lid, low]))
    hand.white([ball])
    iris = hand.colour("trim")
    hand.shape(put(oval(look * 0.8, 0.02, 0.27, tall * 1.05)), iris, 0.7, within=ball)
    rays = [
        put(
            line(
                (look * 0.8 + 0.1 * np.cos(a), 0.02 + 0.14 * np.sin(a)),
                (look * 0.8 + 0.25 * np.cos(a), 0.02 + tall * 0.95 * np.sin(a)),
            )
        )
        for a in np.linspace(0, 6.2, 22)
    ]
    hand.lines(rays, 0.3, "even", within=ball)
    hand.sheet.fill([put(oval(look * 0.8, -0.02, 0.14, tall * 0.55))], BLACK, within=ball)
    hand.sheet.fill(
        [
            put(oval(look * 0.8 - 0.1, -tall * 0.4, 0.09, 0.1)),
            put(oval(look * 0.8 + 0.1, tall * 0.45, 0.05, 0.05)),
        ],
        WHITE,
        within=ball,
    )
    hand.lines([put(lid)], dice.uniform(2, 3.4), "brush")
    hand.lines([put(low[3:-3])], 0.6, "both")
    lashes = [
        put(curve([lid[-k], lid[-k] + by(0.08, -0.08), lid[-k] + by(0.2, -0.1 - 0.02 * k)]))
        for k in (1, 4, 7)
    ]
    hand.lines([*lashes, put(lid[4:-3] - by(0, 0.16))], 0.7, "out")
