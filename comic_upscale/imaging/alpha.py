"""Transparency: whether a file means it, and colour for pixels that nobody sees."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from comic_upscale.imaging.pixels import SampleArray

_ROWS = 256
"""Rows that are worked on at once; even."""
_EXTRA_SAMPLES, _ALPHAS = 338, (1, 2)
_TGA_FOOTER, _TGA_ALPHA_AT = b"TRUEVISION-XFILE.\0", 494
_TGA_USEFUL = (3, 4)
_TGA_TRUE_COLOR_OR_GRAY = (2, 3, 10, 11)
_BOXES = 65536


def meaningful_alpha(
    image: Image.Image, alpha: SampleArray, data: bytes
) -> tuple[SampleArray | None, str | None]:
    """Tell transparency from filler: some formats have a fourth byte in which many programs write zeros.

    Programs differ over such files. Photoshop, Windows and DirectXTex show the picture, and so does this.

    Args:
        image: that the alpha comes from.
        alpha: uint8 or uint16, height x width, 0 transparent.
        data: the file.

    Returns:
        The alpha, None where it means nothing; and a note where that is so, or where nothing of the page is visible.
    """
    if image.format == "TGA" and _declares_no_alpha(data):
        # A file whose fourth bytes are all alike loses nothing.
        note = None if alpha.min() == alpha.max() else "transparency left out: the TGA says that it has none"
        return None, note
    if alpha.any():
        return alpha, None
    if image.format in ("TGA", "BMP", "DIB", "ICO") or _is_unspecified(image, data):
        return None, "transparency left out: it would hide the whole page"
    return alpha, "the whole page is transparent"


def _declares_no_alpha(tga: bytes) -> bool:
    """Whether a TGA says that its extra bits are no alpha: in its extension area, or else in its header."""
    if tga.endswith(_TGA_FOOTER) and len(tga) >= 26:
        extension = int.from_bytes(tga[-26:-22], "little")
        if extension and extension + _TGA_ALPHA_AT < len(tga):
            return tga[extension + _TGA_ALPHA_AT] not in _TGA_USEFUL
    # Of a palette the header counts no such bits, be there transparent colours or not.
    return tga[2] in _TGA_TRUE_COLOR_OR_GRAY and not tga[17] & 15


def _is_unspecified(image: Image.Image, data: bytes) -> bool:
    """Whether a file has one channel more than its colours need, and does not say that it is an alpha."""
    if image.format == "TIFF":
        extra = getattr(image, "tag_v2", {}).get(_EXTRA_SAMPLES, ())
        return not set(extra if isinstance(extra, tuple) else (extra,)) & set(_ALPHAS)
    return image.format == "JPEG2000" and b"cdef" not in data[:_BOXES]


def bleed_color(color: SampleArray, alpha: SampleArray) -> SampleArray:
    """Give fully transparent pixels the colour of the visible ones near them.

    Most programs leave black there, which a network would mix into the visible edge as a dark fringe.
    The method is push-pull: colour is averaged down a pyramid, then holes are filled from the level
    above, so that the cost is a small multiple of the number of pixels whatever the size of the holes.

    Args:
        color: uint8 or uint16, height x width x C.
        alpha: of the same type, height x width, 0 transparent.

    Returns:
        Height x width x C of the same type: equal to ``color`` where ``alpha`` is above 0. ``color`` itself if
        nothing or everything is transparent.
    """
    visible = alpha > 0
    if visible.all() or not visible.any():
        return color
    return _fill(color, alpha)


def _fill(color: SampleArray, weight: SampleArray) -> SampleArray:
    """Fill where ``weight`` is 0; at least one weight is not."""
    empty = weight == 0
    if not empty.any():
        return color
    height, width = weight.shape
    smaller = _fill(*_halve(color, weight))
    filled = color.copy()
    for channel in range(color.shape[2]):
        # Bilinear and not nearest: no blocks, which the network would take for edges.
        level = Image.fromarray(_plane(smaller[:, :, channel]))
        larger = level.resize((width, height), Image.Resampling.BILINEAR, (0, 0, width / 2, height / 2))
        np.copyto(filled[:, :, channel], np.asarray(larger), where=empty, casting="unsafe")
    return filled


def _plane(plane: SampleArray) -> NDArray[np.uint8 | np.float32]:
    """Return a plane in a type that Pillow can resize."""
    return np.ascontiguousarray(plane, np.uint8 if plane.dtype == np.uint8 else np.float32)


def _halve(color: SampleArray, weight: SampleArray) -> tuple[SampleArray, SampleArray]:
    """Average 2 x 2 blocks by weight: nearly invisible pixels have hardly a colour of their own."""
    height, width = weight.shape
    half = ((height + 1) // 2, (width + 1) // 2)
    smaller = np.zeros((*half, color.shape[2]), color.dtype)
    largest = np.zeros(half, weight.dtype)
    # A strip at a time: the sums take eight times the memory of the samples, and stay in the cache like this.
    for start in range(0, height, _ROWS):
        rows = slice(start, start + _ROWS)
        made = slice(start // 2, (start + _ROWS) // 2)
        smaller[made], largest[made] = _halve_strip(color[rows], weight[rows])
    return smaller, largest


def _halve_strip(color: SampleArray, weight: SampleArray) -> tuple[SampleArray, SampleArray]:
    height, width = weight.shape
    half = ((height + 1) // 2, (width + 1) // 2)
    sums_type = np.uint32 if color.dtype == np.uint8 else np.uint64
    total = np.zeros(half, sums_type)
    largest = np.zeros(half, weight.dtype)
    sums = np.zeros((*half, color.shape[2]), sums_type)
    for y in (0, 1):
        for x in (0, 1):
            part = weight[y::2, x::2]
            rows, columns = part.shape
            total[:rows, :columns] += part
            np.maximum(largest[:rows, :columns], part, out=largest[:rows, :columns])
            sums[:rows, :columns] += color[y::2, x::2] * part[:, :, None].astype(sums_type)
    divisor = np.maximum(total, 1)[:, :, None]
    return ((sums + divisor // 2) // divisor).astype(color.dtype), largest
