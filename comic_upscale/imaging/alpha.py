"""Transparency: whether it is real or filler, and colours for invisible pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from comic_upscale.imaging.pixels import SampleArray

_ROWS = 256
"""The rows that are processed at once; an even number."""
_EXTRA_SAMPLES, _ALPHAS = 338, (1, 2)
_TGA_FOOTER, _TGA_ALPHA_AT = b"TRUEVISION-XFILE.\0", 494
_TGA_USEFUL = (3, 4)
_TGA_TRUE_COLOR_OR_GRAY = (2, 3, 10, 11)
_BOXES = 65536


def meaningful_alpha(
    image: Image.Image, alpha: SampleArray, data: bytes
) -> tuple[SampleArray | None, str | None]:
    """Return the alpha if it is real transparency. Many programs fill the fourth byte of some formats with zeros.

    Programs differ over such files. Photoshop, Windows and DirectXTex show the image, and so does this function.

    Args:
        image: the opened file.
        alpha: uint8 or uint16, height x width, 0 transparent.
        data: the file.

    Returns:
        The alpha, or None if it is filler; and a note if it is filler or the whole page is invisible.
    """
    if image.format == "TGA" and _declares_no_alpha(data):
        # Dropping an alpha that is the same everywhere loses nothing.
        note = (
            None
            if alpha.min() == alpha.max()
            else "transparency left out: the header of the TGA declares none"
        )
        return None, note
    if alpha.any():
        return alpha, None
    if image.format in ("TGA", "BMP", "DIB", "ICO") or _is_unspecified(image, data):
        return None, "transparency left out: it would hide the whole page"
    return alpha, "the whole page is transparent"


def _declares_no_alpha(tga: bytes) -> bool:
    """Return whether a TGA declares that its extra bits are not alpha, in its extension area or else in its header."""
    if tga.endswith(_TGA_FOOTER) and len(tga) >= 26:
        extension = int.from_bytes(tga[-26:-22], "little")
        if extension and extension + _TGA_ALPHA_AT < len(tga):
            return tga[extension + _TGA_ALPHA_AT] not in _TGA_USEFUL
    # The header of a TGA with a palette never counts such bits, even if colours are transparent.
    return tga[2] in _TGA_TRUE_COLOR_OR_GRAY and not tga[17] & 15


def _is_unspecified(image: Image.Image, data: bytes) -> bool:
    """Return whether a file has one channel more than its colours need and does not declare it as alpha."""
    if image.format == "TIFF":
        extra = getattr(image, "tag_v2", {}).get(_EXTRA_SAMPLES, ())
        return not set(extra if isinstance(extra, tuple) else (extra,)) & set(_ALPHAS)
    return image.format == "JPEG2000" and b"cdef" not in data[:_BOXES]


def bleed_color(color: SampleArray, alpha: SampleArray) -> SampleArray:
    """Give fully transparent pixels the colour of visible pixels near them.

    Most programs leave black there. A network would mix it into the visible edge as a dark fringe.
    The method is push-pull: colour is averaged down a pyramid, then holes are filled from the level
    above. The cost is a small multiple of the number of pixels, for holes of any size.

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
    """Fill the pixels whose ``weight`` is 0. At least one weight is above 0."""
    empty = weight == 0
    if not empty.any():
        return color
    height, width = weight.shape
    smaller = _fill(*_halve(color, weight))
    filled = color.copy()
    for channel in range(color.shape[2]):
        # Bilinear, because nearest neighbour makes blocks, which the network would treat as edges.
        level = Image.fromarray(_as_resizable(smaller[:, :, channel]))
        larger = level.resize((width, height), Image.Resampling.BILINEAR, (0, 0, width / 2, height / 2))
        np.copyto(filled[:, :, channel], np.asarray(larger), where=empty, casting="unsafe")
    return filled


def _as_resizable(plane: SampleArray) -> NDArray[np.uint8 | np.float32]:
    """Return a plane in a type that Pillow can resize."""
    return np.ascontiguousarray(plane, np.uint8 if plane.dtype == np.uint8 else np.float32)


def _halve(color: SampleArray, weight: SampleArray) -> tuple[SampleArray, SampleArray]:
    """Average 2 x 2 blocks by weight, since the colour of a nearly invisible pixel hardly counts."""
    height, width = weight.shape
    half = ((height + 1) // 2, (width + 1) // 2)
    smaller = np.zeros((*half, color.shape[2]), color.dtype)
    largest = np.zeros(half, weight.dtype)
    # Strip by strip: the sums take eight times the memory of the samples, and a strip of them fits the CPU's cache.
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
