"""What travels through a job for a volume: an archive by its name and by its directory alone."""

from __future__ import annotations

from dataclasses import dataclass

from comic_upscale.library.page import Page


@dataclass(frozen=True, slots=True)
class Member:
    """One file inside a volume, known by the volume's directory; nothing of it has been read."""

    index: int
    """Its place in the volume's directory: what reading it asks for."""
    name: str
    """Safe relative POSIX path; unique within the volume, the source's own name where that is possible."""
    size: int
    """Bytes unpacked, as the directory says; 0 where it does not."""
    target: str | None
    """For a page: the POSIX path that its output has in the new volume. None for any other file, which is
    copied as it is."""
    content: bytes | None = None
    """Of a file that is not in the source but made of what that says; its ``index`` is then -1."""

    @property
    def is_page(self) -> bool:
        """Whether this is an image."""
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
    """What is in a volume."""

    members: tuple[Member, ...]
    """In the order of the source; of an EPUB, the pages in the order of its spine, and a ``ComicInfo.xml``."""
    in_order: bool
    """Whether reading goes through the file from its beginning, so that pages are best asked for in the
    order in which they stand."""
    notes: tuple[str, ...] = ()
    """What was left out, and other things to know, a sentence each."""
    comment: bytes = b""
    """Of a ZIP as a whole, where ComicBookLover and others keep what they know of the comic."""
    nested: tuple[Nested, ...] = ()
    """Archives inside that are volumes of their own. They are not among the members."""

    @property
    def pages(self) -> tuple[Member, ...]:
        """The images among the members."""
        return tuple(member for member in self.members if member.is_page)


@dataclass(frozen=True, slots=True)
class Volume:
    """One archive of a job."""

    entry: Page
    """The archive as a file; ``entry.source`` is its key. ``entry.output`` is where the new volume goes:
    empty where its pages go into a folder instead. For an archive inside another archive, ``entry.path`` is the
    outermost one, and ``entry.member`` is its place inside."""
    contents: Contents | None
    """None where it could not be opened."""
    failure: tuple[str, str] | None = None
    """(kind, reason) of a volume that could not be opened."""
