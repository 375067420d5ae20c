"""Page 1, in colour: the post brings a seed packet too small to read."""

from __future__ import annotations

from drawing.cast import DAY, pixel, pixel_head, trowel, trowel_head
from drawing.layout import page_number, panel, quad
from drawing.lettering import balloon, caption, sound
from drawing.paint import PAPER
from drawing.pen import Sheet, box, curve, line, oval
from drawing.scenery import (
    GRASS,
    WOOD,
    burst_lines,
    cloud,
    fence,
    flower,
    greenhouse,
    ground,
    packet,
    plank_table,
    shadow,
    sky,
    spray,
    tree,
    tufts,
    watering_can,
)


def draw() -> Sheet:
    """The page at four times its size."""
    page = Sheet()
    panel(page, quad(16, 16, 496, 296), _garden)
    panel(page, quad(16, 304, 206, 520, slant=(0, 16)), _packet)
    panel(page, quad(214, 304, 496, 520, slant=(16, 0)), _question)
    panel(page, quad(16, 528, 496, 750), _fish)
    sound(page, 300, 192, "PSHHH", 21, fill=(120, 206, 240), turn=24, rim=PAPER, growth=0.05)
    page_number(page, 1)
    return page


def _garden(sheet: Sheet) -> None:
    pen = sheet.pen()
    sky(pen, (128, 202, 236), (128, 202, 236))
    ground(pen, [(-10, 136), (110, 120), (240, 138), (380, 116), (530, 132)], (188, 228, 240), line=0)
    cloud(pen, 66, 112, 0.9, PAPER, (214, 232, 244))
    cloud(pen, 440, 62, 1.25, PAPER, (214, 232, 244))
    cloud(pen, 330, 122, 0.55, PAPER, (214, 232, 244))
    ground(
        pen,
        [(-10, 196), (90, 172), (200, 190), (320, 166), (430, 186), (530, 168)],
        (156, 206, 150),
        (122, 182, 138),
    )
    tree(pen, 40, 214, 0.72, (112, 178, 92), (76, 138, 84), WOOD[1])
    tree(pen, 300, 206, 0.55, (112, 178, 92), (76, 138, 84), WOOD[1])
    greenhouse(pen.at(424, 228, 1.02), (196, 232, 232), (244, 248, 244), plants=(116, 178, 120))
    ground(pen, [(-10, 226), (120, 218), (260, 226), (400, 220), (530, 228)], *GRASS)
    fence(pen, 8, 166, 246, 46, (246, 240, 226), (206, 194, 186))
    tufts(pen, 20, 490, 236, 292, 26, 2, (74, 138, 74))
    pixel(pen.at(92, 203, 0.92), DAY, "calm", tail="hang", look=(1.6, 0))
    bed = curve([(262, 262), (330, 254), (440, 254), (494, 264), (440, 282), (320, 282)])
    pen.shape(bed, (140, 94, 70), (106, 68, 58), depth=4)
    for x, y, size, petal in (
        (306, 268, 1, (244, 120, 140)), (346, 262, 1.1, (250, 214, 96)), (378, 272, 1, (226, 140, 224)),
        (414, 264, 1.15, (244, 120, 140)), (454, 270, 1, (250, 214, 96)),
    ):  # fmt: skip
        flower(pen, x, y, size, petal, (168, 96, 48), (84, 152, 80))
    shadow(pen, 226, 276, 36)
    trowel(
        pen.at(224, 276, 1.12),
        DAY,
        "happy",
        left=(-34, -34),
        right=(37, -52),
        in_right=watering_can,
        look=(3, 1),
        nod=3,
    )
    spray(pen, 306, 226, 17, 5)
    _title(sheet)
    caption(sheet, 22, 261, "WHATEVER YOU HAND HIM,\nTROWEL MAKES IT GROW.")


def _title(sheet: Sheet) -> None:
    sound(sheet, 34, 56, "SMALL", 27, fill=(255, 226, 96), rim=PAPER, steps=(0, -1, 1))
    sound(sheet, 138, 60, "PRINT", 52, fill=(236, 88, 70), rim=PAPER, steps=(0, -1.4, 1.2, -0.8))


def _packet(sheet: Sheet) -> None:
    pen = sheet.pen()
    pen.shape(box(0, 290, 240, 530), (255, 216, 138), line=0)
    burst_lines(pen, 116, 432, 70, 82, 44, 4, ink=(248, 192, 104), thick=7)
    fill, shade = DAY["head"]
    pen.tube(curve([(6, 566), (36, 532), (64, 498)], closed=False), (46, 44, 40), DAY["tube"][0], ribs=5)
    for y, tip, rise in ((402, 168, -6), (428, 174, -1), (454, 168, 5)):
        pen.tube(curve([(76, 470), (118, y + 8), (tip, y + rise)], closed=False), (24, 25, 22), fill)
    pen.shape(
        curve([(48, 476), (58, 448), (88, 436), (112, 462), (104, 498), (76, 512), (54, 500)]),
        fill,
        shade,
        depth=5,
    )
    packet(pen.at(118, 424, 1.9, turn=6))
    pen.tube(curve([(70, 476), (84, 452), (110, 446)], closed=False), (30, 27, 22), fill)
    pen.shape(oval(72, 480, 19, 17), fill, line=0)
    caption(sheet, 22, 310, "ONE MORNING THE POST BROUGHT\nA PACKET OF SEEDS. A *SMALL* ONE.", size=10)


def _question(sheet: Sheet) -> None:
    pen = sheet.pen()
    sky(pen, (190, 226, 206), (190, 226, 206))
    for x in (216, 332, 448):
        pen.shape(line((x, 530), (x + 90, 296), (x + 122, 296), (x + 32, 530)), (208, 236, 214), line=0)
    for x in range(210, 500, 58):
        pen.shape(box(x, 296, x + 5, 500), (236, 244, 236), line=0.7)
    pen.shape(box(200, 408, 500, 413), (236, 244, 236), line=0.7)
    for x, tall in ((236, 54), (470, 70), (440, 44)):
        leafy = curve(
            [
                (x - 10, 488, 1),
                (x - 20, 488 - tall * 0.5),
                (x, 488 - tall, 1),
                (x + 18, 488 - tall * 0.6),
                (x + 9, 488, 1),
            ]
        )
        pen.shape(leafy, (130, 190, 130), (98, 160, 112), line=0.8)
    trowel(
        pen.at(312, 558, 1.22), DAY, "squint", left=(-18, -64), right=(14, -62), look=(0, 3), nod=8,
        in_right=lambda grip: packet(grip.at(-7, -12, 0.42, turn=4), 5),
    )  # fmt: skip
    plank_table(pen, 200, 510, 492, *WOOD)
    pixel(pen.at(440, 493, 1.16), DAY, "calm", look=(-1.8, 0.5), nod=-6, tail="up")
    pen.shape(line((226, 492), (229, 472), (247, 472), (250, 492)), (206, 116, 84), (162, 78, 66), depth=3)
    pen.shape(box(226, 468, 250, 474), (206, 116, 84), (162, 78, 66), depth=2)
    balloon(sheet, 408, 340, "THE PICTURE IS *TINY.*\nWHAT DOES IT SHOW?", (372, 424), size=11.5)


def _fish(sheet: Sheet) -> None:
    pen = sheet.pen()
    pen.shape(box(0, 520, 512, 768), (246, 166, 188), line=0)
    pen.shape(oval(330, 660, 150, 108), (252, 206, 220), line=0)
    burst_lines(pen, 326, 656, 150, 104, 64, 8, ink=(255, 250, 246), thick=6)
    for x, y, size in ((246, 548, 0.9), (462, 560, 0.9), (470, 706, 1.2), (206, 690, 0.8)):
        sparkle = pen.at(x, y, size)
        sparkle.shape(
            line((0, -12), (2.5, -2.5), (12, 0), (2.5, 2.5), (0, 12), (-2.5, 2.5), (-12, 0), (-2.5, -2.5)),
            (255, 226, 96),
            line=0.7,
        )
    pen.shape(
        curve([(270, 800), (262, 744), (290, 716), (372, 716), (400, 744), (392, 800)]), *DAY["fur"], depth=8
    )
    pen.shape(
        curve([(306, 800), (304, 746), (331, 730), (358, 746), (356, 800)]), *DAY["belly"], depth=4, line=0
    )
    pixel_head(pen.at(331, 722, 4.3), DAY, "sparkle", look=(-0.7, 0))
    trowel_head(pen.at(78, 756, 1.38, turn=-5), DAY, "flat", look=(4, 0))
    balloon(sheet, 130, 566, "IT'S A *FISH!*", (236, 640), size=19, kind="burst", bend=-8)
    balloon(sheet, 96, 630, "YOU SAY THAT\nABOUT EVERYTHING.", (116, 678), size=10.5, bend=3)
