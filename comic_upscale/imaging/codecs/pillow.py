"""Code shared by the formats that Pillow writes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from comic_upscale.imaging.color import gray_to_srgb
from comic_upscale.imaging.pixels import Metadata, Pixels, SampleArray, join_alpha


def to_image(color: SampleArray, alpha: SampleArray | None) -> Image.Image:
    """Return samples as an image.

    Args:
        color: uint8, height x width x 3 or 1.
        alpha: uint8, height x width; None for none.
    """
    if alpha is not None:
        return Image.fromarray(join_alpha(color, alpha))
    return Image.fromarray(np.ascontiguousarray(color[:, :, 0] if color.shape[2] == 1 else color))


def to_rgb_image(pixels: Pixels) -> tuple[Image.Image, bytes | None]:
    """Return a page of 8 bits as an RGB or RGBA image, and its profile.

    A gray page becomes three equal channels. Its profile does not fit them, so its shades are converted to sRGB.
    """
    image, profile = to_image(pixels.color, pixels.alpha), pixels.icc_profile
    if pixels.color.shape[2] > 1:
        return image, profile
    gray = image.getchannel("L")
    colored = gray_to_srgb(gray, profile) if profile is not None else None
    if colored is None:
        colored = gray.convert("RGB")
    # Otherwise Pillow's AVIF writer uses sRGB's profile, which does not fit one channel.
    colored.info.pop("icc_profile", None)
    if image.mode == "LA":
        colored.putalpha(image.getchannel("A"))
    return colored, None


def to_options(metadata: Metadata, profile: bytes | None) -> dict[str, Any]:
    """Return the metadata arguments of Pillow's writers. Absent metadata have no key: some writers fail on None."""
    beside = {
        "icc_profile": profile,
        "exif": None if metadata.exif is None else b"Exif\0\0" + metadata.exif,
        "xmp": metadata.xmp,
    }
    return {name: value for name, value in beside.items() if value is not None}


def save(image: Image.Image, format: str, **options: Any) -> bytes:
    """Return the bytes that Pillow's writer of a format makes of an image."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()
