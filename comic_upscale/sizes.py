"""Sizes that pages can be asked to have: the public names, for ``JobSettings`` and ``Upscaler``."""

from comic_upscale.settings.screens import Screen
from comic_upscale.settings.sizes import Bounds, Fit, Height, LongSide, Print, Scale, Size, Width

__all__ = ["Bounds", "Fit", "Height", "LongSide", "Print", "Scale", "Screen", "Size", "Width"]
