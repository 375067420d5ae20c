"""Samples that Pillow has no place for: 16 bits in colour, and JPEG XL.

Pillow reads 16-bit RGB and RGBA as 8-bit without a word. imagecodecs (libpng, libjxl) and tifffile, of one
maker, read them whole; both are imported only where such a page comes.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from comic_upscale.pages.jxl import decode_jxl
from comic_upscale.pages.orientation import upright
from comic_upscale.pages.page import SampleArray

_ORIENTATION = 274
_GRAY, _RGB = 1, 2


def read_deep(image: Image.Image, data: bytes, bits: int) -> SampleArray | None:
    """Read a page that Pillow would read at 8 bits, or not at all.

    Args:
        image: opened from ``data``, loaded.
        data: the file.
        bits: of a sample, as the file says.

    Returns:
        uint8 or uint16, height x width x channels (gray, gray and alpha, RGB, RGBA), lying as Pillow would
        have them; None where Pillow reads all there is.

    Raises:
        Exception: whatever the libraries find wrong with the file.
    """
    if image.format == "JXL":
        return decode_jxl(data)
    if image.format == "PNG" and bits == 16:
        return _read_png(data, image.size)
    if image.format == "TIFF" and bits == 16 and image.mode in ("RGB", "RGBA", "LA"):
        return _read_tiff(image, data)
    return None


def _read_png(data: bytes, size: tuple[int, int]) -> SampleArray:
    import imagecodecs

    # A transparent shade becomes alpha on the way, compared in all 16 bits.
    return _checked(np.asarray(imagecodecs.png_decode(data)), size)


def _read_tiff(image: Image.Image, data: bytes) -> SampleArray | None:
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        if page.photometric not in (_GRAY, _RGB) or page.dtype != np.uint16:
            return None
        samples = page.asarray()
        if samples.ndim == 3 and page.planarconfig == 2:
            samples = np.moveaxis(samples, 0, 2)
        tag = page.tags.get(_ORIENTATION)
    if samples.ndim == 3 and samples.shape[2] > 4:
        return None
    # Pillow has turned its own samples already, and forgotten the tag.
    orientation = int(tag.value) if tag is not None and tag.value in range(1, 9) else 1
    return _checked(upright(samples, orientation), image.size)


def _checked(
    samples: np.ndarray[tuple[int, ...], np.dtype[np.generic]], size: tuple[int, int]
) -> SampleArray:
    if samples.ndim == 2:
        samples = samples[:, :, None]
    if samples.shape[:2] != (size[1], size[0]) or samples.dtype != np.uint16:
        raise ValueError(f"samples of {samples.dtype} {samples.shape} are not what the header says")
    return np.ascontiguousarray(samples, np.uint16)
