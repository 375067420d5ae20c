"""What a book says about itself, from the ``ComicInfo.xml`` of its volume."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from xml.etree import ElementTree as ET

from comic_upscale.library.comicinfo import OddComicInfoError, check_limits

UNKNOWN_LANGUAGE = "und"
"""BCP 47's word for a language that is not known."""

_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""Characters that XML cannot contain."""
_LONGEST = 4000
"""Characters of a text."""

_ROLES = (
    ("Writer", "aut"), ("Penciller", "art"), ("Inker", "art"), ("Colorist", "clr"), ("Letterer", "ill"),
    ("CoverArtist", "cov"), ("Editor", "edt"), ("Translator", "trl"),
)  # fmt: skip
"""Elements of ComicInfo and MARC's codes for what these people do."""


@dataclass(frozen=True, slots=True)
class Bookmark:
    """A place in a book."""

    page: int
    """Counted from 0."""
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """The metadata of a book."""

    title: str
    """Never empty."""
    language: str = UNKNOWN_LANGUAGE
    """By BCP 47."""
    right_to_left: bool = False
    """Whether it is read from right to left."""
    series: str = ""
    """Empty if there is none."""
    number: str = ""
    """Its number in the series."""
    people: tuple[tuple[str, str], ...] = ()
    """(name, MARC code of the first role) of each, the writers first, and each name once."""
    publisher: str = ""
    description: str = ""
    subjects: tuple[str, ...] = ()
    date: str = ""
    """``2001``, ``2001-02`` or ``2001-02-03``."""
    bookmarks: tuple[Bookmark, ...] = ()
    """In the order of the pages."""

    def in_part(self, part: int) -> About:
        """Return the metadata of one of several files of the book, the first of which is 1."""
        return replace(self, title=f"{self.title} (part {part})") if part > 1 else self


def read_about(comicinfo: bytes | None, name: str, *, right_to_left: bool) -> About:
    """Return the metadata of a volume.

    Args:
        comicinfo: its ``ComicInfo.xml``; None if it has none. A file that is not such XML counts as none.
        name: of the volume, which is its title if it has no other.
        right_to_left: whether it is read from right to left, whatever the file says.
    """
    plain = About(title=clean(name) or "Untitled", right_to_left=right_to_left)
    if comicinfo is None:
        return plain
    try:
        check_limits(comicinfo)
        root = ET.fromstring(comicinfo)
    except (OddComicInfoError, ET.ParseError, ValueError, LookupError):
        return plain
    texts: dict[str, str] = {}
    for element in root:
        texts.setdefault(element.tag.rpartition("}")[2], clean(element.text or ""))

    def text(key: str) -> str:
        return texts.get(key, "")

    people: dict[str, str] = {}
    for key, role in _ROLES:
        for person in _split(text(key)):
            people.setdefault(person, role)
    number = text("Number")
    named = text("Title") or " ".join(filter(None, (text("Series"), number))) or plain.title
    language = text("LanguageISO")
    return About(
        title=named,
        language=language if _LANGUAGE.fullmatch(language) else UNKNOWN_LANGUAGE,
        right_to_left=right_to_left or text("Manga").casefold() == "yesandrighttoleft",
        series=text("Series"),
        number=number,
        people=tuple(people.items()),
        publisher=text("Publisher"),
        description=text("Summary"),
        subjects=tuple(_split(text("Genre"))),
        date=_date(text("Year"), text("Month"), text("Day")),
        bookmarks=_bookmarks(root),
    )


def clean(text: str) -> str:
    """Return a text on one line, without characters that XML cannot contain."""
    return " ".join(_FORBIDDEN.sub("", text).split())[:_LONGEST]


def _split(text: str) -> list[str]:
    return [*dict.fromkeys(filter(None, (each.strip() for each in text.split(","))))]


def _date(year: str, month: str, day: str) -> str:
    if not (year.isascii() and year.isdecimal() and len(year) == 4):
        return ""
    parts = [year]
    for each, most in ((month, 12), (day, 31)):
        if not (each.isascii() and each.isdecimal() and len(each) < 3 and 1 <= int(each) <= most):
            break
        parts.append(f"{int(each):02}")
    return "-".join(parts)


def _bookmarks(root: ET.Element) -> tuple[Bookmark, ...]:
    found = {}
    for page in root.findall("./{*}Pages/{*}Page"):
        image, title = page.get("Image", ""), clean(page.get("Bookmark", ""))
        if title and image.isascii() and image.isdecimal() and len(image) < 7:
            found[int(image)] = Bookmark(int(image), title)
    return tuple(found[image] for image in sorted(found))
