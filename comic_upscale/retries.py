"""Retry an operation on the network: the download of weights, and every step on a remote machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _ignore(reason: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long a failed operation is retried. It ends at the first of its limits.

    An exception with a number of seconds in ``retry_after`` makes the next pause at least as long.
    """

    seconds: float = math.inf
    """How long to keep retrying after the first failure. 0: no retry."""
    wait: Callable[[float], bool] = _sleep
    """Waits this many seconds before a retry; returns True when retrying should end."""
    on_failure: Callable[[str], None] = _ignore
    """Called with the reason of each failure that is retried."""
    attempts: int | None = None
    """The most attempts, at least 1; None: any number."""
    first_pause: float = 1.0
    """Seconds before the first retry. The pause doubles before each further retry."""
    longest_pause: float = 30.0
    """The pause does not exceed this, in seconds."""


def with_retries(
    try_once: Callable[[], T], policy: RetryPolicy, retried: type[Exception] | tuple[type[Exception], ...]
) -> T:
    """Call a function until it succeeds, within the limits of a policy.

    Args:
        try_once: the operation. It may be called again after a failure.
        policy: when to retry.
        retried: the exceptions after which a retry makes sense; all others are raised at once.

    Returns:
        The result of the first attempt that succeeds.

    Raises:
        Exception: that of the last attempt.
    """
    until: float | None = None
    pause = policy.first_pause
    attempt = 1
    while True:
        try:
            return try_once()
        except retried as error:
            now = time.monotonic()
            # From the first failure on: a long transfer that breaks near its end must be retried too.
            until = now + policy.seconds if until is None else until
            pause = max(pause, getattr(error, "retry_after", 0.0))
            if attempt == policy.attempts or now + pause > until:
                raise
            policy.on_failure(str(error))
            if policy.wait(pause):
                raise
            attempt += 1
            pause = min(2 * pause, policy.longest_pause)
