"""The marks of outputs that replaced their originals: by them, a run recognises its output although it was edited.

Programs that tag comics write a volume anew, and keep its pages. Programs that tag or retouch a picture keep its size.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from comic_upscale.errors import PageError
from comic_upscale.imaging.formats import IMAGE_EXTENSIONS, extension_of
from comic_upscale.imaging.reader import open_image, page_errors
from comic_upscale.library.cbz import UNREADABLE
from comic_upscale.storage.guarded import is_file

_MOST = 12
"""Pages of a volume whose marks are kept."""


class OutputMarks:
    """Reads the marks of volumes and pages: the checksums and sizes of the pages in a volume, the size of a page."""

    volume_suffixes = frozenset((".cbz", ".epub"))

    def sample(self, path: Path) -> str:
        """Return some marks of an output, separated by spaces; empty if it has none."""
        if path.suffix.lower() not in self.volume_suffixes:
            return next(iter(_size_of(path)), "")
        pages = [*dict.fromkeys(_pages_of(path))]
        step = max(1, -(-len(pages) // _MOST))
        return " ".join(pages[::step])

    def read(self, path: Path) -> frozenset[str]:
        """Return all marks of a file; none if it cannot be read."""
        is_volume = path.suffix.lower() in self.volume_suffixes
        return frozenset(_pages_of(path) if is_volume else _size_of(path))


def _pages_of(path: Path) -> list[str]:
    try:
        if not is_file(path):
            return []
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            return [
                f"{info.CRC:08x}-{info.file_size:x}"
                for info in archive.infolist()
                if extension_of(info.filename) in IMAGE_EXTENSIONS
            ]
    except UNREADABLE:
        return []


def _size_of(path: Path) -> list[str]:
    """Return the size of an image in pixels, and that after a quarter turn."""
    try:
        with path.open("rb") as file, page_errors(), open_image(file, header_only=True) as image:
            width, height = image.size
    except (PageError, OSError):
        return []
    return [f"{width}x{height}", f"{height}x{width}"]
