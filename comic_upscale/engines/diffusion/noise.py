"""One field of noise for a page, of which each tile gets its part: neighbours begin alike where they overlap.

A pipeline of diffusers makes its noise itself, by a function of its module. While a tile is drawn, that function
returns a part of the field.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from comic_upscale.engines.feathering import Window

_FUNCTION = "randn_tensor"


class NoiseField:
    """Normal noise for a page.

    Args:
        seed: equal seeds give equal fields, on every device.
        size: (height, width) of the page in pixels.
    """

    def __init__(self, seed: int, size: tuple[int, int]) -> None:
        self._seed, self._size = seed, size
        self._fields: dict[tuple[int, int], torch.Tensor] = {}

    def cut(self, shape: tuple[int, ...], window: Window) -> torch.Tensor:
        """Return the noise of a window.

        Args:
            shape: of the latents of the window; its last two numbers are their height and width.
            window: of the page, in pixels. Its start and length are multiples of the factor of the autoencoder.

        Returns:
            float32 of that shape, on the CPU.
        """
        factor = window.rows.length // shape[-2]
        channels = 1
        for each in shape[:-2]:
            channels *= each
        field = self._fields.get((factor, channels))
        if field is None:
            generator = torch.Generator("cpu").manual_seed(self._seed)
            height, width = (-(-side // factor) for side in self._size)
            field = torch.randn((channels, height, width), generator=generator)
            self._fields[factor, channels] = field
        top, left = window.rows.start // factor, window.columns.start // factor
        return field[:, top : top + shape[-2], left : left + shape[-1]].reshape(shape).clone()

    @contextmanager
    def used_by(self, pipeline: Any, window: Window) -> Iterator[None]:
        """Let a pipeline take the noise of a window from the field."""
        module = sys.modules[type(pipeline).__module__]
        original = getattr(module, _FUNCTION, None)
        if original is None:
            raise RuntimeError(f"{type(pipeline).__name__} makes its noise in a way that is not known here")

        def randn_tensor(
            shape: tuple[int, ...],
            generator: Any = None,
            device: Any = None,
            dtype: Any = None,
            layout: Any = None,
        ) -> torch.Tensor:
            return self.cut(tuple(shape), window).to(device=device, dtype=dtype)

        setattr(module, _FUNCTION, randn_tensor)
        try:
            yield
        finally:
            setattr(module, _FUNCTION, original)
