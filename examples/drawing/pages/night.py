"""Page 3, at night: Trowel plants the picture."""

from __future__ import annotations

from drawing.cast import DAY, NIGHT, pixel_head, trowel
from drawing.layout import page_number, panel
from drawing.lettering import balloon, caption, letter
from drawing.paint import PAPER, Colour, Gradient, multiplied
from drawing.pen import Pen, Sheet, box, curve, line, oval
from drawing.scenery import cloud, fence, greenhouse, ground, packet, sky, stars, tree, tufts

DARK: Colour = (14, 14, 30)
EDGE: Colour = (6, 6, 16)
LAMPLIT = multiplied(DAY, (226, 196, 168), keep=("glow", "eye"))


def draw() -> Sheet:
    """The page at four times its size."""
    page = Sheet(EDGE)
    panel(page, box(14, 14, 498, 372), _moon, edge=EDGE)
    panel(page, box(14, 380, 498, 622), _planting, edge=EDGE)
    panel(page, box(14, 630, 498, 752), _waiting, paper=DARK, edge=EDGE)
    page_number(page, 3, (130, 130, 160))
    return page


def _moon(sheet: Sheet) -> None:
    pen = sheet.pen()
    sky(pen, (12, 16, 48), (32, 44, 104), (88, 84, 152), (186, 122, 150), foot=350)
    stars(pen, 90, 250, 9, clear=(20, 30, 236, 108))
    sheet.glow(372, 104, 150, (198, 208, 255), 0.75)
    moon = Gradient((352, 84), (412, 150), ((255, 252, 230), (250, 232, 178), (220, 186, 150)), rings=True)
    pen.shape(oval(372, 104, 42), moon, line=0)
    for x, y, r in ((356, 96, 8), (386, 118, 10), (382, 86, 5), (362, 124, 5)):
        pen.shape(oval(x, y, r, r * 0.9), (232, 210, 168), line=0, opacity=0.6)
    night = pen.inked((18, 18, 44))
    cloud(night, 436, 132, 1.1, (96, 98, 164), (62, 66, 130))
    cloud(night, 296, 78, 0.7, (84, 90, 158), (58, 62, 124))
    ground(night, [(-10, 250), (110, 214), (230, 244), (360, 220), (530, 252)], (58, 62, 116), (44, 48, 100))
    tree(night, 60, 284, 1.05, (42, 58, 100), (28, 40, 80), (26, 24, 52))
    tree(night, 452, 276, 0.8, (42, 58, 100), (28, 40, 80), (26, 24, 52))
    lamp = Gradient((250, 288), (250, 192), ((255, 226, 138), (250, 182, 96), (196, 116, 104)))
    sheet.glow(250, 262, 130, (255, 190, 96), 0.75)
    greenhouse(night.at(250, 300, 1.25), lamp, (64, 62, 104), plants=(132, 96, 66), shine=False)
    ground(night, [(-10, 304), (130, 292), (260, 300), (400, 292), (530, 306)], (34, 48, 84), (24, 34, 68))
    sheet.glow(250, 330, 110, (255, 196, 110), 0.32)
    fence(night, 10, 178, 346, 40, (96, 104, 156), (66, 70, 124), seed=5)
    tufts(night, 190, 500, 320, 368, 22, 4, (74, 92, 128))
    sheet.glow(398, 334, 70, (255, 206, 120), 0.7)
    trowel(
        night.at(372, 358, 0.52, turn=3),
        LAMPLIT,
        "flat",
        left=(-30, -34),
        right=(44, -50),
        look=(-3, 0),
        in_right=_lantern,
    )
    sheet.glow(398, 344, 26, (255, 240, 190), 0.8)
    letter(sheet, 34, 54, "THAT NIGHT, WHEN\nTHE CAT WAS ASLEEP,", 14, PAPER, align="left")
    letter(sheet, 34, 90, "TROWEL DID WHAT HE *DOES.*", 14, PAPER, align="left")


def _planting(sheet: Sheet) -> None:
    pen = sheet.pen().inked((14, 12, 32))
    sky(pen, (22, 26, 70), (46, 48, 106), (70, 60, 110), top=380, foot=560)
    stars(pen, 60, 768, 31)
    ground(pen, [(-10, 520), (120, 508), (260, 514), (400, 506), (530, 520)], (40, 50, 84), (30, 38, 72))
    bed = curve([(220, 588), (290, 566), (400, 566), (474, 588), (400, 612), (280, 612)])
    pen.shape(bed, (86, 58, 62), (58, 38, 56), depth=6)
    sheet.glow(204, 520, 190, (255, 190, 96), 0.6)
    for x in range(250, 450, 24):
        pen.stroke(
            curve([(x, 584 + x % 5 * 3), (x + 7, 581 + x % 5 * 3), (x + 14, 585 + x % 5 * 3)], closed=False),
            (0.2, 0.8, 0.2),
        )
    trowel(
        pen.at(130, 606, 1.45), LAMPLIT, "happy", left=(-36, -50), right=(46, -62), look=(4, 2), nod=7,
        in_right=_lantern,
    )  # fmt: skip
    sheet.glow(198, 540, 62, (255, 236, 170), 0.8)
    mound = curve([(300, 594, 1), (318, 576), (342, 568), (366, 576), (384, 594, 1), (342, 599)])
    packet(pen.at(342, 556, 0.95, turn=-6), 6)
    pen.shape(mound, (122, 80, 66), (76, 48, 58), depth=5)
    stick = pen.at(424, 590)
    stick.shape(box(-2.5, -40, 2.5, 4), (150, 110, 86), line=0.8)
    stick.shape(box(-24, -58, 24, -32), (190, 146, 108), (140, 100, 86), depth=2)
    letter(sheet, 424, 545, "x 2.5", 15, (40, 26, 40))
    balloon(
        sheet, 348, 426, "SLEEP WELL, SMALL PICTURE.\nTWO AND A HALF TIMES\nWOULD BE *PLENTY.*", (196, 470), size=12.5,
        paper=(24, 26, 58), ink=(176, 248, 206), bend=-8,
    )  # fmt: skip


def _lantern(pen: Pen) -> None:
    pen.stroke(curve([(-8, 12), (-7, 2), (0, -3), (7, 2), (8, 12)], closed=False), (1, 1.2, 1))
    pen.shape(line((-10, 14), (-6, 8), (6, 8), (10, 14)), (96, 92, 112), line=0.8)
    light = pen.place(0, 24)
    end = pen.place(0, 38)
    glass = Gradient(light, end, ((255, 255, 236), (255, 226, 130), (246, 170, 78)), rings=True)
    pen.shape(box(-8, 14, 8, 33), glass, line=0.8)
    pen.stroke(line((0, 14), (0, 33)), (0.5, 0.5))
    pen.shape(line((-10, 33), (10, 33), (11, 38), (-11, 38)), (96, 92, 112), line=0.8)


def _waiting(sheet: Sheet) -> None:
    pen = sheet.pen()
    pen.shape(
        box(0, 620, 512, 768),
        Gradient((420, 700), (420, 980), ((34, 34, 72), (14, 14, 30)), rings=True),
        line=0,
    )
    pixel_head(
        pen.at(418, 738, 2.3), multiplied(NIGHT, (110, 96, 118), keep=("eye",)), "calm", look=(-1.4, 0.4)
    )
    letter(sheet, 34, 660, "AT FIRST, NOTHING HAPPENED.", 14, PAPER, align="left")
    letter(sheet, 34, 690, "PIXEL, WHO WAS NOT ASLEEP, LIKED THIS PART.", 10, (200, 204, 236), align="left")
    caption(
        sheet,
        34,
        712,
        "HE IS VERY GOOD AT NOTHING.",
        size=10,
        paper=DARK,
        ink=(176, 248, 206),
        frame=(176, 248, 206),
    )
