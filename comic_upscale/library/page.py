"""A page by name: where it comes from, and where its output goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class MemberOf:
    """Where a page is inside which volume, or a volume inside which archive."""

    volume: str
    """Source of the volume, a key of the job's volumes."""
    index: int
    """Place in the volume's directory."""
    around: MemberOf | None = None
    """If the volume is inside another archive, its place there."""


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
