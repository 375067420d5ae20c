"""TIFF features that Pillow lacks: 16 bits in colour, and complete EXIF.

Source: TIFF 6.0 and its Adobe supplements. EXIF is itself a TIFF without an image.
"""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np

from comic_upscale.costs.ranges import Range
from comic_upscale.imaging.codecs.base import LATER_MEASURED, Assumed, EncodeOptions, OutputFormat
from comic_upscale.imaging.color import to_srgb
from comic_upscale.imaging.metadata import Entry, byte_order, first_directory, read_directory
from comic_upscale.imaging.pixels import Metadata, Pixels, SampleArray, join_alpha

_XMP = 700
_STRIP_OFFSETS = 273
_INCH = 2
# Tags for the layout of the image in its file, its profile and its XMP. In EXIF they describe another file.
_STRUCTURE = frozenset(
    (*range(254, 267), 273, *range(277, 282), 284, *range(290, 294), 297, 301, *range(317, 326), 330, 332,
     *range(336, 348), *range(512, 522), *range(529, 533), _XMP, 34675)
)  # fmt: skip
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
"""Bytes of one value of each of TIFF's types."""
_INLINE = 4


def encode_tiff(pixels: Pixels, options: EncodeOptions) -> bytes:
    """Encode a page. 16-bit gray with alpha becomes RGBA."""
    color, profile = pixels.color, pixels.icc_profile
    if pixels.bits > 8 and pixels.alpha is not None and color.shape[2] == 1:
        # Hardly any program opens a TIFF in 16-bit gray with alpha.
        converted = None if profile is None else to_srgb(color, profile)
        color, profile = np.repeat(color if converted is None else converted, 3, axis=2), None
    return write_tiff(color, pixels.alpha, profile=profile, metadata=pixels.metadata)


def write_tiff(
    color: SampleArray, alpha: SampleArray | None, *, profile: bytes | None, metadata: Metadata
) -> bytes:
    """Encode samples as a TIFF with lossless compression, profile, XMP, resolution and EXIF.

    Args:
        color: uint8 or uint16, height x width x 3 or 1.
        alpha: of the same type, height x width; None for none.
        profile: an ICC profile for these channels.
        metadata: of the page.
    """
    import tifffile

    samples = join_alpha(color, alpha)
    if samples.shape[2] == 1:
        samples = samples[:, :, 0]
    options: dict[str, Any] = {}
    if alpha is not None:
        options["extrasamples"] = ["unassalpha"]
    if metadata.dpi is not None:
        options |= {"resolution": metadata.dpi, "resolutionunit": _INCH}
    if metadata.xmp is not None:
        options["extratags"] = [(_XMP, 1, len(metadata.xmp), metadata.xmp, True)]
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer, samples, photometric="rgb" if color.shape[2] == 3 else "minisblack", metadata=None,
        planarconfig="contig" if samples.ndim == 3 else None, compression="zlib", software=False,
        iccprofile=profile, maxworkers=1, byteorder=byte_order(metadata.exif or b"II"), **options,
    )  # fmt: skip
    tiff = buffer.getvalue()
    return tiff if metadata.exif is None else with_exif(tiff, metadata.exif)


def with_exif(tiff: bytes, exif: bytes) -> bytes:
    """Add EXIF to a TIFF. EXIF comes first in the file, so that all offsets in it stay right.

    The TIFF follows with adjusted offsets, and then a directory with the entries of both.

    Args:
        tiff: a file of one image, in strips, in the byte order of ``exif``.
        exif: valid, as `read_metadata` returns it.
    """
    order = byte_order(exif)
    file = bytearray(exif + bytes(len(exif) % 2))
    moved = len(file)
    file += tiff + bytes(len(tiff) % 2)
    own = {entry.tag: entry for entry in read_directory(tiff, first_directory(tiff))}
    entries = {
        entry.tag: exif[entry.at : entry.at + 12]
        for entry in read_directory(exif, first_directory(exif))
        if entry.tag not in _STRUCTURE and entry.tag not in own
    }
    for tag, entry in own.items():
        entries[tag] = _move_entry(file, entry, moved, order)
    struct.pack_into(f"{order}L", file, 4, len(file))
    directory = b"".join(entries[tag] for tag in sorted(entries))
    return bytes(file + struct.pack(f"{order}H", len(entries)) + directory + bytes(4))


def _move_entry(file: bytearray, entry: Entry, by: int, order: str) -> bytes:
    """Return an entry of a TIFF that was moved by ``by`` bytes, with adjusted offsets of the strips that it lists."""
    at = by + entry.at
    kind, count = struct.unpack_from(f"{order}HL", file, at + 2)
    inline = _SIZES[kind] * count <= _INLINE
    if not inline:
        (place,) = struct.unpack_from(f"{order}L", file, at + 8)
        struct.pack_into(f"{order}L", file, at + 8, place + by)
    if entry.tag == _STRIP_OFFSETS:
        place = at + 8 if inline else place + by
        form = f"{order}{count}{'H' if kind == 3 else 'L'}"
        offsets = [offset + by for offset in struct.unpack_from(form, file, place)]
        struct.pack_into(form, file, place, *offsets)
    return bytes(file[at : at + 12])


FORMAT = OutputFormat(
    name="tiff",
    title="TIFF",
    recognised_as="TIFF",
    extension="tif",
    kept_extensions=("tiff",),
    lossless="always",
    # A TIFF is limited to 4 GiB, the sides of an image by nothing else.
    longest_side=2**31 - 1,
    most_pixels=2**32 // 16,
    bits=(8, 16),
    encode=encode_tiff,
    assumed_lossless=Assumed(
        gray_bytes=0.6, color_bytes=1.44, seconds=Range(0.0442, 0.0551, 0.0809), source=LATER_MEASURED
    ),
)
