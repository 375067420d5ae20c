"""Whole pages, in the kinds that comics come in."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from PIL import Image

from training.pages import art, finish, fonts, words
from training.pages.hand import Hand, Manner, Medium, random_tone
from training.pages.layout import Layout, bounds, cut, rows, tiers
from training.pages.lettering import Lettering
from training.pages.paint import Grain, darker, gray_palette, hsv, palette
from training.pages.sheet import BLACK, WHITE, Colour, Pixels, Sheet
from training.pages.speech import Bounds, Letterer, Voice, voice
from training.pages.strokes import Points, box, closed, outlined
from training.pages.tones import Tone

KINDS: dict[str, float] = {
    "manga": 27,
    "inks": 11,
    "pencil": 5,
    "flat colour": 20,
    "painted": 10,
    "webtoon": 10,
    "old newsprint": 10,
    "title": 7,
}
"""The kinds of pages, and how many of a hundred are of each."""

GRAY_KINDS = frozenset({"manga", "inks", "pencil"})
"""Kinds that are always gray; a title page may be."""

_READING_FACES = ("ComicNeue-Bold.otf", "ComicNeue-Regular.otf", "ComicNeue-BoldItalic.otf", "Humor-Sans.ttf")


@dataclass(frozen=True, slots=True)
class DrawnPage:
    """A page, what kind it is of, and all that is written on it."""

    pixels: Pixels
    """Rows of red, green and blue."""
    kind: str
    lettering: tuple[Lettering, ...]


def draw_page(seed: int, *, width: int = 640, height: int = 960, finest: float = math.inf) -> DrawnPage:
    """A page of any kind; the same seed, size and fonts give the same bytes.

    Tones with more than ``finest`` cycles a pixel are drawn as an even gray or colour. The rest stays the same, but
    with a finite ``finest`` no page is reduced to ink and paper, which would leave no gray.
    """
    dice = Random(seed)
    kind = dice.choices(list(KINDS), list(KINDS.values()))[0]
    scale = 3 if kind == "inks" and dice.random() < 0.3 else 2
    manner = _manner(kind, dice, width, height, scale)
    gutter = _gutter(kind, manner, dice)
    sheet = Sheet((0, 0, width, height), gray=manner.gray, scale=scale, paper=gutter, finest=finest)
    letterer = Letterer(sheet, _voice(kind, manner, dice), dice)
    if kind == "title":
        _title(sheet, manner, letterer, dice)
    else:
        layout = _layout(kind, dice, width, height)
        _panels(sheet, layout, manner, dice, gutter)
        _dialogue(letterer, layout, dice)
    return DrawnPage(_finished(kind, sheet, dice, width, height), kind, tuple(letterer.lettering))


def draw_lettered_page(
    seed: int,
    *,
    width: int = 1280,
    height: int = 1920,
    x_height: tuple[float, float] = (9 / 768, 14 / 768),
    finest: float = math.inf,
) -> DrawnPage:
    """A clean page with plain English in its balloons, listed in the order of reading.

    `x_height` bounds how high a small x is, as a share of the page's height. `finest` as for `draw_page`.
    """
    dice = Random(seed)
    kind = dice.choice(("manga", "inks", "flat colour", "webtoon"))
    manner = replace(_manner(kind, dice, width, height, 2), detail=height / 960)
    sheet = Sheet((0, 0, width, height), gray=manner.gray, scale=2, finest=finest)
    unit = height / 960
    layout = tiers(dice, width, height, count=dice.randint(2, 4), gutter=10 * unit, margin=18 * unit)
    _panels(sheet, layout, manner, dice, WHITE)
    letterer = Letterer(
        sheet, _reading_voice(dice, dice.uniform(*x_height) * height, manner.gray, unit), dice
    )
    for frame in layout.frames:
        letterer.say_at(bounds(frame), 0.05, 0.03, most=60)
        if dice.random() < 0.7:
            letterer.say_at(bounds(frame), 0.95, 0.95, most=45)
    pixels = finish.pixels_of(sheet.image.resize((width, height), Image.Resampling.LANCZOS))
    return DrawnPage(pixels, kind, tuple(letterer.lettering))


def _manner(kind: str, dice: Random, width: int, height: int, scale: int) -> Manner:
    gray = kind in GRAY_KINDS or (kind == "title" and dice.random() < 0.3)
    media: dict[str, tuple[Medium, ...]] = {
        "manga": ("screentone",),
        "inks": ("hatching",),
        "pencil": ("pencil",),
        "flat colour": ("flat",),
        "painted": ("paint",),
        "webtoon": ("soft", "soft", "flat"),
        "old newsprint": ("print",),
        "title": ("screentone", "hatching") if gray else ("flat", "paint", "soft", "print"),
    }
    medium = dice.choice(media[kind])
    tone = random_tone(dice)
    if medium == "print":
        tone = Tone("round", dice.uniform(2.6, 6), 45)
    ink: Colour = BLACK
    if not gray and dice.random() < 0.2:
        ink = darker(hsv(dice.random(), 0.6, 0.3), 0.2)
    grain = None
    if medium == "paint":
        grain = Grain(width, height, scale, dice.getrandbits(32), finest=dice.choice((1.5, 3)))
    elif medium == "pencil":
        grain = Grain(width, height, scale, dice.getrandbits(32), coarsest=2.6, finest=0.7)
    return Manner(
        medium,
        gray,
        gray_palette(dice) if gray else palette(dice),
        ink,
        weight=dice.triangular(0.7, 2.8, 1.3),
        taper=dice.choice(("both", "both", "brush", "even")),
        wobble=dice.choice((0, 0.2, 0.4, 0.9)),
        holds=medium in ("flat", "soft", "paint") and dice.random() < 0.35,
        tone=tone,
        light=dice.uniform(0, 6.28),
        grain=grain,
    )


def _voice(kind: str, manner: Manner, dice: Random) -> Voice:
    japanese = dice.random() < {"manga": 0.6, "webtoon": 0.25, "inks": 0.25}.get(kind, 0.08)
    return voice(dice, "japanese" if japanese else "latin", gray=manner.gray)


def _reading_voice(dice: Random, x_height: float, gray: bool, unit: float) -> Voice:
    there = [(face, path) for face, path in fonts.find("latin") if face.file in _READING_FACES]
    face, path = dice.choice(there or list(fonts.find("latin")))
    capitals = face.caps_only or dice.random() < 0.4
    return Voice("latin", path, path, x_height, "x", capitals, plain=True, gray=gray, weight=1.4 * unit)


def _gutter(kind: str, manner: Manner, dice: Random) -> Colour:
    if dice.random() < (0.3 if kind == "webtoon" else 0.1):
        return BLACK
    if not manner.gray and dice.random() < 0.15:
        return manner.colours[dice.choice(("sky", "wall", "haze"))]
    return WHITE


def _layout(kind: str, dice: Random, width: int, height: int) -> Layout:
    if kind == "webtoon":
        return rows(dice, width, height, panels=dice.randint(2, 4), gutter=dice.uniform(6, 50))
    margin = dice.choice((-8, 0, dice.uniform(8, 40), dice.uniform(8, 40)))
    slant = dice.choice((0, 0, 0.08, 0.22)) if kind in ("manga", "inks") else dice.choice((0, 0, 0, 0.12))
    return cut(
        dice,
        width,
        height,
        panels=dice.randint(3, 9),
        gutter=dice.choice((0, 3, 6, 9, 14)),
        margin=margin,
        slant=slant,
    )


def _panels(sheet: Sheet, layout: Layout, manner: Manner, dice: Random, gutter: Colour) -> None:
    border = manner.weight * manner.detail * dice.choice((0, 1, 1, 1.5, 2.5))
    edge = BLACK if gutter == WHITE or dice.random() < 0.7 else WHITE
    for frame in (*layout.frames, *layout.insets):
        _panel(sheet, frame, manner, dice)
        if border > 0:
            sheet.fill(outlined(closed(frame), border), edge)


def _panel(sheet: Sheet, frame: Points, manner: Manner, dice: Random) -> None:
    left, top, right, bottom = bounds(frame)
    page = sheet.box
    where = max(left, page[0]), max(top, page[1]), min(right, page[2]), min(bottom, page[3])
    if where[2] - where[0] < 12 or where[3] - where[1] < 12:
        return
    piece = Sheet(where, gray=sheet.gray, scale=sheet.scale, finest=sheet.finest)
    # Each panel has clothes, hair and weather of its own on gray pages: tones are what must vary.
    own = replace(manner, colours=gray_palette(dice)) if manner.gray else manner
    if not manner.gray and dice.random() < 0.25:
        own = replace(manner, colours=palette(dice))
    art.draw(Hand(piece, own, dice), where)
    sheet.inset(piece, frame)


def _dialogue(letterer: Letterer, layout: Layout, dice: Random) -> None:
    for frame in layout.frames:
        where = bounds(frame)
        deeds: list[tuple[Callable[[Bounds], None], float]] = [(letterer.tell, 0.3), (letterer.shout, 0.22)]
        for deed, chance in deeds:
            if dice.random() < chance:
                deed(where)
        for _ in range(dice.choice((0, 1, 1, 2, 2, 3))):
            letterer.speak(where)
    if dice.random() < 0.3:
        letterer.small_print(bounds(dice.choice(layout.frames)), 1, dice.uniform(4, 7))


def _title(sheet: Sheet, manner: Manner, letterer: Letterer, dice: Random) -> None:
    left, top, right, bottom = sheet.box
    inner = dice.choice((0, 0, 20, 45))
    _panel(sheet, box(left + inner, top + inner, right - inner, bottom - inner), manner, dice)
    for i, word in enumerate(words.title(dice).split()):
        y = top + (bottom - top) * (0.03 + 0.13 * i)
        letterer.shout((left, y, right, y + (bottom - top) * 0.2), text=word, share=dice.uniform(0.5, 0.8))
    letterer.tell((left + 10, top + 10, right - 10, bottom - 10))
    for lines in (2, 3, 4):
        letterer.small_print((left, (top + bottom) / 2, right, bottom), lines, dice.uniform(4, 9))


def _finished(kind: str, sheet: Sheet, dice: Random, width: int, height: int) -> Pixels:
    image = finish.shrunk(sheet, width, height, dice)
    chance = dice.random()
    if (kind == "inks" and chance < 0.25) or (kind == "manga" and chance < 0.08):
        ink = finish.one_bit(image, dice)
        image = ink if math.isinf(sheet.finest) else image
    elif kind == "old newsprint" and chance < 0.5:
        image = finish.yellowed(image, dice.choice(((250, 240, 215), (244, 228, 190), (252, 246, 232))), dice)
    elif chance > 0.93:
        image = finish.scanned(image, dice)
    return finish.pixels_of(image)
