"""A page as pixels, with its metadata."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

UInt8Array: TypeAlias = NDArray[np.uint8]

SampleArray: TypeAlias = NDArray[np.uint8 | np.uint16]
"""Samples of a page, all with 8 or all with 16 bits: 255 or 65535 is white."""


def join_alpha(color: SampleArray, alpha: SampleArray | None) -> SampleArray:
    """Return samples with transparency, if there is any, as their last channel: height x width x 1 to 4."""
    return color if alpha is None else np.dstack((color, alpha))


@dataclass(frozen=True, slots=True)
class Metadata:
    """The metadata of a page's file, as bytes that are passed on."""

    exif: bytes | None = None
    """A TIFF structure from its byte order mark on; its orientation, if it has one, is 1."""
    xmp: bytes | None = None
    """An XMP packet; its orientation, if it has one, is 1."""
    dpi: tuple[float, float] | None = None
    """The file's resolution across and down, in pixels per inch; upscaling does not change it."""
    text: tuple[tuple[str, str], ...] = ()
    """Keywords and texts of a PNG, such as the parameters of a generator."""


NO_METADATA: Final = Metadata()


@dataclass(frozen=True, slots=True)
class Borders:
    """The borders between the tiles of a page, in its own pixels."""

    rows: tuple[int, ...] = ()
    """The first pixel row of every row of tiles except the uppermost, ascending."""
    columns: tuple[int, ...] = ()
    """The first pixel column of every column of tiles except the leftmost, ascending."""

    def join(self, other: Borders) -> Borders:
        """Return the borders of both."""
        return Borders(
            rows=tuple(sorted({*self.rows, *other.rows})),
            columns=tuple(sorted({*self.columns, *other.columns})),
        )


NO_BORDERS: Final = Borders()
"""The borders of a page that was upscaled in one piece."""


@dataclass(frozen=True, slots=True, eq=False)
class FaintLines:
    """The faint lines of a page, at the size of its source; see ``faint_lines.py``."""

    shape: tuple[int, int]
    """Height and width of the source."""
    places: NDArray[np.int64]
    """The position of each pixel, counted along the rows; ascending."""
    samples: SampleArray
    """The samples of the source there, pixels x channels."""
    is_dark: NDArray[np.bool_]
    """Whether each pixel is on white; otherwise it is on black."""


@dataclass(frozen=True, slots=True, eq=False)
class Paper:
    """The nearly white pixels of a page, in the cells of its tone; see ``tone.py``."""

    shortfall: NDArray[np.float32]
    """How far they are from white, as a mean over all pixels of the cell: rows x columns x channels, samples."""
    share: NDArray[np.float32]
    """Their share of the cell: rows x columns x 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Bends:
    """The mean squares of second differences of an upscaled page, in blocks of its source; see ``gate/texture.py``."""

    along_rows: NDArray[np.float32]
    """Rows x columns of blocks."""
    along_columns: NDArray[np.float32]
    """Columns x rows of blocks."""


@dataclass(frozen=True, slots=True, eq=False)
class DeviceWork:
    """What a device did with a page after the network, to the bit as the host does it. `Pixels.color` is finished."""

    raw_small: UInt8Array | None = None
    """The raw output, shrunk for the quality gate; None without the gate."""
    small: UInt8Array | None = None
    """The finished page, shrunk in the same way."""
    bends: Bends | None = None
    """Of the finished page; None if nobody looks for invented texture."""
    png_rows: UInt8Array | None = None
    """The finished page as the filtered rows of a PNG: height x (1 + width * channels)."""


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """The samples of one page, upright (orientation already applied), and its metadata."""

    color: SampleArray
    """uint8 or uint16, height x width x 3 (RGB) or height x width x 1 (gray)."""
    alpha: SampleArray | None = None
    """Of the same type as ``color``, height x width; the largest value is opaque. None for a page without
    transparency."""
    icc_profile: bytes | None = None
    """The ICC profile of the samples, which fits ``color`` (RGB or gray); None for sRGB."""
    notes: tuple[str, ...] = ()
    """The parts that decoding left out, one sentence each (``"animated: first of 7 frames"``)."""
    metadata: Metadata = NO_METADATA
    lossless: bool = True
    """Whether the page's own file is lossless: False for JPEG and lossy WebP."""
    solid: UInt8Array | None = None
    """The map of pure white and black areas, at the size of the source; see ``flat_areas.py``."""
    faint: FaintLines | None = None
    """The faint lines of the source; see ``faint_lines.py``."""
    tone: NDArray[np.float32] | None = None
    """The averages of the source's broad areas; see ``tone.py``."""
    paper: Paper | None = None
    """The paper of the source, if the network may make it whiter than it was; see ``tone.py``."""
    borders: Borders = NO_BORDERS
    """The borders of tiles in ``color``, which the gate checks."""
    answers: tuple[str, ...] = ()
    """Pages in `AnswerStore` whose answers are kept until this page is recorded."""
    device_work: DeviceWork | None = None
    """What the device of the network has done with the page already; None if it has only enlarged it."""

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
