"""The amount of work in counts: pages, pixels, bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from comic_upscale.costs.ranges import Range


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The work of a run."""

    pages: int
    network_pixels: int
    """Input pixels that go through the network; eight times those of the pages with ``--tta``."""
    output_pixels: int
    """Pixels to encode."""
    upload_bytes: int
    """Bytes of the sources."""
    download_bytes: Range
    """Bytes of the outputs."""
    download_basis: str
    """The basis of the bytes of an output, as text."""
    encode_seconds: Range
    """Assumed CPU seconds of one worker per megapixel of output; the mean if pages have several formats."""
    format: str = "png"
    """Encoding of the outputs: ``png``, ``webp-lossy``; ``auto`` if each page keeps its format."""
    by_rules: Mapping[str, int] = field(default_factory=dict)
    """Those of ``network_pixels`` that rules give to other models, by model."""

    def through(self, tflop_of: Callable[[str], float | None], own: float | None) -> Workload:
        """Return the work as if the job's model did it all: pixels of other models count by their arithmetic.

        A model without known arithmetic counts as the job's.

        Args:
            tflop_of: the TFLOP of a page in a model, by its name; None if unknown.
            own: those of the job's model.
        """
        pixels = float(self.network_pixels)
        for model, count in self.by_rules.items():
            other = tflop_of(model)
            if own and other:
                pixels += count * (other / own - 1)
        return replace(self, network_pixels=round(pixels))


def spread_sample(sizes: Sequence[int], count: int) -> list[int]:
    """Choose representative pages: sorted by size, at even distances.

    Args:
        sizes: pixels of each page, in the order of the input.
        count: number of pages to choose, at least 1.

    Returns:
        Indexes into ``sizes``, in order; all of them if there are at most ``count``.
    """
    # The sort is stable, so pages of equal size are chosen evenly over the input.
    by_size = sorted(range(len(sizes)), key=sizes.__getitem__)
    count = min(count, len(sizes))
    return sorted(by_size[(2 * number + 1) * len(sizes) // (2 * count)] for number in range(count))
