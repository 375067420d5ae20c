"""PNG features that Pillow lacks: metadata chunks, 16 bits in colour, and pages too large to copy.

Source: the PNG specification, third edition (W3C).
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from comic_upscale.costs.ranges import Range
from comic_upscale.imaging.codecs.base import FIRST_MEASURED, Assumed, EncodeOptions, OutputFormat
from comic_upscale.imaging.pixels import NO_METADATA, Metadata, Pixels, SampleArray, UInt8Array, join_alpha

LARGE_PAGE = 48_000_000
"""PNGs with more pixels are written strip by strip. Smaller ones are written at once, which is faster but keeps all
rows in memory beside the samples."""

RUN_LENGTHS = zlib.Z_RLE
"""Matches at distance one only. Filtered, smooth pixels hardly have others."""

SIGNATURE = b"\x89PNG\r\n\x1a\n"
"""The first bytes of every PNG."""
_HEADER_END = len(SIGNATURE) + 25
_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
_STRIP_BYTES = 8 << 20
_METRES_AN_INCH = 0.0254
_LEVEL = 2
"""Of ISA-L. Level 3 takes longer and makes larger files of pages."""
_PREDICTED_ROWS = 16
"""Rows for which Paeth's prediction is computed at once."""
PAETH = 4
"""The number of Paeth's filter."""
_UP, _SUB = 2, 1
_LAST_FILTER = 4
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_AT_ONCE = 400 << 20
"""The number of bytes of rows that are unpacked at once for a check."""


def encode_png(pixels: Pixels, options: EncodeOptions) -> bytes:
    """Encode a page by the fast method, or with the requested zlib level. A large page is written in strips."""
    level = options.settings.png_level
    beside: dict[str, Any] = {"profile": pixels.icc_profile, "metadata": pixels.metadata}
    if pixels.width * pixels.height > LARGE_PAGE:
        if level is not None:
            beside |= {"level": level, "strategy": zlib.Z_DEFAULT_STRATEGY}
        return write_png(pixels.color, pixels.alpha, **beside)
    if level is None:
        return write_png_at_once(pixels.color, pixels.alpha, rows=options.png_rows, **beside)
    import imagecodecs

    samples = join_alpha(pixels.color, pixels.alpha)
    if samples.shape[2] == 1:
        samples = samples[:, :, 0]
    # imagecodecs' own bound forgets the filter byte of each row, and zlib's bound for noise is 9/64 above its size.
    raw = samples.nbytes + samples.shape[0]
    png = bytes(imagecodecs.png_encode(np.ascontiguousarray(samples), level=level, out=raw + raw // 6 + 4096))
    return with_chunks(png, pixels.icc_profile, pixels.metadata)


def with_chunks(png: bytes, profile: bytes | None, metadata: Metadata) -> bytes:
    """Add a profile, EXIF, XMP and the resolution to a PNG without them.

    Args:
        png: a complete file.
        profile: an ICC profile for the file's colour type.
        metadata: of the page.
    """
    extra = b"".join(_extra_chunks(profile, metadata))
    return png[:_HEADER_END] + extra + png[_HEADER_END:] if extra else png


def write_png_at_once(
    color: SampleArray,
    alpha: SampleArray | None,
    *,
    rows: UInt8Array | None = None,
    profile: bytes | None = None,
    metadata: Metadata = NO_METADATA,
) -> bytes:
    """Encode samples as a PNG quickly: differences from Paeth's prediction, compressed by ISA-L.

    For upscaled pages in colour the file is smaller than by libpng with any one filter, and for gray ones a tenth
    larger, in less than half of the time (benchmarks/encoding.py). Besides the samples, this takes memory for all rows
    and for the file.

    Args:
        color: uint8 or uint16, height x width x 3 or 1.
        alpha: of the same type, height x width; None for none.
        rows: the result of `filter_rows` for these samples, where it is known.
        profile: an ICC profile for these channels.
        metadata: of the page.
    """
    if rows is None:
        samples = _as_bytes(color, alpha)
        rows = filter_rows(samples, samples.shape[1] // color.shape[1])
    packed = isal_zlib.compress(rows, _LEVEL)
    head = [SIGNATURE, chunk(b"IHDR", _header(color, alpha)), *_extra_chunks(profile, metadata)]
    return b"".join((*head, *chunk_parts(b"IDAT", packed), chunk(b"IEND", b"")))


def filter_rows(samples: UInt8Array, step: int) -> UInt8Array:
    """Return the rows of a PNG, each byte less Paeth's prediction.

    Args:
        samples: height x bytes of a row.
        step: bytes of a pixel.
    """
    rows = np.empty((samples.shape[0], samples.shape[1] + 1), np.uint8)
    rows[:, 0] = PAETH
    # At the edges, the prediction is the one neighbour that exists.
    rows[0, 1 : 1 + step] = samples[0, :step]
    np.subtract(samples[0, step:], samples[0, :-step], out=rows[0, 1 + step :])
    np.subtract(samples[1:, :step], samples[:-1, :step], out=rows[1:, 1 : 1 + step])
    # Few rows at a time, so that they stay in the processor's cache.
    for start in range(1, len(samples), _PREDICTED_ROWS):
        strip = samples[start : start + _PREDICTED_ROWS]
        above = samples[start - 1 : start - 1 + len(strip)]
        predicted = _predict(strip[:, :-step], above[:, step:], above[:, :-step])
        np.subtract(strip[:, step:], predicted, out=rows[start : start + len(strip), 1 + step :])
    return rows


def _predict(left: UInt8Array, above: UInt8Array, corner: UInt8Array) -> UInt8Array:
    """Return Paeth's prediction from a byte's neighbours: whichever is nearest to left + above - corner.

    This is the lower one of left and above if the corner is at most half as far from the higher one as from it, and the
    other way around; otherwise the corner.
    """
    lower, higher = np.minimum(left, above), np.maximum(left, above)
    over_lower = np.maximum(corner, lower)
    over_lower -= lower
    under_higher = higher - np.minimum(corner, higher)
    # Bits in place of branches: NumPy has no quick choice between bytes.
    lower ^= corner
    lower &= -(under_higher <= over_lower >> 1).view(np.uint8)
    higher ^= corner
    higher &= -(over_lower <= under_higher >> 1).view(np.uint8)
    lower ^= higher
    lower ^= corner
    return lower


def write_png(
    color: SampleArray,
    alpha: SampleArray | None,
    *,
    profile: bytes | None = None,
    metadata: Metadata = NO_METADATA,
    level: int = 1,
    strategy: int = RUN_LENGTHS,
) -> bytes:
    """Encode samples as a PNG strip by strip. Besides the samples and the file, this takes little memory.

    Args:
        color: uint8 or uint16, height x width x 3 or 1.
        alpha: of the same type, height x width; None for none.
        profile: an ICC profile for these channels.
        metadata: of the page.
        level: 0 to 9, zlib's.
        strategy: zlib's.
    """
    step = (color.shape[2] + (alpha is not None)) * color.dtype.itemsize
    # A list would have to be joined, and the file of a large page has hundreds of megabytes.
    file = io.BytesIO()
    file.write(SIGNATURE + chunk(b"IHDR", _header(color, alpha)) + b"".join(_extra_chunks(profile, metadata)))
    press = zlib.compressobj(level, zlib.DEFLATED, zlib.MAX_WBITS, 9, strategy)
    for strip in _filter_strips(color, alpha, step):
        if packed := press.compress(strip):
            file.write(chunk(b"IDAT", packed))
    file.write(chunk(b"IDAT", press.flush()) + chunk(b"IEND", b""))
    return file.getvalue()


def check_png(data: bytes) -> tuple[tuple[int, int], str]:
    """Check that a PNG that ``encode`` wrote can be read, without decoding its pixels.

    The function checks the checksum of every chunk, the number of rows, and that the filter of each row is valid.

    Returns:
        (width, height) in pixels, and Pillow's mode; that is empty for 16 bits.

    Raises:
        ValueError: it cannot be read.
        zlib.error, imagecodecs.DeflateError: the packed rows are damaged.
    """
    width, height, bits, kind = struct.unpack_from(">LLBB", data, len(SIGNATURE) + 8)
    channels = {number: count for count, number in _COLOR_TYPES.items()}[kind]
    row = 1 + width * channels * bits // 8
    packed = list(_read_packed_rows(data))
    filters = (
        _read_filters_at_once(packed, row, height) if row * height <= _AT_ONCE else _read_filters(packed, row)
    )
    if len(filters) != height:
        raise ValueError("rows are missing")
    if max(filters, default=0) > _LAST_FILTER:
        raise ValueError("a row has a filter that is not PNG's")
    return (width, height), _MODES[channels] if bits == 8 else ""


def _read_packed_rows(data: bytes) -> Iterator[memoryview]:
    """Yield the content of the IDAT chunks, after comparing every chunk with its checksum."""
    view = memoryview(data)
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">L", data, at)
        end = at + 8 + length
        if end + 4 > len(data) or isal_zlib.crc32(view[at + 4 : end]) != int.from_bytes(
            view[end : end + 4], "big"
        ):
            raise ValueError("a chunk is damaged")
        if data[at + 4 : at + 8] == b"IDAT":
            yield view[at + 8 : end]
        at = end + 4


def _read_filters_at_once(packed: list[memoryview], row: int, height: int) -> bytes:
    """Return the first byte of every row. libdeflate is three times as fast as zlib but needs all bytes at once."""
    import imagecodecs

    rows = imagecodecs.deflate_decode(b"".join(packed), raw=False, out=row * height)
    if len(rows) != row * height:
        raise ValueError("rows are missing")
    return bytes(rows[::row])


def _read_filters(packed: list[memoryview], row: int) -> bytes:
    """Return the first byte of every row, unpacking a few megabytes at a time."""
    unpack = zlib.decompressobj()
    filters, unpacked = bytearray(), 0
    for rows in _unpack(unpack, packed):
        filters += rows[-unpacked % row :: row]
        unpacked += len(rows)
    if not unpack.eof or unpacked % row:
        raise ValueError("rows are missing")
    return bytes(filters)


def _unpack(unpack: zlib._Decompress, packed: list[memoryview]) -> Iterator[bytes]:
    for chunk in packed:
        waiting: bytes | memoryview = chunk
        while waiting:
            yield unpack.decompress(waiting, _STRIP_BYTES)
            waiting = unpack.unconsumed_tail
    yield unpack.flush()


def _header(color: SampleArray, alpha: SampleArray | None) -> bytes:
    height, width, channels = color.shape
    kind = _COLOR_TYPES[channels + (alpha is not None)]
    return struct.pack(">LLBBBBB", width, height, 8 * color.dtype.itemsize, kind, 0, 0, 0)


def _filter_strips(color: SampleArray, alpha: SampleArray | None, step: int) -> Iterator[bytes]:
    """Yield rows, each after the number of its filter. The filter with the smaller sum of bytes is used."""
    height, width = color.shape[:2]
    rows = max(1, _STRIP_BYTES // (width * step))
    above = np.zeros((1, width * step), np.uint8)
    for start in range(0, height, rows):
        strip = _as_bytes(color[start : start + rows], None if alpha is None else alpha[start : start + rows])
        before = np.concatenate((above, strip[:-1]))
        up = strip - before
        sub = strip.copy()
        sub[:, step:] -= strip[:, :-step]
        better = _cost(up) <= _cost(sub)
        out = np.empty((len(strip), strip.shape[1] + 1), np.uint8)
        out[:, 0] = np.where(better, _UP, _SUB)
        out[:, 1:] = np.where(better[:, None], up, sub)
        above = strip[-1:]
        yield out.tobytes()


def _as_bytes(color: SampleArray, alpha: SampleArray | None) -> UInt8Array:
    """Return rows of bytes with samples in the order of the file and the high byte first."""
    samples = join_alpha(color, alpha)
    if samples.dtype == np.uint16:
        samples = samples.astype(">u2")
    return np.ascontiguousarray(samples).view(np.uint8).reshape(len(samples), -1)


def _cost(filtered: UInt8Array) -> NDArray[np.int64]:
    sums: NDArray[np.int64] = np.abs(filtered.view(np.int8).astype(np.int16)).sum(axis=1, dtype=np.int64)
    return sums


def _extra_chunks(profile: bytes | None, metadata: Metadata) -> Iterator[bytes]:
    if profile is not None:
        yield chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(profile))
    if metadata.dpi is not None:
        across, down = (round(value / _METRES_AN_INCH) for value in metadata.dpi)
        yield chunk(b"pHYs", struct.pack(">LLB", across, down, 1))
    if metadata.exif is not None:
        yield chunk(b"eXIf", metadata.exif)
    if metadata.xmp is not None:
        yield chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp)
    for keyword, words in metadata.text:
        yield _text_chunk(keyword, words)


def _text_chunk(keyword: str, words: str) -> bytes:
    """Return a text chunk. It is a plain one if Latin-1 has all letters, since some readers know no other."""
    key = keyword.encode("latin-1", "replace").replace(b"\0", b"?")
    try:
        return chunk(b"tEXt", key + b"\0" + words.replace("\0", "").encode("latin-1"))
    except UnicodeEncodeError:
        return chunk(b"iTXt", key + b"\0\0\0\0\0" + words.replace("\0", "").encode("utf-8", "replace"))


def chunk(kind: bytes, data: bytes | bytearray) -> bytes:
    """Return a chunk with its length and its checksum."""
    return b"".join(chunk_parts(kind, data))


def chunk_parts(kind: bytes, data: bytes | bytearray) -> tuple[bytes | bytearray, ...]:
    """Return the parts of a chunk, to join them with others without a copy in between."""
    checksum = isal_zlib.crc32(data, zlib.crc32(kind))
    return struct.pack(">L", len(data)), kind, data, struct.pack(">L", checksum)


def _is_whole(data: bytes) -> bool:
    return data.endswith(b"IEND\xaeB`\x82")


FORMAT = OutputFormat(
    name="png",
    title="PNG",
    recognised_as="PNG",
    extension="png",
    lossless="always",
    longest_side=2**31 - 1,
    bits=(8, 16),
    texts=True,
    encode=encode_png,
    read_back=check_png,
    read_back_every=16,
    is_whole=_is_whole,
    assumed_lossless=Assumed(
        gray_bytes=0.52, color_bytes=1.22, seconds=Range(0.0155, 0.0188, 0.0211), source=FIRST_MEASURED
    ),
)
