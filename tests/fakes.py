"""Engines that implement the public interface without a network, and can be told to misbehave."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from comic_upscale.engines.base import Batch, DeviceInfo, EngineInfo, EnginePart, OnPart, Upscaled


class NearestEngine:
    """Enlarges by repeating pixels; records the batches that it was given.

    Args:
        before: called with each batch first; may raise or sleep.
        limit: pages in a batch.
    """

    def __init__(self, before: Callable[[Batch], None] | None = None, limit: int = 1) -> None:
        self.info = EngineInfo(
            name="fake",
            identity="fake",
            device=DeviceInfo("fake"),
            precision="fp32",
            native_scale=4,
            deterministic=True,
        )
        self._before = before
        self._limit = limit
        self.batches: list[tuple[int, ...]] = []
        self.threads: set[int] = set()
        self.closed = False

    def batch_limit(self, height: int, width: int) -> int:
        return self._limit

    def upscale(self, batch: Batch) -> Upscaled:
        self.batches.append(batch.pixels.shape)
        self.threads.add(threading.get_ident())
        if self._before is not None:
            self._before(batch)
        width, height = batch.target_size
        rows = np.arange(height) * batch.pixels.shape[1] // height
        columns = np.arange(width) * batch.pixels.shape[2] // width
        return Upscaled(batch.pixels[:, rows][:, :, columns])

    def close(self) -> None:
        self.closed = True


class TellingEngine(NearestEngine):
    """Tells that it has done nothing of each call, then half of its two tiles."""

    _on_part: OnPart | None = None

    def follow(self, on_part: OnPart | None) -> None:
        self._on_part = on_part

    def upscale(self, batch: Batch) -> Upscaled:
        for done in (0, 1):
            if self._on_part is not None:
                self._on_part(EnginePart("tile", done, 2))
        return super().upscale(batch)


def pause(seconds: float) -> Callable[[Batch], None]:
    """For `NearestEngine`: take so long for each batch."""
    return lambda batch: time.sleep(seconds)
