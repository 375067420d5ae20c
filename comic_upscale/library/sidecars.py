"""Sidecars: files beside a page that are named after it, such as the captions of a training set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from comic_upscale.imaging.formats import extension_of
from comic_upscale.library.page import MemberOf

SIDECAR_EXTENSIONS = ("txt", "caption", "json", "xmp")
"""Captions of training sets, and metadata; lower case, without the dot."""

CAPTION_EXTENSIONS = ("txt", "caption")
"""Sidecars whose text is the page's caption. The first one that exists counts."""


@dataclass(frozen=True, slots=True)
class OtherFile:
    """A file of the input that is not a page, or such a file in a volume whose pages go into a folder."""

    source: str
    """POSIX path relative to the input folder, including the path of its volume if it is in one; valid Unicode."""
    path: Path
    """The path of the file, or of its volume."""
    output: str
    """The POSIX path, relative to the output folder, of a copy with the file's own name."""
    size: int
    """Bytes."""
    mtime_ns: int
    """Modification time, nanoseconds since the epoch."""
    pages: tuple[str, ...] = ()
    """The sources of the pages that it is a sidecar of; empty for other files."""
    member: MemberOf | None = None
    """The position of a file in a volume, or None. For such a file, ``mtime_ns`` is the volume's."""


def pages_by_stem(names: Iterable[str]) -> Mapping[str, Sequence[str]]:
    """Group the names of the pages of a folder by the names that their sidecars have: stem and complete name."""
    grouped: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        grouped[PurePosixPath(name).stem].append(name)
        grouped[name].append(name)
    return grouped


def sidecar_of(name: str, pages: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """Return the pages that a file is a sidecar of: ``a.txt`` and ``a.jpg.txt`` of ``a.jpg``.

    Args:
        name: of a file in the same folder.
        pages: as `pages_by_stem` returns them.
    """
    if extension_of(name) not in SIDECAR_EXTENSIONS:
        return ()
    return pages.get(PurePosixPath(name).stem, ())


def sidecar_output(file: OtherFile, page: str, page_output: str) -> str:
    """Return the path for a sidecar's copy: beside the page's output, and named after it.

    Args:
        file: the sidecar.
        page: the source of the page.
        page_output: the page's output, relative to the output folder.
    """
    sidecar, output = PurePosixPath(file.source), PurePosixPath(page_output)
    stem = output.name if sidecar.stem == PurePosixPath(page).name else output.stem
    return str(output.with_name(f"{stem}{sidecar.suffix}"))


def candidates(name: str) -> list[str]:
    """Return the names that sidecars of an image may have."""
    return [
        f"{stem}.{extension}" for stem in (PurePosixPath(name).stem, name) for extension in SIDECAR_EXTENSIONS
    ]
