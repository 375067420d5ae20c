"""Counts of requests for rate limits: in the memory of this server, or in Redis where several servers share them.

Redis holds nothing else. While it is away, each server counts alone: a limit then holds for each of them, and no
request fails or waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import math
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from limits import RateLimitItem

from comic_upscale.errors import SettingsError

if TYPE_CHECKING:
    from limits.aio.strategies import MovingWindowRateLimiter as AsyncLimiter

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 0.5
"""How long an answer of Redis may take: a request waits for it."""
_SWEEP_SECONDS = 60.0
AWAY_SECONDS = 5.0
"""How long Redis is left alone after it could not be used."""


class Rates:
    """Counts requests. Used on the event loop.

    Args:
        redis_url: of the Redis that several servers share; None to count in memory.

    Raises:
        SettingsError: the package for Redis is not installed.
    """

    def __init__(self, redis_url: str | None = None) -> None:
        if redis_url is not None and importlib.util.find_spec("redis") is None:
            raise SettingsError("REDIS_URL needs the package redis: pip install '.[server,redis]' in a clone")
        self._memory = _Memory()
        self._url = redis_url
        self._shared: AsyncLimiter | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._not_before = 0.0
        self._is_away = False

    async def hit(self, item: RateLimitItem, who: str) -> bool:
        """Count a request, and return whether it is within the limit.

        Args:
            item: the limit.
            who: whom it counts for, and what.
        """
        if (shared := self._limiter()) is not None:
            try:
                allowed = await asyncio.wait_for(shared.hit(item, who), TIMEOUT_SECONDS)
            except Exception as error:
                self._note_away(error)
            else:
                self._note_back()
                return bool(allowed)
        return self._memory.hit(item, who)

    async def wait(self, item: RateLimitItem, who: str) -> tuple[int, int]:
        """Return the seconds until the next request of somebody may succeed, at least 1, and how many are left now."""
        if (shared := self._limiter()) is not None:
            try:
                stats = await asyncio.wait_for(shared.get_window_stats(item, who), TIMEOUT_SECONDS)
                return _seconds_until(stats.reset_time), int(stats.remaining)
            except Exception as error:
                self._note_away(error)
        return self._memory.wait(item, who)

    async def close(self) -> None:
        """Close the connections to Redis."""
        shared, self._shared = self._shared, None
        if shared is not None:
            with contextlib.suppress(Exception):
                await shared.storage.bridge.get_connection().aclose()  # type: ignore[attr-defined]

    def _limiter(self) -> AsyncLimiter | None:
        """Return what counts in Redis; None without Redis, and while it is away."""
        if self._url is None or time.monotonic() < self._not_before:
            return None
        loop = asyncio.get_running_loop()
        if self._shared is None or self._loop is not loop:
            # Connections belong to an event loop.
            self._shared, self._loop = _open(self._url), loop
        return self._shared

    def _note_away(self, error: Exception) -> None:
        self._not_before = time.monotonic() + AWAY_SECONDS
        if not self._is_away:
            # Not the text of the error: it may name the address with its password.
            log.error(
                "Redis cannot be used (%s): this server counts requests alone until it can",
                type(error).__name__,
            )
        self._is_away = True

    def _note_back(self) -> None:
        if self._is_away:
            log.warning("Redis can be used again: servers count requests together")
        self._is_away = False


class _Memory:
    """Counts in a moving window, by a clock that nobody sets. `MemoryStorage` of limits starts a thread a request."""

    def __init__(self) -> None:
        self._windows: dict[tuple[str, int, int], deque[float]] = {}
        self._sweep_at = time.monotonic() + _SWEEP_SECONDS

    def hit(self, item: RateLimitItem, who: str) -> bool:
        times, now = self._times(item, who), time.monotonic()
        if len(times) >= item.amount:
            return False
        times.append(now)
        return True

    def wait(self, item: RateLimitItem, who: str) -> tuple[int, int]:
        times, now = self._times(item, who), time.monotonic()
        seconds = times[0] + item.get_expiry() - now if times else 0
        return max(1, math.ceil(seconds)), max(0, item.amount - len(times))

    def _times(self, item: RateLimitItem, who: str) -> deque[float]:
        """Return when somebody was counted within the last window."""
        now = time.monotonic()
        if now >= self._sweep_at:
            self._sweep(now)
        window = item.get_expiry()
        times = self._windows.setdefault((who, item.amount, window), deque())
        while times and times[0] <= now - window:
            times.popleft()
        return times

    def _sweep(self, now: float) -> None:
        """Forget who was not counted lately."""
        self._sweep_at = now + _SWEEP_SECONDS
        self._windows = {
            key: times for key, times in self._windows.items() if times and times[-1] > now - key[2]
        }


def _open(url: str) -> AsyncLimiter:
    from limits.aio.storage import RedisStorage
    from limits.aio.strategies import MovingWindowRateLimiter as AsyncLimiter

    options: dict[str, Any] = {"socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": TIMEOUT_SECONDS}
    storage = RedisStorage(f"async+{url}", implementation="redispy", key_prefix="comic-upscale", **options)
    return AsyncLimiter(storage)


def _seconds_until(reset: float) -> int:
    return max(1, math.ceil(reset - time.time()))
