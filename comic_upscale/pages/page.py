"""What travels through the pipeline: a page by name, and a page as pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

UInt8Array: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class MemberOf:
    """Where inside which volume a page is."""

    volume: str
    """Source of the volume, a key of the job's volumes."""
    index: int
    """Place in the volume's directory."""


@dataclass(frozen=True, slots=True)
class Page:
    """One image of a job, known by its name and its ``stat`` alone; nothing of it has been read."""

    source: str
    """POSIX path relative to the input folder (the bare file name for a single image); valid Unicode,
    unique within the job, and the key of the page in the ledger."""
    path: Path
    """Where the file is."""
    output: str
    """POSIX path of the output relative to the output folder; unique within the job, also on file
    systems that do not tell upper from lower case."""
    size: int
    """Bytes of the source file."""
    mtime_ns: int
    """Modification time of the source file, nanoseconds since the epoch."""
    member: MemberOf | None = None
    """For a page inside a volume, where there; ``path`` and ``mtime_ns`` are then the volume's, ``size``
    is the page's own."""


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """The samples of one page, upright (orientation already applied), and what must go out with them."""

    color: UInt8Array
    """uint8, height x width x 3 (RGB) or height x width x 1 (gray)."""
    alpha: UInt8Array | None = None
    """uint8, height x width, 255 opaque; None for a page without transparency."""
    icc_profile: bytes | None = None
    """The ICC profile the samples are in, of the kind that fits ``color`` (RGB or gray); None for sRGB."""
    notes: tuple[str, ...] = ()
    """What decoding had to leave out, a sentence each (``"animated: first of 7 frames"``)."""

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.color.shape[1])

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.color.shape[0])
