"""A sheet of stickers with a transparent background: the cast and their things."""

from __future__ import annotations

from drawing.cast import DAY, pixel, pixel_head, seedling, trowel, trowel_head
from drawing.lettering import sound
from drawing.paint import PAPER
from drawing.pen import Sheet, curve, line, oval
from drawing.scenery import flower, magnifier, packet, spray, watering_can


def draw() -> Sheet:
    """The sheet at four times its size."""
    sheet = Sheet(None)
    pen = sheet.pen()
    trowel(
        pen.at(146, 330, 2.05), DAY, "happy", left=(-40, -84), right=(38, -48), look=(2, 0), in_right=watering_can
    )  # fmt: skip
    spray(pen.at(288, 246, 1.4), 0, 0, 9, 5)
    pixel(pen.at(410, 226, 2.5), DAY, "calm", look=(-1.5, 0), tail="up")
    sound(sheet, 40, 378, "TROWEL", 30, fill=(92, 196, 186), steps=(0, -2, 1.5, -1))
    sound(sheet, 352, 264, "PIXEL", 30, fill=(246, 160, 70), steps=(0, -2, 1.5, -1))
    packet(pen.at(366, 352, 1.7, turn=-8), 7)
    magnifier(pen.at(452, 378, 1.3, turn=18))
    for x, mood, look in ((84, "round", (0, 0)), (256, "squint", (0, 0)), (428, "wide", (0, 0))):
        trowel_head(pen.at(x, 524, 1.5), DAY, mood, look=look)
    for x, mood in ((70, "happy"), (194, "sparkle"), (318, "flat"), (442, "dizzy")):
        pixel_head(pen.at(x, 630, 2.1), DAY, mood)
    for x, petal in ((48, (244, 120, 140)), (96, (250, 214, 96)), (142, (226, 140, 224))):
        flower(pen, x, 740, 2.1, petal, (168, 96, 48), (84, 152, 80))
    heart = curve([(0, 8, 1), (-9, -1), (-5, -8), (0, -4, 1), (5, -8), (9, -1)])
    pen.at(462, 712, 2.4, turn=10).shape(heart, (236, 96, 110), (190, 62, 96), depth=2)
    pen.at(212, 712).shape(
        line((-24, 28), (-30, -4), (30, -4), (24, 28)), (206, 116, 84), (162, 78, 66), depth=5
    )
    pen.at(212, 712).shape(oval(0, -4, 33, 6), (162, 78, 66))
    seedling(pen.at(212, 710, 2.1), DAY)
    sound(sheet, 280, 718, "x 2.5!", 40, fill=(255, 214, 70), rim=PAPER, turn=-5)
    return sheet.sticker_edge(1.6)
