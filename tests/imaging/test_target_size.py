import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from comic_upscale.errors import PageError
from comic_upscale.imaging.target_size import (
    MAX_FACTOR,
    describe_growth,
    factor_of,
    find_target,
    grows,
    is_larger,
    target_size,
)
from comic_upscale.settings.sizes import Bounds, Fit, Height, LongSide, Print, Scale, Size, Width

SIDES = st.integers(1, 100_000)
WISHES = st.integers(1, 20_000)
SHEETS = st.builds(
    Print,
    st.floats(10, 1000),
    st.floats(10, 1000),
    st.floats(30, 1200),
    st.none() | st.floats(0, 5),
)
SIZES = st.one_of(
    st.builds(Width, WISHES),
    st.builds(Height, WISHES),
    st.builds(LongSide, WISHES),
    st.builds(Fit, WISHES, WISHES),
    SHEETS,
)


def target(width: int, height: int, size: Size) -> tuple[int, int]:
    """The target of a page, where there is one."""
    try:
        return find_target(width, height, size).size
    except PageError as error:
        assume(error.kind != "too-small")
        raise


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
    assert find_target(512, 768, Scale(2.5)).size == (1280, 1920)
    assert find_target(800, 1280, Width(2000)).size == (2000, 3200)
    assert find_target(800, 1280, Height(3000)).size == (1875, 3000)
    assert find_target(800, 1280, LongSide(2400)).size == (1500, 2400)
    assert find_target(1280, 800, LongSide(2400)).size == (2400, 1500)
    assert find_target(800, 1280, Fit(1600, 2400)).size == (1500, 2400)
    assert find_target(800, 1280, Fit(400, 2400)).size == (400, 640)


@given(SIDES, SIDES, SIZES)
def test_a_page_keeps_its_shape(width: int, height: int, size: Size) -> None:
    """Of the two sides one is asked for, and the other is the whole number next to its proportion."""
    columns, rows = target(width, height, size)
    by_width, by_height = columns * height / width, rows * width / height
    assert min(columns, rows) >= 1
    assert abs(rows - by_width) <= 0.5001 or abs(columns - by_height) <= 0.5001 or 1 in (columns, rows)


@given(SIDES, SIDES, WISHES)
def test_the_side_that_is_asked_for_is_exact(width: int, height: int, wish: int) -> None:
    assert target(width, height, Width(wish))[0] == wish
    assert target(width, height, Height(wish))[1] == wish
    assert max(target(width, height, LongSide(wish))) == wish


@given(SIDES, SIDES, WISHES, WISHES)
def test_a_page_fits_and_fills_one_side(width: int, height: int, columns: int, rows: int) -> None:
    result = target(width, height, Fit(columns, rows))
    assert result[0] <= columns and result[1] <= rows
    assert result[0] == columns or result[1] == rows


@given(SIDES, SIDES, SHEETS)
def test_a_sheet_is_covered_with_a_bleed_and_held_to_without(width: int, height: int, paper: Print) -> None:
    columns, rows = target(width, height, paper)
    sheets = 2 if width > height and paper.width_mm < paper.height_mm else 1
    bleed = 2 * (paper.bleed_mm or 0)
    sheet = tuple(
        max(1, round(side / 25.4 * paper.dpi))
        for side in (paper.width_mm * sheets + bleed, paper.height_mm + bleed)
    )
    if paper.bleed_mm is None:
        assert columns <= sheet[0] and rows <= sheet[1]
    else:
        assert columns >= sheet[0] and rows >= sheet[1]
    assert columns == sheet[0] or rows == sheet[1]


@given(SIDES, SIDES, SIZES)
def test_no_page_grows_beyond_all_measure(width: int, height: int, size: Size) -> None:
    try:
        result = find_target(width, height, size).size
    except PageError as error:
        assert error.kind == "too-small"
        assert "smaller size" in error.reason
    else:
        assert factor_of((width, height), result) <= MAX_FACTOR


@given(SIDES, SIDES, SIZES)
def test_the_same_wish_once_more_changes_nothing(width: int, height: int, size: Size) -> None:
    """A page of the size that is asked for keeps it, so that outputs can be inputs again."""
    assume(not isinstance(size, Print))  # a double page that becomes a narrow one is one no more
    result = target(width, height, size)
    assert target(*result, size) == result
    assert not grows(result, result)


def test_what_a_printer_will_do_is_told() -> None:
    comic = Print(170, 260, 300, 3)
    whole = find_target(1700, 2600, Print(170, 260, 300))
    assert whole.size == (2008, 3071)
    assert whole.notes == ()
    strip = find_target(800, 1280, Print(170, 260, 300))
    assert strip.size == (1919, 3071)
    assert strip.notes == ("7.5 mm short of the paper's width: 3.8 mm blank a side",)
    covered = find_target(800, 1280, comic)
    assert covered.size == (2079, 3326)
    assert covered.notes == ("15.6 mm of its height is cut off: 7.8 mm a side",)
    double = find_target(1600, 1200, comic)
    assert double.size == (4189, 3142)
    assert double.notes == (
        "a double page: across two sheets",
        "8.6 mm of its width is cut off: 4.3 mm a side",
    )


def test_what_is_done_where_the_network_does_not_reach() -> None:
    assert describe_growth((100, 100), (250, 250), 3) is None
    assert describe_growth((100, 100), (300, 300), 3) is None
    assert describe_growth((100, 100), (400, 400), 3) == (
        "enlarged 4.00 times: the network makes 3x, the rest is resampling"
    )
    assert describe_growth((100, 100), (100, 100), 3) == "large enough: kept at its size"
    assert describe_growth((100, 100), (50, 50), 3) == "larger than asked: shrunk by Lanczos, no network"


def test_larger_than_bounds_is_what_does_not_fit() -> None:
    assert not is_larger((2000, 3000), Bounds(2000, 3000))
    assert is_larger((2001, 10), Bounds(2000, 3000))
    assert is_larger((10, 3001), Bounds(2000, 3000))
    with pytest.raises(PageError, match="the limit of 16"):
        find_target(10, 10, Width(161))
