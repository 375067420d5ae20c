"""The pages of an EPUB in the order in which it is read: that of its spine."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree as ET

from comic_upscale.errors import PageError
from comic_upscale.pages.formats import IMAGE_EXTENSIONS, extension_of

_LARGEST_TEXT = 4 << 20


def spine_images(names: Mapping[str, int], read: Callable[[int], bytes]) -> list[str]:
    """Find the images of an EPUB in reading order.

    Args:
        names: the place of each file in the archive, by its name.
        read: returns the bytes of a file by its place.

    Returns:
        Names of images, each once: those that the spine holds, or that its documents show.

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
    for document in _spine(text(package), posixpath.dirname(package)):
        if document not in names:
            continue
        shown = [document] if _is_image(document) else _shown(text(document), posixpath.dirname(document))
        images.update((image, None) for image in shown if image in names and _is_image(image))
    locked = _locked(text("META-INF/encryption.xml")) if "META-INF/encryption.xml" in names else set()
    if locked & images.keys():
        raise PageError(
            "encrypted", "The pages of this EPUB are encrypted: it can only be read by its shop's app."
        )
    return list(images)


def _package(container: bytes) -> str:
    for element in _parse(container).iter():
        if _tag(element) == "rootfile" and (path := element.get("full-path")):
            return posixpath.normpath(path)
    raise _broken("META-INF/container.xml names no package")


def _spine(package: bytes, folder: str) -> list[str]:
    """The paths of the documents of the spine."""
    paths: dict[str, str] = {}
    order: list[str] = []
    for element in _parse(package).iter():
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
