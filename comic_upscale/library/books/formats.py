"""The formats of volumes besides a folder: their extensions, and which pages a written one gives back."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from typing import IO, Protocol

from comic_upscale.imaging.leaves import Leaf
from comic_upscale.library.books.about import About
from comic_upscale.library.books.epub_writer import IMAGES, EpubWriter, check_epub
from comic_upscale.library.books.images import BookImage, book_image
from comic_upscale.library.books.names import part_name
from comic_upscale.library.books.pdf_writer import DPI, PdfWriter, can_embed, check_pdf
from comic_upscale.library.cbz import UNREADABLE, read_members
from comic_upscale.library.sorting import natural_key
from comic_upscale.library.volume import Member
from comic_upscale.settings.processing import BOOK_FORMATS, ArchiveOutput
from comic_upscale.settings.sizes import Print, Size
from comic_upscale.storage.base import OutputStore

_IMAGE = re.compile(re.escape(IMAGES) + r"p(\d{5,})\.\w+")
_MOST_MISSING = 3
"""The search for the files of a split book ends after this many that are missing in a row."""


class BookWriter(Protocol):
    """Writes one file of a book."""

    def room_for(self, leaf: Leaf) -> int:
        """Return the bytes that the file would have with this leaf, at most."""

    def add(self, leaf: Leaf, image: BookImage) -> None:
        """Add a leaf."""

    def finish(self) -> None:
        """Write the end of the file."""

    def close(self) -> None:
        """Forget the book, which may be unfinished."""


@dataclass(frozen=True, slots=True)
class BookFormat:
    """How a volume is written as a book."""

    kind: ArchiveOutput
    """``epub``, ``kepub`` or ``pdf``."""

    def open(self, file: IO[bytes], about: About, size: Size) -> BookWriter:
        """Begin a file of a book.

        Args:
            file: open for writing, and seekable.
            about: the book.
            size: of the pages; a sheet of paper has a resolution.
        """
        if self.kind == "pdf":
            return PdfWriter(file, about, dpi=size.dpi if isinstance(size, Print) else DPI)
        return EpubWriter(file, about, kobo=self.kind == "kepub")

    def image(self, data: bytes) -> BookImage:
        """Return the file of a leaf in a form that the book can contain.

        Raises:
            PageError: it cannot be decoded.
        """
        if self.kind != "pdf":
            return book_image(data, BOOK_FORMATS[self.kind], alpha=True)
        image = book_image(data, BOOK_FORMATS[self.kind], alpha=False)
        if image.kind == "png" and not can_embed(image.data):
            # Interlaced: it is written again.
            return book_image(data, (), alpha=False)
        return image

    def check(self, file: IO[bytes], leaves: int) -> None:
        """Prove that a file can be read.

        Raises:
            PageError: ``"encode"``.
        """
        (check_pdf if self.kind == "pdf" else check_epub)(file, leaves)


def reading_order(pages: Iterable[Member]) -> list[Member]:
    """Return the pages of a volume in reading order, which is that of their names."""
    return sorted(pages, key=lambda member: natural_key(member.target or member.name))


def held_pages(outputs: OutputStore, output: str, pages: Iterable[Member]) -> dict[str, int]:
    """Return the pages that the files of a volume hold unchanged: their targets, and the bytes of each.

    Args:
        outputs: where the volume is.
        output: its name there.
        pages: of the volume.
    """
    if output.endswith(".cbz"):
        return read_members(outputs, output)
    targets = [member.target or "" for member in reading_order(pages)]
    held: dict[str, int] = {}
    with closing(OldVolume(outputs, output)) as old:
        for info in old.infos():
            match = _IMAGE.fullmatch(info.filename)
            if match is not None and 1 <= int(match[1]) <= len(targets):
                held[targets[int(match[1]) - 1]] = info.file_size
    return held


class OldVolume:
    """The files of a volume that an earlier run has written, as far as they can be read.

    Args:
        outputs: where the volume is.
        output: its name there. It need not exist.
    """

    def __init__(self, outputs: OutputStore, output: str) -> None:
        self._open = ExitStack()
        self._archives: list[zipfile.ZipFile] = []
        self._is_cbz = output.endswith(".cbz")
        if output.endswith(".pdf"):
            return
        part, missing = 1, 0
        while missing < _MOST_MISSING:
            try:
                file = self._open.enter_context(outputs.open(part_name(output, part)))
                self._archives.append(self._open.enter_context(zipfile.ZipFile(file)))
                missing = 0
            except UNREADABLE:
                missing += 1
            if self._is_cbz:
                break
            part += 1

    def infos(self) -> Iterator[zipfile.ZipInfo]:
        """Yield the members of all files."""
        for archive in self._archives:
            yield from archive.infolist()

    def candidates(self, target: str, number: int) -> Iterator[bytes]:
        """Yield the files that may be a page.

        Args:
            target: its name in a CBZ.
            number: of the page, counted from 1.
        """
        prefix = f"{IMAGES}p{number:05}."
        for archive in self._archives:
            names = (
                [target] if self._is_cbz else [each for each in archive.namelist() if each.startswith(prefix)]
            )
            for name in names:
                with suppress(Exception):  # an edited ZIP may raise anything
                    yield archive.read(name)

    def close(self) -> None:
        """Close the files."""
        self._open.close()
