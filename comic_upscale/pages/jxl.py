"""JPEG XL, by libjxl through imagecodecs: the header and the boxes here, the pixels there.

Source: ISO/IEC 18181-1 (the codestream's first fields) and 18181-2 (the boxes around it).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL.ImageFile import ImageFile

from comic_upscale.pages.page import Metadata, SampleArray

_SIGNATURE = b"\0\0\0\x0cJXL \r\n\x87\n"
_FILE_TYPE = b"\0\0\0\x14ftypjxl \0\0\0\0jxl "
_CODESTREAM = b"\xff\x0a"
_HEADER_BYTES = 64
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_SIDE_BITS = (9, 13, 18, 30)
_EFFORT = 3
"""Of 9. Lossless, 1280 x 1920 in flat colour: 3 takes a tenth of the default's 7 time for files some 5 % larger."""


class JxlImageFile(ImageFile):
    """A JPEG XL as far as Pillow can hold one: size, mode and metadata. The pixels come by ``decode_jxl``."""

    format = "JXL"
    format_description = "JPEG XL"

    def _open(self) -> None:
        data = self.fp.read() if self.fp is not None else b""
        size, animated = _read_header(data)
        self._size = size
        self._mode = "RGB"
        self.n_frames = 2 if animated else 1
        self.is_animated = animated
        for kind, content in _boxes(data):
            if kind == b"Exif" and len(content) > 4:
                offset = int.from_bytes(content[:4], "big")
                self.info["exif"] = content[4 + offset :]
            elif kind == b"xml ":
                self.info["xmp"] = content

    def load(self) -> Any:
        """Do nothing: Pillow has no place for what this may hold."""
        return None


def decode_jxl(data: bytes) -> SampleArray:
    """Decode a JPEG XL, upright; of an animation the first frame.

    Returns:
        uint8 or uint16, height x width x channels (gray, gray and alpha, RGB, RGBA).

    Raises:
        Exception: whatever libjxl finds wrong with the file.
    """
    import imagecodecs

    samples = np.asarray(imagecodecs.jpegxl_decode(data, 0))
    if samples.ndim == 2:
        samples = samples[:, :, None]
    if samples.dtype.kind == "f":
        samples = np.rint(np.nan_to_num(samples.astype(np.float64)).clip(0, 1) * 65535).astype(np.uint16)
    if samples.ndim != 3 or samples.dtype not in (np.uint8, np.uint16) or samples.shape[2] > 4:
        raise ValueError(f"samples of {samples.dtype} {samples.shape} are not understood")
    return samples


def encode_jxl(samples: SampleArray, quality: int | None, metadata: Metadata) -> bytes:
    """Encode sRGB samples as a JPEG XL, with EXIF and XMP in its boxes.

    Args:
        samples: uint8 or uint16, height x width x 1 to 4.
        quality: 1 to 100 as libjpeg counts it; None for lossless.
        metadata: its resolution is left out, for which JPEG XL has no place but EXIF.
    """
    import imagecodecs

    picture = np.ascontiguousarray(samples[:, :, 0] if samples.shape[2] == 1 else samples)
    options: dict[str, Any] = {"effort": _EFFORT, "usecontainer": False, "numthreads": 1}
    if quality is None:
        stream = bytes(imagecodecs.jpegxl_encode(picture, lossless=True, **options))
    else:
        stream = bytes(imagecodecs.jpegxl_encode(picture, distance=_distance(quality), **options))
    boxes = b""
    if metadata.exif is not None:
        boxes += _box(b"Exif", bytes(4) + metadata.exif)
    if metadata.xmp is not None:
        boxes += _box(b"xml ", metadata.xmp)
    if stream.startswith(_SIGNATURE):
        return stream + boxes
    return _SIGNATURE + _FILE_TYPE + _box(b"jxlc", stream) + boxes if boxes else stream


def _distance(quality: int) -> float:
    """The distance that libjxl's own tools take for a quality of libjpeg's."""
    if quality >= 30:
        return 0.1 + (100 - quality) * 0.09
    return 53.0 / 3000.0 * quality * quality - 23.0 / 20.0 * quality + 25.0


def _box(kind: bytes, content: bytes) -> bytes:
    if len(content) + 8 < 1 << 32:
        return struct.pack(">L", len(content) + 8) + kind + content
    return struct.pack(">L4sQ", 1, kind, len(content) + 16) + content


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while data.startswith(_SIGNATURE) and at + 8 <= len(data):
        length, kind = struct.unpack_from(">L4s", data, at)
        start = at + 8
        if length == 1 and at + 16 <= len(data):
            (length,) = struct.unpack_from(">Q", data, at + 8)
            start = at + 16
        end = len(data) if length == 0 else at + length
        if end <= start or end > len(data):
            return
        yield kind, data[start:end]
        at = end


class _Bits:
    """Reads numbers of bits, the lowest first."""

    def __init__(self, data: bytes) -> None:
        self._number = int.from_bytes(data, "little")
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        if count > self._left:
            raise EOFError("unexpected end of the header")
        value = self._number & ((1 << count) - 1)
        self._number >>= count
        self._left -= count
        return value


def _read_header(data: bytes) -> tuple[tuple[int, int], bool]:
    """Return (width, height), upright, and whether the file is animated."""
    bits = _Bits(_codestream(data)[2 : 2 + _HEADER_BYTES])
    width, height = _read_size(bits)
    animated = False
    if not bits.take(1) and bits.take(1):  # not all fields have their defaults, and the rare ones are there
        orientation = bits.take(3) + 1
        if bits.take(1):
            _read_size(bits)  # the size that it is meant to be shown at
        # A preview's size would have to be read over; an animation with one is taken for a single picture.
        animated = not bits.take(1) and bool(bits.take(1))
        if orientation >= 5:
            width, height = height, width
    return (width, height), animated


def _codestream(data: bytes) -> bytes:
    if data.startswith(_CODESTREAM):
        return data[: 2 + _HEADER_BYTES]
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">L4s", data, at)
        start = at + (16 if length == 1 else 8)
        if kind in (b"jxlc", b"jxlp"):
            start += 4 * (kind == b"jxlp")
            return data[start : start + 2 + _HEADER_BYTES]
        if length == 1 and at + 16 <= len(data):
            (length,) = struct.unpack_from(">Q", data, at + 8)
        if length < 8:
            break
        at += length
    raise EOFError("unexpected end before the picture")


def _read_size(bits: _Bits) -> tuple[int, int]:
    small = bits.take(1)

    def side() -> int:
        if small:
            return 8 * (bits.take(5) + 1)
        return bits.take(_SIDE_BITS[bits.take(2)]) + 1

    height = side()
    ratio = bits.take(3)
    if ratio:
        across, down = _RATIOS[ratio - 1]
        return height * across // down, height
    return side(), height
