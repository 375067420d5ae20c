"""Find images of a PDF that cannot be decoded completely.

PDFium reports no error about such an image: it draws nothing, or black or white rows.
"""

from __future__ import annotations

import ctypes
import io
import struct
from typing import Any

from PIL import Image
from pypdfium2 import raw

from comic_upscale.errors import PageError

_SAMPLES = frozenset(
    (b"FlateDecode", b"LZWDecode", b"RunLengthDecode", b"ASCII85Decode", b"ASCIIHexDecode", b"Crypt")
)
"""Filters that give plain samples."""
_JPEG, _JBIG2 = b"DCTDecode", b"JBIG2Decode"
_COMPONENTS = {raw.FPDF_COLORSPACE_DEVICERGB: 3, raw.FPDF_COLORSPACE_DEVICECMYK: 4,
               raw.FPDF_COLORSPACE_CALRGB: 3, raw.FPDF_COLORSPACE_LAB: 3}  # fmt: skip
"""Samples of a pixel by the colour space. The others have at least one."""
_SEGMENT, _LONG_FORM, _UNKNOWN, _END_OF_PAGE = 11, 7, 0xFFFFFFFF, 49
_REGIONS = frozenset((4, 6, 7, 20, 22, 23, 36, 38, 39, 40, 42, 43))
"""Segments of a JBIG2 image: the least bytes of a header, and kinds."""
_TOLERATED = 0.01
"""The share of an image's samples that may be missing. Some programs write a row too few."""
_FLAT = 0.5
"""The share of pixels with one gray level above which an image may not have been drawn."""


def read_filters(handle: Any) -> list[bytes]:
    """Return the names of the filters of an image, the first to apply first."""
    names = []
    for at in range(raw.FPDFImageObj_GetImageFilterCount(handle)):
        buffer = ctypes.create_string_buffer(64)
        raw.FPDFImageObj_GetImageFilter(handle, at, buffer, len(buffer))
        names.append(buffer.value)
    return names


def find_damage(
    handle: Any, page: Any, *, size: tuple[int, int], bits: int, shown: Image.Image, max_pixels: int
) -> str:
    """Return what is wrong with an image, or nothing.

    Args:
        handle: PDFium's, of the image.
        page: of pypdfium2.
        size: width and height, pixels.
        bits: of a sample; 0 if unknown.
        shown: the part of the rendered page with the image.
        max_pixels: the largest JPEG to decode.
    """
    filters = read_filters(handle)
    if filters[-1:] == [_JPEG]:
        jpeg = _decoded_data(handle)
        if _loads(jpeg):
            return ""
        if _is_cut_short(jpeg, max_pixels):
            return "an image on it is cut short"
    elif filters[-1:] == [_JBIG2]:
        return "" if _is_whole_jbig2(_decoded_data(handle)) else "an image on it cannot be decoded"
    elif bits and _SAMPLES.issuperset(filters):
        wanted = (size[0] * bits * _components(handle, page) + 7) // 8 * size[1]
        found = raw.FPDFImageObj_GetImageDataDecoded(handle, None, 0)
        return _name_missing(wanted, found, size[1])
    elif not _may_be_missing(shown):
        # Decoding it again would take as long as rendering the page.
        return ""
    return "" if _has_pixels(handle) else "an image on it cannot be decoded"


def _decoded_data(handle: Any) -> bytes:
    """Return the data of an image without the filters that any data may have."""
    length = raw.FPDFImageObj_GetImageDataDecoded(handle, None, 0)
    buffer = ctypes.create_string_buffer(length)
    raw.FPDFImageObj_GetImageDataDecoded(handle, buffer, length)
    return buffer.raw


def _loads(jpeg: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
            # An eighth of the size, which is quicker.
            image.draft(image.mode, (1, 1))
            image.load()
    except Exception:
        # Pillow raises many kinds.
        return False
    return True


def _is_cut_short(jpeg: bytes, max_pixels: int) -> bool:
    """Return whether rows of a JPEG are missing. A JPEG may also lack its end only."""
    from comic_upscale.imaging.decode import decode

    try:
        decode(jpeg, max_pixels=max_pixels)
    except PageError as error:
        return error.kind == "truncated"
    return False


def _is_whole_jbig2(data: bytes) -> bool:
    """Return whether every segment of a JBIG2 image is complete, and one of them is a region of the image.

    Source: ITU-T T.88, section 7.2.
    """
    at, has_region = 0, False
    while at + _SEGMENT <= len(data):
        number, flags, count = *struct.unpack_from(">IB", data, at), data[at + 5] >> 5
        at += 6
        if count == _LONG_FORM:
            count = struct.unpack_from(">I", data, at - 1)[0] & 0x1FFFFFFF
            at += 3 + (count + 8) // 8
        at += count * (1 if number <= 256 else 2 if number <= 65536 else 4) + (4 if flags & 0x40 else 1)
        if at + 4 > len(data):
            return False
        (length,) = struct.unpack_from(">I", data, at)
        at += 4
        kind = flags & 0x3F
        has_region = has_region or kind in _REGIONS
        if kind == _END_OF_PAGE or length == _UNKNOWN:
            break
        at += length
    return has_region and at <= len(data)


def _components(handle: Any, page: Any) -> int:
    """Return the samples of a pixel, or fewer if that is not certain."""
    facts = raw.FPDF_IMAGEOBJ_METADATA()
    if not raw.FPDFImageObj_GetImageMetadata(handle, page, facts):
        return 1
    if facts.colorspace == raw.FPDF_COLORSPACE_ICCBASED:
        return 3 if facts.bits_per_pixel >= 24 else 1
    return _COMPONENTS.get(facts.colorspace, 1)


def _name_missing(wanted: int, found: int, rows: int) -> str:
    if found >= wanted * (1 - _TOLERATED) or wanted - found <= wanted // max(1, rows):
        return ""
    return f"an image on it lacks {rows - rows * found // wanted} of its {rows} rows"


def _may_be_missing(shown: Image.Image) -> bool:
    levels = shown.convert("L").histogram()
    return max(levels) >= _FLAT * sum(levels)


def _has_pixels(handle: Any) -> bool:
    bitmap = raw.FPDFImageObj_GetBitmap(handle)
    if not bitmap:
        return False
    raw.FPDFBitmap_Destroy(bitmap)
    return True
