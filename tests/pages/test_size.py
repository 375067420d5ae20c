from hypothesis import given
from hypothesis import strategies as st

from comic_upscale.pages.size import target_size

SIDES = st.integers(1, 100_000)


@given(SIDES, SIDES, st.floats(0.01, 16))
def test_each_side_is_the_nearest_whole_number(width: int, height: int, scale: float) -> None:
    for side, result in zip((width, height), target_size(width, height, scale), strict=True):
        assert result >= 1
        assert result == 1 or abs(result - side * scale) <= 0.5


@given(SIDES, SIDES)
def test_turning_the_page_turns_the_target(width: int, height: int) -> None:
    assert target_size(width, height, 2.5) == target_size(height, width, 2.5)[::-1]


def test_known_sizes() -> None:
    assert target_size(512, 768, 2.5) == (1280, 1920)
    assert target_size(1, 3, 2.5) == (2, 8)  # 2.5 and 7.5: halves go to the even neighbour
    assert target_size(1, 1, 0.1) == (1, 1)
