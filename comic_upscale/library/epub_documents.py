"""The images that a document of an EPUB shows: in elements, as CSS backgrounds, and as ``data:`` addresses."""

from __future__ import annotations

import binascii
import codecs
import posixpath
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from comic_upscale.library.markup import (
    Budget,
    End,
    Instruction,
    Sheet,
    Start,
    Text,
    read_css,
    read_style,
    tokens,
    url_of,
)

_IMAGES = {"img": "src", "image": "href", "embed": "src", "object": "data", "iframe": "src"}
_VOID = frozenset(
    ("img", "image", "embed", "link", "meta", "br", "hr", "input", "source", "base", "col", "wbr")
)
_GROUPS = frozenset(("picture", "object"))
"""Elements with alternatives, of which a reader shows one."""
_ALWAYS_HIDDEN = frozenset(("template",))
_MOST_IMPORTS, _MOST_CLASSES = 64, 100
_ELEMENT = 4
"""Work of finding the background of an element, as counted by `Budget`."""
_DEEPEST, _DEEPEST_OPEN = 3, 50
_COMMENT_IN_STYLE = re.compile(r"<!\[CDATA\[|\]\]>|<!--|-->")
_COMPOUND = re.compile(r"([.#]?)((?:[\w-]|[^\x00-\x7f]|\\.)+|\*)|(::?)([\w-]+)(?:\([^()]*\))?|\[[^\]]*\]")
_DYNAMIC = frozenset(("hover", "active", "focus", "visited", "target", "focus-within", "focus-visible"))
_ENCODING = re.compile(r"""(?:encoding|charset)\s*=\s*["']?\s*([A-Za-z0-9._:-]{1,40})""")
_HEAD = 1024
# The encodings of the web. For any other, the bytes are read as UTF-8.
_ENCODINGS = re.compile(
    r"utf-?8|us-?ascii|iso-?8859-?\d+|latin-?1|windows-?125\d|cp125\d|shift-?jis|sjis|cp932|windows-?31j|x-sjis|"
    r"euc-?jp|euc-?kr|gb2312|gbk|gb18030|big5|koi8-?r"
)


@dataclass(frozen=True, slots=True)
class Shown:
    """An image that a document shows."""

    addresses: tuple[str, ...]
    """Relative to ``folder``, or ``data:``. A reader shows the first one that exists."""
    folder: str
    """Folder of the document or style sheet with the addresses, without a slash at the end."""
    is_background: bool
    """It is a CSS background."""


@dataclass(frozen=True, slots=True)
class Document:
    """What a document shows."""

    images: tuple[Shown, ...]
    """In document order."""
    characters: int
    """The number of characters of its text."""


def decode_text(data: bytes) -> str:
    """Decode an XML, HTML or CSS file by its byte order mark, its declared encoding, or as UTF-8."""
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
    ):  # fmt: skip
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    # UTF-16 without a mark has a zero byte before or after the first bracket.
    start = data.lstrip(b"\0 \t\r\n")[:2]
    if data[:1] == b"\0" and start[:1] == b"<":
        return data.decode("utf-16-be", "replace")
    if start == b"<\0":
        return data.decode("utf-16-le", "replace")
    said = _ENCODING.search(data[:_HEAD].decode("latin-1"))
    name = said[1].lower().replace("_", "-") if said else ""
    if name and _ENCODINGS.fullmatch(name):
        try:
            return data.decode({"x-sjis": "cp932", "windows-31j": "cp932"}.get(name, name), "replace")
        except LookupError:
            pass
    return data.decode("utf-8", "replace")


def address_in(folder: str, address: str) -> tuple[str, ...]:
    """Return the possible paths of an address in the EPUB, the most likely first. None for addresses outside of it.

    Args:
        folder: folder of the file with the address.
        address: relative, or absolute within the EPUB.
    """
    address = address.strip()
    try:
        parts = urlsplit(address)
    except ValueError:
        return ()
    path, found = parts.path, []
    if parts.netloc or (parts.scheme and not (parts.scheme == "file" and path)):
        # This may be a name with a colon. Web addresses are not in the EPUB.
        if parts.netloc or parts.scheme in ("http", "https", "data", "res", "mailto", "javascript"):
            return ()
        path = address.partition("#")[0].partition("?")[0]
    for plain in (unquote(path), path, unquote(path).replace("\\", "/")):
        joined = posixpath.normpath(posixpath.join("/", folder, plain)).lstrip("/")
        if plain and joined not in found:
            found.append(joined)
    return tuple(found)


def decode_data_address(address: str) -> tuple[str, bytes]:
    """Decode a ``data:`` address to its media type in lower case and its bytes, which are empty if it is broken."""
    head, comma, body = address[5:].partition(",")
    kind, *parameters = (part.strip().lower() for part in head.split(";"))
    if not comma:
        return kind, b""
    if "base64" not in parameters:
        return kind, unquote_to_bytes(body)
    packed = "".join(unquote(body).split()).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return kind, binascii.a2b_base64(packed + "=" * (-len(packed) % 4))
    except (binascii.Error, ValueError):
        return kind, b""


@dataclass(frozen=True, slots=True)
class _Element:
    """An element that may have a background."""

    name: str
    keys: frozenset[str]
    """Simple selectors that match it: ``name``, ``.class``, ``#id``, ``*``."""
    order: int
    """Its number in the document."""
    style: str
    """Its own."""
    background: str
    """The address of a background by an attribute."""
    images: int
    """Number of images before it."""


@dataclass(slots=True)
class _Style:
    """A selector with the background it sets."""

    last: frozenset[str]
    """Simple selectors that must match the element."""
    before: frozenset[str]
    """Simple selectors that must match elements before it."""
    weight: tuple[int, int, int, int]
    """Precedence: ``!important``, ``style`` attribute, ids, then classes and names."""
    address: str | None
    folder: str


@dataclass(slots=True)
class DocumentReader:
    """Reads the documents of one EPUB.

    Args:
        load: takes possible paths of a file and returns its text and its path, or None if it does not exist.
        budget: of the whole book.
    """

    load: Callable[[Sequence[str]], tuple[str, str] | None]
    budget: Budget
    _sheets: dict[str, list[_Style]] = field(default_factory=dict)

    def read(self, text: str, path: str) -> Document:
        """Find the images of a document.

        Args:
            text: of the document.
            path: where it is in the EPUB.

        Raises:
            PageError: the budget is spent.
        """
        return _Reading(self, posixpath.dirname(path)).run(text)

    def sheet(self, folder: str, address: str, depth: int = 0) -> list[_Style]:
        """Return the styles of a linked sheet and its imports, or nothing if it does not exist."""
        paths = address_in(folder, address)
        if not paths or depth > _DEEPEST:
            return []
        if paths[0] not in self._sheets:
            # Set before reading, because a sheet may import itself.
            self._sheets[paths[0]] = []
            found = self.load(paths)
            if found is not None:
                styles = self.styles(read_css(found[0], self.budget), posixpath.dirname(found[1]), depth)
                self._sheets[paths[0]] = styles
        return self._sheets[paths[0]]

    def styles(self, sheet: Sheet, folder: str, depth: int) -> list[_Style]:
        """Return the styles in a sheet that set backgrounds."""
        found: list[_Style] = []
        for address in sheet.imports[:_MOST_IMPORTS]:
            found += self.sheet(folder, address, depth + 1)
        for rule in sheet.rules:
            behind, is_important, says = _background_of(rule.declarations)
            if not says:
                continue
            for selector in rule.selectors.split(","):
                self.budget.spend()
                parsed = _selector(selector, is_important, behind, folder)
                if parsed is not None:
                    found.append(parsed)
        return found


class _Reading:
    """One document, being read."""

    def __init__(self, reader: DocumentReader, folder: str) -> None:
        self._reader = reader
        self._folder = folder
        self._images: list[Shown] = []
        self._styles: list[_Style] = []
        self._open: list[str] = []
        self._elements: list[_Element] = []
        self._first: dict[str, int] = {}
        """Number of the first element that a simple selector matches."""
        self._characters = 0
        self._hidden = ""
        self._group: tuple[str, list[str]] | None = None
        """The open ``picture`` or ``object`` with its alternative addresses."""

    def run(self, text: str) -> Document:
        for token in tokens(text, self._reader.budget):
            if isinstance(token, Start):
                self._begin(token)
            elif isinstance(token, End):
                self._end(token.name)
            elif isinstance(token, Text):
                self._text(token.text)
            else:
                self._instruct(token)
        self._close_group()
        return Document(self._add_backgrounds(), self._characters)

    def _begin(self, tag: Start) -> None:
        if self._hidden:
            return
        if tag.name in _ALWAYS_HIDDEN and not tag.is_empty:
            self._hidden = tag.name
            return
        self._reader.budget.spend(_ELEMENT)
        found = tag.attributes
        keys = {tag.name, "*", *(f".{name}" for name in found.get("class", "").split()[:_MOST_CLASSES])}
        if found.get("id"):
            keys.add(f"#{found['id']}")
        order = len(self._elements)
        style, behind = found.get("style", ""), found.get("background", "")
        self._elements.append(_Element(tag.name, frozenset(keys), order, style, behind, len(self._images)))
        for key in keys:
            self._first.setdefault(key, order)
        self._take(tag)
        if not tag.is_empty and tag.name not in _VOID:
            self._open.append(tag.name)

    def _take(self, tag: Start) -> None:
        """Collect the images and styles of a tag."""
        found = tag.attributes
        if tag.name == "base" and found.get("href"):
            paths = address_in(self._folder, found["href"] + "x")
            self._folder = posixpath.dirname(paths[0]) if paths else self._folder
        elif tag.name == "link" and _is_stylesheet(found):
            self._styles += self._reader.sheet(self._folder, found.get("href", ""))
        elif tag.name in _IMAGES or (tag.name == "source" and self._group is not None):
            addresses = _by_size(found.get("srcset", ""))
            own = found.get(_IMAGES.get(tag.name, "src"), "").strip()
            self._show([*addresses, *([own] if own else [])], tag)
        if tag.name in _GROUPS and self._group is None and not tag.is_empty:
            self._group = tag.name, []
            if tag.name == "object" and found.get("data", "").strip():
                self._group[1].append(found["data"].strip())

    def _show(self, addresses: list[str], tag: Start) -> None:
        if not addresses or (tag.name in _GROUPS and not tag.is_empty and self._group is None):
            return
        if self._group is None:
            self._images.append(Shown(tuple(addresses), self._folder, False))
        elif self._group[0] == "picture" and tag.name == "img":
            # The sources before it are alternatives.
            self._group[1][:0] = addresses
        else:
            self._group[1].extend(addresses)

    def _close_group(self) -> None:
        if self._group is not None and self._group[1]:
            self._images.append(Shown(tuple(self._group[1]), self._folder, False))
        self._group = None

    def _end(self, name: str) -> None:
        if self._hidden:
            self._hidden = "" if name == self._hidden else self._hidden
            return
        for at in range(len(self._open) - 1, max(-1, len(self._open) - _DEEPEST_OPEN), -1):
            if self._open[at] == name:
                del self._open[at:]
                break
        if self._group is not None and name == self._group[0] and name not in self._open:
            self._close_group()

    def _text(self, text: str) -> None:
        inside = self._open[-1] if self._open else ""
        if self._hidden or inside in ("script", "title"):
            return
        if inside == "style":
            plain = _COMMENT_IN_STYLE.sub("", text)
            self._styles += self._reader.styles(read_css(plain, self._reader.budget), self._folder, 0)
        else:
            self._characters += len(text.strip())

    def _instruct(self, token: Instruction) -> None:
        if token.text.startswith("?xml-stylesheet"):
            match = re.search(r"""href\s*=\s*["']([^"']*)["']""", token.text[:_HEAD])
            if match:
                self._styles += self._reader.sheet(self._folder, match[1])

    def _add_backgrounds(self) -> tuple[Shown, ...]:
        """Return all images and backgrounds in document order."""
        by_key: dict[str, list[tuple[int, _Style]]] = {}
        for number, style in enumerate(self._styles):
            by_key.setdefault(_rarest(style.last), []).append((number, style))
        behind: dict[int, list[Shown]] = {}
        for element in self._elements:
            address, folder = self._background(element, by_key)
            if address:
                behind.setdefault(element.images, []).append(Shown((address,), folder, True))
        found: list[Shown] = []
        for at in range(len(self._images) + 1):
            found += behind.get(at, [])
            found += self._images[at : at + 1]
        return tuple(found)

    def _background(
        self, element: _Element, by_key: dict[str, list[tuple[int, _Style]]]
    ) -> tuple[str | None, str]:
        """Return the address of an element's background and the folder of its style."""
        fitting = []
        for key in element.keys:
            for number, style in by_key.get(key, ()):
                self._reader.budget.spend()
                came = all(self._first.get(name, element.order) < element.order for name in style.before)
                if style.last <= element.keys and came:
                    fitting.append((style.weight, number, style.address, style.folder))
        if element.background:
            fitting.append(((-1, 0, 0, 0), 0, element.background, self._folder))
        if element.style:
            address, is_important, says = _background_of(read_style(element.style, self._reader.budget))
            if says:
                fitting.append(((int(is_important), 1, 0, 0), 0, address, self._folder))
        if not fitting:
            return None, ""
        _, _, address, folder = max(fitting, key=lambda one: one[:2])
        return address, folder


def _is_stylesheet(attributes: dict[str, str]) -> bool:
    kinds = attributes.get("rel", "").lower().split()
    return (
        "stylesheet" in kinds
        and "alternate" not in kinds
        and "print" not in attributes.get("media", "").lower()
    )


def _background_of(declarations: Sequence[tuple[str, str]]) -> tuple[str | None, bool, bool]:
    """Return the background in declarations, whether it is ``!important``, and whether they set one at all."""
    address, is_important, says = None, False, False
    for name, value in declarations:
        if name not in ("background", "background-image", "content"):
            continue
        insists = value.rstrip().lower().endswith("!important")
        if name == "content" and "url(" not in value[:4096].lower():
            continue
        if insists >= is_important:
            address, is_important, says = url_of(value) if "(" in value else None, insists, True
    return address, is_important, says


def _selector(selector: str, is_important: bool, address: str | None, folder: str) -> _Style | None:
    """Parse one selector. None if it is empty or for a state such as ``:hover``."""
    compounds: list[frozenset[str]] = []
    ids = classes = names = 0
    for word in re.sub(r"[>+~]", " ", selector[:1000]).split():
        keys = set()
        for match in _COMPOUND.finditer(word):
            if match[4] and match[4].lower() in _DYNAMIC:
                return None
            if match[2] is None:
                classes += 1
                continue
            ids, classes, names = ids + (match[1] == "#"), classes + (match[1] == "."), names + (not match[1])
            keys.add(match[1] + (match[2] if match[1] else match[2].lower()).replace("\\", ""))
        compounds.append(frozenset(keys or {"*"}))
    if not compounds:
        return None
    weight = (int(is_important), 0, ids, classes * 1000 + names)
    return _Style(compounds[-1], frozenset().union(*compounds[:-1]) - {"*"}, weight, address, folder)


def _rarest(keys: frozenset[str]) -> str:
    """Return the most selective simple selector: an id, a class, or a name."""
    return min(keys, key=lambda key: ({"#": 0, ".": 1, "*": 3}.get(key[0], 2), key))


def _by_size(srcset: str) -> list[str]:
    """Return the addresses of a ``srcset``, the largest image first."""
    found = []
    for candidate in re.split(r",\s+", srcset.strip()) if srcset.strip() else ():
        address, _, size = candidate.strip().rstrip(",").partition(" ")
        try:
            number = float(size.strip()[:-1]) if size.strip() else 1.0
        except ValueError:
            number = 0.0
        if address:
            found.append((number, address))
    return [address for _, address in sorted(found, key=lambda one: -one[0])]
