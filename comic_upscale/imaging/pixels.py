"""A page as pixels, with what must be written beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

UInt8Array: TypeAlias = NDArray[np.uint8]

SampleArray: TypeAlias = NDArray[np.uint8 | np.uint16]
"""Samples of a page, all of 8 or all of 16 bits: 255 or 65535 is white."""


def join_alpha(color: SampleArray, alpha: SampleArray | None) -> SampleArray:
    """Return samples with transparency, if there is any, as their last channel: height x width x 1 to 4."""
    return color if alpha is None else np.dstack((color, alpha))


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a file says about its page beside the pixels, as bytes that are handed on."""

    exif: bytes | None = None
    """A TIFF structure from its byte order mark on; its orientation, if it has one, is 1."""
    xmp: bytes | None = None
    """An XMP packet; its orientation, if it has one, is 1."""
    dpi: tuple[float, float] | None = None
    """Pixels an inch across and down, as the file says; upscaling does not change them."""
    text: tuple[tuple[str, str], ...] = ()
    """Keywords and texts of a PNG, such as the parameters that a generator wrote."""


NO_METADATA: Final = Metadata()


@dataclass(frozen=True, slots=True)
class Borders:
    """Where the tiles meet that a page was put together from, in its own pixels."""

    rows: tuple[int, ...] = ()
    """The first row of every row of tiles but the uppermost, ascending."""
    columns: tuple[int, ...] = ()
    """The first column of every column of tiles but the leftmost, ascending."""

    def joined(self, other: Borders) -> Borders:
        """Return the borders of both."""
        return Borders(
            rows=tuple(sorted({*self.rows, *other.rows})),
            columns=tuple(sorted({*self.columns, *other.columns})),
        )


NO_BORDERS: Final = Borders()
"""Of a page that was made in one piece."""


@dataclass(frozen=True, slots=True, eq=False)
class FaintLines:
    """The faint lines of a page, at the size of its source; see ``faint_lines.py``."""

    shape: tuple[int, int]
    """Height and width of the source."""
    places: NDArray[np.int64]
    """Of each pixel, counted along the rows; ascending."""
    samples: SampleArray
    """Pixels x channels, as the source has them."""
    is_dark: NDArray[np.bool_]
    """Of each pixel, whether it lies on white; else it lies on black."""


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """The samples of one page, upright (orientation already applied), and what must go out with them."""

    color: SampleArray
    """uint8 or uint16, height x width x 3 (RGB) or height x width x 1 (gray)."""
    alpha: SampleArray | None = None
    """Of the same type as ``color``, height x width, its largest value opaque; None for a page without
    transparency."""
    icc_profile: bytes | None = None
    """The ICC profile the samples are in, of the kind that fits ``color`` (RGB or gray); None for sRGB."""
    notes: tuple[str, ...] = ()
    """What decoding had to leave out, a sentence each (``"animated: first of 7 frames"``)."""
    metadata: Metadata = NO_METADATA
    lossless: bool = True
    """Whether the file that the page comes from keeps every sample: False for JPEG and lossy WebP."""
    solid: UInt8Array | None = None
    """Where the page is pure white or black, at the size of its source; see ``flat_areas.py``."""
    faint: FaintLines | None = None
    """The source's faint lines; see ``faint_lines.py``."""
    tone: NDArray[np.float32] | None = None
    """The averages of the source's broad areas; see ``tone.py``."""
    borders: Borders = NO_BORDERS
    """Where tiles meet in ``color``, for the gate to look at."""

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.color.shape[1])

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.color.shape[0])

    @property
    def bits(self) -> int:
        """Bits of a sample: 8 or 16."""
        return 8 * self.color.dtype.itemsize
