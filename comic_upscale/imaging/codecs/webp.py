"""WebP, by Pillow: lossless, or lossy if a quality is given; always three channels."""

from __future__ import annotations

from PIL import Image

from comic_upscale.costs.ranges import Range
from comic_upscale.imaging.codecs.base import FIRST_MEASURED, Assumed, EncodeOptions, OutputFormat
from comic_upscale.imaging.codecs.pillow import save, to_options, to_rgb_image
from comic_upscale.imaging.pixels import Pixels

# Newsprint: method 0 0.38 s 1.68 MB, method 1 1.44 s 1.37 MB.
_LOSSLESS_METHOD = 0
# At quality 90: method 2 0.32 s, method 4 (the default) 0.63 s for a file 1 % smaller.
_LOSSY_METHOD = 2


def encode_webp(pixels: Pixels, options: EncodeOptions) -> bytes:
    """Encode a page of 8 bits. A lossless file keeps the colour under transparent pixels too."""
    image, profile = to_rgb_image(pixels)
    beside = to_options(pixels.metadata, profile)
    if options.quality is None:
        return save(image, "WEBP", lossless=True, exact=True, method=_LOSSLESS_METHOD, quality=0, **beside)
    return save(image, "WEBP", quality=options.quality, alpha_quality=100, method=_LOSSY_METHOD, **beside)


def _most_pixels() -> int | None:
    # Pillow's WebP plugin refuses to open a larger file, so it could be written but not checked. The limit is
    # global to the process.
    return None if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS


def _is_whole(data: bytes) -> bool:
    return len(data) == 8 + int.from_bytes(data[4:8], "little")


def _has_lossless_samples(data: bytes) -> bool:
    # A lossless image is a chunk of its own kind, which is among the first chunks.
    return b"VP8L" in data[:4096] and b"VP8 " not in data[:4096]


FORMAT = OutputFormat(
    name="webp",
    title="WebP",
    recognised_as="WEBP",
    extension="webp",
    lossless="without-quality",
    # With --format auto, for a page whose file is lossy.
    default_quality=90,
    longest_side=16383,
    ask_most_pixels=_most_pixels,
    gray=False,
    density_in_exif=True,
    encode=encode_webp,
    is_whole=_is_whole,
    has_lossless_samples=_has_lossless_samples,
    assumed_lossless=Assumed(
        gray_bytes=0.67, color_bytes=0.9, seconds=Range(0.0686, 0.0762, 0.0866), source=FIRST_MEASURED
    ),
    assumed_lossy=Assumed(
        gray_bytes=0.2, color_bytes=0.15, seconds=Range(0.0506, 0.0693, 0.0828), source=FIRST_MEASURED
    ),
)
