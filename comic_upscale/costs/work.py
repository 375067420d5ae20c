"""How much there is to do, in counts that need no picture: pages, pixels, bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from comic_upscale.costs.ranges import Range


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a run has before it."""

    pages: int
    network_pixels: int
    """Input pixels that go through the network."""
    output_pixels: int
    """Pixels to be encoded."""
    upload_bytes: int
    """Of the sources."""
    download_bytes: Range
    """Of the outputs."""
    download_basis: str
    """Where the bytes of an output are from, in words."""
    encode_seconds: Range
    """Assumed CPU seconds of one worker for a megapixel of output; the mean if pages have several formats."""
    format: str = "png"
    """What the outputs are written as: ``png``, ``webp-lossy``; ``auto`` if each page keeps its format."""


def spread_sample(sizes: Sequence[int], count: int) -> list[int]:
    """Choose pages that stand for all: in the order of their sizes, at even distances.

    Args:
        sizes: pixels of each page, in the order of the input.
        count: how many to choose, at least 1.

    Returns:
        Places in ``sizes``, in their order; all of them where there are no more than ``count``.
    """
    # The sort is stable, so that among pages of one size the choice is spread over the input.
    by_size = sorted(range(len(sizes)), key=sizes.__getitem__)
    count = min(count, len(sizes))
    return sorted(by_size[(2 * number + 1) * len(sizes) // (2 * count)] for number in range(count))
