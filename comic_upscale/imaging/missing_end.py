"""JPEG and JPEG 2000 files with only their end missing. Viewers show them completely, but Pillow refuses them.

A JPEG does not record the length of its samples. So it is decoded twice, with different bits appended: if both
images are equal, the decoder needed none of these bits. A progressive JPEG may also stop between two of its scans
and lack only sharpness. So its scans must contain every bit of every coefficient.

Source: ITU-T T.81, annexes B and G; T.800, annex A.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from typing import IO

import numpy as np

from comic_upscale.errors import PageError
from comic_upscale.imaging.reader import open_image

LACKS_END = "the end of the file is missing"

_END = b"\xff\xd9"
# Random bits that start with 1, because a decoder that runs out of bits assumes zeros. No byte is 255.
_OTHER_BITS = bytes(0x80 | (at * 167 + 43) % 0x7F for at in range(512))
# Fewer zero bytes than this may be padding.
_BLANK_TAIL = 64
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_FIRST_RESTART = 0xD0
_FRAMES = frozenset((0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA, 0xCB))
_PROGRESSIVE = frozenset((0xC2, 0xCA))
_SCAN = 0xDA
_COEFFICIENTS, _ALL_BITS = 64, 16


def complete_jpeg(data: bytes, start: int) -> bytes | None:
    """Append the end to a JPEG if only the end is missing.

    Args:
        data: the file.
        start: the offset of the compressed samples. A thumbnail before them has its own end.

    Returns:
        The file with its end; None if it has one.

    Raises:
        PageError: ``"truncated"``: rows are missing too, or the details of all rows.
        Exception: any error of Pillow about it.
    """
    if data.rfind(_END, start) >= 0:
        return None
    body = data.rstrip(b"\xff")
    is_blank = data.endswith(bytes(_BLANK_TAIL))
    if is_blank:
        # An interrupted copy leaves zeros if it had reserved the space.
        body = data.rstrip(b"\0")
    whole = body + _END
    if _has_every_scan(whole) and _is_same_image(whole, body + _make_test_bits(body, start) + _END):
        return whole
    what = "its end contains only zero bytes" if is_blank else "its end is missing, and rows of the image too"
    raise PageError("truncated", f"The file is cut short: {what}. Copy or download it again")


def complete_jpeg2000(data: bytes) -> bytes | None:
    """Return a JPEG 2000 with the end that it lacks; None if it has one.

    The decoder knows the lengths of the image's parts, so it finds any that are missing.
    """
    if data.endswith(_END):
        return None
    return data + (_END[1:] if data.endswith(_END[:1]) else _END)


def _make_test_bits(body: bytes, start: int) -> bytes:
    """Return bits that a decoder reads as the next samples, within an interval or at a restart."""
    restarts = _RESTART.findall(body, start)
    following = restarts[-1][1] + 1 if restarts else _FIRST_RESTART
    markers = (_FIRST_RESTART + (following + at) % 8 for at in range(8))
    return _OTHER_BITS + b"".join(bytes((0xFF, marker)) + _OTHER_BITS for marker in markers)


def _is_same_image(one: bytes, other: bytes) -> bool:
    with io.BytesIO(one) as first, io.BytesIO(other) as second:
        return bool(np.array_equal(_decode_pixels(first), _decode_pixels(second)))


def _decode_pixels(file: IO[bytes]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    image = open_image(file)
    image.load()
    return np.asarray(image)


def _has_every_scan(data: bytes) -> bool:
    """Return whether the scans contain all components, and for a progressive JPEG every bit of all coefficients."""
    missing: dict[int, dict[int, int]] = {}
    is_progressive = False
    for marker, content in _read_segments(data):
        if marker in _FRAMES:
            is_progressive = marker in _PROGRESSIVE
            # The bits of each coefficient of each component that are still missing; initially all.
            missing = {
                content[6 + 3 * number]: dict.fromkeys(range(_COEFFICIENTS), _ALL_BITS)
                for number in range(content[5])
            }
        elif marker == _SCAN:
            count = content[0]
            first, last, bits = content[1 + 2 * count : 4 + 2 * count]
            for number in range(count):
                left = missing.get(content[1 + 2 * number])
                if left is not None:
                    left.update(dict.fromkeys(range(first, last + 1), bits & 15))
    if not is_progressive:
        return all(left[0] < _ALL_BITS for left in missing.values())
    return all(not any(left.values()) for left in missing.values())


def _read_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the marker and the content of each segment up to the end of the image."""
    at = 2
    while (found := _MARKER.search(data, at)) is not None:
        marker = found[1][0]
        if marker == _END[1]:
            return
        at = found.end()
        if marker == 0x01 or marker == 0xD8:
            continue
        (length,) = struct.unpack_from(">H", data, at)
        yield marker, data[at + 2 : at + length]
        at += length
