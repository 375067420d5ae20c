"""WebP files whose image is whole, but whose lengths or metadata are wrong. Viewers show them, and Pillow refuses them.

Source: RFC 9649, section 2.
"""

from __future__ import annotations

import struct

_HEAD = 12
_CHUNK = struct.Struct("<4sL")
_IMAGE = frozenset((b"VP8 ", b"VP8L"))
_NEEDED = _IMAGE | {b"ALPH", b"ANIM", b"ANMF", b"VP8X"}
_EXTENDED = b"VP8X"
_METADATA = {b"EXIF": (0x08, "EXIF"), b"XMP ": (0x04, "XMP")}
"""Bit in the flags of the file, and name for a note, of each kind of metadata."""


def repair_webp(data: bytes) -> tuple[bytes, tuple[str, ...]] | None:
    """Return a WebP with the right lengths and without chunks that are not whole; None if its image is not whole.

    Args:
        data: the file, which begins as a WebP.

    Returns:
        The file, and notes about what was left out.
    """
    chunks: dict[bytes, bytes] = {}
    broken = b""
    at = _HEAD
    while at + _CHUNK.size <= len(data):
        kind, length = _CHUNK.unpack_from(data, at)
        content = data[at + _CHUNK.size : at + _CHUNK.size + length]
        if len(content) < length:
            broken = kind
            break
        if kind in chunks and kind in _NEEDED:
            # An animation, or something else that is not understood here.
            return None
        chunks.setdefault(kind, content)
        at += _CHUNK.size + length + length % 2
    if broken in _NEEDED or not _IMAGE & chunks.keys():
        return None
    notes = []
    if (flags := chunks.get(_EXTENDED)) is not None and flags:
        missing = [kind for kind, (bit, _) in _METADATA.items() if flags[0] & bit and kind not in chunks]
        kept = flags[0] & ~sum(_METADATA[kind][0] for kind in missing)
        chunks[_EXTENDED] = bytes((kept,)) + flags[1:]
        notes = [f"{_METADATA[kind][1]} left out: it is broken" for kind in missing]
    body = b"".join(
        _CHUNK.pack(kind, len(content)) + content + bytes(len(content) % 2)
        for kind, content in chunks.items()
    )
    notes = notes or ["the lengths in the file are wrong; the image is complete"]
    return _CHUNK.pack(b"RIFF", 4 + len(body)) + b"WEBP" + body, tuple(notes)
