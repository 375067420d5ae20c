"""The letterer: finds room in the panels for what is said, told and heard, and keeps account of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageFont

from training.pages import fonts, words
from training.pages.lettering import (
    Balloon,
    Lettering,
    balloon,
    block,
    bubbles,
    caption_ink,
    columns,
    draw_balloon,
    rows_of_japanese,
    sound,
    tail,
    write,
)
from training.pages.paint import faded, hsv, lighter
from training.pages.sheet import BLACK, WHITE, Colour, Fill, Sheet
from training.pages.strokes import Points, box, by

Bounds = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Voice:
    """How a page is lettered; heights are in pixels of the page."""

    script: fonts.Script
    face: Path
    loud: Path
    """The font of sounds and titles."""
    height: float
    """Of a capital H, or of a kanji."""
    measure: str = "H"
    capitals: bool = True
    plain: bool = False
    """English only, and nothing that is not upright and clear."""
    gray: bool = False
    weight: float = 1.2


def voice(dice: Random, script: fonts.Script, *, gray: bool) -> Voice:
    """A way of lettering that is the same over a whole page."""
    face = dice.choice(fonts.find(script))
    loud = dice.choice(fonts.find(script, "display"))
    height = dice.triangular(6.5, 18, 9.5) if script == "latin" else dice.triangular(8.5, 22, 12)
    measure = "H" if script == "latin" else "国"
    capitals = face[0].caps_only or dice.random() < 0.6
    return Voice(
        script, face[1], loud[1], height, measure, capitals, gray=gray, weight=dice.uniform(0.7, 2.4)
    )


class Letterer:
    """Letters one page in one voice."""

    def __init__(self, sheet: Sheet, spoken: Voice, dice: Random) -> None:
        self._sheet, self._voice, self._dice = sheet, spoken, dice
        self._air = spoken.height * (0.9 if spoken.plain else dice.uniform(0.4, 0.9))
        self._taken: list[Bounds] = []
        self.lettering: list[Lettering] = []

    def speak(self, frame: Bounds) -> None:
        """A balloon somewhere in a frame, if there is room for one."""
        dice = self._dice
        kind: Balloon = dice.choices(("oval", "round", "cloud", "burst", "box"), (9, 3, 1.5, 1.5, 1))[0]
        said = self._said(frame)
        if said is None:
            return
        mask, text = said
        w, h = mask.width / self._sheet.scale, mask.height / self._sheet.scale
        outline = balloon(kind, 0, 0, w, h, dice, air=self._air)
        spot = self._room(outline, frame)
        if spot is None:
            return
        outline = outline + np.array(spot)
        paper, ink = self._papers()
        tails = []
        if kind == "cloud":
            tails = bubbles(outline, dice)
        elif kind != "box" and dice.random() < 0.85:
            tails = [tail(outline, dice, dice.uniform(6, 26))]
        draw_balloon(
            self._sheet, outline, tails, paper, ink, self._voice.weight * dice.choice((0, 0.6, 1, 1, 1.3))
        )
        self._write(mask, text, spot, ink)

    def tell(self, frame: Bounds) -> None:
        """A caption in a box against the top or the foot of a frame."""
        dice = self._dice
        said = self._said(frame, shape=4.5)
        if said is None:
            return
        mask, text = said
        w, h = mask.width / self._sheet.scale, mask.height / self._sheet.scale
        outline = balloon("box", 0, 0, w, h, dice, air=self._air)
        half = np.ptp(outline, axis=0) / 2
        x = dice.choice((frame[0] + half[0] + 2, frame[2] - half[0] - 2))
        y = dice.choice((frame[1] + half[1] + 2, frame[3] - half[1] - 2))
        if not self._take(outline + by(x, y)):
            return
        paper: Fill = WHITE
        ink = BLACK
        if not self._voice.gray and dice.random() < 0.7:
            colour = hsv(dice.random(), dice.uniform(0.1, 0.9), dice.uniform(0.3, 1))
            ink, paper = caption_ink(colour), colour
            if dice.random() < 0.3:
                paper = faded((x, y - half[1]), (x, y + half[1]), colour, lighter(colour, 0.4))
                ink = caption_ink(lighter(colour, 0.2))
        elif dice.random() < 0.25:
            paper, ink = BLACK, WHITE
        draw_balloon(
            self._sheet, outline + by(x, y), [], paper, BLACK, self._voice.weight * dice.choice((0, 0.7, 1))
        )
        self._write(mask, text, (x, y), ink)

    def shout(self, frame: Bounds, *, text: str | None = None, share: float | None = None) -> None:
        """A sound, or the words given, in large outlined letters over the art."""
        dice, scale, v = self._dice, self._sheet.scale, self._voice
        latin = v.script == "latin" or text is not None
        text = text or (words.noise(dice) if latin else words.japanese_noise(dice))
        wide = (frame[2] - frame[0]) * (share or dice.uniform(0.3, 0.85))
        size = float(np.clip(wide / len(text) * 1.2, 9, (frame[3] - frame[1]) * 0.45))
        path = v.loud if fonts.can_write(v.loud, text) else fonts.find("latin")[0][1]
        border = max(round(size * scale * dice.choice((0.04, 0.08, 0.12))), 1)
        inner, outer = sound(text, path, max(round(size * scale), 8), dice, border)
        spot = self._room(
            box(0, 0, outer.width / scale, outer.height / scale)
            - [outer.width / scale / 2, outer.height / scale / 2],
            frame,
            tries=5,
        )
        if spot is None:
            return
        fill, rim = self._loud_inks()
        if dice.random() < 0.4:
            write(
                self._sheet,
                outer,
                spot[0] + dice.uniform(1, 5),
                spot[1] + dice.uniform(1, 5),
                dice.choice((BLACK, rim)),
            )
        where = write(self._sheet, outer, *spot, rim)
        bright = not self._voice.gray and fill not in (WHITE, BLACK) and dice.random() < 0.5
        write(
            self._sheet,
            inner,
            *spot,
            faded((0, where[1]), (0, where[3]), lighter(fill, 0.7), fill) if bright else fill,
        )
        self.lettering.append(Lettering(text, where, "latin" if latin else "japanese"))

    def small_print(self, frame: Bounds, lines: int, height: float) -> None:
        """A few lines of tiny text without a balloon, as credits and notes are."""
        dice, scale = self._dice, self._sheet.scale
        path = self._latin()
        font = fonts.of_height(path, height * scale)
        text = " ".join(words.sentence(dice, plain=not fonts.can_write(path, "éñüß¿")) for _ in range(lines))
        mask, set_text = block(text, font, shape=9, centred=dice.random() < 0.5)
        w, h = mask.width / scale, mask.height / scale
        if w > frame[2] - frame[0] or h > frame[3] - frame[1]:
            return
        spot = self._room(box(-w / 2 - 2, -h / 2 - 2, w / 2 + 2, h / 2 + 2), frame)
        if spot is None:
            return
        if dice.random() < 0.6:
            self._sheet.fill([box(-w / 2 - 2, -h / 2 - 2, w / 2 + 2, h / 2 + 2) + np.array(spot)], WHITE)
        self._write(mask, set_text, spot, BLACK, halo=WHITE)

    def say_at(self, frame: Bounds, across: float, down: float, *, most: int) -> None:
        """A plain balloon near a share of a frame's width and height: for pages whose text is to be read back."""
        said = self._said(frame, most=most)
        if said is None:
            return
        mask, text = said
        w, h = mask.width / self._sheet.scale, mask.height / self._sheet.scale
        outline = balloon(self._dice.choice(("oval", "round", "box")), 0, 0, w, h, self._dice, air=self._air)
        half = np.ptp(outline, axis=0) / 2 + self._voice.weight * 2
        if (half * 2 > [frame[2] - frame[0], frame[3] - frame[1]]).any():
            return
        low, high = np.array(frame[:2]) + half, np.array(frame[2:]) - half
        spot = low + (high - low) * [across, down]
        if not self._take(outline + spot):
            return
        draw_balloon(self._sheet, outline + spot, [], WHITE, BLACK, self._voice.weight)
        self._write(mask, text, (float(spot[0]), float(spot[1])), BLACK)

    def _said(
        self, frame: Bounds, *, shape: float | None = None, most: int | None = None
    ) -> tuple[Image.Image, str] | None:
        """Something to say whose lettering fits well into the frame."""
        dice, v, scale = self._dice, self._voice, self._sheet.scale
        room = (frame[2] - frame[0]) * 0.85 * scale, (frame[3] - frame[1]) * 0.7 * scale
        height = v.height * (1 if v.plain else dice.choice((1, 1, 1, 0.85, 1.2)))
        font = fonts.of_height(v.face, height * scale, v.measure)
        for limit in (most or dice.choice((25, 50, 80, 120)), 40, 20):
            if v.script == "japanese":
                mask, text = self._japanese(font, height)
            else:
                leading = dice.uniform(0.85, 1.1)
                mask, text = block(
                    self._sentence(limit), font, shape=shape or dice.uniform(1.2, 3.2), leading=leading
                )
            if mask.width < room[0] and mask.height < room[1]:
                return mask, text
        return None

    def _sentence(self, most: int) -> str:
        """Something said that the font can write."""
        v, said = self._voice, ""
        for _ in range(6):
            said = words.speech(self._dice, most, plain=v.plain)
            said = said.upper() if v.capitals else said
            if fonts.can_write(v.face, said):
                return said
        return "".join(letter for letter in said if fonts.can_write(v.face, letter))

    def _japanese(self, big: ImageFont.FreeTypeFont, height: float) -> tuple[Image.Image, str]:
        dice, v = self._dice, self._voice
        said = words.japanese_speech(dice)
        if dice.random() < 0.2:
            return rows_of_japanese(said, big, most=dice.randint(6, 11))
        small = fonts.of_height(v.face, height * self._sheet.scale * 0.48, v.measure)
        return columns(said, big, small, most=dice.randint(4, 8), ruby=dice.random() < 0.6)

    def _write(
        self,
        mask: Image.Image,
        text: str,
        spot: tuple[float, float],
        ink: Fill,
        *,
        halo: Colour | None = None,
    ) -> None:
        where = write(self._sheet, mask, *spot, ink, halo=halo)
        self.lettering.append(Lettering(text, where, self._voice.script if halo is None else "latin"))

    def _papers(self) -> tuple[Colour, Colour]:
        """The paper and the ink of a balloon."""
        dice = self._dice
        if dice.random() < 0.1:
            return BLACK, WHITE
        if not self._voice.gray and dice.random() < 0.15:
            colour = hsv(dice.random(), dice.uniform(0.5, 1), dice.uniform(0.1, 0.6))
            return dice.choice(((WHITE, colour), (lighter(colour, 0.85), BLACK)))
        return WHITE, BLACK

    def _loud_inks(self) -> tuple[Colour, Colour]:
        dice = self._dice
        if self._voice.gray:
            return dice.choice(((WHITE, BLACK), (BLACK, WHITE), (BLACK, WHITE)))
        fill = hsv(dice.random(), dice.uniform(0.6, 1), dice.uniform(0.7, 1))
        return dice.choice(((fill, BLACK), (fill, WHITE), (WHITE, fill), (BLACK, fill)))

    def _latin(self) -> Path:
        return self._voice.face if self._voice.script == "latin" else fonts.find("latin")[0][1]

    def _room(self, outline: Points, frame: Bounds, *, tries: int = 14) -> tuple[float, float] | None:
        """A place in the frame where the outline lies on the page and on no other lettering."""
        dice = self._dice
        half = np.ptp(outline, axis=0) / 2
        page = self._sheet.box
        for _ in range(tries):
            x, y = dice.uniform(frame[0], frame[2]), frame[1] + (frame[3] - frame[1]) * dice.random() ** 1.5
            x = float(
                np.clip(
                    x,
                    max(frame[0] - 8, page[0]) + half[0] + 3,
                    max(min(frame[2] + 8, page[2]) - half[0] - 3, 0),
                )
            )
            y = float(
                np.clip(
                    y,
                    max(frame[1] - 8, page[1]) + half[1] + 3,
                    max(min(frame[3] + 8, page[3]) - half[1] - 3, 0),
                )
            )
            if self._take(outline + by(x, y)):
                return x, y
        return None

    def _take(self, outline: Points) -> bool:
        (left, top), (right, bottom) = outline.min(axis=0), outline.max(axis=0)
        page = self._sheet.box
        if left < page[0] or top < page[1] or right > page[2] or bottom > page[3]:
            return False
        if any(left < b[2] and b[0] < right and top < b[3] and b[1] < bottom for b in self._taken):
            return False
        self._taken.append((float(left), float(top), float(right), float(bottom)))
        return True
