"""The pages of an EPUB in the order in which it is read: that of its spine."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree as ET

from comic_upscale.errors import PageError
from comic_upscale.imaging.formats import IMAGE_EXTENSIONS, extension_of
from comic_upscale.library.comicinfo import ComicFacts

_LARGEST_TEXT = 4 << 20


@dataclass(frozen=True, slots=True)
class Book:
    """What a comic needs of an EPUB."""

    images: list[str]
    """Names of images in reading order, each once: those that the spine holds, or that its documents show."""
    facts: ComicFacts
    """What its package says of it."""


def read_book(names: Mapping[str, int], read: Callable[[int], bytes]) -> Book:
    """Find the images of an EPUB in reading order, and what it says of itself.

    Args:
        names: the place of each file in the archive, by its name.
        read: returns the bytes of a file by its place.

    Raises:
        PageError: ``"damaged"``: it says nowhere what its spine is. ``"encrypted"``: its pages are.
    """

    def text(name: str) -> bytes:
        if name not in names:
            raise _broken(f"{name} is missing")
        data = read(names[name])
        if len(data) > _LARGEST_TEXT:
            raise _broken(f"{name} is far too large")
        return data

    package = _package(text("META-INF/container.xml"))
    images: dict[str, None] = {}
    described = _parse(text(package))
    for document in _spine(described, posixpath.dirname(package)):
        if document not in names:
            continue
        shown = [document] if _is_image(document) else _shown(text(document), posixpath.dirname(document))
        images.update((image, None) for image in shown if image in names and _is_image(image))
    locked = _locked(text("META-INF/encryption.xml")) if "META-INF/encryption.xml" in names else set()
    if locked & images.keys():
        raise PageError(
            "encrypted", "The pages of this EPUB are encrypted: it can only be read by its shop's app."
        )
    return Book(list(images), _facts(described))


def _package(container: bytes) -> str:
    for element in _parse(container).iter():
        if _tag(element) == "rootfile" and (path := element.get("full-path")):
            return posixpath.normpath(path)
    raise _broken("META-INF/container.xml names no package")


def _facts(package: ET.Element) -> ComicFacts:
    found: dict[str, str] = {}
    right_to_left = False
    for element in package.iter():
        tag, words = _tag(element), " ".join((element.text or "").split())
        if tag in ("title", "language") and words:
            # The main title is the first one.
            found.setdefault(tag, words)
        elif tag == "spine":
            right_to_left = element.get("page-progression-direction") == "rtl"
    return ComicFacts(found.get("title", ""), found.get("language", ""), right_to_left)


def _spine(package: ET.Element, folder: str) -> list[str]:
    """The paths of the documents of the spine."""
    paths: dict[str, str] = {}
    order: list[str] = []
    for element in package.iter():
        if _tag(element) == "item":
            paths[element.get("id", "")] = _resolve(folder, element.get("href", ""))
        elif _tag(element) == "itemref":
            order.append(element.get("idref", ""))
    return [paths[name] for name in order if name in paths]


def _shown(document: bytes, folder: str) -> list[str]:
    """The paths of the images that a page of XHTML or SVG shows."""
    finder = _Images()
    finder.feed(document.decode("utf-8", "replace"))
    finder.close()
    return [_resolve(folder, source) for source in finder.sources]


class _Images(HTMLParser):
    """Collects what ``img`` and SVG's ``image`` point to; takes any text, be it broken."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take the address of an image."""
        wanted = {"img": ("src",), "image": ("xlink:href", "href")}.get(tag.rpartition(":")[2], ())
        found = dict(attrs)
        self.sources += [source for name in wanted if (source := found.get(name))][:1]


def _locked(encryption: bytes) -> set[str]:
    return {
        posixpath.normpath(unquote(element.get("URI", "")))
        for element in _parse(encryption).iter()
        if _tag(element) == "CipherReference"
    }


def _resolve(folder: str, address: str) -> str:
    try:
        parts = urlsplit(address)
    except ValueError:
        return ""
    if parts.scheme or parts.netloc:
        return ""
    return posixpath.normpath(posixpath.join(folder, unquote(parts.path)))


def _is_image(name: str) -> bool:
    return extension_of(name) in IMAGE_EXTENSIONS


def _parse(data: bytes) -> ET.Element:
    # Expat itself bounds the growth of entities, and fetches nothing.
    try:
        return ET.fromstring(data)
    except (ET.ParseError, ValueError, LookupError) as error:
        raise _broken(str(error)) from None


def _tag(element: ET.Element) -> str:
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def _broken(what: str) -> PageError:
    return PageError("damaged", f"The EPUB is damaged ({what}): copy or download it again.")
