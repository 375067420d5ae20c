"""AVIF, by Pillow: always lossy, 8 bits."""

from __future__ import annotations

from comic_upscale.costs.ranges import Range
from comic_upscale.imaging.codecs.base import LATER_MEASURED, Assumed, EncodeOptions, OutputFormat
from comic_upscale.imaging.codecs.pillow import save, to_options, to_rgb_image
from comic_upscale.imaging.pixels import Pixels

# Of 10. For an upscaled page of 2480 x 3508, 8 takes a third of the time of the default, 6, and files are 5 % larger.
_SPEED = 8


def encode_avif(pixels: Pixels, options: EncodeOptions) -> bytes:
    """Encode a page of 8 bits. Gray is stored as luma alone, although Pillow needs three channels."""
    image, profile = to_rgb_image(pixels)
    subsampling = "4:0:0" if pixels.color.shape[2] == 1 else "4:4:4"
    return save(
        image, "AVIF", quality=options.quality, subsampling=subsampling, speed=_SPEED, max_threads=1,
        **to_options(pixels.metadata, profile),
    )  # fmt: skip


FORMAT = OutputFormat(
    name="avif",
    title="AVIF",
    recognised_as="AVIF",
    extension="avif",
    adopted_extensions=("avifs",),
    lossless="never",
    default_quality=90,
    # The longest side that libavif reads. It writes sides of twice this length.
    longest_side=32768,
    most_pixels=2**28,
    density_in_exif=True,
    encode=encode_avif,
    assumed_lossy=Assumed(
        gray_bytes=0.19, color_bytes=0.18, seconds=Range(0.1522, 0.3646, 0.5412), source=LATER_MEASURED
    ),
)
