"""Upscaling: from uint8 pixels to larger uint8 pixels on a device."""
