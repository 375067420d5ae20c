"""The content of a volume that is about to be written: its finished pages, its other files, and its leaves."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO

from comic_upscale.errors import PageError
from comic_upscale.imaging.decode import read_header
from comic_upscale.imaging.drawn import as_png
from comic_upscale.imaging.formats import extension_of
from comic_upscale.imaging.leaves import Leaf, LeafCutter
from comic_upscale.ledger.writer import BoundPage
from comic_upscale.library.books.about import About, read_about
from comic_upscale.library.books.formats import BookFormat, BookWriter, OldVolume, reading_order
from comic_upscale.library.cbz import check_cbz, write_cbz
from comic_upscale.library.comicinfo import OddComicInfoError, PageFacts, is_comicinfo, update_page_sizes
from comic_upscale.library.naming import free_name
from comic_upscale.library.parts import whole_name
from comic_upscale.library.sorting import fold, natural_key
from comic_upscale.library.volume import Member, Volume
from comic_upscale.library.volume_reader import VolumeCache
from comic_upscale.planning.volumes import page_source
from comic_upscale.settings.job import JobSettings
from comic_upscale.storage.base import OutputStore

_UNREADABLE = ("damaged", "encrypted", "unsupported", "too-large")
"""Kinds of failure of a member that a retry does not fix."""
_MOST_NAMES = 3


class PagesLostError(PageError):
    """Finished pages are missing or changed before their volume was written; they must be done again."""

    def __init__(self, sources: list[str]) -> None:
        super().__init__(
            "page-lost",
            f"{len(sources)} finished page(s) are missing or were changed: run the same command again",
        )
        self.sources = sources


@dataclass(slots=True)
class VolumeContent:
    """The content of one volume."""

    outputs: OutputStore
    volume: Volume
    volumes: VolumeCache
    pages: Mapping[str, BoundPage]
    output: str
    """Name of the volume in the output folder."""
    settings: JobSettings
    _old: OldVolume | None = None
    _written: list[str] = field(default_factory=list)
    _left_out: list[str] = field(default_factory=list)
    _odd: list[str] = field(default_factory=list)
    _lost: list[str] = field(default_factory=list)
    _cut: int = 0
    _converted: int = 0
    _leaves: int = 0

    def __enter__(self) -> VolumeContent:
        # An existing volume contains the pages of earlier runs.
        self._old = OldVolume(self.outputs, self.output)
        return self

    def __exit__(self, *_: object) -> None:
        self._close_old()

    def _close_old(self) -> None:
        if self._old is not None:
            self._old.close()
            self._old = None

    # A CBZ

    def write_cbz(self, file: IO[bytes]) -> None:
        """Write the members, one at a time."""
        assert self.volume.contents is not None
        members = self._members() if self.settings.screen is None else self._cut_members()
        write_cbz(file, members, self.volume.contents.comment)

    def check_cbz(self, file: IO[bytes]) -> None:
        """Read back the new CBZ, and close the old one, which it replaces."""
        check_cbz(file, self._written)
        self._close_old()

    # A book

    def about(self) -> About:
        """Return the metadata of the volume."""
        assert self.volume.contents is not None
        member = next((each for each in self._others() if is_comicinfo(each.name)), None)
        comicinfo = None if member is None else self._read_plain(member)
        name = whole_name(posixpath.basename(self.volume.entry.source)).rpartition(".")[0]
        return read_about(comicinfo, name, right_to_left=self.settings.right_to_left)

    def leaves(self, about: About) -> Iterator[Leaf]:
        """Yield the leaves of the volume in reading order.

        Raises:
            PagesLostError: finished pages are missing.
        """
        assert self.volume.contents is not None
        self._lost.clear()
        self._cut = 0
        cutter = LeafCutter(self.settings, right_to_left=about.right_to_left)
        for number, member in enumerate(reading_order(self.volume.contents.pages), 1):
            data = self._read_page(member)
            if data is None:
                self._lost.append(page_source(self.volume, member.name))
                continue
            yield from self._counted(cutter.add(data, number))
        yield from self._counted(cutter.end())
        if self._lost:
            raise PagesLostError(self._lost)

    def _counted(self, leaves: Iterator[Leaf]) -> Iterator[Leaf]:
        for leaf in leaves:
            self._cut += leaf.part == 1
            yield leaf

    def write_book(
        self, file: IO[bytes], leaves: Iterator[Leaf], about: About, kind: BookFormat
    ) -> Leaf | None:
        """Write one file of a book; return the first leaf that it has no room for, None if there is none left.

        Args:
            file: open for writing, and seekable.
            leaves: those that are left.
            about: the metadata of this file.
            kind: of the book.
        """
        limit = self.settings.max_volume_size
        self._leaves = 0
        writer: BookWriter = kind.open(file, about, self.settings.size)
        try:
            for leaf in leaves:
                if limit is not None and self._leaves and writer.room_for(leaf) > limit:
                    return self._finish(writer, leaf)
                image = kind.image(leaf.data)
                self._converted += not image.is_own
                writer.add(leaf, image)
                self._leaves += 1
            return self._finish(writer, None)
        finally:
            writer.close()

    def check_book(self, file: IO[bytes], kind: BookFormat) -> None:
        """Read back the file of a book that was just written."""
        kind.check(file, self._leaves)
        if self.settings.max_volume_size is None:
            self._close_old()

    @staticmethod
    def _finish(writer: BookWriter, leaf: Leaf | None) -> Leaf | None:
        writer.finish()
        return leaf

    def end(self) -> None:
        """Close the old volume, which is about to be replaced."""
        self._close_old()

    # Notes

    def notes(self, *, is_book: bool = False) -> tuple[str, ...]:
        """Return notes on pages that were cut, and on other members that could not be taken."""
        notes = [*self._odd]
        if self._cut:
            notes.insert(0, f"{self._cut} page(s) cut for the screen")
        if self._converted:
            notes.append(f"{self._converted} unchanged page(s) converted to PNG, without loss")
        if is_book and (others := [each for each in self._others() if not is_comicinfo(each.name)]):
            notes.append(f"{len(others)} other file(s) left out: a book has no place for them")
        if self._left_out:
            more = ", ..." if len(self._left_out) > _MOST_NAMES else ""
            names = ", ".join(self._left_out[:_MOST_NAMES])
            notes.insert(0, f"{len(self._left_out)} unreadable member(s) left out: {names}{more}")
        return tuple(notes)

    # Members

    def _others(self) -> list[Member]:
        assert self.volume.contents is not None
        return [member for member in self.volume.contents.members if not member.is_page]

    def _names_and_members(self) -> list[tuple[str, Member]]:
        """Return the members with their names in the CBZ."""
        assert self.volume.contents is not None
        return [(self._name(member), member) for member in self.volume.contents.members]

    def _name(self, member: Member) -> str:
        page = self._page(member)
        if page is None or page.state == "done":
            return member.target or member.name
        # An unchanged page keeps its own suffix.
        assert member.target is not None
        return posixpath.splitext(member.target)[0] + posixpath.splitext(member.name)[1]

    def _page(self, member: Member) -> BoundPage | None:
        return self.pages.get(page_source(self.volume, member.name)) if member.is_page else None

    def _members(self) -> Iterator[tuple[str, bytes]]:
        lost: list[str] = []
        self._written.clear()
        self._left_out.clear()
        self._odd.clear()
        for name, member in self._names_and_members():
            if member.is_page:
                data = self._read_page(member)
                if data is None:
                    lost.append(page_source(self.volume, member.name))
                    continue
            else:
                data = self._read_other(member)
                if data is None:
                    self._left_out.append(member.name)
                    continue
            self._written.append(name)
            yield name, data
        if lost:
            raise PagesLostError(lost)

    def _cut_members(self) -> Iterator[tuple[str, bytes]]:
        """Yield the leaves of the pages in reading order, then the other members, which may describe the leaves."""
        assert self.volume.contents is not None
        self._written.clear()
        self._left_out.clear()
        self._odd.clear()
        about = self.about()
        ordered = reading_order(self.volume.contents.pages)
        names = {name for name, _ in self._names_and_members()}
        taken = {fold(name) for name in names}
        facts: dict[int, tuple[int, PageFacts]] = {}
        for leaf in self.leaves(about):
            name = self._name(ordered[leaf.number - 1])
            if leaf.part:
                stem, end = posixpath.splitext(name)
                name = free_name(f"{stem}_{leaf.part}", end, taken)
                taken.add(fold(name))
            fact = PageFacts(leaf.width, leaf.height, len(leaf.data))
            facts.setdefault(leaf.number - 1, (len(self._written), fact))
            self._written.append(name)
            yield name, leaf.data
        for member in self._others():
            data = self._read_other(member, facts)
            if data is None:
                self._left_out.append(member.name)
                continue
            self._written.append(member.name)
            yield member.name, data

    # Reading

    def _read_page(self, member: Member) -> bytes | None:
        """Return a page, finished or unchanged; None if it is missing or changed."""
        page = self._page(member)
        if page is None or page.state != "done":
            return self._read_original(member)
        with contextlib.suppress(PageError):
            data = self.outputs.read(page.output)
            if hashlib.sha256(data).hexdigest() == page.sha256:
                return data
        if self._old is None:
            return None
        assert self.volume.contents is not None
        number = reading_order(self.volume.contents.pages).index(member) + 1
        for data in self._old.candidates(member.target or "", number):
            if hashlib.sha256(data).hexdigest() == page.sha256:
                return data
        return None

    def _read_original(self, member: Member) -> bytes:
        """Return a source page, unchanged.

        Raises:
            PageError: it cannot be recovered; the reason names it.
        """
        source = self.volume.entry.source
        try:
            data = self.volumes.read(source, member.index)
        except PageError as error:
            if error.kind not in _UNREADABLE:
                raise
        else:
            # Rendered pages of a PDF are PPM, which readers do not show.
            return as_png(data) if extension_of(member.name) == "png" else data
        try:
            return self.volumes.salvage(source, member.index)
        except PageError as error:
            reason = f"{member.name} failed, and the original cannot be recovered either. {error.reason}"
            raise PageError(error.kind, reason) from None

    def _read_plain(self, member: Member) -> bytes | None:
        """Return a member that is not a page, unchanged; None if it is unreadable."""
        if member.content is not None:
            return member.content
        try:
            return self.volumes.read(self.volume.entry.source, member.index)
        except PageError as error:
            if error.kind not in _UNREADABLE:
                raise
            return None

    def _read_other(
        self, member: Member, leaves: Mapping[int, tuple[int, PageFacts]] | None = None
    ) -> bytes | None:
        """Return a member that is not a page; None if it is unreadable.

        Args:
            member: not a page.
            leaves: the place and the facts of the first leaf of each page, if pages were cut.
        """
        data = self._read_plain(member)
        if data is None or member.content is not None or not is_comicinfo(member.name):
            return data
        try:
            if leaves is None:
                return update_page_sizes(data, self._facts())
            count = max(leaves, default=-1) + 1
            places = [leaves[page][0] if page in leaves else None for page in range(count)]
            facts = [leaves[page][1] if page in leaves else None for page in range(count)]
            return update_page_sizes(data, facts, places)
        except OddComicInfoError as error:
            self._odd.append(f"{member.name} was copied unchanged, because {error.reason}")
            return data

    def _facts(self) -> list[PageFacts | None]:
        """Return the facts of all pages, in reading order, which is the order of their names."""
        facts: list[PageFacts | None] = []
        for _, member in sorted(self._names_and_members(), key=lambda named: natural_key(named[0])):
            page = self._page(member)
            if page is not None and page.state == "done":
                facts.append(PageFacts(page.width or 0, page.height or 0, page.size or 0))
            elif member.is_page:
                facts.append(self._facts_of_original(member))
        return facts

    def _facts_of_original(self, member: Member) -> PageFacts | None:
        data = self._read_original(member)
        try:
            header = read_header(data)
        except PageError:
            return None
        return PageFacts(header.width, header.height, len(data))


def with_first(leaf: Leaf, rest: Iterator[Leaf]) -> Iterator[Leaf]:
    """Return leaves with one before them."""
    return itertools.chain((leaf,), rest)
