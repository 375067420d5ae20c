"""Read the samples of an ordinary PNG in half of Pillow's time. Pillow reads every other PNG, and all metadata.

ISA-L inflates in less than half of zlib's time, and libpng undoes the filters of rows faster than Pillow. So the rows
are inflated here, and libpng gets them in a PNG of its own, stored without compression. A file that is unusual or
damaged in any way is left to Pillow, which decides what is wrong with it.

Source: the PNG specification, third edition (W3C); RFC 1951, section 3.2.4 (stored blocks).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import imagecodecs
from isal import isal_zlib

from comic_upscale.imaging.codecs.png import SIGNATURE, chunk
from comic_upscale.imaging.pixels import UInt8Array

_CHANNELS = {0: 1, 2: 3}
"""By colour type: gray and RGB."""
_MOST_BYTES = 256 << 20
"""Pillow reads larger images: it does not need all rows beside the samples."""
_STORED = 65535
"""The most bytes of a stored block."""
_BESIDE = (b"tRNS", b"acTL", b"fcTL", b"fdAT")
"""Chunks that change the picture, which only Pillow applies."""


def read_plain_png(data: bytes) -> UInt8Array | None:
    """Return the samples of a PNG with 8 bits in gray or RGB, not interlaced, without transparency and animation.

    Args:
        data: the file.

    Returns:
        height x width x 1 or 3; None if it is not such a file, or not a sound one.
    """
    if len(data) < 33 or not data.startswith(SIGNATURE) or data[12:16] != b"IHDR":
        return None
    width, height, bits, kind, *rest = struct.unpack_from(">LLBBBBB", data, 16)
    channels = _CHANNELS.get(kind)
    size = height * (1 + width * (channels or 0))
    if channels is None or bits != 8 or any(rest) or not 0 < size <= _MOST_BYTES:
        return None
    packed: list[memoryview] = []
    last = b""
    for name, content in _chunks(data):
        if name in _BESIDE or (name == b"IDAT" and packed and last != name):
            return None
        if name == b"IDAT":
            packed.append(content)
        last = name
    try:
        unpacker = isal_zlib.decompressobj()
        # One byte more than the rows have, so that a longer stream is not taken for one that ends here.
        rows = unpacker.decompress(b"".join(packed), size + 1)
        if len(rows) != size or not unpacker.eof:
            return None
        samples: UInt8Array = imagecodecs.png_decode(_store(data[16:29], rows))
    except (isal_zlib.IsalError, RuntimeError):  # type: ignore[misc]
        # The latter is imagecodecs' for what libpng refuses. The stub declares the former as an instance.
        return None
    return samples.reshape(height, width, channels)


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the name and the content of each chunk; nothing behind one that is cut off."""
    view, at = memoryview(data), len(SIGNATURE)
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">L4s", data, at)
        yield name, view[at + 8 : at + 8 + length]
        at += 12 + length


def _store(header: bytes, rows: bytes) -> bytes:
    """Return a PNG without compression.

    Args:
        header: the content of IHDR.
        rows: filtered.
    """
    view = memoryview(rows)
    blocks: list[bytes | memoryview] = [b"\x78\x01"]
    for start in range(0, len(rows), _STORED):
        block = view[start : start + _STORED]
        is_last = start + _STORED >= len(rows)
        blocks += [struct.pack("<BHH", is_last, len(block), len(block) ^ 0xFFFF), block]
    blocks.append(struct.pack(">L", isal_zlib.adler32(rows)))
    return b"".join(
        (SIGNATURE, chunk(b"IHDR", header), chunk(b"IDAT", b"".join(blocks)), chunk(b"IEND", b""))
    )
