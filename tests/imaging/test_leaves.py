"""Leaves: put together again, they are the page."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from comic_upscale.imaging.decode import decode
from comic_upscale.imaging.leaves import Leaf, LeafCutter, find_cuts
from comic_upscale.imaging.pixels import UInt8Array
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.screens import Screen, Spreads


def job(spreads: Spreads = "split", **options: object) -> JobSettings:
    size = Screen("x", 120, 160, 16, 1.0, spreads)
    return JobSettings(input=Path("in"), output=Path("out"), size=size, **options)  # type: ignore[arg-type]


def as_file(samples: UInt8Array, format: str = "PNG") -> bytes:
    file = BytesIO()
    Image.fromarray(samples.squeeze()).save(file, format, quality=95)
    return file.getvalue()


def noise(height: int, width: int, seed: int = 0) -> UInt8Array:
    return np.random.default_rng(seed).integers(0, 16, (height, width, 1), dtype=np.uint8) * 17


def cut(pages: list[bytes], own: JobSettings, *, right_to_left: bool = False) -> list[Leaf]:
    cutter = LeafCutter(own, right_to_left=right_to_left)
    leaves = [leaf for number, data in enumerate(pages, 1) for leaf in cutter.add(data, number)]
    return [*leaves, *cutter.end()]


def pixels(leaf: Leaf) -> UInt8Array:
    color = decode(leaf.data, max_pixels=10**8).color
    assert color.shape[:2] == (leaf.height, leaf.width)
    return color.astype(np.uint8)


@pytest.mark.parametrize("right_to_left", [False, True])
@pytest.mark.parametrize("width", [200, 201])
def test_the_halves_of_a_double_page_are_the_page(width: int, right_to_left: bool) -> None:
    page = noise(130, width)
    leaves = cut([as_file(page)], job(), right_to_left=right_to_left)
    assert [leaf.side for leaf in leaves] == (["right", "left"] if right_to_left else ["left", "right"])
    assert [(leaf.number, leaf.part) for leaf in leaves] == [(1, 1), (1, 2)]
    halves = {leaf.side: pixels(leaf) for leaf in leaves}
    assert (np.hstack((halves["left"], halves["right"])) == page).all()


def test_both_adds_the_rotated_page_in_the_grays_of_the_screen() -> None:
    leaves = cut([as_file(noise(150, 220))], job("both"))
    assert [leaf.side for leaf in leaves] == ["left", "right", ""]
    rotated = pixels(leaves[2])
    assert (leaves[2].width, leaves[2].height) == (109, 160)
    assert set(np.unique(rotated).tolist()) <= {17 * level for level in range(16)}


@pytest.mark.parametrize("spreads", ["keep", "rotate"])
def test_a_page_that_is_not_cut_keeps_its_file(spreads: Spreads) -> None:
    data = as_file(noise(130, 200))
    assert cut([data], job(spreads)) == [Leaf(data, 200, 130, 1)]
    no_screen = JobSettings(input=Path("in"), output=Path("out"))
    assert cut([data], no_screen) == [Leaf(data, 200, 130, 1)]


def test_the_halves_of_a_jpeg_lose_nothing_that_shows() -> None:
    smooth = np.add.outer(np.arange(130), np.arange(200)).astype(np.uint8)[:, :, None]
    data = as_file(np.repeat(smooth, 3, axis=2), "JPEG")
    before = decode(data, max_pixels=10**6).color.astype(int)
    leaves = cut([data], job(format="jpeg"))
    assert leaves[0].width % 16 == 0
    after = np.hstack([pixels(leaf) for leaf in leaves]).astype(int)
    if before.shape[2] != after.shape[2]:
        before = before[:, :, :1]
    assert np.abs(before - after).max() <= 3


def strip(panels: list[int], gutter: int, width: int = 120) -> UInt8Array:
    parts = []
    for seed, height in enumerate(panels):
        parts.append(np.minimum(noise(height, width, seed), 170))
        parts.append(np.full((gutter, width, 1), 255, np.uint8))
    return np.concatenate(parts)


@given(
    st.lists(st.lists(st.integers(5, 330), min_size=2, max_size=6), min_size=1, max_size=3),
    st.integers(4, 60),
)
@settings(max_examples=30)
def test_the_leaves_of_strips_are_the_strips(files: list[list[int]], gutter: int) -> None:
    strips = [strip(panels, gutter) for panels in files]
    strips = [each for each in strips if len(each) >= 2.5 * 120]
    leaves = cut([as_file(each) for each in strips], job())
    if strips:
        assert (np.concatenate([pixels(leaf) for leaf in leaves]) == np.concatenate(strips)).all()
    assert all(leaf.height <= 2 * 160 for leaf in leaves)


def test_strips_are_cut_between_panels() -> None:
    color = strip([100, 40, 150, 30, 30, 30], 10)
    cuts = find_cuts(color, Screen("x", 120, 160, 16), is_end=True)
    assert cuts == [155, 315, len(color)]
    assert all((color[row] == 255).all() for row in cuts[:-1])


def test_a_panel_stays_whole_up_to_twice_the_height_of_the_screen() -> None:
    screen = Screen("x", 120, 160, 16)
    assert find_cuts(strip([250, 30], 10), screen, is_end=True) == [255, 300]
    assert find_cuts(strip([700], 10), screen, is_end=True)[:2] == [160, 320]


def test_a_panel_over_two_files_is_one_leaf() -> None:
    color = strip([150, 120, 150], 10)
    first, second = color[:300], color[300:]
    leaves = cut([as_file(first), as_file(np.concatenate((second, strip([200], 10))))], job())
    assert leaves[1].height > 100
    assert (np.concatenate([pixels(leaf) for leaf in leaves])[: len(color)] == color).all()
    assert all(leaf.part for leaf in leaves)
