"""A page by name: its source, and the place of its output."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class MemberOf:
    """The position of a page in a volume, or of a volume in an archive around it."""

    volume: str
    """Source of the volume, a key of the job's volumes."""
    index: int
    """Index in the volume's directory."""
    around: MemberOf | None = None
    """The position of the volume, if it is inside another archive."""


@dataclass(frozen=True, slots=True)
class Page:
    """One image of a job, known only by its name and its ``stat``. Its content has not been read."""

    source: str
    """POSIX path relative to the input folder (the bare file name for a single image); valid Unicode,
    unique within the job, and the key of the page in the ledger."""
    path: Path
    """The path of the file."""
    output: str
    """POSIX path of the output relative to the output folder; unique within the job, also on file
    systems that do not tell upper from lower case."""
    size: int
    """Bytes of the source file."""
    mtime_ns: int
    """Modification time of the source file, nanoseconds since the epoch."""
    member: MemberOf | None = None
    """The position of a page in a volume, or None. For such a page, ``path`` and ``mtime_ns`` are the volume's and
    ``size`` is its own."""
