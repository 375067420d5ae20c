"""The means of blocks are those of Pillow, to the bit, and take no copy of the page."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from comic_upscale.gate.reduce import reduce_by


@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from([1, 3]),
    st.integers(0, 2**32 - 1),
)
def test_they_are_those_of_pillow(
    size: tuple[int, int], block: tuple[int, int], channels: int, seed: int
) -> None:
    columns, rows = size
    shape = (rows * block[1], columns * block[0], channels)
    page = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    image = Image.fromarray(page[:, :, 0] if channels == 1 else page)
    assert np.array_equal(
        reduce_by(page, size, block), np.asarray(image.reduce(block)).reshape(rows, columns, -1)
    )


def test_the_rest_of_a_page_does_not_count() -> None:
    page = np.random.default_rng(1).integers(0, 256, (43, 62, 3), np.uint8)
    assert np.array_equal(reduce_by(page, (12, 8), (5, 5)), reduce_by(page[:40, :60], (12, 8), (5, 5)))


@pytest.mark.parametrize("level", [0, 255])
def test_blocks_with_more_rows_than_16_bits_hold(level: int) -> None:
    page = np.full((600, 2, 1), level, np.uint8)
    assert (reduce_by(page, (1, 2), (2, 300)) == level).all()


def test_a_page_is_not_copied() -> None:
    page = np.zeros((3000, 2000, 3), np.uint8)
    tracemalloc.start()
    reduce_by(page, (400, 600), (5, 5))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < page.nbytes / 2
