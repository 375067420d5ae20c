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
from typing import TYPE_CHECKING, Any

from limits import RateLimitItem
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from comic_upscale.errors import SettingsError

if TYPE_CHECKING:
    from limits.aio.strategies import MovingWindowRateLimiter as AsyncLimiter

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 0.5
"""How long an answer of Redis may take: a request waits for it."""
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
        self._memory = MovingWindowRateLimiter(MemoryStorage())
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
        reset, remaining = self._memory.get_window_stats(item, who)
        return _seconds_until(reset), int(remaining)

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


def _open(url: str) -> AsyncLimiter:
    from limits.aio.storage import RedisStorage
    from limits.aio.strategies import MovingWindowRateLimiter as AsyncLimiter

    options: dict[str, Any] = {"socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": TIMEOUT_SECONDS}
    storage = RedisStorage(f"async+{url}", implementation="redispy", key_prefix="comic-upscale", **options)
    return AsyncLimiter(storage)


def _seconds_until(reset: float) -> int:
    return max(1, math.ceil(reset - time.time()))
