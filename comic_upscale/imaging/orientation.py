"""Rotate a page upright by the orientation in its metadata.

``ImageOps.exif_transpose`` is not used. It parses all of the EXIF, issues warnings about errors in it (``warnings``
is shared by all threads), and may raise. A page needs only one number.
"""

from __future__ import annotations

import re
import struct

import numpy as np
from PIL import Image

from comic_upscale.imaging.pixels import SampleArray

_ORIENTATION = 0x0112
XMP_ORIENTATION = re.compile(rb"""(tiff:Orientation\s*(?:=\s*["']|>\s*))([1-8])""")
"""The orientation in an XMP packet: its name, and its digit."""


def orientation_of(image: Image.Image) -> int:
    """Return the orientation of an image from its EXIF or else its XMP: 1 (upright) to 8, as EXIF numbers them.

    Broken metadata and numbers out of range count as absent. TIFF, HEIC and JPEG XL are always 1, because their
    decoders apply the orientation.
    """
    if image.format in ("TIFF", "HEIF", "JXL"):
        return 1
    value = read_tag(exif_of(image), _ORIENTATION)
    if value is None:
        match = XMP_ORIENTATION.search(xmp_of(image))
        value = int(match[2]) if match else None
    return value if value is not None and 1 <= value <= 8 else 1


def upright(samples: SampleArray, orientation: int) -> SampleArray:
    """Rotate and mirror samples by an EXIF orientation from 1 to 8.

    Args:
        samples: of any type, height x width, or height x width x channels.
        orientation: as ``orientation_of`` returns it.

    Returns:
        The same, or a contiguous copy; orientations 5 to 8 swap width and height.
    """
    if orientation == 1:
        return samples
    turned = samples.swapaxes(0, 1) if orientation >= 5 else samples
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    return np.ascontiguousarray(turned)


def read_tag(tiff: bytes, tag: int) -> int | None:
    """Return the first number of a tag in the first directory of a TIFF structure (EXIF is one).

    Args:
        tiff: the structure from its byte order mark on; any other bytes are allowed.
        tag: the number of a tag of type SHORT or LONG.

    Returns:
        The number; None if the tag is absent or the structure is broken before it.
    """
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(f"{order}4xL", tiff)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            found, kind = struct.unpack_from(f"{order}HH", tiff, at)
            if found == tag and kind in (3, 4):
                (value,) = struct.unpack_from(f"{order}{'H' if kind == 3 else 'L'}", tiff, at + 8)
                return int(value)
    except struct.error:
        pass
    return None


def exif_of(image: Image.Image) -> bytes:
    """Return the EXIF of an image from its byte order mark on; empty if there is none."""
    exif = image.info.get("exif")
    if isinstance(exif, bytes):
        return exif.removeprefix(b"Exif\0\0")
    # ImageMagick writes three lines of preface, then hexadecimal digits.
    text = image.info.get("Raw profile type exif")
    if isinstance(text, str):
        try:
            return bytes.fromhex("".join(text.split("\n")[3:])).removeprefix(b"Exif\0\0")
        except ValueError:
            pass
    return b""


def xmp_of(image: Image.Image) -> bytes:
    """Return the XMP packet of an image; empty if there is none."""
    xmp = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp") or b""
    if isinstance(xmp, str):
        return xmp.encode(errors="replace")
    return bytes(xmp) if isinstance(xmp, (bytes, bytearray)) else b""
