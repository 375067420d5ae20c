"""The pages of an EPUB in reading order, which is the order of its spine."""

from __future__ import annotations

import io
import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree as ET

from PIL import Image, ImageChops

from comic_upscale.errors import PageError
from comic_upscale.imaging.decode import read_header
from comic_upscale.imaging.formats import IMAGE_EXTENSIONS, extension_of, recognise
from comic_upscale.imaging.reader import open_image, page_errors
from comic_upscale.library.archives import MAX_MEMBER_BYTES
from comic_upscale.library.comicinfo import ComicFacts
from comic_upscale.library.epub_documents import (
    Document,
    DocumentReader,
    Shown,
    address_in,
    decode_data_address,
    decode_text,
)
from comic_upscale.library.markup import Budget, End, Start, Text, tokens
from comic_upscale.library.member_names import safe_name
from comic_upscale.library.sorting import fold

_LARGEST_PACKAGE = 4 << 20
_LARGEST_DOCUMENT = 64 << 20
_MOST_TEXT = 256 << 20
"""The most bytes of all documents and style sheets of a book."""
_DEEPEST = 3
"""The deepest nesting of documents in documents."""
_LITTLE_TEXT = 100
"""The most characters that a page may show beside its image, such as its number."""
_MOST_NAMES = 3
_LOOKUP, _FILE = 4, 1000
"""Work, as a `Budget` counts it, of finding a file by its address, and of reading one."""
_SMALL, _BLOCK, _ALIKE = 64, 8, 16
"""For comparing a cover with the first page: the side of the thumbnails and of blocks in them, in pixels, and the
largest difference of a block, in gray levels."""
_AS_WIDE = 0.05
"""The largest relative difference of their aspect ratios."""
_EXTENSIONS = {
    "PNG": "png", "JPEG": "jpg", "GIF": "gif", "BMP": "bmp", "TIFF": "tif", "JPEG2000": "jp2", "WEBP": "webp",
    "AVIF": "avif", "HEIC": "heic", "JPEG XL": "jxl", "PPM": "ppm", "QOI": "qoi", "ICO": "ico",
}  # fmt: skip
_PACKAGE_NAME = "META-INF/container.xml"
_PACKAGE_TYPE = "application/oebps-package+xml"
EMBEDDED = 1 << 40
"""Added to the number of an image that is embedded in a document. No archive has this many members."""


@dataclass(frozen=True, slots=True)
class BookPage:
    """A page of a book."""

    place: int
    """Index of its file in the archive, or from `EMBEDDED` on for an image embedded in a document."""
    name: str
    """The name of its file, without folders and with an image's extension."""


@dataclass(frozen=True, slots=True)
class Book:
    """The content of an EPUB that a comic needs."""

    pages: list[BookPage]
    """In reading order. An image shown on two pages is listed twice."""
    facts: ComicFacts
    """The metadata in its package document."""
    embedded: list[bytes]
    """Images embedded in documents, in the order of their numbers."""
    notes: tuple[str, ...]
    """What was left out or added, one sentence each."""


def read_book(
    names: Mapping[str, int], sizes: Sequence[int], read: Callable[[int], bytes], *, max_pixels: int
) -> Book:
    """Find the pages of an EPUB in reading order, and its metadata.

    Args:
        names: the index of each file in the archive, by its name.
        sizes: the declared bytes of each file, by its index.
        read: returns the bytes of a file by its index.
        max_pixels: of images that are decoded: a cover, and images behind other images.

    Raises:
        PageError: ``"damaged"``: it has no readable package. ``"encrypted"``: its pages are encrypted.
            ``"bomb"``: its documents need too much work.
    """
    return _BookReader(names, sizes, read, max_pixels).read()


@dataclass(frozen=True, slots=True)
class _Item:
    """An item of the manifest."""

    paths: tuple[str, ...]
    fallback: str
    """The id of the item that a reader shows if it cannot show this one."""


@dataclass(slots=True)
class _Package:
    """The content of the package document."""

    folder: str
    items: dict[str, _Item] = field(default_factory=dict)
    spine: list[str] = field(default_factory=list)
    """Ids."""
    cover_ids: list[str] = field(default_factory=list)
    cover_paths: list[tuple[str, ...]] = field(default_factory=list)
    title: str = ""
    language: str = ""
    direction: str = ""
    writing_mode: str = ""

    @property
    def facts(self) -> ComicFacts:
        """Return the facts for a ``ComicInfo.xml``."""
        by_mode = self.direction not in ("ltr", "rtl") and self.writing_mode.endswith("-rl")
        return ComicFacts(self.title, self.language, self.direction == "rtl" or by_mode)


@dataclass(frozen=True, slots=True)
class _Image:
    """An image that exists."""

    page: BookPage
    is_background: bool
    key: object
    """Equal for equal images."""


@dataclass(slots=True)
class _SpineDocument:
    """A document of the spine, with its existing images."""

    images: list[_Image] = field(default_factory=list)
    characters: int = 0
    missing: list[str] = field(default_factory=list)
    """The addresses of missing images."""
    is_there: bool = True


class _BookReader:
    def __init__(
        self, names: Mapping[str, int], sizes: Sequence[int], read: Callable[[int], bytes], max_pixels: int
    ) -> None:
        self._names, self._sizes, self._read, self._max_pixels = names, sizes, read, max_pixels
        self._alike: dict[str, str] = {}
        for name in names:
            self._alike.setdefault(fold(name), name)
        self._budget = Budget()
        self._left = _MOST_TEXT
        self._documents = DocumentReader(self._load, self._budget)
        self._found: dict[str, _SpineDocument] = {}
        self._extensions: dict[str, str] = {}
        self._embedded: dict[bytes, _Image] = {}
        self._package = _Package("")

    def read(self) -> Book:
        package = self._package = self._read_package()
        documents = [self._spine_document(name) for name in package.spine]
        self._check_locks(package)
        pages, notes = self._pages(documents)
        if pages:
            notes += self._add_cover(package, pages)
        return Book(pages, package.facts, list(self._embedded), tuple(notes))

    # ---- files

    def _find(self, paths: Iterable[str]) -> str | None:
        """Return the name of the first of these files that exists, allowing for other normalisation or case."""
        # Files of the archive are known by safe names.
        safe = [name for path in paths for name in (path, safe_name(path)) if name]
        for name in safe:
            if name in self._names:
                return name
        return next((self._alike[key] for name in safe if (key := fold(name)) in self._alike), None)

    def _text(self, name: str, largest: int) -> str:
        place = self._names[name]
        self._left -= self._sizes[place]
        if self._sizes[place] > largest or self._left < 0:
            raise _damage_error(f"{name} is far too large")
        data = self._read(place)
        if len(data) > largest:
            raise _damage_error(f"{name} is far too large")
        return decode_text(data)

    def _load(self, paths: Sequence[str]) -> tuple[str, str] | None:
        name = self._find(paths)
        return None if name is None else (self._text(name, _LARGEST_DOCUMENT), name)

    def _extension(self, name: str) -> str:
        """Return the extension of an image by its name or else by its first bytes; empty if it is not an image."""
        own = extension_of(name)
        if own in IMAGE_EXTENSIONS:
            return own
        if own in ("xhtml", "html", "htm", "xml", "svg", "css", "ncx", "opf", "js"):
            return ""
        if name not in self._extensions:
            self._budget.spend(_FILE)
            try:
                start = self._read(self._names[name])[:64]
            except PageError:
                start = b""
            self._extensions[name] = _EXTENSIONS.get(recognise(start) or "", "")
        return self._extensions[name]

    # ---- the package

    def _read_package(self) -> _Package:
        container = self._find([_PACKAGE_NAME])
        problem = f"{_PACKAGE_NAME} is missing"
        paths: list[str] = []
        if container is not None:
            try:
                paths = self._package_paths(container)
                problem = f"{paths[0]} is missing" if paths else f"{_PACKAGE_NAME} names no package"
            except PageError as error:
                if error.kind != "damaged":
                    raise
                problem = f"{_PACKAGE_NAME} cannot be read"
        found = next((name for path in paths if (name := self._find([path])) is not None), None)
        if found is None:
            # Readers then take whichever package there is.
            packages = [name for name in self._names if extension_of(name) == "opf"]
            if len(packages) != 1:
                raise _damage_error(problem)
            found = packages[0]
        return self._describe(self._text(found, _LARGEST_PACKAGE), posixpath.dirname(found))

    def _package_paths(self, container: str) -> list[str]:
        """Return the paths of the packages. A book may also contain itself in other formats, such as PDF."""
        paths = []
        for element in self._elements(self._text(container, _LARGEST_PACKAGE)):
            path, kind = element.attributes.get("full-path", ""), element.attributes.get("media-type", "")
            if element.name == "rootfile" and path and (not kind or kind == _PACKAGE_TYPE):
                paths.append(posixpath.normpath(path))
        return paths

    def _describe(self, text: str, folder: str) -> _Package:
        package = _Package(folder)
        for element in self._elements(text):
            found, words = element.attributes, " ".join(element.text.split())
            if element.name == "item":
                self._take_item(package, found)
            elif element.name == "itemref":
                package.spine.append(found.get("idref", ""))
            elif element.name == "title":
                # The main title is the first one.
                package.title = package.title or words
            elif element.name == "language":
                package.language = package.language or words
            elif element.name == "spine":
                package.direction = found.get("page-progression-direction", "")
            elif element.name == "reference" and found.get("type", "").lower() == "cover":
                package.cover_paths.append(address_in(folder, found.get("href", "")))
            elif element.name == "meta":
                self._take_meta(package, found)
        return package

    def _take_item(self, package: _Package, found: Mapping[str, str]) -> None:
        name = found.get("id", "")
        package.items[name] = _Item(
            address_in(package.folder, found.get("href", "")), found.get("fallback", "")
        )
        if "cover-image" in found.get("properties", "").split():
            package.cover_ids.insert(0, name)

    def _take_meta(self, package: _Package, found: Mapping[str, str]) -> None:
        name, content = found.get("name", "").lower(), found.get("content", "")
        if name == "cover" and content:
            package.cover_ids.append(content)
            package.cover_paths.append(address_in(package.folder, content))
        elif name == "primary-writing-mode":
            package.writing_mode = content.lower()

    def _elements(self, text: str) -> list[_Flat]:
        """Return the elements of an XML file in order. A file that is not well-formed is read leniently."""
        # Entities are not expanded: a few lines of them can expand to any size.
        if "<!ENTITY" not in text:
            try:
                return [
                    _Flat(_tag(one), dict(one.attrib), one.text or "") for one in ET.fromstring(text).iter()
                ]
            except (ET.ParseError, ValueError, LookupError) as error:
                problem = str(error)
        else:
            problem = "it declares entities"
        found: list[_Flat] = []
        closed: set[str] = set()
        for token in tokens(text, self._budget):
            if isinstance(token, Start):
                found.append(_Flat(token.name, token.attributes, ""))
            elif isinstance(token, End):
                closed.add(token.name)
            elif isinstance(token, Text) and found:
                found[-1].text += token.text
        if not closed & {"package", "container", "encryption"}:
            raise _damage_error(problem)
        return found

    def _check_locks(self, package: _Package) -> None:
        name = self._find(["META-INF/encryption.xml"])
        if name is None:
            return
        locked = {
            self._find(
                [
                    posixpath.normpath(unquote(element.attributes.get("URI", ""))),
                    element.attributes.get("URI", ""),
                ]
            )
            for element in self._elements(self._text(name, _LARGEST_PACKAGE))
            if element.name.lower() == "cipherreference"
        }
        shown = {self._find(item.paths) for name in package.spine if (item := package.items.get(name))}
        files = {image.key for document in self._found.values() for image in document.images}
        if (locked - {None}) & (shown | files):
            raise PageError(
                "encrypted", "The pages of this EPUB are encrypted: it can only be read by its shop's app"
            )

    # ---- the spine

    def _spine_document(self, name: str) -> _SpineDocument:
        """Read a document of the spine, or the first of its fallbacks that shows an image."""
        seen: set[str] = set()
        first: _SpineDocument | None = None
        while name not in seen and (item := self._package.items.get(name)) is not None:
            seen.add(name)
            found = self._document(item.paths)
            if found.images:
                return found
            first = first or found
            name = item.fallback
        return first or _SpineDocument(is_there=False)

    def _document(self, paths: Sequence[str], depth: int = 0) -> _SpineDocument:
        """Read a document, or an image in its place. Each is read only once."""
        name = self._find(paths)
        if name is None:
            return _SpineDocument(is_there=False)
        if name not in self._found:
            # Set before reading, because a document may show itself.
            self._found[name] = _SpineDocument()
            self._found[name] = self._read_document(name, depth)
        return self._found[name]

    def _read_document(self, name: str, depth: int) -> _SpineDocument:
        if (extension := self._extension(name)) != "":
            return _SpineDocument([self._file(name, extension, is_background=False)])
        return self._resolve(self._documents.read(self._text(name, _LARGEST_DOCUMENT), name), depth)

    def _resolve(self, document: Document, depth: int) -> _SpineDocument:
        """Resolve the images of a document, each once."""
        found = _SpineDocument(characters=document.characters)
        once: dict[object, _Image] = {}
        for shown in document.images:
            images, is_there = self._images(shown, depth)
            if not is_there:
                found.missing.append(shown.addresses[0][:100])
            for image in images:
                once.setdefault(image.key, image)
        found.images = list(once.values())
        return found

    def _images(self, shown: Shown, depth: int) -> tuple[list[_Image], bool]:
        """Resolve an image of a document. Also return whether any of its addresses exists."""
        is_there = False
        for address in shown.addresses:
            self._budget.spend(_LOOKUP)
            if address[:5].lower() == "data:":
                images = self._decode_embedded(address, shown, depth)
                is_there = True
            else:
                name = self._find(address_in(shown.folder, address))
                if name is None:
                    continue
                is_there = True
                images = self._image_of_file(name, shown, depth)
            if images:
                return images, True
        return [], is_there

    def _image_of_file(self, name: str, shown: Shown, depth: int) -> list[_Image]:
        if (extension := self._extension(name)) != "":
            return [self._file(name, extension, is_background=shown.is_background)]
        if depth >= _DEEPEST or extension_of(name) not in ("svg", "xhtml", "html", "htm", "xml"):
            return []
        inside = self._document([name], depth + 1)
        return [_Image(image.page, shown.is_background, image.key) for image in inside.images]

    def _decode_embedded(self, address: str, shown: Shown, depth: int) -> list[_Image]:
        """Decode an image that is embedded in a document."""
        kind, data = decode_data_address(address)
        if kind.startswith(("image/svg", "text/")) and depth < _DEEPEST:
            document = self._documents.read(decode_text(data), posixpath.join(shown.folder, "x"))
            inside = self._resolve(document, depth + 1)
            return [_Image(image.page, shown.is_background, image.key) for image in inside.images]
        extension = _EXTENSIONS.get(recognise(data[:64]) or "", "")
        if not extension or len(data) > MAX_MEMBER_BYTES:
            return []
        if data not in self._embedded:
            number = len(self._embedded)
            page = BookPage(EMBEDDED + number, f"embedded_{number + 1:04d}.{extension}")
            self._embedded[data] = _Image(page, False, page.place)
        known = self._embedded[data]
        return [_Image(known.page, shown.is_background, known.key)]

    def _file(self, name: str, extension: str, *, is_background: bool) -> _Image:
        short = posixpath.basename(name)
        if extension_of(short) != extension:
            short = f"{posixpath.splitext(short)[0] or short}.{extension}"
        return _Image(BookPage(self._names[name], short), is_background, name)

    # ---- the pages

    def _pages(self, documents: Sequence[_SpineDocument]) -> tuple[list[BookPage], list[str]]:
        behind = Counter(
            key
            for document in documents
            for key in {image.key for image in document.images if image.is_background}
        )
        pages: list[BookPage] = []
        seen: set[object] = set()
        without = left_behind = 0
        missing: dict[str, None] = {}
        for document in documents:
            shown = self._front(document, behind)
            left_behind += len(document.images) - len(shown)
            without += not document.images and not document.missing and document.is_there
            missing.update(dict.fromkeys(document.missing))
            # An image alone on a page is a page each time, such as a blank page. Beside others it may be an ornament.
            alone = len(shown) == 1 and document.characters <= _LITTLE_TEXT
            pages += [image.page for image in shown if alone or image.key not in seen]
            seen |= {image.key for image in shown}
        notes = []
        if without:
            notes.append(f"{without} document(s) in the spine show no image and were left out")
        if gone := sum(not document.is_there for document in documents):
            notes.append(f"{gone} document(s) in the spine are missing from the EPUB")
        if missing:
            more = ", ..." if len(missing) > _MOST_NAMES else ""
            some = ", ".join(list(missing)[:_MOST_NAMES])
            notes.append(
                f"{len(missing)} image(s) used by its documents are missing from the EPUB: {some}{more}"
            )
        if left_behind:
            notes.append(f"{left_behind} background(s) behind other images were left out")
        return pages, notes

    def _front(self, document: _SpineDocument, behind: Counter[object]) -> list[_Image]:
        """Return the images of a document, except plain backgrounds behind other images."""
        if len({image.is_background for image in document.images}) < 2:
            return document.images
        largest = max(self._area(image) for image in document.images if not image.is_background)
        return [
            image
            for image in document.images
            if not image.is_background or (behind[image.key] == 1 and 2 * self._area(image) >= largest > 0)
        ]

    def _area(self, image: _Image) -> int:
        """Return the pixels of an image, or 0 if it cannot be read."""
        self._budget.spend(_FILE)
        try:
            header = read_header(self._bytes(image.page))
        except PageError:
            return 0
        return header.width * header.height

    def _bytes(self, page: BookPage) -> bytes:
        return (
            self._read(page.place) if page.place < EMBEDDED else list(self._embedded)[page.place - EMBEDDED]
        )

    def _add_cover(self, package: _Package, pages: list[BookPage]) -> list[str]:
        """Add a cover that is not in the spine as the first page, and return a note."""
        cover = self._cover(package)
        if cover is None or cover.page in pages:
            return []
        if self._look_alike(cover.page, pages[0]):
            return ["the cover was left out, because the first page is the same image"]
        pages.insert(0, cover.page)
        return ["the cover is not in the spine and was added as the first page"]

    def _cover(self, package: _Package) -> _Image | None:
        named = [package.items[name].paths for name in package.cover_ids if name in package.items]
        for paths in (*named, *package.cover_paths):
            images = self._document(paths).images
            if images:
                return images[0]
        return None

    def _look_alike(self, one: BookPage, other: BookPage) -> bool:
        try:
            pictures = [self._small(self._bytes(page)) for page in (one, other)]
        except PageError:
            return False
        if self._bytes(one) == self._bytes(other):
            return True
        (first, wide), (second, other_wide) = pictures
        worst: Any = ImageChops.difference(first, second).getextrema()[1]
        return bool(abs(wide - other_wide) <= _AS_WIDE * wide and worst <= _ALIKE)

    def _small(self, data: bytes) -> tuple[Image.Image, float]:
        """Return a tiny gray copy of an image, and its width divided by its height."""
        with page_errors(data), io.BytesIO(data) as file:
            image = open_image(file, max_pixels=self._max_pixels)
            wide = image.width / image.height
            image.draft("L", (_SMALL, _SMALL))
            small = image.convert("L").resize((_SMALL, _SMALL), Image.Resampling.BOX)
            return small.reduce(_BLOCK), wide


@dataclass(slots=True)
class _Flat:
    """An element without its content."""

    name: str
    attributes: dict[str, str]
    text: str


def _tag(element: ET.Element) -> str:
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def _damage_error(what: str) -> PageError:
    return PageError("damaged", f"The EPUB is damaged ({what}): copy or download it again")
