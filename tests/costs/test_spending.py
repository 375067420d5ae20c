"""The meter of a run: it stops before the ceiling, never after it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comic_upscale.costs.spending import ENDING_SECONDS, Spending, dollars


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_an_hour_costs_the_price_and_earlier_runs_count() -> None:
    clock = Clock()
    meter = Spending(0.2, before=0.05, clock=clock)
    clock.seconds = 3600
    assert meter.spent() == pytest.approx(0.25)
    assert meter.allows(10**9), "without a ceiling nothing is too much"


@given(
    st.floats(0.01, 10), st.floats(0.001, 1), st.floats(0, 1), st.floats(0.1, 100), st.floats(0, 10),
    st.integers(1, 50),
)  # fmt: skip
def test_batches_of_one_length_never_pass_the_ceiling_but_for_the_first(
    price: float, most: float, before: float, batch_seconds: float, tail: float, batches: int
) -> None:
    clock = Clock()
    meter = Spending(price, most, before, clock)
    taken = 0
    while taken < batches and meter.allows(1000):
        clock.seconds += batch_seconds
        taken += 1
        meter.note_batch(1000, batch_seconds)
        meter.note_tail(tail)
    if taken > 1:
        assert meter.spent() + dollars(tail + ENDING_SECONDS, price) <= most * (1 + 1e-9)
    if before >= most:
        assert taken == 0
    if taken < batches:
        kept_back = dollars(batch_seconds + tail + ENDING_SECONDS, price)
        assert meter.spent() + kept_back > most * (1 - 1e-9), "stopped too early"


def test_the_reason_names_the_option_and_the_sum() -> None:
    assert Spending(0.2, 0.15, 0.15, Clock()).why() == "--max-cost $0.15: $0.15 spent at $0.2 an hour"
