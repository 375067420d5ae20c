"""EXIF, XMP and resolution: read from a file, corrected for rotation and the new size, and passed on.

Single numbers of EXIF are changed in place. EXIF is never rewritten, because maker notes contain offsets into the
structure that no program can adjust.
"""

from __future__ import annotations

import contextlib
import math
import re
import struct
from collections.abc import Iterator
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from PIL import Image

from comic_upscale.imaging.orientation import XMP_ORIENTATION, exif_of, orientation_of, xmp_of
from comic_upscale.imaging.pixels import Metadata

_ORIENTATION = 0x0112
_EXIF_DIRECTORY, _GPS_DIRECTORY = 0x8769, 0x8825
_NOT_MOVED = (0x927C, 0xA005)
"""The tags of maker notes and of the interoperability directory."""
_PIXEL_WIDTH, _PIXEL_HEIGHT = 0xA002, 0xA003
_WIDTH, _HEIGHT = 0x0100, 0x0101
_ACROSS, _DOWN, _UNIT = 0x011A, 0x011B, 0x0128
_INCH, _CENTIMETRE = 2, 3
_SHORT, _LONG, _RATIONAL = 3, 4, 5
_NUMBERS = {_SHORT: "H", _LONG: "L"}
_LYING = 5
"""The first of EXIF's orientations that swap width and height."""
_PARTS = 1000
"""Resolutions are written in thousandths."""
# The tags of a TIFF that describe the image, not its samples: description, make, model, software, time, artist,
# copyright.
_TIFF_TAGS = (270, 271, 272, 305, 306, 315, 33432)
ByteOrder: TypeAlias = Literal["<", ">"]
_ORDERS: Final[dict[bytes, ByteOrder]] = {b"II": "<", b"MM": ">"}
_LONGEST_KEYWORD = 79
"""Characters, by PNG's specification."""
_MOST_BYTES = 1 << 20
"""EXIF or XMP with more bytes than this is left out. JPEG holds only 64 kB, and no program reads this much."""


def read_metadata(image: Image.Image) -> tuple[Metadata, tuple[str, ...]]:
    """Read the metadata of a loaded image, and correct it for pixels that are rotated upright.

    Returns:
        The metadata, and a note for each part that is too broken to pass on.
    """
    notes = []
    is_tiff = image.format == "TIFF"
    exif: bytes | None = _tiff_tags(image) if is_tiff else exif_of(image)
    if exif and not _is_sound(exif):
        notes.append("EXIF left out: it is broken")
        exif = None
    xmp: bytes | None = xmp_of(image)
    if xmp and len(xmp) > _MOST_BYTES:
        notes.append("XMP left out: it is larger than 1 MiB")
        xmp = None
    dpi = _dpi(image.info.get("dpi"))
    if is_tiff and _ACROSS not in getattr(image, "tag_v2", {}):
        # Pillow invents a resolution of one pixel per inch.
        dpi = None
    if dpi is not None and (orientation_of(image) >= _LYING or getattr(image, "was_lying", False)):
        dpi = dpi[::-1]
    exif = upright_exif(exif) if exif else None
    if dpi is None and exif:
        dpi = _dpi(read_density(exif))
    text = _text(image)
    if sum(len(keyword) + len(words) for keyword, words in text) > _MOST_BYTES:
        notes.append("texts of the PNG left out: they are larger than 1 MiB")
        text = ()
    metadata = Metadata(exif, _upright_xmp(xmp or b"") or None, dpi, text)
    return metadata, tuple(notes)


def _text(image: Image.Image) -> tuple[tuple[str, str], ...]:
    """Return the keywords and texts of a PNG, except EXIF, XMP and profiles, which are passed on separately."""
    if image.format != "PNG":
        return ()
    found: dict[str, str] = {**getattr(image, "text", {}), **getattr(image, "hidden_texts", {})}
    return tuple(
        (str(keyword), str(words))
        for keyword, words in found.items()
        if keyword.strip()
        and len(keyword) <= _LONGEST_KEYWORD
        and not keyword.startswith(("Raw profile type", "XML:com.adobe.xmp"))
    )


def upright_exif(exif: bytes) -> bytes:
    """Return EXIF with orientation 1. The thumbnail is dropped if the orientation was another."""
    changed = bytearray(exif)
    order = byte_order(exif)
    for entry in read_directory(exif, first_directory(exif)):
        form = _NUMBERS.get(entry.kind)
        if entry.tag == _ORIENTATION and form is not None:
            was = struct.unpack_from(f"{order}{form}", exif, entry.at + 8)[0]
            struct.pack_into(f"{order}{form}", changed, entry.at + 8, 1)
            if was != 1:
                _cut_thumbnail(changed)
            if was >= _LYING:
                _turn_density(changed)
    return bytes(changed)


def sized_exif(exif: bytes, width: int, height: int) -> bytes:
    """Return EXIF with this size in pixels, if it has a size."""
    changed = bytearray(exif)
    order = byte_order(exif)
    # Phones store the size in the first directory, cameras in the EXIF directory.
    sizes = {_WIDTH: width, _HEIGHT: height, _PIXEL_WIDTH: width, _PIXEL_HEIGHT: height}
    entries = list(read_directory(exif, first_directory(exif)))
    for parent in tuple(entries):
        if parent.tag == _EXIF_DIRECTORY:
            entries += read_directory(exif, struct.unpack_from(f"{order}L", exif, parent.at + 8)[0])
    for entry in entries:
        size = sizes.get(entry.tag)
        if size is not None and entry.kind in (_SHORT, _LONG):
            # A LONG fits into the same four bytes as a SHORT.
            struct.pack_into(f"{order}HLL", changed, entry.at + 2, _LONG, 1, size)
    return bytes(changed)


def with_density(exif: bytes | None, dpi: tuple[float, float]) -> bytes:
    """Return EXIF with this resolution, in pixels per inch across and down.

    A new first directory is appended at the end, so that no offset has to move.

    Args:
        exif: valid, as `read_metadata` returns it; None for none.
        dpi: above 0.
    """
    exif = exif or struct.pack("<2sHLHL", b"II", 42, 8, 0, 0)
    order, first = byte_order(exif), first_directory(exif)
    kept = {entry.tag: exif[entry.at : entry.at + 12] for entry in read_directory(exif, first)}
    after = exif[first + 2 + 12 * len(kept) :][:4].ljust(4, b"\0")
    grown = bytearray(exif + bytes(len(exif) % 2))
    for tag, value in ((_ACROSS, dpi[0]), (_DOWN, dpi[1])):
        kept[tag] = struct.pack(f"{order}HHLL", tag, _RATIONAL, 1, len(grown))
        grown += struct.pack(f"{order}LL", round(value * _PARTS), _PARTS)
    kept[_UNIT] = struct.pack(f"{order}HHLHxx", _UNIT, _SHORT, 1, _INCH)
    struct.pack_into(f"{order}L", grown, 4, len(grown))
    entries = b"".join(kept[tag] for tag in sorted(kept))
    return bytes(grown + struct.pack(f"{order}H", len(kept)) + entries + after)


def read_density(exif: bytes) -> tuple[float, float] | None:
    """Return the resolution in EXIF, in pixels per inch; None if there is none or it has no unit."""
    found: dict[int, float] = {}
    order = byte_order(exif)
    for entry in read_directory(exif, first_directory(exif)):
        with contextlib.suppress(struct.error, ZeroDivisionError):
            if entry.tag in (_ACROSS, _DOWN) and entry.kind == _RATIONAL:
                (at,) = struct.unpack_from(f"{order}L", exif, entry.at + 8)
                over, under = struct.unpack_from(f"{order}LL", exif, at)
                found[entry.tag] = over / under
            elif entry.tag == _UNIT and entry.kind == _SHORT:
                found[_UNIT] = struct.unpack_from(f"{order}H", exif, entry.at + 8)[0]
    # The default unit of EXIF is the inch; 1 means that the numbers are only the aspect ratio of a pixel.
    unit = {_INCH: 1.0, _CENTIMETRE: 2.54}.get(int(found.get(_UNIT, _INCH)))
    if unit is None or _ACROSS not in found or _DOWN not in found:
        return None
    return found[_ACROSS] * unit, found[_DOWN] * unit


class Entry(NamedTuple):
    """One entry of a directory of EXIF, or of any other TIFF."""

    tag: int
    kind: int
    """TIFF's number of a type."""
    at: int
    """The offset of the entry's 12 bytes."""


def byte_order(exif: bytes) -> ByteOrder:
    """Return the byte order of EXIF as ``struct`` writes it."""
    return _ORDERS[exif[:2]]


def first_directory(exif: bytes) -> int:
    """Return the offset of the first directory of EXIF."""
    return int(struct.unpack_from(f"{byte_order(exif)}L", exif, 4)[0])


def read_directory(exif: bytes, start: int) -> Iterator[Entry]:
    """Read a directory. A broken directory yields the entries before the break."""
    order = byte_order(exif)
    try:
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH8x", exif, at)
            yield Entry(tag, kind, at)
    except struct.error:
        return


def _turn_density(exif: bytearray) -> None:
    """Swap the resolutions across and down by swapping their offsets."""
    entries = read_directory(bytes(exif), first_directory(bytes(exif[:8])))
    places = [entry.at + 8 for entry in entries if entry.tag in (_ACROSS, _DOWN) and entry.kind == _RATIONAL]
    if len(places) == 2:
        one, other = (exif[at : at + 4] for at in places)
        exif[places[0] : places[0] + 4], exif[places[1] : places[1] + 4] = other, one


def _cut_thumbnail(exif: bytearray) -> None:
    order = byte_order(bytes(exif[:2]))
    start = first_directory(bytes(exif[:8]))
    (count,) = struct.unpack_from(f"{order}H", exif, start)
    end = start + 2 + 12 * count
    if end + 4 <= len(exif):
        struct.pack_into(f"{order}L", exif, end, 0)


def _is_sound(exif: bytes) -> bool:
    """Return whether the first directory is complete. The data that it points to are not checked."""
    if exif[:4] not in (b"II*\0", b"MM\0*") or not 8 <= len(exif) <= _MOST_BYTES:
        return False
    try:
        count = int(struct.unpack_from(f"{byte_order(exif)}H", exif, first_directory(exif))[0])
    except struct.error:
        return False
    return count > 0 and first_directory(exif) + 2 + 12 * count <= len(exif)


def _upright_xmp(xmp: bytes) -> bytes:
    return re.sub(XMP_ORIENTATION, rb"\g<1>1", xmp)


def _tiff_tags(image: Image.Image) -> bytes:
    """Build EXIF from the descriptive tags of a TIFF, with the directories of the camera and of GPS.

    Maker notes are left out, because their offsets would be wrong.
    """
    tags, found, exif = getattr(image, "tag_v2", {}), image.getexif(), Image.Exif()
    for tag in _TIFF_TAGS:
        if isinstance(value := tags.get(tag), str):
            exif[tag] = value
    for directory in (_EXIF_DIRECTORY, _GPS_DIRECTORY):
        with contextlib.suppress(Exception):  # any error of Pillow about a broken directory
            values = {tag: value for tag, value in found.get_ifd(directory).items() if tag not in _NOT_MOVED}
            if values:
                exif.get_ifd(directory).update(values)
                exif[directory] = values
    try:
        return exif.tobytes().removeprefix(b"Exif\0\0") if len(exif) else b""
    except Exception:
        return b"broken"


def _dpi(value: Any) -> tuple[float, float] | None:
    """Return a resolution if it is valid. The value may be of any type."""
    try:
        across, down = (float(part) for part in value) if value else (0.0, 0.0)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    fits = all(math.isfinite(part) and 1 <= part <= 65535 for part in (across, down))
    return (across, down) if fits else None
