"""Code shared by the formats that Pillow writes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from comic_upscale.imaging.color import gray_to_srgb
from comic_upscale.imaging.pixels import Metadata, Pixels, SampleArray, join_alpha


def to_image(color: SampleArray, alpha: SampleArray | None) -> Image.Image:
    """Make an image of samples.

    Args:
        color: uint8, height x width x 3 or 1.
        alpha: uint8, height x width; None for none.
    """
    if alpha is not None:
        return Image.fromarray(join_alpha(color, alpha))
    return Image.fromarray(np.ascontiguousarray(color[:, :, 0] if color.shape[2] == 1 else color))


def to_rgb_image(pixels: Pixels) -> tuple[Image.Image, bytes | None]:
    """Make an RGB or RGBA image of a page of 8 bits; return it and its profile.

    A gray page becomes three equal channels. Its profile does not fit these, so its shades are converted to sRGB.
    """
    image, profile = to_image(pixels.color, pixels.alpha), pixels.icc_profile
    if pixels.color.shape[2] > 1:
        return image, profile
    gray = image.getchannel("L")
    colored = gray_to_srgb(gray, profile) if profile is not None else None
    if colored is None:
        colored = gray.convert("RGB")
    # Else Pillow's AVIF writer finds sRGB's, which is none for one channel.
    colored.info.pop("icc_profile", None)
    if image.mode == "LA":
        colored.putalpha(image.getchannel("A"))
    return colored, None


def to_options(metadata: Metadata, profile: bytes | None) -> dict[str, Any]:
    """Return the metadata arguments of Pillow's writers. What is absent has no key: some writers fail on None."""
    beside = {
        "icc_profile": profile,
        "exif": None if metadata.exif is None else b"Exif\0\0" + metadata.exif,
        "xmp": metadata.xmp,
    }
    return {name: value for name, value in beside.items() if value is not None}


def save(image: Image.Image, format: str, **options: Any) -> bytes:
    """Write an image by Pillow's writer of a format, into memory."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()
