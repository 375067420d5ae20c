from __future__ import annotations

from itertools import pairwise
from random import Random

import numpy as np
import pytest

from training.pages.layout import bounds, cut, rows, shrunk, tiers
from training.pages.sheet import BLACK, WHITE, Sheet
from training.pages.strokes import box, closed, curve, line, outlined, oval, rulings, stroke, wobbled
from training.pages.words import japanese_speech, speech


def sheet() -> Sheet:
    return Sheet((0, 0, 100, 100), gray=True, scale=2)


def ink(paper: Sheet) -> float:
    """How many pixels of the page are black."""
    return float((255 - np.asarray(paper.image, dtype=float)).sum() / 255 / paper.scale**2)


def test_a_curve_passes_through_its_knots() -> None:
    knots = np.array([[0, 0], [10, 5], [20, -5], [30, 0]], dtype=float)

    path = curve(knots, steps=8)

    assert np.allclose(path[::8], knots)


@pytest.mark.parametrize("width", [1.0, 2.0, 5.0])
def test_an_even_stroke_is_as_wide_as_asked(width: float) -> None:
    paper = sheet()

    paper.fill(stroke(line((10, 50), (90, 50), 8), width, "even", Random(1)), BLACK)

    assert ink(paper) == pytest.approx(80 * width, rel=0.12)


def test_a_stroke_round_sharp_corners_leaves_no_holes() -> None:
    paper = sheet()

    paper.fill(outlined(closed(box(20, 20, 80, 80)), 6), BLACK)

    values = np.asarray(paper.image)
    assert values[38:42, 38:162].max() == 0
    assert values[100, 100] == 255


def test_a_closed_line_stays_closed_in_an_unsteady_hand() -> None:
    path = wobbled(closed(oval(50, 50, 30)), 2, Random(3))

    assert np.allclose(path[0], path[-1])
    assert not np.allclose(path[5], oval(50, 50, 30)[5])


def test_hatching_inks_its_share_of_the_area() -> None:
    paper, area = sheet(), box(10, 10, 90, 90)

    paper.fill(rulings(area, 4, 0.7, 1.2, Random(2), jitter=0), BLACK, within=area)

    assert ink(paper) / 6400 == pytest.approx(0.3, abs=0.05)


def test_filling_without_a_shape_leaves_it_out() -> None:
    paper = sheet()

    paper.fill([box(0, 0, 100, 100)], BLACK, without=box(0, 0, 50, 100))

    assert ink(paper) == pytest.approx(5000, rel=0.02)


def test_a_panel_shows_nothing_outside_its_frame() -> None:
    paper, piece = sheet(), Sheet((20, 20, 80, 80), gray=True, scale=2, paper=BLACK)

    paper.inset(piece, box(30, 30, 60, 60))

    assert ink(paper) == pytest.approx(900, rel=0.05)
    assert np.asarray(paper.image)[0, 0] == WHITE[0]


@pytest.mark.parametrize("seed", range(5))
def test_panels_lie_on_the_page_and_beside_each_other(seed: int) -> None:
    layout = cut(Random(seed), 600, 900, panels=6, gutter=8, margin=10)

    assert len(layout.frames) == 6
    areas = 0.0
    for frame in layout.frames:
        left, top, right, bottom = bounds(frame)
        assert left >= 10
        assert top >= 10
        assert right <= 590
        assert bottom <= 890
        areas += (right - left) * (bottom - top)
    assert areas < 580 * 880


def test_a_shape_shrinks_on_all_sides_alike() -> None:
    assert np.allclose(shrunk(box(0, 0, 50, 40), 5), box(5, 5, 45, 35))


def test_tiers_are_read_from_left_to_right_and_down() -> None:
    frames = [bounds(frame) for frame in tiers(Random(4), 600, 900, count=4, gutter=8, margin=10).frames]

    for before, after in pairwise(frames):
        assert after[1] >= before[3] or after[0] >= before[2]


def test_rows_fill_the_width_of_a_strip() -> None:
    assert len(rows(Random(5), 600, 900, panels=3, gutter=20).frames) == 3


def test_there_is_much_to_say() -> None:
    dice = Random(6)
    said = [speech(dice, 80, plain=True) for _ in range(300)]

    assert all(0 < len(text) <= 80 for text in said)
    assert all(ord(letter) < 128 or letter in "\u201c\u201d" for text in said for letter in text)
    assert (
        len({word.strip(".,!?…:;\"'\u201c\u201d") for text in said for word in text.lower().split()}) >= 250
    )
    assert len({japanese_speech(dice) for _ in range(100)}) > 60
