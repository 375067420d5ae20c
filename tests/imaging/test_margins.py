"""Cropped margins: no ink is ever cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from comic_upscale.imaging.decode import decode
from comic_upscale.imaging.margins import NOISIEST, find_content
from comic_upscale.imaging.pixels import Pixels, UInt8Array


def page(paper: int = 255, size: tuple[int, int] = (300, 200)) -> UInt8Array:
    return np.full((*size, 1), paper, np.uint8)


def content(color: UInt8Array) -> tuple[int, int, int, int]:
    return find_content(Pixels(color))


def test_the_paper_around_a_drawing_is_cut() -> None:
    color = page()
    color[60:240, 50:150] = 0
    top, bottom, left, right = content(color)
    # Up to 7 pixels of paper beside ink count as ink, because blocks of 8 are judged; and 2 stay for safety.
    assert (top, bottom, left, right) == (51, 249, 41, 159)


@given(
    st.integers(220, 255), st.integers(0, 299), st.integers(0, 199), st.integers(1, 60), st.integers(1, 60),
    st.integers(NOISIEST + 1, 200),
)  # fmt: skip
def test_no_ink_is_cut(paper: int, top: int, left: int, height: int, width: int, darker: int) -> None:
    color = page(paper)
    color[150, 100] = 0
    color[top : top + height, left : left + width] = paper - darker
    first, last, west, east = content(color)
    kept = np.zeros(color.shape, bool)
    kept[first:last, west:east] = True
    assert (color[~kept] == paper).all()


@pytest.mark.parametrize("levels", [2, 3, 5])
def test_faint_screentone_is_ink(levels: int) -> None:
    color = page()
    color[20:280, 20:180] = 255 - levels
    color[100:200, 50:150] = 0
    top, bottom, left, right = content(color)
    assert top <= 20
    assert bottom >= 280
    assert left <= 20
    assert right >= 180


def test_noisy_paper_is_paper_and_a_dot_is_not() -> None:
    random = np.random.default_rng(3)
    color = (248 + random.normal(0, 1.0, (300, 200, 1))).round().clip(0, 255).astype(np.uint8)
    color[100:200, 60:140] = 10
    top, _, _, right = content(color)
    assert top > 80
    assert right < 160
    color[30, 170] = 100
    top, _, _, right = content(color)
    assert top <= 30
    assert right > 170


@pytest.mark.parametrize("paper", [0, 40, 180])
def test_a_dark_border_stays(paper: int) -> None:
    color = page(paper)
    color[60:240, 50:150] = 255
    assert content(color) == (0, 300, 0, 200)


def test_pages_that_stay_whole() -> None:
    assert content(page()) == (0, 300, 0, 200)
    small = page(size=(40, 40))
    small[20, 20] = 0
    assert content(small) == (0, 40, 0, 40)
    clear = Pixels(page(), alpha=np.zeros((300, 200), np.uint8))
    assert find_content(clear) == (0, 300, 0, 200)


@pytest.mark.parametrize(
    "name",
    [
        "haruko__08.jpg",
        "haruko__04.jpg",
        "pageblanche__PageBlanche_Page_001.jpg",
        "climatefrogs__model-sheet.jpg",
    ],
)
def test_real_margins_hold_nothing(comics_dir: Path, name: str) -> None:
    file = comics_dir / "dev" / name
    if not file.is_file():
        pytest.skip(f"{name} is not here")
    pixels = decode(file.read_bytes(), max_pixels=10**8)
    top, bottom, left, right = find_content(pixels)
    kept = np.zeros(pixels.color.shape[:2], bool)
    kept[top:bottom, left:right] = True
    cut = pixels.color[~kept].astype(int)
    assert len(cut) > 0.01 * kept.size
    assert int(np.ptp(cut, axis=0).max()) <= 2 * NOISIEST
