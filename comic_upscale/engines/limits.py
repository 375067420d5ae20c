"""How much an engine takes at once: what the user said, what was measured, and what out-of-memory taught.

Pure arithmetic, no torch: the engine reports what happened and asks what to do next.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from comic_upscale.engines.tiling import SMALLEST_TILE

LARGEST_BATCH = 32
"""Windows at once, however much memory there is: more give nothing but latency."""
HUGE_PIXELS = 16_777_216
"""A page of more pixels takes so much memory by itself that little may be taken beside it."""
LARGEST_TENSOR = 2**31 - 1
"""Elements: beyond, kernels leave their quick ways, and some of older releases of PyTorch compute nonsense
(nearest-neighbour enlargement, channels last, before 2.7: https://github.com/pytorch/pytorch/issues/141831)."""
MEMORY_SHARE = 0.8
"""The part of the free memory that a batch may take; the rest is for fragments and what was not measured."""


@dataclass(frozen=True, slots=True)
class AutoLimits:
    """What suits a kind of device where the user says nothing: constants, so that runs agree."""

    whole_pixels: int
    """A page of up to this many pixels goes whole."""
    tile: int
    """The longest side in pixels of the windows of a larger page."""
    batch_pixels: int
    """Pixels of all windows of a batch together; one window may have more."""
    huge_tile: int | None = None
    """The same for a page of more than `HUGE_PIXELS`; None for no other."""


AUTO_LIMITS = {
    # Every layer of a large map is new memory from the system, and its page faults cost more than the overlap of
    # windows this small (512x768 through 16 layers of 64 features on 2 threads: 2.6 s in tiles, 3.5 s whole).
    # A batch gives nothing there, and alone the result of a page is the same to the bit in every run.
    "cpu": AutoLimits(whole_pixels=131_072, tile=448, batch_pixels=1),
    # In strips layers take next to nothing: what counts is the native page, of 100 to 200 bytes a pixel of input.
    "cpu in strips": AutoLimits(whole_pixels=2_097_152, tile=1448, batch_pixels=1, huge_tile=724),
    # Bounds that hold for every network; what is wider than 512 elements a pixel is bounded by `LARGEST_TENSOR`.
    "cuda": AutoLimits(whole_pixels=4_194_304, tile=2048, batch_pixels=4_194_304),
}
"""By type of device, and by how it is used."""
OTHER_LIMITS = AutoLimits(whole_pixels=1_048_576, tile=768, batch_pixels=1_048_576)
"""For a device whose use of memory is not measured."""


class Limits:
    """The largest window and the largest batch for now.

    Args:
        kind: the device's type, such as ``"cuda"``; ``"cpu in strips"`` where the network goes so.
        batch: windows at once, at least 1; None to find out.
        tile: the longest side of a window in pixels; 0 never to cut; None to find out.
        measured: whether the engine will report ``learn``, so that a batch waits for the first of them.
        widest: elements of the network's largest tensor for a pixel of input; 0 where that is no matter.
    """

    def __init__(
        self, kind: str, *, batch: int | None, tile: int | None, measured: bool, widest: int = 0
    ) -> None:
        self._auto = AUTO_LIMITS.get(kind, OTHER_LIMITS)
        self._batch = batch
        self._tile = tile
        self._measured = measured
        self._indexed = LARGEST_TENSOR // widest if widest else None
        """Pixels of a batch, and of a window, with which no tensor is too large."""
        self._most_pixels: int | None = None
        """Pixels of a batch to which running out of memory has led."""
        self._longest: int | None = None
        """The side of a window to which running out of memory has led."""
        self._whole = 0
        """Pixels up to which a page is to go whole, where that is more than suits the device."""
        self._cost = 0.0
        """Bytes per pixel of input; 0 before the first measurement."""
        self._cost_pixels = 0
        """Pixels of the batch that the cost was measured on."""

    def longest(self, height: int, width: int) -> int | None:
        """Return the longest side of a window for a page of this size, in pixels; None for the whole page."""
        asked = self._suited(height * width) if self._tile is None else self._tile or None
        sides = [
            side for side in (asked, self._indexed_side(height * width), self._longest) if side is not None
        ]
        return min(sides, default=None)

    def _indexed_side(self, pixels: int) -> int | None:
        if self._indexed is None or pixels <= self._indexed or self._tile == 0:
            return None
        return max(SMALLEST_TILE, math.isqrt(self._indexed))

    def _suited(self, pixels: int) -> int | None:
        auto = self._auto
        if pixels <= max(auto.whole_pixels, self._whole):
            return None
        tile = auto.huge_tile if auto.huge_tile is not None and pixels > HUGE_PIXELS else auto.tile
        return max(tile, math.isqrt(self._whole))

    def prefer_whole(self, pixels: int) -> None:
        """Let pages up to so many pixels go whole, and larger ones in windows as large as that.

        What the user said of tiles holds all the same, and so does what running out of memory has taught.
        """
        self._whole = pixels

    def batch(self, height: int, width: int, free: int | None) -> int:
        """Return how many windows of this size to take at once, at least 1.

        Args:
            height: the window's, in pixels.
            width: the window's, in pixels.
            free: bytes of memory that are free; None where that is not known.
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
        """Tell whether a batch of so many pixels would tell more about the cost than is known."""
        return self._measured and pixels > self._cost_pixels

    def learn(self, pixels: int, peak: int) -> None:
        """Take in that a batch of so many pixels of input took so many bytes at its peak."""
        # The larger a batch, the less of its cost is what every batch takes: the largest one tells best.
        self._cost, self._cost_pixels = peak / pixels, pixels

    def shrink(self, count: int, height: int, width: int) -> bool:
        """Take in that so many windows of this size were too much, and ask for less from now on.

        Returns:
            False where there is no less: one window of the smallest size was too much, or the user said
            that pages are never to be cut.
        """
        if count > 1:
            self._most_pixels = count // 2 * height * width
            return True
        longest = max(height, width)
        if self._tile == 0 or longest <= SMALLEST_TILE or self._longest == SMALLEST_TILE:
            return False
        # A power of two below, so that pages of many sizes come to a few sizes of window. The second bound is
        # for windows that could not be made as small as was asked.
        below = 2 ** (math.ceil(math.log2(longest)) - 1)
        if self._longest is not None:
            below = min(below, self._longest // 2)
        self._longest = max(SMALLEST_TILE, below)
        return True
