"""Windows that fade into each other: every pixel once, no seam, no window too large."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comic_upscale.engines.feathering import FeatheredPage, plan_axis, plan_by_area, plan_windows

axes = st.tuples(st.sampled_from([1, 2, 8, 16]), st.integers(1, 300), st.integers(1, 90), st.integers(0, 200))


@given(axes)
@settings(max_examples=150, deadline=None)
def test_the_weights_of_all_windows_at_a_pixel_sum_to_one(axis: tuple[int, int, int, int]) -> None:
    step, length, window, overlap = axis
    plan = plan_axis(length * step, window * step, overlap, step)
    total = np.zeros(plan.length)
    for index, span in enumerate(plan.spans):
        weights = plan.weights(index)
        assert span.start % step == 0 and span.length == plan.window <= window * step
        assert span.start >= 0 and span.stop <= plan.length
        assert weights.min() >= 0 and weights.max() <= 1
        total[slice(*span)] += weights
    assert np.abs(total - 1).max() < 1e-6


@given(axes)
@settings(max_examples=100, deadline=None)
def test_neighbours_share_the_overlap_and_no_window_is_too_many(axis: tuple[int, int, int, int]) -> None:
    step, length, window, overlap = axis
    plan = plan_axis(length * step, window * step, overlap, step)
    shared = min(-(-overlap // step), plan.window // step // 3) * step
    for one, other in zip(plan.spans, plan.spans[1:], strict=False):
        assert one.stop - other.start >= shared
    if len(plan.spans) > 1:
        covered = (len(plan.spans) - 1) * (plan.window - shared) + shared
        assert covered < plan.length, "one window fewer would be enough"


@given(st.integers(1, 400), st.integers(1, 400), st.integers(2, 4), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_equal_results_blend_to_the_page_itself(height: int, width: int, factor: int, overlap: int) -> None:
    page = np.random.default_rng(0).random((height * factor, width * factor, 1), np.float32)
    plan = plan_windows((height, width), (70, 50), overlap).scaled(factor)
    made = FeatheredPage(plan.size, 1)
    for window in plan.all():
        made.add(window, page[slice(*window.rows), slice(*window.columns)])
    assert np.abs(made.result() - page).max() < 1e-5
    assert all(0 < place < height * factor for place in plan.borders.rows)


def test_windows_that_differ_in_tone_leave_no_step() -> None:
    plan = plan_windows((64, 200), (64, 90), 30)
    made = FeatheredPage(plan.size, 1)
    for number, window in enumerate(plan.all()):
        made.add(window, np.full((64, 90, 1), 100 + 12 * number))
    steps = np.abs(np.diff(made.result()[0, :, 0]))
    assert len(plan) == 3 and steps.max() < 1


@given(st.integers(40, 4000), st.integers(40, 4000), st.integers(20_000, 5_000_000))
@settings(max_examples=80, deadline=None)
def test_windows_by_area_stay_below_their_bound(height: int, width: int, most: int) -> None:
    plan = plan_by_area((height, width), most, 32)
    assert plan.rows.window * plan.columns.window <= most
    assert plan.size == (height, width)


def test_a_page_of_letter_size_takes_the_fewest_calls() -> None:
    # 2480x3508 at twice the size: 34.8 million pixels in windows of at most 17 million.
    assert len(plan_by_area((3508, 2480), 17_000_000 // 4, 64)) == 3
    assert len(plan_by_area((1000, 1000), 17_000_000 // 4, 64)) == 1


def test_an_axis_that_is_no_multiple_is_refused() -> None:
    with pytest.raises(ValueError, match="steps of 16"):
        plan_axis(100, 64, 8, 16)
