from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from comic_upscale.engines.pages import finish, prepare
from comic_upscale.imaging.flat_areas import restore_solid, solid_map
from comic_upscale.imaging.pixels import Pixels
from comic_upscale.imaging.tone import (
    ENOUGH,
    _add,
    _average_cells,
    interpolate,
    paper_map,
    restore_tone,
    tone_map,
)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_page_that_became_lighter_is_as_dark_as_before(kind: type[np.uint8 | np.uint16]) -> None:
    unit = np.iinfo(kind).max // 255
    random = np.random.default_rng(1)
    source = (random.integers(60, 200, (90, 70, 3)) * unit).astype(kind)
    larger = (source + kind(5 * unit)).repeat(2, axis=0).repeat(2, axis=1)
    result = restore_tone(Pixels(larger.copy(), tone=tone_map(source)))
    assert result.tone is None
    assert np.abs(result.color.mean(axis=(0, 1)) - source.mean(axis=(0, 1))).max() <= ENOUGH * unit
    # Only the level moves: what is drawn stays.
    assert (
        np.abs(np.diff(result.color.astype(int), axis=0) - np.diff(larger.astype(int), axis=0)).max()
        <= unit + 1
    )


def test_a_page_that_kept_its_tone_is_left_to_the_bit() -> None:
    source = np.random.default_rng(2).integers(0, 256, (40, 40, 1), np.uint8)
    larger = source.repeat(2, axis=0).repeat(2, axis=1)
    assert restore_tone(Pixels(larger, tone=tone_map(source))).color is larger


@given(
    st.integers(1, 80), st.integers(1, 80), st.integers(1, 99), st.integers(1, 99), st.integers(0, 2**32 - 1)
)
def test_any_sizes(height: int, width: int, rows: int, columns: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    source = random.integers(0, 256, (height, width, 1), np.uint8)
    tone = tone_map(source)
    assert tone.shape == (-(-height // 32), -(-width // 32), 1)
    target = (max(rows, tone.shape[0]), max(columns, tone.shape[1]))
    result = restore_tone(Pixels(np.full((*target, 1), 128, np.uint8), tone=tone))
    assert result.color.shape[:2] == target


def test_the_correction_is_that_of_each_sample_alone() -> None:
    random = np.random.default_rng(4)
    source = random.integers(0, 256, (100, 140, 3), np.uint8)
    larger = source.repeat(2, axis=0).repeat(2, axis=1).astype(int)
    # Cells that move by different amounts beside cells that stay.
    larger[:, :90] += 9
    larger[60:90, 200:] -= 2
    larger = larger.clip(0, 255).astype(np.uint8)
    difference = tone_map(source) - _average_cells(larger, 4, 5)
    expected = larger + _spread(difference, larger.shape)
    changed = larger.copy()
    _add(changed, difference)
    assert np.array_equal(changed, np.rint(expected.clip(0, 255)))
    assert (changed != larger).any()


def test_a_page_in_another_order_of_memory_is_corrected_too() -> None:
    source = np.full((64, 64, 3), 255, np.uint8)
    larger = np.asfortranarray(np.full((160, 160, 3), 250, np.uint8))
    tone = restore_tone(Pixels(larger, tone=tone_map(source)))
    assert (tone.color == 255).all()
    solid = restore_solid(Pixels(larger, solid=solid_map(source)))
    assert (solid.color == 255).all()


def _spread(difference: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Interpolate linearly between the centres of cells, over the whole page at once."""
    (top, bottom, down), (left, right, across) = (
        interpolate(length, cells) for length, cells in zip(shape, difference.shape[:2], strict=False)
    )
    wide = difference[:, left] * (1 - across)[:, None] + difference[:, right] * across[:, None]
    field: NDArray[np.float32] = wide[top] * (1 - down)[:, None, None] + wide[bottom] * down[:, None, None]
    return field


@pytest.mark.parametrize("channels", [1, 3])
def test_white_stays_white_where_the_network_has_removed_artifacts_from_it(channels: int) -> None:
    source = np.full((64, 64, channels), 253, np.uint8)
    larger = np.full((128, 128, channels), 255, np.uint8)
    larger[:, :64] = 200
    tone = tone_map(source)
    usual = restore_tone(Pixels(larger.copy(), tone=tone)).color
    kept = restore_tone(Pixels(larger.copy(), tone=tone, paper=paper_map(source))).color
    assert usual[:, 100:].max() < 255
    assert (kept[:, 64:] == 255).all()
    assert (kept[:, :32] > 200).all() and np.array_equal(kept[:, :32], usual[:, :32]), (
        "gray is restored as ever"
    )


def test_gray_may_become_white_where_white_is_kept() -> None:
    larger = np.full((128, 128, 1), 250, np.uint8)
    source = np.full((64, 64, 1), 255, np.uint8)
    assert (restore_tone(Pixels(larger, tone=tone_map(source), paper=paper_map(source))).color == 255).all()


@pytest.mark.parametrize(
    ("lossless", "cleans_white", "stays"), [(True, False, False), (True, True, True), (False, False, True)]
)
def test_white_of_a_jpeg_is_not_made_darker(lossless: bool, cleans_white: bool, stays: bool) -> None:
    dirty = np.full((64, 64, 3), 255, np.uint8)
    dirty[::2, ::2] = 250
    page = prepare(Pixels(dirty, lossless=lossless), cleans_white=cleans_white)
    cleaned = replace(page, color=np.full((160, 160, 3), 255, np.uint8))
    assert (finish(cleaned).color == 255).all() == stays


@pytest.mark.parametrize("paper", [254, 253, 250])
def test_what_is_drawn_does_not_pay_for_white_that_stays(paper: int) -> None:
    source = np.full((64, 64, 1), 128, np.uint8)
    source[:, ::2] = paper
    larger = np.full((128, 128, 1), 128, np.uint8)
    larger[:, 0::4] = larger[:, 1::4] = 255
    restored = restore_tone(Pixels(larger, tone=tone_map(source), paper=paper_map(source))).color
    assert (restored[:, 0::4] == 255).all()
    assert (restored[:, 2::4] == 128).all()


def test_what_is_drawn_pays_little_for_artifacts_that_are_darker_than_paper() -> None:
    source = np.full((64, 64, 1), 128, np.uint8)
    source[:, ::2] = 240
    larger = source.repeat(2, axis=0).repeat(2, axis=1)
    larger[larger == 240] = 255
    restored = restore_tone(Pixels(larger, tone=tone_map(source), paper=paper_map(source))).color
    assert restored[:, 2::4].min() >= 120


def test_a_pale_tint_is_no_paper_that_became_white() -> None:
    source = np.full((64, 64, 3), 250, np.uint8)
    larger = np.full((160, 160, 3), 252, np.uint8)
    restored = restore_tone(Pixels(larger, tone=tone_map(source), paper=paper_map(source))).color
    assert (restored == 250).all()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_what_is_drawn_beside_such_white_is_restored(kind: type[np.uint8 | np.uint16]) -> None:
    unit = np.iinfo(kind).max // 255
    source = np.full((64, 64, 3), 252, np.uint8)
    source[:, ::2] = 120
    larger = source.repeat(2, axis=0).repeat(2, axis=1)
    larger[larger == 252] = 255
    larger[larger == 120] = 124
    result = (
        restore_tone(
            Pixels(
                larger.astype(kind) * unit,
                tone=tone_map(source.astype(kind) * unit),
                paper=paper_map(source.astype(kind) * unit),
            )
        ).color
        // unit
    )
    assert set(np.unique(result)) <= {120, 121, 255}
