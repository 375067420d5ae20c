"""One field of noise for a page, of which each tile gets its part: neighbours begin alike where they overlap.

A pipeline of diffusers makes its noise by a function of its module, and an autoencoder draws from the range that it
found by one of its own. On the thread that draws a tile, these functions return a part of the field.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

from comic_upscale.engines.feathering import Window

_FUNCTION = "randn_tensor"
_AUTOENCODER = "diffusers.models.autoencoders.vae"
_OF_AUTOENCODER = 0x5EED
"""Sets the noise of the autoencoder apart from that of the pipeline, which begins from the same seed."""
_TAKING_OVER = threading.Lock()


class _CurrentTile(threading.local):
    """What the thread draws. Engines of one process share the modules of diffusers, and have threads of their own."""

    field: NoiseField | None = None
    window: Window


_current = _CurrentTile()


class NoiseField:
    """Normal noise for a page.

    Args:
        seed: equal seeds give equal fields, on every device.
        size: (height, width) of the page in pixels.
    """

    def __init__(self, seed: int, size: tuple[int, int]) -> None:
        self._seed, self._size = seed, size
        self._fields: dict[tuple[int, int, int], torch.Tensor] = {}

    def cut(self, shape: tuple[int, ...], window: Window, purpose: int = 0) -> torch.Tensor:
        """Return the noise of a window.

        Args:
            shape: of the latents of the window; its last two numbers are their height and width.
            window: of the page, in pixels. Its start and length are multiples of the factor of the autoencoder.
            purpose: another one gives noise that has nothing to do with the first.

        Returns:
            float32 of that shape, on the CPU.
        """
        factor = window.rows.length // shape[-2]
        channels = 1
        for each in shape[:-2]:
            channels *= each
        field = self._fields.get((purpose, factor, channels))
        if field is None:
            generator = torch.Generator("cpu").manual_seed(self._seed ^ purpose)
            height, width = (-(-side // factor) for side in self._size)
            field = torch.randn((channels, height, width), generator=generator)
            self._fields[purpose, factor, channels] = field
        top, left = window.rows.start // factor, window.columns.start // factor
        return field[:, top : top + shape[-2], left : left + shape[-1]].reshape(shape).clone()

    @contextmanager
    def used_by(self, pipeline: Any, window: Window) -> Iterator[None]:
        """Let a pipeline and its autoencoder take the noise of a window from the field, on this thread."""
        take_over_noise(pipeline)
        _current.field, _current.window = self, window
        try:
            yield
        finally:
            _current.field = None


def take_over_noise(pipeline: Any) -> bool:
    """Let the modules of a pipeline ask for noise here; return whether the pipeline makes it in a way that is known."""
    with _TAKING_OVER:
        _take_over(importlib.import_module(_AUTOENCODER), _OF_AUTOENCODER)
        return _take_over(sys.modules[type(pipeline).__module__], 0)


def _take_over(module: ModuleType, purpose: int) -> bool:
    original: Any = getattr(module, _FUNCTION, None)
    if original is not None and not isinstance(original, _FromField):
        setattr(module, _FUNCTION, _FromField(original, purpose))
    return original is not None


class _FromField:
    """Stands for the function of a module: on a thread that draws no tile, it is that function."""

    def __init__(self, original: Any, purpose: int) -> None:
        self._original, self._purpose = original, purpose

    def __call__(
        self,
        shape: tuple[int, ...],
        generator: Any = None,
        device: Any = None,
        dtype: Any = None,
        layout: Any = None,
    ) -> torch.Tensor:
        field = _current.field
        if field is None:
            made: torch.Tensor = self._original(shape, generator, device, dtype, layout)
            return made
        return field.cut(tuple(shape), _current.window, self._purpose).to(device=device, dtype=dtype)
