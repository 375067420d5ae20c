"""What fills a panel: one of many scenes, chosen by chance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from training.pages import effects, figures, scenery
from training.pages.hand import Hand
from training.pages.paint import lighter
from training.pages.scenery import Frame
from training.pages.sheet import BLACK, WHITE
from training.pages.strokes import blob, box, oval, stroke

Scene = Callable[[Hand, Frame], None]


def draw(hand: Hand, frame: Frame) -> None:
    """Fill a panel's frame with a scene."""
    scenes, chances = zip(*_SCENES, strict=True)
    hand.dice.choices(scenes, chances)[0](hand, frame)
    if hand.dice.random() < 0.12:
        _spatter(hand, frame)
    if hand.manner.medium == "screentone" and hand.dice.random() < 0.2:
        _scraped(hand, frame)


def _portrait(hand: Hand, frame: Frame) -> None:
    left, top, right, bottom = frame
    _backdrop(hand, frame)
    size = min(right - left, bottom - top) * hand.dice.uniform(0.28, 0.5)
    at = left + (right - left) * hand.dice.uniform(0.3, 0.7)
    figures.face(hand, at, bottom - size * hand.dice.uniform(1.2, 1.7), size)


def _talk(hand: Hand, frame: Frame) -> None:
    left, top, right, bottom = frame
    _backdrop(hand, frame)
    size = min((right - left) * 0.2, (bottom - top) * 0.3)
    for share in hand.dice.choice(((0.27, 0.74), (0.2, 0.5, 0.82))):
        figures.face(
            hand,
            left + (right - left) * share,
            bottom - size * hand.dice.uniform(1.1, 1.8),
            size * hand.dice.uniform(0.8, 1.2),
        )


def _stare(hand: Hand, frame: Frame) -> None:
    left, top, right, bottom = frame
    hand.fill([box(*frame)], hand.colour("skin"))
    size = min((right - left) * 0.19, (bottom - top) * 0.5)
    figures.eyes(hand, (left + right) / 2, (top + bottom) / 2, size)
    hand.hatch(box(left, top, right, top + (bottom - top) * 0.2), 0.3)


def _people(hand: Hand, frame: Frame) -> None:
    left, top, right, bottom = frame
    hand.dice.choice((scenery.street, scenery.room, scenery.wood, _backdrop))(hand, frame)
    for _ in range(hand.dice.randint(1, 3)):
        tall = (bottom - top) * hand.dice.uniform(0.5, 0.95)
        figures.figure(
            hand,
            hand.dice.uniform(left + 10, right - 10),
            bottom - hand.dice.uniform(-0.2, 0.06) * tall,
            tall,
        )


def _crowd(hand: Hand, frame: Frame) -> None:
    left, top, right, bottom = frame
    _backdrop(hand, frame)
    figures.crowd(
        hand,
        left,
        right,
        top + (bottom - top) * hand.dice.uniform(0.4, 0.6),
        (right - left) * hand.dice.uniform(0.08, 0.16),
    )


def _action(hand: Hand, frame: Frame) -> None:
    left, top, right, bottom = frame
    hand.fill([box(*frame)], hand.dice.choice((WHITE, hand.colour("sky"))))
    hand.dice.choice((effects.focus, effects.speed, effects.burst))(hand, frame)
    if hand.dice.random() < 0.7:
        figures.figure(hand, (left + right) / 2, bottom + 10, (bottom - top) * 0.95)


def _night(hand: Hand, frame: Frame) -> None:
    """White on black: a silhouette, rain, or lines scraped out."""
    dice = hand.dice
    left, top, right, bottom = frame
    hand.sheet.fill([box(*frame)], hand.inked())
    pale = WHITE if hand.manner.gray else lighter(hand.colour("glow"), 0.5)
    if dice.random() < 0.5:
        effects.speed(hand, frame, ink=pale)
    else:
        hand.white(
            [
                oval(
                    dice.uniform(left, right),
                    dice.uniform(top, bottom),
                    dice.uniform(0.4, 1.5) * hand.manner.detail,
                )
                for _ in range(200)
            ]
        )
    r = min(right - left, bottom - top) * 0.3
    x, y = dice.uniform(left + r, right - r), dice.uniform(top + r, bottom - r)
    hand.fill([oval(x, y, r)], hand.colour("glow"))
    rim = [
        piece
        for k in (0.55, 0.75, 1.2, 1.35)
        for piece in stroke(oval(x, y, r * k, start=dice.uniform(0, 6), sweep=3), hand.weight, "both", dice)
    ]
    hand.sheet.fill(rim, pale)
    hills = np.vstack([blob(x, bottom, r * 3, r * 0.8, dice.randint(9, 25), 0.25, dice)])
    hand.sheet.fill([hills], BLACK)
    hand.sheet.fill(stroke(hills, hand.weight * 0.7, "brush", dice), pale)


def _backdrop(hand: Hand, frame: Frame) -> None:
    """What stands behind people: nothing, a colour, lines, or a place."""
    behind = hand.dice.choices(
        (_plain, scenery.sky, scenery.street, scenery.room, scenery.wood, effects.aura, _lined),
        (4, 2, 2, 2, 2, 2, 2),
    )[0]
    behind(hand, frame)


def _plain(hand: Hand, frame: Frame) -> None:
    hand.fill(
        [box(*frame)], hand.dice.choice((WHITE, hand.colour("haze"), hand.colour("wall"), hand.colour("sky")))
    )


def _lined(hand: Hand, frame: Frame) -> None:
    _plain(hand, frame)
    hand.dice.choice((effects.focus, effects.speed))(hand, frame)


def _scraped(hand: Hand, frame: Frame) -> None:
    """White scratched into the tone with the point of a knife."""
    dice = hand.dice
    left, top, right, bottom = frame
    x, y, way = dice.uniform(left, right), dice.uniform(top, bottom), dice.uniform(0, np.pi)
    scratches = []
    for _ in range(dice.randint(12, 60)):
        start = np.array([x + dice.gauss(0, 25), y + dice.gauss(0, 25)])
        end = start + dice.uniform(8, 50) * np.array(
            [np.cos(way + dice.gauss(0, 0.1)), np.sin(way + dice.gauss(0, 0.1))]
        )
        scratches += stroke(np.array([start, end]), dice.uniform(0.6, 2) * hand.manner.detail, "both", dice)
    hand.white(scratches)


def _spatter(hand: Hand, frame: Frame) -> None:
    dice = hand.dice
    left, top, right, bottom = frame
    drops = [
        oval(dice.uniform(left, right), dice.uniform(top, bottom), hand.manner.detail * dice.expovariate(0.8))
        for _ in range(60)
    ]
    hand.sheet.fill(drops, dice.choice((WHITE, BLACK)))


_SCENES: tuple[tuple[Scene, float], ...] = (
    (_portrait, 5),
    (_talk, 3),
    (_stare, 1.5),
    (_people, 3),
    (_crowd, 1),
    (_action, 2),
    (_night, 1),
    (scenery.street, 1.5),
    (scenery.room, 1),
    (scenery.wood, 1.5),
    (scenery.water, 1),
    (scenery.machine, 1.5),
    (effects.burst, 0.7),
    (effects.rings, 0.5),
    (effects.patches, 1.5),
)
