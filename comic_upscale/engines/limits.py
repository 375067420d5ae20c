"""The largest batch and tile of an engine: from the user, from measurements, and from out-of-memory errors.

Pure arithmetic without torch: the engine reports what happened and asks for the next size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from comic_upscale.engines.tiling import SMALLEST_TILE

LARGEST_BATCH = 32
"""The most windows in a batch, however much memory is free. More only add latency."""
HUGE_PIXELS = 16_777_216
"""A page with more pixels needs so much memory itself that little may be used besides."""
LARGEST_TENSOR = 2**31 - 1
"""The most elements of a tensor. Above it kernels are slower, and some of older PyTorch releases give wrong results
(nearest-neighbour enlargement, channels last, before 2.7: https://github.com/pytorch/pytorch/issues/141831)."""
BATCHES_BEFORE_GROWTH = 32
"""Batches that must fit before limits from out-of-memory errors are raised again. Doubles after each vain attempt."""
MEMORY_SHARE = 0.8
"""The share of the free memory that a batch may use. The rest is for fragmentation and memory that was not measured."""


@dataclass(frozen=True, slots=True)
class AutoLimits:
    """The defaults for a kind of device. They are constants, so that runs agree."""

    whole_pixels: int
    """A page of up to this many pixels is not cut into tiles."""
    tile: int
    """The longest side in pixels of the windows of a larger page."""
    batch_pixels: int
    """Pixels of all windows of a batch together. A single window may have more."""
    huge_tile: int | None = None
    """Like ``tile``, for a page with more than `HUGE_PIXELS`; None to use ``tile``."""


AUTO_LIMITS = {
    # Every layer of a large page allocates new memory, and the page faults cost more than the overlap of windows
    # this small (512x768 through 16 layers of 64 features on 2 threads: 2.6 s in tiles, 3.5 s whole).
    # Batches bring no gain on a CPU, and a page by itself gives the same bits in every run.
    "cpu": AutoLimits(whole_pixels=131_072, tile=448, batch_pixels=1),
    # In strips, layers need little memory. The native page counts, with 100 to 200 bytes per pixel of input.
    "cpu in strips": AutoLimits(whole_pixels=2_097_152, tile=1448, batch_pixels=1, huge_tile=724),
    # Bounds for every network. Networks wider than 512 elements per pixel are also bounded by `LARGEST_TENSOR`.
    "cuda": AutoLimits(whole_pixels=4_194_304, tile=2048, batch_pixels=4_194_304),
}
"""The defaults by type of device and method."""
OTHER_LIMITS = AutoLimits(whole_pixels=1_048_576, tile=768, batch_pixels=1_048_576)
"""The defaults for a device whose memory use is not measured."""


class Limits:
    """The current limits for windows and batches.

    Args:
        kind: the device's type, such as ``"cuda"``; ``"cpu in strips"`` if the network runs in strips.
        batch: windows in a batch, at least 1; None for automatic.
        tile: the longest side of a window in pixels; 0 to never cut pages; None for automatic.
        measured: whether the engine calls ``learn``. Batches are then limited to 1 until the first call.
        widest: elements of the network's largest tensor per pixel of input; 0 if it sets no limit.
    """

    def __init__(
        self, kind: str, *, batch: int | None, tile: int | None, measured: bool, widest: int = 0
    ) -> None:
        self._auto = AUTO_LIMITS.get(kind, OTHER_LIMITS)
        self._batch = batch
        self._tile = tile
        self._measured = measured
        self._indexed = LARGEST_TENSOR // widest if widest else None
        """The most pixels of a batch, and of a window, that keep every tensor small enough."""
        self._most_pixels: int | None = None
        """The most pixels of a batch after out-of-memory errors."""
        self._longest: int | None = None
        """The longest side of a window after out-of-memory errors."""
        self._failed_pixels = 0
        """Pixels of the largest batch that did not fit. Once the limit would reach it again, there is none."""
        self._failed_side = 0
        """The longest side of a single window that did not fit."""
        self._fits = 0
        """Pixels of the largest batch that fitted, since the last one that did not."""
        self._successes = 0
        """Batches that fitted since the limits last changed."""
        self._patience = BATCHES_BEFORE_GROWTH
        """Successes before the limits are raised."""
        self._grew = False
        """Whether the limits were raised since the last out-of-memory error."""
        self._whole = 0
        """A page of up to this many pixels is not cut, if that is more than the device's default."""
        self._cost = 0.0
        """Bytes per pixel of input; 0 before the first measurement."""
        self._cost_pixels = 0
        """Pixels of the batch whose cost was measured."""

    def longest(self, height: int, width: int) -> int | None:
        """Return the longest side of a window for a page of this size, in pixels; None for the whole page."""
        preferred = self._auto_side(height * width) if self._tile is None else self._tile or None
        limits = (preferred, self._indexed_side(height * width), self._longest)
        sides = [side for side in limits if side is not None]
        return min(sides, default=None)

    def _indexed_side(self, pixels: int) -> int | None:
        if self._indexed is None or pixels <= self._indexed or self._tile == 0:
            return None
        return max(SMALLEST_TILE, math.isqrt(self._indexed))

    def _auto_side(self, pixels: int) -> int | None:
        auto = self._auto
        if pixels <= max(auto.whole_pixels, self._whole):
            return None
        tile = auto.huge_tile if auto.huge_tile is not None and pixels > HUGE_PIXELS else auto.tile
        return max(tile, math.isqrt(self._whole))

    def prefer_whole(self, pixels: int) -> None:
        """Keep pages of up to this many pixels whole, and use windows of this size for larger pages.

        The user's tile size and the limits from out-of-memory errors still apply.
        """
        self._whole = pixels

    def batch(self, height: int, width: int, free: int | None) -> int:
        """Return how many windows of this size to put into a batch, at least 1.

        Args:
            height: height of the window in pixels.
            width: width of the window in pixels.
            free: bytes of free memory; None if unknown.
        """
        pixels = height * width
        if self._batch is not None:
            count = self._batch
        elif self._measured and (not self._cost or free is None):
            count = 1
        else:
            count = min(LARGEST_BATCH, self._auto.batch_pixels // pixels)
            if self._cost and free is not None:
                count = min(count, int(MEMORY_SHARE * free / (self._cost * pixels)))
        for most in (self._most_pixels, self._indexed):
            if most is not None:
                count = min(count, most // pixels)
        return max(1, count)

    def wants(self, pixels: int) -> bool:
        """Return whether measuring a batch of this many pixels would improve the known cost."""
        return self._measured and pixels > self._cost_pixels

    def learn(self, pixels: int, peak: int) -> None:
        """Record the peak memory, in bytes, of a batch with this many pixels of input."""
        # Every batch has a fixed cost. The larger the batch, the smaller its share, so the largest batch counts.
        self._cost, self._cost_pixels = peak / pixels, pixels

    def has_worked(self, count: int, height: int, width: int) -> bool:
        """Return whether a batch of at least this many pixels fitted before."""
        return count * height * width <= self._fits

    def record_success(self, count: int, height: int, width: int) -> None:
        """Record that a batch of ``count`` windows of this size fitted; raise the limits again after many.

        Memory may have been short only for a while. So one error does not slow the remaining pages down.
        """
        self._fits = max(self._fits, count * height * width)
        if self._most_pixels is None and self._longest is None:
            return
        self._successes += 1
        if self._successes >= self._patience:
            self._grow()

    def _grow(self) -> None:
        """Allow windows twice as long; once they have their full size, batches twice as large."""
        self._successes, self._grew = 0, True
        if self._longest is not None:
            side = self._longest * 2
            self._longest = None if side >= self._failed_side else side
        elif self._most_pixels is not None:
            most = self._most_pixels * 2
            self._most_pixels = None if most >= self._failed_pixels else most

    def shrink(self, count: int, height: int, width: int) -> bool:
        """Lower the limits after a batch of ``count`` windows of this size did not fit into memory.

        Returns:
            False if the limits cannot be lowered: one window of the smallest size was too large, or the user
            does not allow pages to be cut.
        """
        self._fits = 0
        self._successes = 0
        if self._grew:
            self._patience, self._grew = self._patience * 2, False
        if count > 1:
            self._failed_pixels = max(self._failed_pixels, count * height * width)
            self._most_pixels = count // 2 * height * width
            return True
        longest = max(height, width)
        self._failed_side = max(self._failed_side, longest)
        if self._tile == 0 or longest <= SMALLEST_TILE or self._longest == SMALLEST_TILE:
            return False
        # The next lower power of two, so that pages of many sizes share a few sizes of window. The second bound is
        # for windows that could not be made as small as requested.
        below = 2 ** (math.ceil(math.log2(longest)) - 1)
        if self._longest is not None:
            below = min(below, self._longest // 2)
        self._longest = max(SMALLEST_TILE, below)
        return True
