import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from comic_upscale.imaging.flat_areas import REACH, restore_solid, solid_map
from comic_upscale.imaging.pixels import Pixels


def dull(page: Pixels, height: int, width: int) -> Pixels:
    """What a network might make of a page: neither white nor black anywhere."""
    color = np.full((height, width, page.color.shape[2]), 77, page.color.dtype)
    alpha = None if page.alpha is None else np.full((height, width), 77, page.color.dtype)
    return Pixels(color, alpha, solid=solid_map(page.color, page.alpha))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_solid_places_come_back_and_edges_are_left(kind: type[np.uint8 | np.uint16]) -> None:
    top = np.iinfo(kind).max
    color = np.full((20, 40, 3), top, kind)
    color[:, 20:] = 0
    alpha = np.zeros((20, 40), kind)
    alpha[:10] = top
    result = restore_solid(dull(Pixels(color, alpha), 50, 100))
    assert result.solid is None
    assert (result.color[:, : (20 - REACH) * 5 // 2] == top).all()
    assert (result.color[:, (20 + REACH) * 5 // 2 :] == 0).all()
    assert (result.color[:, 49:51] == 77).all()
    assert result.alpha is not None
    assert (result.alpha[:20] == top).all()
    assert (result.alpha[-20:] == 0).all()
    assert (result.alpha[24:26] == 77).all()


def test_a_page_without_them_is_left_alone() -> None:
    color = np.full((9, 9, 1), 254, np.uint8)
    color[4, 4] = 255  # alone: paper noise, and no paper
    assert solid_map(color) is None
    page = dull(Pixels(color), 18, 18)
    assert restore_solid(page) is page


@given(
    st.integers(1, 30), st.integers(1, 30), st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**32 - 1)
)
def test_only_what_is_solid_changes(height: int, width: int, rows: int, columns: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    color = random.choice(np.array([0, 255], np.uint8), (height, width, 1), p=[0.03, 0.97])
    result = restore_solid(dull(Pixels(color), rows, columns)).color
    source_rows = (2 * np.arange(rows) + 1) * height // (2 * rows)
    source_columns = (2 * np.arange(columns) + 1) * width // (2 * columns)
    nearest = color[source_rows][:, source_columns]
    assert ((result == 77) | (result == nearest)).all()
    if (color == 255).all():
        assert (result == 255).all()


def test_an_array_that_may_not_be_written_is_copied() -> None:
    page = dull(Pixels(np.zeros((5, 5, 1), np.uint8)), 10, 10)
    page.color.setflags(write=False)
    assert (restore_solid(page).color == 0).all()
    assert (page.color == 77).all()
