"""The grays of an e-reader, and pages that are rotated for it."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from comic_upscale.imaging.pixels import Pixels
from comic_upscale.imaging.screen import adjust, dither, to_screen
from comic_upscale.imaging.shape import decode_page
from comic_upscale.imaging.target_size import find_target, turned
from comic_upscale.settings.processing import ProcessingSettings
from comic_upscale.settings.screens import Screen

LIBRA = Screen("libra", 1264, 1680, 16)


@given(st.sampled_from([2, 4, 15, 16, 32, 33, 64, 255]), st.integers(0, 255))
def test_flat_areas_keep_their_tone(levels: int, value: int) -> None:
    gray = np.full((64, 64, 1), value, np.uint8)
    made = dither(gray, levels)
    steps = set(np.rint(np.linspace(0, 255, levels)).astype(int))
    assert set(np.unique(made).tolist()) <= steps
    # Above 32 levels, no error is spread.
    bound = 0.03 * 255 / (levels - 1) + 1 if levels <= 32 else 255 / (levels - 1)
    assert abs(float(made[16:].mean()) - value) < bound


def test_black_and_white_stay_exact_and_levels_stay_levels() -> None:
    gray = np.repeat(np.arange(16, dtype=np.uint8) * 17, 64).reshape(16, 64, 1)
    assert (dither(gray, 16) == gray).all()
    any_gray = np.random.default_rng(1).integers(0, 256, (50, 40, 1), dtype=np.uint8)
    assert (dither(any_gray, 256) == any_gray).all()
    once = dither(any_gray, 16)
    assert (dither(once, 16) == once).all()


def test_gamma_darkens_grays_alone() -> None:
    gray = np.array([[[0], [128], [255]]], np.uint8)
    assert adjust(gray, Screen("x", 600, 800, 16, 1.8))[0, :, 0].tolist() == [0, 74, 255]
    assert adjust(gray, LIBRA) is gray


def test_a_gray_screen_gets_gray_pages_on_white_paper() -> None:
    color = np.random.default_rng(2).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    alpha = np.full((40, 30), 255, np.uint8)
    alpha[:10] = 0
    page = Pixels(color, alpha=alpha)
    made = to_screen(page, ProcessingSettings(size=LIBRA), "png")
    assert made.color.shape == (40, 30, 1)
    assert made.alpha is None
    assert (made.color[:10] == 255).all()
    assert len(np.unique(made.color)) <= 16
    assert len(np.unique(to_screen(page, ProcessingSettings(size=LIBRA, format="jpeg"), "jpeg").color)) > 16
    colour = ProcessingSettings(size=Screen("c", 1264, 1680, None))
    assert to_screen(page, colour, "png") is page
    assert to_screen(page, ProcessingSettings(scale=2), "png") is page


@pytest.mark.parametrize(
    ("page", "spreads", "target"),
    [
        ((600, 900), "keep", (1120, 1680)),
        ((1200, 900), "keep", (1264, 948)),
        ((1200, 900), "split", (2240, 1680)),
        ((1200, 900), "both", (2240, 1680)),
        ((1200, 900), "rotate", (1260, 1680)),
        ((2400, 600), "split", (1264, 316)),  # a banner is no double page
        ((1050, 1000), "split", (1264, 1204)),  # nor is a page that is nearly square
        ((800, 4000), "keep", (1264, 6320)),  # a strip
    ],
)
def test_how_large_a_page_becomes(page: tuple[int, int], spreads: str, target: tuple[int, int]) -> None:
    screen = Screen("libra", 1264, 1680, 16, 1.0, spreads)  # type: ignore[arg-type]
    assert find_target(*page, screen).size == target


def test_a_rotated_page_has_its_upper_edge_on_the_left() -> None:
    image = Image.new("L", (40, 20), 255)
    image.paste(0, (0, 0, 40, 5))
    file = BytesIO()
    image.save(file, "PNG")
    screen = Screen("x", 300, 400, 16, 1.0, "rotate")
    page = decode_page(file.getvalue(), ProcessingSettings(size=screen))
    assert (page.width, page.height) == (20, 40) == turned((40, 20), screen)
    assert (page.color[:, :5] == 0).all()
    assert (page.color[:, 5:] == 255).all()
