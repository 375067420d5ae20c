from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comic_upscale.engines.lanczos import Span, input_span
from comic_upscale.engines.tiling import Tile, default_overlap, padded_size, plan_tiles

page_sides = st.integers(1, 700)


@st.composite
def plans(draw: st.DrawFn) -> dict[str, object]:
    multiple_of = draw(st.sampled_from([1, 1, 2, 4, 8]))
    return {
        "page_size": (draw(page_sides), draw(page_sides)),
        "target_size": (draw(st.integers(1, 1600)), draw(st.integers(1, 1600))),
        "native_scale": draw(st.integers(1, 8)),
        "longest": draw(st.none() | st.integers(64, 512)),
        "overlap": draw(st.integers(0, 48)),
        "multiple_of": multiple_of,
        "minimum": multiple_of * draw(st.sampled_from([0, 1, 4])),
        "square": draw(st.booleans()),
    }


def axes(tiles: list[Tile], axis: int) -> list[tuple[Span, Span]]:
    """The (window, cell) of each tile along an axis, without repeats, in order."""
    pairs = [
        (tile.rows, tile.cell_rows) if axis == 0 else (tile.columns, tile.cell_columns) for tile in tiles
    ]
    return sorted(set(pairs), key=lambda pair: pair[1])


@given(plans())
@settings(max_examples=400, deadline=None)
def test_cells_cover_every_pixel_of_the_target_once(plan: dict[str, object]) -> None:
    tiles = plan_tiles(**plan)  # type: ignore[arg-type]
    covered = np.zeros(plan["target_size"], np.uint8)  # type: ignore[arg-type]
    for tile in tiles:
        covered[slice(*tile.cell_rows), slice(*tile.cell_columns)] += 1
    assert (covered == 1).all()


@given(plans())
@settings(max_examples=400, deadline=None)
def test_windows_are_equal_inside_the_page_and_hold_what_their_cells_need(plan: dict[str, object]) -> None:
    tiles = plan_tiles(**plan)  # type: ignore[arg-type]
    page, target = plan["page_size"], plan["target_size"]
    scale, multiple_of, longest = plan["native_scale"], plan["multiple_of"], plan["longest"]
    assert isinstance(page, tuple)
    assert isinstance(target, tuple)
    assert isinstance(scale, int)
    assert isinstance(multiple_of, int)
    padded = padded_size(
        *page,
        multiple_of=multiple_of,
        minimum=plan["minimum"],
        square=plan["square"],  # type: ignore[arg-type]
    )
    assert len({(tile.rows.length, tile.columns.length) for tile in tiles}) == 1
    if plan["square"]:
        assert tiles[0].rows.length == tiles[0].columns.length
    overlap = plan["overlap"] if longest is None else min(plan["overlap"], longest // 4)  # type: ignore[call-overload,operator]
    for axis in (0, 1):
        plan_axis = axes(tiles, axis)
        for window, cell in plan_axis:
            assert 0 <= window.start < window.stop <= padded[axis]
            assert window.start % multiple_of == 0
            assert window.length % multiple_of == 0
            native = input_span(page[axis] * scale, target[axis], cell)
            need = Span(native.start // scale, -(-native.stop // scale))
            assert window.start <= max(0, need.start - overlap)
            assert window.stop >= min(padded[axis], need.stop + overlap)
        lengths = [cell.length for _, cell in plan_axis]
        assert max(lengths) - min(lengths) <= 1


@given(plans())
@settings(max_examples=200, deadline=None)
def test_windows_keep_to_the_longest_side_for_any_enlargement(plan: dict[str, object]) -> None:
    page, longest = plan["page_size"], plan["longest"]
    assert isinstance(page, tuple)
    plan["target_size"] = (page[0] * 2, page[1] * 2)
    tiles = plan_tiles(**plan)  # type: ignore[arg-type]
    if longest is not None:
        assert max(tiles[0].rows.length, tiles[0].columns.length) <= longest  # type: ignore[operator]


@given(page_sides, page_sides)
def test_a_page_that_fits_goes_whole(height: int, width: int) -> None:
    tiles = plan_tiles(
        (height, width), (height * 2, width * 2), native_scale=4, longest=max(height, width), overlap=32
    )
    whole = Tile(Span(0, height), Span(0, width), Span(0, height * 2), Span(0, width * 2))
    assert tiles == [whole]


def test_a_very_long_page_is_planned_at_once() -> None:
    tiles = plan_tiles((30_000, 850), (60_000, 1700), native_scale=4, longest=256, overlap=18)
    assert 30_000 * 850 < len(tiles) * tiles[0].rows.length * tiles[0].columns.length < 2 * 30_000 * 850


@pytest.mark.parametrize(("radius", "overlap"), [(0, 0), (18, 18), (48, 48), (49, 32), (None, 32)])
def test_overlap_is_the_reach_of_the_network_where_that_can_be_paid(radius: int | None, overlap: int) -> None:
    assert default_overlap(radius) == overlap


def test_a_page_is_padded_to_what_the_network_takes() -> None:
    assert padded_size(5, 9, multiple_of=4) == (8, 12)
    assert padded_size(5, 90, multiple_of=4, minimum=16) == (16, 92)
    assert padded_size(5, 9, multiple_of=2, square=True) == (10, 10)
