"""Bring the page sizes of a ``ComicInfo.xml`` up to date."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from xml.etree import ElementTree as ET

NAME = "comicinfo.xml"
"""The file's name, in lower case: it is written in several ways."""

_XSI = "http://www.w3.org/2001/XMLSchema-instance"


@dataclass(frozen=True, slots=True)
class PageFacts:
    """What a ``ComicInfo.xml`` says of a page that upscaling changes."""

    width: int
    """Pixels."""
    height: int
    """Pixels."""
    size: int
    """Bytes of its file."""


def is_comicinfo(name: str) -> bool:
    """Whether a member is a ``ComicInfo.xml``, in whatever folder."""
    return posixpath.basename(name).lower() == NAME


def updated(xml: bytes, pages: Sequence[PageFacts | None]) -> bytes:
    """Write the sizes of pages into a ``ComicInfo.xml``.

    Only pages that it lists and that are there are touched; all else stays, comments too. A file without
    a list of pages, or that is no XML, comes back as it is.

    Args:
        xml: the file.
        pages: in the order in which a reader shows them; ``Page@Image`` counts them from 0. None leaves what stands
            there of a page.

    Returns:
        The file, as UTF-8 where anything was changed.
    """
    # Else ElementTree would call it ns0 where a file uses it.
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
        page.set("ImageSize", str(facts.size))
        page.set("ImageWidth", str(facts.width))
        page.set("ImageHeight", str(facts.height))
    buffer = BytesIO()
    ET.ElementTree(root).write(buffer, encoding="utf-8", xml_declaration=True)
    return buffer.getvalue() + b"\n"


def _name_plainly(root: ET.Element) -> None:
    """Make the root's namespace, where it has one, the default: ElementTree would call it ns0."""
    if not root.tag.startswith("{"):
        return
    namespace = root.tag[1:].partition("}")[0]
    for element in root.iter():
        # A comment has a function for its tag.
        if isinstance(element.tag, str):
            element.tag = element.tag.removeprefix(f"{{{namespace}}}")
    root.set("xmlns", namespace)
