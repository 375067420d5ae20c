"""The segments of a JPEG: change its orientation and profile without touching its samples, and find its kind."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

_START = b"\xff\xd8"
_SCAN, _END = 0xDA, 0xD9
_APP0, _APP1, _APP2 = 0xE0, 0xE1, 0xE2
_BARE = frozenset((0x01, *range(0xD0, 0xD9)))
"""Markers without a length."""
_EXIF, _XMP, _ICC = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"
_MOST_IN_SEGMENT = 65_519
"""Bytes of a profile that fit one segment: 65,535 minus its length field, its name and two numbers."""
_MOST_SEGMENTS = 255
_ORIENTATION, _SHORT = 0x0112, 3
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_UNREAD_FRAMES = {
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "hierarchical JPEG"), 0xCB: "lossless arithmetic JPEG",
}  # fmt: skip
_JPEG_LS, _BITS = 0xF7, 8


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """Return a JPEG with another orientation. Its previous EXIF and XMP are removed.

    Args:
        jpeg: the file.
        orientation: EXIF orientation from 1 to 8. For 1, no EXIF is added.

    Returns:
        The file. A file that is not a JPEG or ends before its samples is returned unchanged.
    """
    tiff = struct.pack("<2sHLHHHLHHL", b"II", 42, 8, 1, _ORIENTATION, _SHORT, 1, orientation, 0, 0)
    added = b"" if orientation == 1 else _make_segment(_APP1, _EXIF + tiff)
    return _rewrite(jpeg, lambda marker, data: marker == _APP1 and data.startswith((_EXIF, _XMP)), added)


def with_profile(jpeg: bytes, profile: bytes | None) -> bytes:
    """Return a JPEG with another colour profile, or with none.

    Args:
        jpeg: the file.
        profile: an ICC profile of at most 16 MB that fits its samples.

    Returns:
        The file. A file that is not a JPEG or ends before its samples is returned unchanged.

    Raises:
        ValueError: the profile is larger than a JPEG holds.
    """
    data = profile or b""
    parts = [data[at : at + _MOST_IN_SEGMENT] for at in range(0, len(data), _MOST_IN_SEGMENT)]
    if len(parts) > _MOST_SEGMENTS:
        raise ValueError(f"a JPEG cannot hold a profile of {len(data):,} bytes")
    added = b"".join(
        _make_segment(_APP2, _ICC + bytes((number, len(parts))) + part)
        for number, part in enumerate(parts, 1)
    )
    return _rewrite(jpeg, lambda marker, data: marker == _APP2 and data.startswith(_ICC), added)


def unread_kind(jpeg: bytes) -> str | None:
    """Return the kind of a JPEG that no decoder here reads, such as ``"12-bit JPEG"``; None for all others.

    Source: ITU-T T.81, table B.1; T.87, annex C.
    """
    for marker, start, _ in _read_segments(jpeg):
        if marker == _JPEG_LS:
            return "JPEG-LS"
        if marker in _FRAMES:
            bits = jpeg[start + 4] if start + 4 < len(jpeg) else _BITS
            # Any other number is damage.
            return f"{bits}-bit JPEG" if 8 < bits <= 16 else _UNREAD_FRAMES.get(marker)
    return None


def _make_segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def _rewrite(jpeg: bytes, is_left_out: Callable[[int, bytes], bool], added: bytes) -> bytes:
    """Remove some segments, and add others after the JFIF header."""
    pieces = [_START]
    place = 1
    end = 0
    for marker, start, stop in _read_segments(jpeg):
        end = stop
        if is_left_out(marker, jpeg[start + 4 : start + 4 + len(_XMP)]):
            continue
        pieces.append(jpeg[start:stop])
        if marker == _APP0 and place == len(pieces) - 1:
            place = len(pieces)
        if marker == _SCAN:
            break
    else:
        return jpeg
    pieces.insert(place, added)
    return b"".join((*pieces, jpeg[end:]))


def _read_segments(jpeg: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the segments up to the first scan or the first broken segment: marker, start, end."""
    if not jpeg.startswith(_START):
        return
    at = 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF:
        marker = jpeg[at + 1]
        if marker == 0xFF:
            # Fill bytes may precede a marker.
            at += 1
            continue
        if marker in _BARE:
            yield marker, at, at + 2
            at += 2
            continue
        size = int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if marker == _END or size < 2:
            return
        yield marker, at, at + 2 + size
        at += 2 + size
        if marker == _SCAN:
            return
