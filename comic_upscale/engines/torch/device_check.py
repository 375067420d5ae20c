"""Whether a device computes pages as the CPU does: asked before the first page, where nobody has tried the program.

PyTorch has lost results on such devices without an error: on MPS, products that were written into part of a tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from comic_upscale.engines.base import Batch, DeviceInfo, Upscaled
from comic_upscale.engines.reach import draw_test_image
from comic_upscale.errors import DeviceError, PageError

Upscale: TypeAlias = Callable[[Batch], Upscaled]
"""`Engine.upscale`."""

UNTRIED = ("mps", "xpu")
"""The types of devices on which nobody has tried the program."""
_LEAST_PSNR = 30.0
"""In decibels. Half precision has 40 and more. A page with a lost part has less than 20."""


def check_device(device: DeviceInfo, upscale: Upscale, on_cpu: Upscale, side: int) -> None:
    """Compare the outputs for a small page in colour, for one in gray and for one of 16 bits.

    Args:
        device: for the message.
        upscale: of an engine on the device.
        on_cpu: of an engine with the same network on the CPU, in float32.
        side: of the page in pixels: one that the network accepts.

    Raises:
        DeviceError: the device computes a page wrong, or not at all.
    """
    # A factor that needs resampling.
    target = (side * 5 // 2, side * 5 // 2)
    color, gray = (draw_test_image((side, side), channels)[None] for channels in (3, 1))
    for page, white in ((color, 255), (gray, 255), (color.astype(np.uint16) * 257, 65535)):
        batch = Batch(page, target)
        try:
            made = upscale(batch).pixels.astype(float)
        except (PageError, RuntimeError, TypeError) as error:
            raise DeviceError(f"{device} cannot compute a test page ({error}): use --device cpu") from error
        errors = made - on_cpu(batch).pixels
        psnr = 10 * np.log10(white**2 / max(np.square(errors).mean(), 1e-9))
        if psnr < _LEAST_PSNR:
            raise DeviceError(
                f"{device} computes a test page wrong ({psnr:.0f} dB relative to the CPU, of at least "
                f"{_LEAST_PSNR:.0f}): update the system and PyTorch, or use --device cpu"
            )
