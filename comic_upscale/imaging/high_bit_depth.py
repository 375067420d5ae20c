"""Samples that Pillow cannot hold: more than 8 bits in colour.

Pillow silently reads 16-bit RGB and RGBA as 8-bit. imagecodecs (libpng) and tifffile, by one author, read all
bits. Both are imported only for such a page.
"""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from comic_upscale.errors import PageError
from comic_upscale.imaging.orientation import upright
from comic_upscale.imaging.pixels import SampleArray

_ORIENTATION = 274
_WHITE_IS_ZERO, _GRAY, _RGB = 0, 1, 2
_WIDE = (_WHITE_IS_ZERO, _GRAY, _RGB)
_WIDE_TYPES = ("u1", "u2", "u4", "f2", "f4", "f8")
_MULTIPLIED, _ALPHAS = 1, (1, 2)
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
        bits: of a sample, as the file declares.

    Returns:
        uint8 or uint16, height x width x channels (gray, gray and alpha, RGB, RGBA), oriented as Pillow
        returns them; None if Pillow reads all bits.

    Raises:
        Exception: any error of the libraries about the file.
    """
    if image.format == "PNG" and bits == 16:
        return _read_png(data, image.size)
    if getattr(image, "is_wide", False):
        return _read_wide_tiff(data, image.size)
    colored = image.mode in ("RGB", "RGBA", "LA")
    if image.format == "TIFF" and bits == 16 and colored:
        return _read_tiff(image, data)
    if image.format == "JPEG2000" and 8 < bits <= 16 and colored:
        return _read_jpeg2000(image, data, bits)
    if image.format == "PPM" and bits > 8 and colored:
        return _read_ppm(data)
    return None


def wide_bits(format: str | None, data: bytes) -> int:
    """Return the bits of a sample in a file of a format that Pillow silently reads at 8 bits.

    Args:
        format: Pillow's name of the format; the answer for other formats is 8.
        data: the file.
    """
    if format == "JPEG2000":
        at = data.find(_JPEG2000_START) + len(_JPEG2000_START)
        return (data[at + 38] & 0x7F) + 1 if at >= len(_JPEG2000_START) and at + 38 < len(data) else 8
    if format == "PPM" and (header := _PPM.match(data[:_PPM_BYTES])):
        return int(header[3]).bit_length()
    if format in ("AVIF", "HEIF") and (at := data.find(b"pixi", 0, _BOXES)) >= 0:
        # Version, flags and the number of channels come before the bits of each channel.
        return max(data[at + 9 : at + 9 + data[at + 8]], default=8)
    return 8


def _read_jpeg2000(image: Image.Image, data: bytes, bits: int) -> SampleArray | None:
    import imagecodecs

    samples = np.asarray(imagecodecs.jpeg2k_decode(data))
    if _YCC in data[:_BOXES] or samples.ndim != 3 or samples.dtype != np.uint16:
        return None
    return _check_shape(_stretch(samples, 2**bits - 1), image.size)


def _read_ppm(data: bytes) -> SampleArray | None:
    header = _PPM.match(data[:_PPM_BYTES])
    if header is None:
        return None
    width, height, top = (int(number) for number in header.groups())
    samples = np.frombuffer(data, ">u2", 3 * width * height, header.end()).reshape(height, width, 3)
    return _check_shape(_stretch(samples.astype(np.uint16), top), (width, height))


def _stretch(samples: np.ndarray[tuple[int, ...], np.dtype[np.uint16]], top: int) -> SampleArray:
    """Spread samples from 0..``top`` over all 16 bits."""
    if top == _TOP:
        return samples
    return ((np.minimum(samples, top).astype(np.uint32) * _TOP + top // 2) // top).astype(np.uint16)


def _read_png(data: bytes, size: tuple[int, int]) -> SampleArray:
    import imagecodecs

    # The transparent shade becomes alpha here, compared in all 16 bits.
    return _check_shape(np.asarray(imagecodecs.png_decode(data)), size)


def _read_tiff(image: Image.Image, data: bytes) -> SampleArray | None:
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        if page.photometric not in (_GRAY, _RGB) or page.dtype != np.uint16:
            return None
        samples = _channels_last(page)
        orientation = _orientation(page)
        multiplied = _is_premultiplied(page)
    if samples.ndim == 3 and samples.shape[2] > 4:
        return None
    # Pillow has already rotated its own samples and dropped the tag.
    checked = _check_shape(upright(samples, orientation), image.size)
    return _unpremultiply(checked) if multiplied else checked


def _read_wide_tiff(data: bytes, size: tuple[int, int]) -> SampleArray:
    """Read a TIFF that Pillow has no mode for: 32 bits, floating point, 16-bit gray with alpha."""
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        kind, channels = page.dtype, page.samplesperpixel
        if page.photometric not in _WIDE or kind is None or kind.str[1:] not in _WIDE_TYPES or channels > 5:
            raise PageError(
                "unsupported",
                f"The file is an unsupported kind of TIFF ({kind}, {channels} channels, photometric interpretation "
                f"{int(page.photometric)}): save it as RGB with 8 or 16 bits",
            )
        if sorted((page.imagewidth, page.imagelength)) != sorted(size) or page.imagedepth != 1:
            raise ValueError("the size of the image differs from the header")
        samples = upright(np.atleast_3d(_channels_last(page)), _orientation(page))
        colors = 3 if page.photometric == _RGB else 1
        with_alpha = len(page.extrasamples) > 0 and page.extrasamples[0] in _ALPHAS
        multiplied, is_inverted = _is_premultiplied(page), page.photometric == _WHITE_IS_ZERO
    if samples.shape[2] < colors + with_alpha:
        raise ValueError("the image has fewer channels than its header declares")
    color = _to_sixteen_bits(samples[:, :, :colors])
    if is_inverted:
        color = _TOP - color
    if not with_alpha:
        return np.ascontiguousarray(color, np.uint16)
    alpha = _to_sixteen_bits(samples[:, :, colors : colors + 1], is_share=True)
    together = np.concatenate((color, alpha), axis=2)
    return _unpremultiply(together) if multiplied else together


def _to_sixteen_bits(samples: NDArray[np.generic], *, is_share: bool = False) -> NDArray[np.uint16]:
    """Convert samples to 16 bits. Floating point has the range 0 to 1 if it fits, otherwise the range that it fills."""
    if samples.dtype.kind == "f":
        fitted = fit(samples, 1.0 if is_share else None)
        return (
            fitted.astype(np.uint16) * np.uint16(257)
            if fitted.dtype == np.uint8
            else fitted.astype(np.uint16)
        )
    bits = 8 * samples.dtype.itemsize
    if bits == 8:
        return samples.astype(np.uint16) * np.uint16(257)
    shifted: NDArray[np.uint16] = np.right_shift(samples, bits - 16).astype(np.uint16)
    return shifted


def _orientation(page: Any) -> int:
    """Return the orientation of a page of a TIFF, as EXIF numbers it."""
    tag = page.tags.get(_ORIENTATION)
    return int(tag.value) if tag is not None and tag.value in range(1, 9) else 1


def _channels_last(page: Any) -> NDArray[Any]:
    """Decode a page of a TIFF. Channels become the last axis, even if they are stored plane by plane."""
    samples: NDArray[Any] = page.asarray()
    return np.moveaxis(samples, 0, 2) if samples.ndim == 3 and page.planarconfig == 2 else samples


def _is_premultiplied(page: Any) -> bool:
    """Return whether the colours of a page of a TIFF are premultiplied by its alpha."""
    return len(page.extrasamples) > 0 and page.extrasamples[0] == _MULTIPLIED


def _unpremultiply(samples: SampleArray) -> SampleArray:
    """Divide colours by the alpha in the last channel, in place, row by row. Invisible pixels stay unchanged."""
    for row in samples:
        alpha = row[:, -1:].astype(np.uint32)
        seen = np.maximum(alpha, 1)
        whole = (row[:, :-1].astype(np.uint32) * _TOP + seen // 2) // seen
        row[:, :-1] = np.where(alpha > 0, np.minimum(whole, _TOP), row[:, :-1])
    return samples


def fit(values: NDArray[np.generic], top: float | None) -> SampleArray:
    """Convert numbers of an unknown range to 0..65535, or to 0..255 if that is their range.

    Negative and undefined ones become 0.

    Args:
        values: of any type.
        top: the value of white; None if unknown.
    """
    numbers = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0).clip(min=0)
    if top is None:
        # The file does not declare the value of white, so take the smallest of the usual ranges that holds all values.
        most = float(numbers.max())
        usual = (65535.0, 255.0, 1.0) if values.dtype.kind == "f" else (65535.0, 255.0)
        top = min((white for white in usual if most <= white), default=most)
        if most > 2.0**31 and values.dtype == np.uint32:
            top = 2.0**32 - 1
        if top == 255.0 and (numbers == np.rint(numbers)).all():
            return numbers.astype(np.uint8)
    return np.rint(numbers.clip(max=top) * (65535 / top)).astype(np.uint16)


def _check_shape(
    samples: np.ndarray[tuple[int, ...], np.dtype[np.generic]], size: tuple[int, int]
) -> SampleArray:
    if samples.ndim == 2:
        samples = samples[:, :, None]
    if samples.shape[:2] != (size[1], size[0]) or samples.dtype != np.uint16:
        raise ValueError(f"the samples ({samples.dtype} {samples.shape}) differ from the header")
    return np.ascontiguousarray(samples, np.uint16)
