"""The compact network on a CPU, a few rows at a time through all its layers: same numbers, warm caches.

A layer of a whole page is tens of megabytes that are written to memory, read back by the next layer and
returned to the system, which clears them again for the one after. Strips of a few rows stay in the
caches. Every layer keeps the last two rows of what it was given, as the next strip's first output row
needs them; so nothing is computed twice, which tiles with their overlap do.

::

    rows given to a layer    |0|1 2 3 4|5 6 7 8|9|          0 and 9: the zeros around the page
    first strip gives        |. 1 2 3|                      row 4 needs row 5, which comes later
    second strip, with 3, 4  |         4 5 6 7|
"""

from __future__ import annotations

import copy

import torch
from spandrel.architectures.Compact import Compact  # type: ignore[import-untyped]
from torch.nn import functional

_STRIP_PIXELS = 24_576
"""Pixels of one strip: few enough for the caches, enough that threads and calls pay (measured with 32 and 64
features: half as many and four times as many cost 0 to 10 % more)."""


def goes_in_strips(network: torch.nn.Module) -> bool:
    """Tell whether `StripwiseCompact` can run the network."""
    return isinstance(network, Compact) and all(
        layer.kernel_size == (3, 3) for layer in network.body if isinstance(layer, torch.nn.Conv2d)
    )


class StripwiseCompact(torch.nn.Module):
    """A compact network (SRVGGNetCompact) of 3x3 convolutions, for inference on a CPU.

    In float32 it gives what the network gives, to the bit. In bfloat16 only the chain of layers is
    computed in it; input, output and their sum are float32, since bfloat16 cannot tell 256 levels apart.

    Args:
        network: as spandrel loads it; it is copied.
        precision: of the chain of layers, float32 or bfloat16.
    """

    def __init__(self, network: Compact, precision: torch.dtype) -> None:
        super().__init__()
        self._layers = copy.deepcopy(network.body).to(dtype=precision, memory_format=torch.channels_last)
        self._precision = precision
        self._scale = int(network.upscale)

    def forward(self, pages: torch.Tensor) -> torch.Tensor:
        """Return N x C x height*scale x width*scale of N x C x height x width, both float32, 0..1."""
        n, channels, height, width = pages.shape
        scale = self._scale
        native = pages.new_empty((n, channels, height * scale, width * scale))
        rows = max(1, _STRIP_PIXELS // (n * width))
        signal = pages.to(self._precision, memory_format=torch.channels_last)
        kept: dict[int, torch.Tensor] = {}
        done = 0
        for top in range(0, height, rows):
            strip = signal[:, :, top : top + rows]
            detail = self._through_the_layers(strip, kept, is_last=top + rows >= height)
            if detail is None:
                continue
            ready = slice(done, done + detail.shape[2])
            base = functional.interpolate(pages[:, :, ready], scale_factor=scale, mode="nearest")
            torch.add(
                functional.pixel_shuffle(detail.float(), scale),
                base,
                out=native[:, :, ready.start * scale : ready.stop * scale],
            )
            done = ready.stop
        return native

    def _through_the_layers(
        self, strip: torch.Tensor, kept: dict[int, torch.Tensor], *, is_last: bool
    ) -> torch.Tensor | None:
        """Return the rows that this strip completes: each convolution holds one back, the last strip none.

        None where the first strips are so low that no row has come through all layers yet.

        Args:
            strip: rows of the page, in the layers' precision.
            kept: by layer, the last two rows that it was given; none before the first strip.
            is_last: whether the page ends with this strip.
        """
        for index, layer in enumerate(self._layers):
            if not isinstance(layer, torch.nn.Conv2d):
                strip = layer(strip)
                continue
            edge = torch.zeros_like(strip[:, :, :1])
            above = kept.get(index, edge)
            given = torch.cat((above, strip, edge) if is_last else (above, strip), dim=2)
            if given.shape[2] < 3:
                kept[index] = given
                return None
            kept[index] = given[:, :, -2:].clone(memory_format=torch.channels_last)
            strip = functional.conv2d(given, layer.weight, layer.bias, padding=(0, 1))
        return strip
