from __future__ import annotations

from random import Random

import numpy as np
import pytest

from tests.conftest import LONG
from training.pages import GRAY_KINDS, KINDS, DrawnPage, draw_lettered_page, draw_page

SIZE = {"width": 240, "height": 360}
EACH = 3 if LONG else 2
"""Pages of a kind."""


pytestmark = pytest.mark.usefixtures("comic_fonts")


@pytest.fixture(scope="module")
def pages(comic_fonts: None) -> list[DrawnPage]:
    """Small pages, some of each kind."""
    kinds = [_kind(seed) for seed in range(100)]
    return [draw_page(seed, **SIZE) for kind in KINDS for seed in _first(kinds, kind)]


def _kind(seed: int) -> str:
    return Random(seed).choices(list(KINDS), list(KINDS.values()))[0]


def _first(kinds: list[str], kind: str) -> list[int]:
    return [seed for seed, there in enumerate(kinds) if there == kind][:EACH]


def test_the_same_seed_draws_the_same_page() -> None:
    first, again, other = draw_page(3, **SIZE), draw_page(3, **SIZE), draw_page(4, **SIZE)

    assert first.pixels.tobytes() == again.pixels.tobytes()
    assert first.lettering == again.lettering
    assert first.pixels.tobytes() != other.pixels.tobytes()


def test_a_page_with_even_tones_differs_in_its_tones_alone() -> None:
    kinds = [_kind(seed) for seed in range(100)]
    for seed in _first(kinds, "manga"):
        dots, even = draw_page(seed, **SIZE), draw_page(seed, **SIZE, finest=0.05)
        assert even.lettering == dots.lettering
        ink, gray = dots.pixels[..., 0].astype(int), even.pixels[..., 0].astype(int)
        assert gray.mean() == pytest.approx(ink.mean(), abs=4), "tones keep their shade"
        assert (gray != ink).mean() > 0.02
        between = ((gray > 40) & (gray < 215)).mean()
        assert between > ((ink > 40) & (ink < 215)).mean(), "dots became gray"
        assert draw_page(seed, **SIZE, finest=10).pixels.tobytes() == dots.pixels.tobytes()


def test_pages_have_the_size_asked(pages: list[DrawnPage]) -> None:
    assert {(page.pixels.shape, page.pixels.dtype.name) for page in pages} == {((360, 240, 3), "uint8")}


def test_every_kind_is_drawn(pages: list[DrawnPage]) -> None:
    assert [page.kind for page in pages] == [kind for kind in KINDS for _ in range(EACH)]


def test_nearly_half_of_all_pages_are_gray() -> None:
    gray = sum(_kind(seed) in GRAY_KINDS for seed in range(2000))

    assert gray / 2000 == pytest.approx(0.44, abs=0.04)


def test_gray_kinds_are_exactly_gray(pages: list[DrawnPage]) -> None:
    for page in pages:
        if page.kind in GRAY_KINDS:
            assert np.ptp(page.pixels, axis=2).max() == 0, page.kind


def test_most_pages_have_paper_that_is_white_and_ink_that_is_black(pages: list[DrawnPage]) -> None:
    clean = [page for page in pages if page.pixels.max() == 255 and page.pixels.min() == 0]

    assert len(clean) > 0.6 * len(pages)


def test_no_page_is_empty(pages: list[DrawnPage]) -> None:
    assert min(page.pixels.std() for page in pages) > 10


def test_lettering_lies_inside_the_page(pages: list[DrawnPage]) -> None:
    boxes = [item.box for page in pages for item in page.lettering]

    assert len(boxes) > 12 * EACH
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= 240
        assert 0 <= top < bottom <= 360


def test_both_scripts_are_written(pages: list[DrawnPage]) -> None:
    assert {item.script for page in pages for item in page.lettering} == {"latin", "japanese"}


def test_an_odd_size_is_drawn_too() -> None:
    assert draw_page(11, width=301, height=203).pixels.shape == (203, 301, 3)


def test_a_page_to_be_read_says_plain_english_in_the_order_of_reading() -> None:
    page = draw_lettered_page(5, width=800, height=1200)

    assert len(page.lettering) >= 3
    for item in page.lettering:
        left, top, right, bottom = item.box
        assert 0 <= left < right <= 800
        assert 0 <= top < bottom <= 1200
        assert item.script == "latin"
        block = page.pixels[top:bottom, left:right]
        assert block.min() < 40
        assert block.max() > 215


def test_the_letters_of_a_page_to_be_read_are_as_high_as_asked() -> None:
    small = draw_lettered_page(8, width=800, height=1200, x_height=(0.008, 0.008))
    large = draw_lettered_page(8, width=800, height=1200, x_height=(0.016, 0.016))

    def line_height(page: DrawnPage) -> float:
        return float(np.mean([(i.box[3] - i.box[1]) / (i.text.count("\n") + 1) for i in page.lettering]))

    assert line_height(large) == pytest.approx(2 * line_height(small), rel=0.25)
