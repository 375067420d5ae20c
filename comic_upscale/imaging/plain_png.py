"""Read the samples of an ordinary PNG, faster than Pillow does. Pillow reads every other PNG, and all metadata.

ISA-L inflates in less than half of zlib's time, and libpng undoes the filters of rows faster than Pillow. So the rows
are inflated here, and libpng gets them in a PNG of its own, stored without compression. A file that is unusual or
damaged in any way is left to Pillow, which decides what is wrong with it.

Source: the PNG specification, third edition (W3C); RFC 1951, section 3.2.4 (stored blocks).
"""

from __future__ import annotations

import struct

import imagecodecs
from isal import isal_zlib

from comic_upscale.imaging.codecs.png import SIGNATURE, chunk, chunk_parts
from comic_upscale.imaging.pixels import UInt8Array

_CHANNELS = {0: 1, 2: 3}
"""By colour type: gray and RGB."""
_MOST_BYTES = 64 << 20
"""Pillow reads larger images: it does not need all rows beside the samples, and is as fast."""
_HEADER_END = 33
"""Where the header's chunk ends, behind the signature."""
_STORED = 65535
"""The most bytes of a stored block."""
_LEFT_TO_PILLOW = (b"IHDR", b"tRNS", b"acTL", b"fcTL", b"fdAT")
"""Chunks behind the header that change the picture, which only Pillow applies."""


def read_plain_png(data: bytes) -> UInt8Array | None:
    """Return the samples of a PNG with 8 bits in gray or RGB, not interlaced, without transparency and animation.

    Args:
        data: the file.

    Returns:
        height x width x 1 or 3; None if it is not such a file, or not a sound one.
    """
    if len(data) < _HEADER_END or not data.startswith(SIGNATURE) or data[12:16] != b"IHDR":
        return None
    width, height, bits, kind, *rest = struct.unpack_from(">LLBBBBB", data, 16)
    channels = _CHANNELS.get(kind)
    size = height * (1 + width * (channels or 0))
    if channels is None or bits != 8 or any(rest) or not 0 < size <= _MOST_BYTES:
        return None
    packed = _find_packed(data)
    if packed is None:
        return None
    try:
        unpacker = isal_zlib.decompressobj()
        # One byte more than the rows have, so that a longer stream is not taken for one that ends here.
        rows = unpacker.decompress(packed, size + 1)
        if len(rows) != size or not unpacker.eof:
            return None
        samples: UInt8Array = imagecodecs.png_decode(_store(data[16:29], rows))
    except (isal_zlib.IsalError, RuntimeError):  # type: ignore[misc]
        # The latter is imagecodecs' for what libpng refuses. The stub declares the former as an instance.
        return None
    return samples.reshape(height, width, channels)


def _find_packed(data: bytes) -> bytes | None:
    """Return the packed rows; None if they are in several places, or if a chunk is cut off or left to Pillow."""
    view, at = memoryview(data), _HEADER_END
    packed: list[memoryview] = []
    last = b""
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">L4s", data, at)
        end = at + 12 + length
        if name in _LEFT_TO_PILLOW or (name == b"IDAT" and packed and last != name):
            return None
        if name == b"IEND":
            return b"".join(packed)
        if name == b"IDAT":
            packed.append(view[at + 8 : end - 4])
        at, last = end, name
    return None


def _store(header: bytes, rows: bytes) -> bytes:
    """Return a PNG without compression.

    Args:
        header: the content of IHDR.
        rows: filtered.
    """
    blocks = -(-len(rows) // _STORED)
    stream = bytearray(2 + 5 * blocks + len(rows) + 4)
    stream[:2] = b"\x78\x01"
    at = 2
    for start in range(0, len(rows), _STORED):
        length = min(_STORED, len(rows) - start)
        struct.pack_into("<BHH", stream, at, start + length == len(rows), length, length ^ 0xFFFF)
        stream[at + 5 : at + 5 + length] = memoryview(rows)[start : start + length]
        at += 5 + length
    struct.pack_into(">L", stream, at, isal_zlib.adler32(rows))
    parts = (SIGNATURE, chunk(b"IHDR", header), *chunk_parts(b"IDAT", stream), chunk(b"IEND", b""))
    return b"".join(parts)
