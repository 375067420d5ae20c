"""Page 4, mostly lettering: how a picture grows, explained to a cat."""

from __future__ import annotations

from drawing.cast import DAY, pixel, pixel_head, trowel, trowel_head
from drawing.layout import page_number, panel, rows
from drawing.lettering import balloon, letter
from drawing.paint import PAPER, Colour
from drawing.pen import Sheet, box, curve, line
from drawing.scenery import burst_lines, ground, shadow, tufts

MORNING: Colour = (236, 244, 220)
NOON: Colour = (252, 240, 208)
LATE: Colour = (250, 222, 204)


def draw() -> Sheet:
    """The page at four times its size."""
    page = Sheet()
    first, second, third = rows(236, 556, 752)
    panel(page, first, _six_and_a_quarter, paper=MORNING)
    panel(page, second, _neighbours, paper=NOON)
    panel(page, third, _so_it_is, paper=LATE)
    page_number(page, 4)
    return page


def _six_and_a_quarter(sheet: Sheet) -> None:
    pen = sheet.pen()
    ground(pen, [(-10, 214), (140, 206), (300, 212), (530, 204)], (190, 222, 150), (160, 200, 130))
    tufts(pen, 20, 490, 220, 234, 12, 3, (110, 168, 96))
    shadow(pen, 70, 226, 28)
    trowel(pen.at(70, 226, 0.92), DAY, "happy", left=(-34, -40), right=(32, -72), look=(2, 0))
    shadow(pen, 440, 227, 24)
    pixel(pen.at(436, 226, 1.2), DAY, "calm", look=(-1.6, -0.4), tail="up")
    balloon(
        sheet, 196, 58, "ONCE IT HAS GROWN, EACH PIXEL\nIN IT WILL BE *SIX* PIXELS.\nAND A QUARTER.", (110, 128),
        size=14, bend=-6,
    )  # fmt: skip
    balloon(sheet, 404, 104, "I AM A PIXEL.", (432, 150), size=12.5)
    balloon(sheet, 296, 150, "I DO NOT WISH\nTO BE SIX.", (398, 182), size=12.5, bend=-4)
    balloon(sheet, 202, 202, "AND A QUARTER.", (110, 176), size=9.5, bend=3)


def _neighbours(sheet: Sheet) -> None:
    pen = sheet.pen()
    pen.shape(curve([(366, 616), (372, 560), (426, 542), (480, 560), (486, 616)]), *DAY["shell"], depth=6)
    trowel_head(pen.at(426, 550, 1.15, turn=-4), DAY, "round", look=(-3, 0))
    pen.shape(curve([(34, 640), (32, 574), (82, 552), (132, 574), (128, 640)]), *DAY["fur"], depth=6)
    pixel_head(pen.at(82, 551, 1.95, turn=4), DAY, "flat", look=(1.6, 0))
    balloon(
        sheet, 144, 276, "AND WHO TELLS THE NEW ONES\nWHAT COLOUR THEY ARE?", (104, 352), size=11.5, bend=0
    )
    balloon(sheet, 392, 288, "THEY ASK THE\nNEIGHBOURS.", (362, 390), size=17, bend=4)
    balloon(sheet, 104, 350, "THE NEIGHBOURS\nHAVE A *DOG.*", (70, 482), size=11, bend=9)
    balloon(
        sheet, 334, 402,
        "THEN THEY ASK A *NETWORK.* IT HAS\nLOOKED AT A GREAT MANY PICTURES,\nLARGE AND SMALL, AND IT KNOWS HOW\n"
        "A LINE LIKES TO GO ON WHEN\nNOBODY IS LOOKING.",
        (400, 492), size=12,
    )  # fmt: skip
    balloon(sheet, 152, 456, "(SO DO I.)", (118, 496), size=9, kind="thought")
    balloon(sheet, 222, 512, "HAS IT EVER\nSEEN A FISH?", (138, 530), size=13, bend=3)
    balloon(sheet, 330, 538, "...PROBABLY.", (388, 534), size=9, kind="whisper", bend=-2)


def _so_it_is(sheet: Sheet) -> None:
    pen = sheet.pen()
    burst_lines(pen, 300, 640, 190, 74, 70, 11, ink=(255, 244, 232), thick=6)
    pixel_head(pen.at(408, 716, 2.5, turn=5), DAY, "sparkle", look=(-0.8, 0))
    trowel_head(pen.at(66, 718, 1.05), DAY, "squint")
    balloon(sheet, 208, 606, "THEN IT *IS* A FISH!", (354, 660), size=24, kind="burst", bend=-6)
    balloon(sheet, 232, 682, "THAT IS NOT HOW ANY OF THIS W--", (108, 700), size=9.5, bend=3)
    pen.shape(box(0, 718, 512, 768), PAPER, line=0)
    pen.stroke(line((0, 718), (512, 718)), (0.9, 0.9))
    letter(
        sheet, 256, 735,
        "THE SMALL PRINT: NO FISH WAS ENLARGED IN THE MAKING OF THIS PAGE. SEEDS MAY SETTLE IN THE POST. PICTURES ON\n"
        "PACKETS ARE SMALLER THAN THEY APPEAR. IF YOU CAN READ THIS, YOU HAVE PROBABLY ENLARGED IT. THANK YOU.",
        7.6,
    )  # fmt: skip
