"""The seam for engines: whatever takes a batch of pixels and gives larger ones.

The pipeline knows this module and nothing behind it. The torch network is one engine, the official
program another; a fake one serves the tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from comic_upscale.imaging.pixels import Borders, SampleArray


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Pages of one shape for one call of an engine."""

    pixels: SampleArray
    """uint8 or uint16, N x height x width x C; C is 3 (RGB) or 1 (gray)."""
    target_size: tuple[int, int]
    """(width, height) in pixels that every page of the batch shall have."""
    conservative: bool = False
    """By the way that can go wrong least, however slow: these pages came out suspect before."""


class Engine(Protocol):
    """Makes pages larger. Used from one thread at a time; may be created on another."""

    native_scale: int
    """The network's own factor."""
    device: str
    """The device in words, for the header and the ledger: ``"cuda:0 (NVIDIA H200)"``."""
    precision: str
    """``"fp32"``, ``"fp16"`` or ``"bf16"``: what the network really computes in."""

    def batch_limit(self, height: int, width: int) -> int:
        """How many pages of this shape the engine takes at once now, at least 1.

        The answer may grow as the engine learns what a page costs, and shrinks after out-of-memory.
        """
        ...

    def upscale(self, batch: Batch) -> SampleArray:
        """Return the pages at their target size and in their own type: N x height x width x C.

        Page i of the result depends on page i of the batch alone.

        Raises:
            PageError: this batch cannot be done, others may (out of memory at the smallest tile,
                numbers that are not finite even in fp32).
            DeviceError: nothing can be done on this device any more.
        """
        ...

    def borders(self, batch: Batch) -> Borders:
        """Return where tiles meet in what `upscale` gives for such a batch as things stand now.

        Asked right after it, and for the gate alone: no border for a page that goes through in one piece.
        """
        ...

    def close(self) -> None:
        """Give the device's memory back. The engine is not used afterwards."""
        ...
