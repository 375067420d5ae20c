"""Update the page sizes in a ``ComicInfo.xml``, or write one from other metadata of a volume."""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from xml.etree import ElementTree as ET
from xml.parsers import expat

NAME = "ComicInfo.xml"
"""The usual name of the file. Programs differ in its case."""

_XSI = "http://www.w3.org/2001/XMLSchema-instance"
_LARGEST = 8 << 20
"""The largest file, in bytes. 20,000 pages with every attribute need half of this."""
_DEEPEST, _MOST_ELEMENTS = 50, 200_000


class OddComicInfoError(Exception):
    """A ``ComicInfo.xml`` exceeds the limits and is copied unchanged.

    Args:
        reason: a clause such as ``"it declares entities"``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class PageFacts:
    """The facts about a page in a ``ComicInfo.xml`` that upscaling changes."""

    width: int
    """Pixels."""
    height: int
    """Pixels."""
    size: int
    """Bytes of its file."""


@dataclass(frozen=True, slots=True)
class ComicFacts:
    """The metadata of a volume without a ``ComicInfo.xml``."""

    title: str
    """Empty if it has none."""
    language: str
    """By ISO 639 or BCP 47; empty if unknown."""
    right_to_left: bool
    """Whether it is read from right to left."""


def written(facts: ComicFacts) -> bytes | None:
    """Return a ``ComicInfo.xml`` with the known facts; None if there are none."""
    root = ET.Element("ComicInfo")
    # In the order of the schema.
    for name, value in (
        ("Title", facts.title),
        ("LanguageISO", facts.language),
        ("Manga", "YesAndRightToLeft" if facts.right_to_left else ""),
    ):
        if value:
            ET.SubElement(root, name).text = value
    if root.find("Title") is None and root.find("Manga") is None:
        return None
    return _as_file(root)


def is_comicinfo(name: str) -> bool:
    """Return whether a member is a ``ComicInfo.xml``, in any folder."""
    return posixpath.basename(name).lower() == NAME.lower()


def update_page_sizes(
    xml: bytes, pages: Sequence[PageFacts | None], places: Sequence[int | None] | None = None
) -> bytes:
    """Write the sizes of pages into a ``ComicInfo.xml``.

    Only pages that exist and are listed in it change. Everything else stays, including comments. A file without
    a list of pages, or that is not XML, is returned unchanged.

    Args:
        xml: the file.
        pages: in reading order; ``Page@Image`` counts them from 0. None leaves the facts about a page unchanged.
        places: the new numbers of the pages, if there are other pages between them now; None for the same ones.

    Returns:
        The file, as UTF-8 if anything was changed.

    Raises:
        OddComicInfoError: it is too large, nested too deeply, or declares entities.
    """
    check_limits(xml)
    # Otherwise ElementTree would name it ns0 in a file that uses it.
    ET.register_namespace("xsi", _XSI)
    try:
        parser = ET.XMLParser(target=ET.TreeBuilder(insert_comments=True))
        root = ET.fromstring(xml, parser)
    except (ET.ParseError, ValueError, LookupError):
        return xml
    listed = root.findall("./{*}Pages/{*}Page")
    if not listed:
        return xml
    _name_plainly(root)
    for page in listed:
        number = page.get("Image", "")
        if not (number.isascii() and number.isdecimal() and len(number) < 7 and int(number) < len(pages)):
            continue
        facts = pages[int(number)]
        if facts is None:
            continue
        if places is not None and (place := places[int(number)]) is not None:
            page.set("Image", str(place))
        page.set("ImageSize", str(facts.size))
        page.set("ImageWidth", str(facts.width))
        page.set("ImageHeight", str(facts.height))
    return _as_file(root)


def check_limits(xml: bytes) -> None:
    """Check the limits of a ``ComicInfo.xml`` before a tree is built.

    Raises:
        OddComicInfoError: the file exceeds one of them.
    """
    if len(xml) > _LARGEST:
        raise OddComicInfoError(f"it has {len(xml):,} bytes")
    depth = count = 0

    def start(_name: str, _attributes: object) -> None:
        nonlocal depth, count
        depth, count = depth + 1, count + 1
        if depth > _DEEPEST:
            raise OddComicInfoError("its elements are nested too deeply")
        if count > _MOST_ELEMENTS:
            raise OddComicInfoError(f"it has more than {_MOST_ELEMENTS:,} elements")

    def end(_name: str) -> None:
        nonlocal depth
        depth -= 1

    def entity(*_: object) -> None:
        raise OddComicInfoError("it declares entities")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler, parser.EntityDeclHandler = start, end, entity
    # The caller handles files that are not XML.
    with contextlib.suppress(expat.ExpatError, ValueError, LookupError):
        parser.Parse(xml, True)


def _as_file(root: ET.Element) -> bytes:
    buffer = BytesIO()
    ET.ElementTree(root).write(buffer, encoding="utf-8", xml_declaration=True)
    return buffer.getvalue() + b"\n"


def _name_plainly(root: ET.Element) -> None:
    """Make the root's namespace, if any, the default. Otherwise ElementTree would name it ns0."""
    if not root.tag.startswith("{"):
        return
    namespace = root.tag[1:].partition("}")[0]
    for element in root.iter():
        # The tag of a comment is a function.
        if isinstance(element.tag, str):
            element.tag = element.tag.removeprefix(f"{{{namespace}}}")
    root.set("xmlns", namespace)
