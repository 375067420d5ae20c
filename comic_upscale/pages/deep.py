"""Samples that Pillow has no place for: more than 8 bits in colour.

Pillow reads 16-bit RGB and RGBA as 8-bit without a word. imagecodecs (libpng) and tifffile, of one
maker, read them whole; both are imported only where such a page comes.
"""

from __future__ import annotations

import io
import re

import numpy as np
from PIL import Image

from comic_upscale.pages.orientation import upright
from comic_upscale.pages.page import SampleArray

_ORIENTATION = 274
_GRAY, _RGB = 1, 2
_TOP = 65535
_JPEG2000_START = b"\xff\x4f\xff\x51"
_YCC = b"colr\x01\0\0\0\0\0\x12"
_PPM = re.compile(rb"P6" + 3 * rb"\s+(?:#[^\n]*\n\s*)*(\d{1,9})" + rb"\s")
_PPM_BYTES, _BOXES = 4096, 65536


def read_deep(image: Image.Image, data: bytes, bits: int) -> SampleArray | None:
    """Read a page that Pillow would read at 8 bits.

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
    if image.format == "PNG" and bits == 16:
        return _read_png(data, image.size)
    colored = image.mode in ("RGB", "RGBA", "LA")
    if image.format == "TIFF" and bits == 16 and colored:
        return _read_tiff(image, data)
    if image.format == "JPEG2000" and 8 < bits <= 16 and colored:
        return _read_jpeg2000(image, data, bits)
    if image.format == "PPM" and bits > 8 and colored:
        return _read_ppm(data)
    return None


def wide_bits(format: str | None, data: bytes) -> int:
    """Return the bits of a sample in a file of a format that Pillow reads at 8 without saying so.

    Args:
        format: Pillow's name of it; of any other format the answer is 8.
        data: the file.
    """
    if format == "JPEG2000":
        at = data.find(_JPEG2000_START) + len(_JPEG2000_START)
        return (data[at + 38] & 0x7F) + 1 if at >= len(_JPEG2000_START) and at + 38 < len(data) else 8
    if format == "PPM" and (header := _PPM.match(data[:_PPM_BYTES])):
        return int(header[3]).bit_length()
    if format in ("AVIF", "HEIF") and (at := data.find(b"pixi", 0, _BOXES)) >= 0:
        # A version, flags and the number of channels stand before their bits.
        return max(data[at + 9 : at + 9 + data[at + 8]], default=8)
    return 8


def _read_jpeg2000(image: Image.Image, data: bytes, bits: int) -> SampleArray | None:
    import imagecodecs

    samples = np.asarray(imagecodecs.jpeg2k_decode(data))
    if _YCC in data[:_BOXES] or samples.ndim != 3 or samples.dtype != np.uint16:
        return None
    return _checked(_stretched(samples, 2**bits - 1), image.size)


def _read_ppm(data: bytes) -> SampleArray | None:
    header = _PPM.match(data[:_PPM_BYTES])
    if header is None:
        return None
    width, height, top = (int(number) for number in header.groups())
    samples = np.frombuffer(data, ">u2", 3 * width * height, header.end()).reshape(height, width, 3)
    return _checked(_stretched(samples.astype(np.uint16), top), (width, height))


def _stretched(samples: np.ndarray[tuple[int, ...], np.dtype[np.uint16]], top: int) -> SampleArray:
    """Spread samples from 0..``top`` over all 16 bits."""
    if top == _TOP:
        return samples
    return ((np.minimum(samples, top).astype(np.uint32) * _TOP + top // 2) // top).astype(np.uint16)


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
