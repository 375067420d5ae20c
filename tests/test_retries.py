"""Retries of operations on the network: how often, how long, and after which errors."""

from __future__ import annotations

import time

import pytest

from comic_upscale.retries import RetryPolicy, with_retries


class Flaky:
    """An operation that fails some times, then succeeds."""

    def __init__(self, failures: int, *, seconds: float = 0.0) -> None:
        self.failures = failures
        self.seconds = seconds
        self.attempts = 0

    def __call__(self) -> int:
        self.attempts += 1
        time.sleep(self.seconds)
        if self.attempts <= self.failures:
            raise ConnectionError(f"loss {self.attempts}")
        return 7


def record(waits: list[float], seconds: float) -> bool:
    waits.append(seconds)
    return False


def test_each_pause_is_twice_the_one_before_up_to_the_longest() -> None:
    reasons: list[str] = []
    waits: list[float] = []
    policy = RetryPolicy(
        wait=lambda seconds: record(waits, seconds), on_failure=reasons.append, longest_pause=5
    )
    assert with_retries(Flaky(4), policy, ConnectionError) == 7
    assert waits == [1, 2, 4, 5]
    assert reasons == ["loss 1", "loss 2", "loss 3", "loss 4"]


def test_the_attempts_are_limited() -> None:
    flaky = Flaky(3)
    with pytest.raises(ConnectionError, match="loss 3"):
        with_retries(flaky, RetryPolicy(attempts=3, first_pause=0), ConnectionError)
    assert flaky.attempts == 3


@pytest.mark.parametrize("policy", [RetryPolicy(0), RetryPolicy(100, lambda seconds: True)])
def test_no_time_or_a_stop_ends_the_retries(policy: RetryPolicy) -> None:
    flaky = Flaky(1)
    with pytest.raises(ConnectionError):
        with_retries(flaky, policy, ConnectionError)
    assert flaky.attempts == 1


def test_an_attempt_that_took_longer_than_the_limit_before_it_failed_is_retried() -> None:
    flaky = Flaky(1, seconds=0.05)
    assert with_retries(flaky, RetryPolicy(0.01, first_pause=0), ConnectionError) == 7


def test_other_errors_are_raised_at_once() -> None:
    flaky = Flaky(1)
    with pytest.raises(ConnectionError):
        with_retries(flaky, RetryPolicy(first_pause=0), (TimeoutError, KeyError))
    assert flaky.attempts == 1
