"""A volume within a job: an archive, described by its name and its directory."""

from __future__ import annotations

from dataclasses import dataclass

from comic_upscale.library.page import Page


@dataclass(frozen=True, slots=True)
class Member:
    """One file in a volume, known from the volume's directory. Its content has not been read."""

    index: int
    """Its index in the volume's directory, by which it is read."""
    name: str
    """Safe relative POSIX path, unique within the volume. It is the source's own name if possible."""
    size: int
    """Unpacked bytes as declared by the directory; 0 if unknown."""
    target: str | None
    """The POSIX path of a page's output in the new volume. None for any other file, which is copied unchanged."""
    content: bytes | None = None
    """The content of a file that is not in the source but built from its metadata; its ``index`` is -1."""

    @property
    def is_page(self) -> bool:
        """Return whether this is an image."""
        return self.target is not None


@dataclass(frozen=True, slots=True)
class Nested:
    """An archive inside another archive; it is a volume of its own."""

    index: int
    """Its place in the directory of the archive around it."""
    name: str
    """Safe relative POSIX path, unique there."""
    size: int
    """Bytes unpacked, as the directory says."""


@dataclass(frozen=True, slots=True)
class Contents:
    """The content of a volume."""

    members: tuple[Member, ...]
    """In the order of the source. For an EPUB, the pages in the order of its spine, and a ``ComicInfo.xml``."""
    in_order: bool
    """Whether reading always starts at the beginning of the file, so that pages should be read in their order."""
    notes: tuple[str, ...] = ()
    """Notes about parts that were left out and other facts, one sentence each."""
    comment: bytes = b""
    """The comment of a ZIP, in which ComicBookLover and other programs store metadata of the comic."""
    nested: tuple[Nested, ...] = ()
    """Archives inside that are volumes of their own. They are not among the members."""

    @property
    def pages(self) -> tuple[Member, ...]:
        """Return the members that are images."""
        return tuple(member for member in self.members if member.is_page)


@dataclass(frozen=True, slots=True)
class Volume:
    """One archive of a job."""

    entry: Page
    """The archive as a file. ``entry.source`` is its key. ``entry.output`` is the path of the new volume, or empty if
    the pages go into a folder. For an archive inside another archive, ``entry.path`` is the outermost one, and
    ``entry.member`` is its position there."""
    contents: Contents | None
    """None if it could not be opened."""
    failure: tuple[str, str] | None = None
    """(kind, reason) of a volume that could not be opened."""
