"""Page 2, in black and white: looking harder does not help, and the cat jumps."""

from __future__ import annotations

from drawing.cast import TONES, pixel, pixel_head, trowel, trowel_head
from drawing.layout import page_number, panel, quad
from drawing.lettering import balloon, caption, sound
from drawing.paint import INK, PAPER, Hatch, Tone
from drawing.pen import Pen, Sheet, box, curve, line, oval
from drawing.scenery import burst_lines, magnifier, packet, plank_table, shadow, speed_lines, squares


def draw() -> Sheet:
    """The page at four times its size; it has no colour in it."""
    page = Sheet()
    panel(page, quad(14, 14, 498, 276, slant=(0, 0)), _stare)
    panel(page, quad(14, 284, 240, 494, slant=(0, -22)), _blocks)
    panel(page, quad(248, 284, 498, 494, slant=(-22, 0)), _enough)
    panel(page, quad(14, 502, 498, 752), _leap)
    balloon(page, 190, 470, "BIGGER\nSQUARES.", (268, 418), size=12)
    sound(page, 440, 520, "ドドド", 46, fill=PAPER, down=True, growth=0.12, steps=(-6, 5, -5))
    page_number(page, 2, (110, 110, 110))
    return page


def _stare(sheet: Sheet) -> None:
    pen = sheet.pen()
    pen.shape(box(0, 0, 512, 300), Tone(3.2, 0.06, fade=(20, 280, 0.34)), line=0)
    pen.shape(oval(272, 150, 172, 112), PAPER, line=0)
    burst_lines(pen, 272, 150, 176, 118, 110, 12, thick=5)
    trowel_head(pen.at(258, 236, 2.75, turn=-3), TONES, "round")
    lens = pen.at(300, 246, 2.15, turn=9)
    magnifier(lens, lens=PAPER, rim=PAPER)
    _huge_eye(pen.at(311, 176))
    _fist(pen.at(299, 258))
    sound(sheet, 62, 34, "ジーッ", 52, fill=PAPER, down=True, growth=0.04, steps=(-5, 3, 4))
    balloon(sheet, 420, 52, "IF I ONLY LOOK\n*HARD* ENOUGH...", (378, 134), size=12.5)
    caption(sheet, 34, 250, "(STARE)", size=9.5, paper=PAPER)


def _fist(pen: Pen) -> None:
    pen.tube(curve([(150, 40), (90, 26), (20, 4)], closed=False), (34, 32, 28), TONES["tube"][0], ribs=6)
    pen.shape(oval(4, 0, 22, 19), *TONES["head"], depth=4)
    for y in (-12, -1, 10):
        pen.tube(line((6, y), (-14, y + 1)), (12, 11), PAPER, line=0.8)


def _huge_eye(pen: Pen) -> None:
    pen.shape(oval(0, 0, 37), INK, line=0)
    pen.shape(oval(0, 0, 27, 31), PAPER, line=0)
    pen.shape(oval(0, 1, 20, 24), Tone(2.7, 0.3, fade=(205, 250, 0.62)), line=1)
    pen.shape(oval(0, 2, 10, 13), INK, line=0)
    pen.shape(oval(-8, -10, 6, 7), PAPER, line=0)
    pen.shape(oval(8, 12, 3), PAPER, line=0)


def _blocks(sheet: Sheet) -> None:
    pen = sheet.pen()
    pen.shape(box(0, 270, 260, 510), Hatch(4.2, 0.75, angle=52, cross=True), line=0)
    pen.shape(oval(120, 392, 87), PAPER, line=2.6)
    clip = Sheet()
    squares(clip.pen().at(120, 392, 4.4), 7, grey=3.1, edge=0.45)
    sheet.inset(clip, oval(120, 392, 78))
    pen.shape(oval(120, 392, 78), None, line=1)
    pen.inked(PAPER).stroke(curve([(58, 372), (72, 344), (100, 328)], closed=False), (0.6, 3, 0.6))


def _enough(sheet: Sheet) -> None:
    pen = sheet.pen()
    pen.shape(box(200, 270, 512, 510), Tone(5.2, 0.04, fade=(300, 480, 0.3)), line=0)
    figure = pen.at(308, 560, 1.5)
    trowel(
        figure, TONES, "worried", left=(-30, -60), right=(22, -72), look=(2, 1), nod=4, in_right=_small_packet
    )
    plank_table(pen, 200, 540, 476, PAPER, Tone(3.2, 0.3))
    pixel(pen.at(430, 477, 1.4), TONES, "flat", look=(-1.6, 0), tail="up")
    balloon(sheet, 420, 320, "SQUARES ARE ONLY\nA FISH THAT IS\n*TOO CLOSE.*", (424, 392), size=11.5)


def _small_packet(grip: Pen) -> None:
    packet(grip.at(2, -12, 0.5, turn=8), 5, grey=2.6)


def _leap(sheet: Sheet) -> None:
    pen = sheet.pen()
    pen.shape(box(0, 490, 512, 768), Tone(6.4, 0.42, fade=(505, 640, 0)), line=0)
    pen.shape(line((0, 722), (512, 700), (512, 790), (0, 790)), Hatch(3.4, 0.9, angle=-4), line=0.9)
    speed_lines(pen, 8, 420, 512, 700, 62, 21, slope=0.03)
    shadow(pen, 214, 724, 58, Hatch(2.6, 1.1, angle=-4))
    _leaping_cat(pen.at(214, 640, 1.5, turn=-9))
    packet(pen.at(392, 604, 1.25, turn=24), 7, grey=2.8)
    for x, y, turn in ((362, 572, -30), (358, 600, 0), (368, 630, 30)):
        pen.at(x, y, turn=turn).stroke(line((0, 0), (-16, 0)), (1, 0.2))
    balloon(sheet, 96, 553, "MY\n*FISH!!*", (196, 588), size=19, kind="burst", bend=-7)
    caption(sheet, 252, 728, "IT WAS ONLY A PICTURE. SO WAS HE.", size=10.5, paper=PAPER)


def _leaping_cat(pen: Pen) -> None:
    fur, stripe = TONES["fur"], INK
    tail = curve([(-54, 4), (-72, 0), (-84, -14), (-104, -12)], closed=False)
    pen.tube(tail, (7, 8, 7.5, 6), fur[0])
    for k in (12, 20, 28, 36):
        x, y = tail[k]
        pen.stroke(line((x - 1, y - 3.4), (x + 1, y + 3.4)), (1.6, 2.4, 1.6))
    for foot in ((-78, 26), (-84, 17)):
        pen.tube(curve([(-44, 8), (-62, 18), foot], closed=False), (15, 10, 8), fur[0])
    for paw in ((76, -20), (80, 2)):
        pen.tube(curve([(22, 2), (50, paw[1] * 0.5 + 6), paw], closed=False), (14, 11, 10), fur[0])
        pen.shape(oval(paw[0] + 1, paw[1], 6.4, 5.6), PAPER, line=0.9)
        for dy in (-2, 2):
            pen.stroke(line((paw[0] + 3, paw[1] + dy), (paw[0] + 7, paw[1] + dy)), (0.4, 0.9))
    body = curve([(40, -14), (10, -16), (-28, -14), (-56, -6), (-58, 10), (-34, 14), (6, 17), (36, 14)])
    pen.shape(body, *fur, depth=5)
    for x in (-46, -34, -22, -10, 2):
        pen.stroke(curve([(x, -14.5), (x - 4, -7), (x - 2, -1)], closed=False), (2.6, 1.6, 0.3), ink=stripe)
    pixel_head(pen.at(44, 8, 1.1, turn=12), TONES, "sparkle", look=(1, 0))
