"""The first page of chapter 2, in colour: the picture has grown."""

from __future__ import annotations

from drawing.cast import DAY, pixel, pixel_head, trowel, trowel_head
from drawing.layout import page_number, panel, quad
from drawing.lettering import balloon, caption, sound
from drawing.paint import PAPER, Gradient
from drawing.pen import Pen, Sheet, box, curve, line, oval
from drawing.scenery import GRASS, WOOD, burst_lines, catnip, cloud, ground, shadow, sky, tree, tufts


def draw() -> Sheet:
    """The page at four times its size."""
    page = Sheet()
    panel(page, quad(16, 16, 496, 372), _grown)
    panel(page, quad(16, 380, 226, 560, slant=(0, 20)), _leaf)
    panel(page, quad(234, 380, 496, 560, slant=(20, 0)), _not_a_fish)
    panel(page, quad(16, 568, 496, 750), _better)
    page_number(page, 5)
    return page


def _grown(sheet: Sheet) -> None:
    pen = sheet.pen()
    sky(pen, (126, 176, 226), (246, 208, 190), (255, 236, 176), top=10, foot=330)
    sheet.glow(256, 250, 250, (255, 248, 200), 0.9)
    burst_lines(pen, 256, 178, 150, 140, 40, 6, ink=(255, 244, 196), thick=9)
    cloud(pen, 74, 84, 1, (255, 250, 244), (246, 214, 206))
    cloud(pen, 446, 128, 0.8, (255, 250, 244), (246, 214, 206))
    ground(
        pen, [(-10, 306), (120, 286), (250, 300), (390, 282), (530, 300)], (170, 206, 140), (140, 184, 126)
    )
    tree(pen, 36, 318, 0.8, (124, 184, 98), (84, 146, 88), WOOD[1])
    tree(pen, 474, 312, 0.9, (124, 184, 98), (84, 146, 88), WOOD[1])
    ground(pen, [(-10, 322), (150, 314), (300, 322), (530, 314)], *GRASS)
    tufts(pen, 20, 490, 330, 366, 24, 8, (74, 138, 74))
    pen.shape(
        curve([(186, 350, 1), (216, 330), (256, 324), (296, 330), (326, 350, 1), (256, 360)]),
        (140, 94, 70),
        (100, 64, 56),
        depth=5,
    )
    stem = curve([(256, 346), (250, 310), (260, 280), (256, 250)], closed=False)
    pen.tube(stem, (15, 12, 12), (104, 172, 84), ribs=0)
    for side in (-1, 1):
        leaf = curve(
            [(256, 306, 1), (256 + side * 28, 280), (256 + side * 70, 284, 1), (256 + side * 36, 306)]
        )
        pen.shape(leaf, *DAY["leaf"], depth=4)
        pen.stroke(
            curve([(256 + side * 6, 304), (256 + side * 34, 294), (256 + side * 60, 287)], closed=False),
            (0.9, 0.2),
        )
    _picture(pen.at(256, 166, 1, turn=-2))
    sound(sheet, 204, 228, "CATNIP", 22, fill=PAPER, turn=-2, steps=(0,), tight=1.06)
    shadow(pen, 112, 356, 30)
    trowel(pen.at(110, 356, 0.98), DAY, "wide", left=(-36, -86), right=(36, -88), look=(2, -2), nod=4)
    shadow(pen, 398, 357, 28)
    pixel(pen.at(396, 357, 1.25), DAY, "wide", look=(-1, -0.8), nod=-5, tail="up")
    sound(sheet, 346, 92, "POP!", 44, fill=(255, 214, 70), rim=PAPER, turn=-12, growth=0.07)
    caption(sheet, 24, 24, "IN THE MORNING\nTHE PICTURE HAD COME UP.")


def _picture(pen: Pen) -> None:
    pen.shape(box(-92, -92, 92, 92), (252, 240, 214), (222, 198, 160), depth=6)
    catnip(pen.at(0, 0, 4))
    pen.frame(box(-80, -80, 80, 80), 1.6)


def _leaf(sheet: Sheet) -> None:
    pen = sheet.pen()
    pen.shape(
        box(0, 370, 260, 580), Gradient((120, 380), (120, 560), ((190, 232, 222), (150, 206, 190))), line=0
    )
    burst_lines(pen, 110, 500, 96, 84, 40, 16, ink=(226, 246, 236), thick=6)
    trowel_head(pen.at(112, 566, 1.75, turn=-4), DAY, "happy", look=(2, 0))
    balloon(sheet, 118, 408, "LOOK AT THOSE EDGES!\nIT'S A *LEAF.* IT'S CATNIP!", (170, 466), size=11)


def _not_a_fish(sheet: Sheet) -> None:
    pen = sheet.pen()
    pen.shape(box(220, 370, 512, 580), (122, 140, 188), line=0)
    for x in range(230, 520, 26):
        pen.stroke(line((x, 376), (x - 60, 570)), (1.6, 1.6), ink=(112, 128, 178))
    pen.shape(
        curve([(310, 620), (304, 560), (340, 544), (400, 544), (436, 560), (430, 620)]), *DAY["fur"], depth=6
    )
    pixel_head(pen.at(370, 552, 2.7), DAY, "flat", look=(0, 0))
    balloon(sheet, 318, 408, "NOT A FISH.", (344, 470), size=12.5)
    balloon(sheet, 440, 426, "...CATNIP?", (426, 476), size=10.5, bend=-4)


def _better(sheet: Sheet) -> None:
    pen = sheet.pen()
    sky(pen, (255, 214, 170), (255, 240, 204), top=568, foot=700)
    ground(pen, [(-10, 690), (140, 676), (330, 688), (530, 674)], *GRASS)
    for x, y, size in ((176, 724, 1), (36, 738, 0.9), (232, 744, 0.8), (462, 716, 0.9)):
        _sprig(pen.at(x, y, size))
    trowel(pen.at(104, 752, 0.94), DAY, "happy", left=(-30, -44), right=(34, -40), look=(3, 1), nod=5)
    _cat_on_back(pen.at(318, 716, 1.35))
    for x, y, size in ((242, 758, 1.1), (290, 762, 0.9), (358, 760, 1), (404, 764, 1.1)):
        _sprig(pen.at(x, y, size))
    for x, y, size in ((248, 664, 1), (264, 644, 0.7), (238, 638, 0.55)):
        heart = curve([(0, 8, 1), (-9, -1), (-5, -8), (0, -4, 1), (5, -8), (9, -1)])
        pen.at(x, y, size).shape(heart, (236, 96, 110), (190, 62, 96), depth=2, line=0.8)
    balloon(sheet, 196, 598, "SO IT IS BETTER\nTHAN A FISH?", (146, 664), size=11.5, bend=4)
    balloon(sheet, 384, 606, "ENLARGE IT *AGAIN.*", (290, 684), size=16, bend=6)
    caption(sheet, 438, 728, "THE END", size=10)


def _sprig(pen: Pen) -> None:
    pen.tube(curve([(0, 4), (1, -12), (0, -26)], closed=False), (2.4, 1.8), (84, 152, 80), line=0.7)
    for y, far in ((-2, 13), (-10, 11), (-18, 8)):
        for side in (-1, 1):
            leaf = curve(
                [(0, y, 1), (side * far * 0.5, y - 6), (side * far, y - 4, 1), (side * far * 0.6, y + 1)]
            )
            pen.shape(leaf, *DAY["leaf"], depth=1, line=0.65)
    for x, y in ((-2.4, -26), (2.4, -26.5), (-1.6, -30), (1.8, -31), (0, -34)):
        pen.shape(oval(x, y, 2.3), (186, 130, 222), (138, 86, 184), depth=0.8, line=0.6)


def _cat_on_back(pen: Pen) -> None:
    fill, shade = DAY["fur"]
    stripe = DAY["stripe"][0]
    assert isinstance(stripe, tuple)
    pen.tube(curve([(44, 6), (62, 10), (74, 0), (70, -14), (78, -24)], closed=False), (7, 8, 7, 6), fill)
    pen.shape(
        curve([(-20, -12), (4, -18), (32, -16), (52, -4), (50, 12), (28, 17), (-2, 16), (-22, 10)]),
        fill,
        shade,
        depth=4,
    )
    pen.shape(
        curve([(-10, -12), (10, -16), (34, -12), (36, -4), (14, -3), (-8, -3)]),
        *DAY["belly"],
        depth=1,
        line=0,
    )
    for x in (6, 16, 26, 36):
        pen.stroke(curve([(x, 16), (x + 2, 10), (x, 5)], closed=False), (2.4, 1.4, 0.3), ink=stripe)
    for root, knee, paw in (
        ((-4, -12), (-8, -24), (-2, -32)), ((8, -14), (12, -28), (18, -34)),
        ((32, -10), (40, -22), (36, -32)), ((42, -6), (54, -18), (54, -30)),
    ):  # fmt: skip
        pen.tube(curve([root, knee, paw], closed=False), (10, 8.5, 8), fill)
        pen.shape(oval(*paw, 5), *DAY["belly"], depth=1.2, line=0.9)
    pixel_head(pen.at(-26, 10, 1, turn=-24), DAY, "dizzy")
