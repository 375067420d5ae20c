"""JPEG, by Pillow: always lossy, without transparency, and with little room for metadata."""

from __future__ import annotations

import numpy as np

from comic_upscale.costs.ranges import Range
from comic_upscale.imaging.codecs.base import FIRST_MEASURED, Assumed, EncodeOptions, OutputFormat
from comic_upscale.imaging.codecs.pillow import save, to_image, to_options
from comic_upscale.imaging.gray import eight_bits
from comic_upscale.imaging.pixels import Metadata, Pixels, SampleArray, UInt8Array

# The most bytes in a segment of a JPEG.
_LARGEST_SEGMENT = 65533


def encode_jpeg(pixels: Pixels, options: EncodeOptions) -> bytes:
    """Encode a page of 8 bits. Transparency is flattened onto white."""
    color: SampleArray = pixels.color
    if pixels.alpha is not None:
        color = _flatten_onto_white(eight_bits(color), eight_bits(pixels.alpha))
    beside = to_options(pixels.metadata, pixels.icc_profile)
    if pixels.metadata.dpi is not None:
        beside["dpi"] = tuple(round(value) for value in pixels.metadata.dpi)
    for name in _find_too_long(pixels.metadata):
        del beside[name]
    # 4:4:4, because chroma at half resolution would smear the edges of flat areas, of which comics consist.
    return save(to_image(color, None), "JPEG", quality=options.quality, subsampling=0, **beside)


def _list_omissions(pixels: Pixels) -> tuple[str, ...]:
    return tuple(f"{name.upper()} left out: JPEG holds 64 kB" for name in _find_too_long(pixels.metadata))


def _find_too_long(metadata: Metadata) -> list[str]:
    """Return the metadata that are too large for a segment of a JPEG, which begins with a name."""
    parts = (("exif", metadata.exif, _LARGEST_SEGMENT - 12), ("xmp", metadata.xmp, _LARGEST_SEGMENT - 29))
    return [name for name, part, most in parts if part is not None and len(part) > most]


def _flatten_onto_white(color: UInt8Array, alpha: UInt8Array) -> UInt8Array:
    weight = alpha[:, :, None].astype(np.uint16)
    mixed = color * weight + 255 * (255 - weight)  # at most 255 * 255: fits 16 bits
    return ((mixed + np.uint32(127)) // 255).astype(np.uint8)


def _is_whole(data: bytes) -> bool:
    return data.endswith(b"\xff\xd9")


FORMAT = OutputFormat(
    name="jpeg",
    title="JPEG",
    recognised_as="JPEG",
    extension="jpg",
    kept_extensions=("jpeg", "jpe", "jfif"),
    # HEIC pages are lossy already.
    adopted_extensions=("mpo", "heic", "heif", "hif"),
    lossless="never",
    default_quality=95,
    # The limit of libjpeg. The format allows 65535.
    longest_side=65500,
    alpha=False,
    encode=encode_jpeg,
    list_omissions=_list_omissions,
    is_whole=_is_whole,
    assumed_lossy=Assumed(
        gray_bytes=0.34, color_bytes=0.34, seconds=Range(0.0157, 0.0179, 0.0192), source=FIRST_MEASURED
    ),
)
