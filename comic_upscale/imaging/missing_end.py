"""JPEG and JPEG 2000 files that lack only their end: viewers show them whole, Pillow refuses them.

A JPEG does not say how long its samples are. So it is decoded twice, with different bits behind the place where it
stops: where both pictures are the same, the decoder needed none of them. A progressive JPEG may also stop between two
of its scans, and lack nothing but sharpness. So its scans must have given every bit of every coefficient.

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
# Bits of no pattern, of which the first is 1: a decoder that runs out of bits takes zeros. No byte is 255.
_OTHER_BITS = bytes(0x80 | (at * 167 + 43) % 0x7F for at in range(512))
# Fewer zero bytes than this may be the padding of a program.
_BLANK_TAIL = 64
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_FIRST_RESTART = 0xD0
_FRAMES = frozenset((0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA, 0xCB))
_PROGRESSIVE = frozenset((0xC2, 0xCA))
_SCAN = 0xDA
_COEFFICIENTS, _ALL_BITS = 64, 16


def complete_jpeg(data: bytes, start: int) -> bytes | None:
    """Give a JPEG its end where only that is missing.

    Args:
        data: the file.
        start: where the compressed samples begin. A thumbnail before has an end of its own.

    Returns:
        The file with its end; None if it has one.

    Raises:
        PageError: ``"truncated"``: rows, or the details of all, are missing too.
        Exception: whatever Pillow finds wrong with it.
    """
    if data.rfind(_END, start) >= 0:
        return None
    body = data.rstrip(b"\xff")
    is_blank = data.endswith(bytes(_BLANK_TAIL))
    if is_blank:
        # What a copy leaves behind that reserved the space and then stopped.
        body = data.rstrip(b"\0")
    whole = body + _END
    if _has_every_scan(whole) and _is_same_picture(whole, body + _other_bits(body, start) + _END):
        return whole
    what = "its end is only zero bytes" if is_blank else "its end is missing, and rows of the picture with it"
    raise PageError("truncated", f"The file is cut short: {what}. Copy or download it again.")


def complete_jpeg2000(data: bytes) -> bytes | None:
    """Give a JPEG 2000 its end where it has none; None if it has one.

    Parts of the picture that are missing besides are found by the decoder, which knows their lengths.
    """
    if data.endswith(_END):
        return None
    return data + (_END[1:] if data.endswith(_END[:1]) else _END)


def _other_bits(body: bytes, start: int) -> bytes:
    """Make bits that a decoder takes for the samples that follow, be it in the midst of them or at a restart."""
    restarts = _RESTART.findall(body, start)
    following = restarts[-1][1] + 1 if restarts else _FIRST_RESTART
    markers = (_FIRST_RESTART + (following + at) % 8 for at in range(8))
    return _OTHER_BITS + b"".join(bytes((0xFF, marker)) + _OTHER_BITS for marker in markers)


def _is_same_picture(one: bytes, other: bytes) -> bool:
    with io.BytesIO(one) as first, io.BytesIO(other) as second:
        return bool(np.array_equal(_pixels(first), _pixels(second)))


def _pixels(file: IO[bytes]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    image = open_image(file)
    image.load()
    return np.asarray(image)


def _has_every_scan(data: bytes) -> bool:
    """Whether the scans hold all components, and of a progressive JPEG all coefficients to their last bit."""
    missing: dict[int, dict[int, int]] = {}
    is_progressive = False
    for marker, content in _segments(data):
        if marker in _FRAMES:
            is_progressive = marker in _PROGRESSIVE
            # The bits of each coefficient of each component that are still to come: at first, all.
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


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the marker and the content of each segment up to the end of the picture."""
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
