"""What belongs to a page: files beside it that are called after it, such as the captions of a training set."""

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
"""Sidecars whose text is the page's caption; the first that is there counts."""


@dataclass(frozen=True, slots=True)
class OtherFile:
    """A file of the input that is no page; or one inside a volume whose pages go into a folder."""

    source: str
    """POSIX path relative to the input folder, through the volume where it is in one; valid Unicode."""
    path: Path
    """Where the file is, or its volume."""
    output: str
    """Its POSIX path relative to the output folder, were it copied under its own name."""
    size: int
    """Bytes."""
    mtime_ns: int
    """Modification time, nanoseconds since the epoch."""
    pages: tuple[str, ...] = ()
    """The sources of the pages that it is a sidecar of; none for any other file."""
    member: MemberOf | None = None
    """For a file inside a volume, where there; ``mtime_ns`` is then the volume's."""


def pages_by_stem(names: Iterable[str]) -> Mapping[str, Sequence[str]]:
    """Group the names of the pages of a folder by what their sidecars are called after: stem and whole name."""
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
    """Return where a sidecar goes: beside the page's output, and called after that.

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
