"""A lenient tokenizer for XHTML, SVG and CSS that runs in linear time. It reads what is needed to find images.

``html.parser`` raises AssertionError for some broken documents and needs quadratic time for others. Here an unclosed
construct ends the document, as in browsers, so nothing is searched for twice.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from comic_upscale.errors import PageError

_MOST_WORK = 1_500_000
_NAME = re.compile(r"[^\s/>]+")
_ATTRIBUTE = re.compile(r"=?[^\s/>=]*")
_UNQUOTED = re.compile(r"[^\s>]*")
_BLANK = re.compile(r"[\s/]*")
_SPACE = re.compile(r"\s*")
_RAW = {
    name: re.compile(f"</{name}(?=[\\s/>])", re.IGNORECASE)
    for name in ("script", "style", "title", "textarea")
}
"""Elements whose content is always text."""
_LONGEST_REFERENCE = 1 << 16
"""References such as ``&amp;`` are replaced only in attributes of at most this many characters."""
_CSS = re.compile(r"/\*|[\"'{};\\]|url\(", re.IGNORECASE)
_CSS_ESCAPE = re.compile(r"\\(?:([0-9a-fA-F]{1,6})\s?|(.))", re.DOTALL)
_URL = re.compile(r"url\(\s*|[\"']", re.IGNORECASE)


class Budget:
    """The work that a book may cause. It is counted, not timed, so the limit is the same on every machine."""

    def __init__(self, work: int = _MOST_WORK) -> None:
        self._left = work

    def spend(self, work: int = 1) -> None:
        """Count work.

        Raises:
            PageError: ``"bomb"``: the limit is exceeded.
        """
        self._left -= work
        if self._left < 0:
            raise PageError(
                "bomb",
                "The documents of the EPUB need far more work than those of a comic. Unpack it and use the folder of "
                "its images",
            )


@dataclass(frozen=True, slots=True)
class Start:
    """A start tag."""

    name: str
    """Lower case, without a prefix."""
    attributes: dict[str, str]
    """By lower-case names without prefixes. The first of two equal names counts."""
    is_empty: bool
    """It has no content: ``<img/>``."""


@dataclass(frozen=True, slots=True)
class End:
    """An end tag."""

    name: str
    """Lower case, without a prefix."""


@dataclass(frozen=True, slots=True)
class Text:
    """Text between tags, or the content of an element that contains only text. References are not replaced."""

    text: str


@dataclass(frozen=True, slots=True)
class Instruction:
    """``<?...?>`` or ``<!...>``."""

    text: str
    """The text between the angle brackets."""


def tokens(text: str, budget: Budget) -> Iterator[Start | End | Text | Instruction]:
    """Read markup from front to back.

    Args:
        text: of the document.
        budget: each token counts.

    Raises:
        PageError: the budget is spent.
    """
    at = 0
    while at < len(text):
        budget.spend()
        found = text.find("<", at)
        if found != at:
            yield Text(text[at : found if found >= 0 else len(text)])
        if found < 0:
            return
        kind = text[found + 1 : found + 2]
        if text.startswith("<!--", found):
            end = text.find("-->", found + 2)
            at = end + 3 if end >= 0 else len(text)
        elif text.startswith("<![CDATA[", found):
            end = text.find("]]>", found)
            at = end + 3 if end >= 0 else len(text)
            yield Text(text[found + 9 : end if end >= 0 else len(text)])
        elif kind and kind in "!?/":
            end = text.find(">", found)
            at = end + 1 if end >= 0 else len(text)
            if end >= 0:
                name = _NAME.match(text, found + 2, end) if kind == "/" else None
                yield End(_local(name[0])) if name else Instruction(text[found + 1 : end])
        elif kind.isascii() and kind.isalpha():
            tag, at = _start(text, found + 1, budget)
            if tag is None:
                return
            yield tag
            if tag.name in _RAW and not tag.is_empty:
                closing = _RAW[tag.name].search(text, at)
                end = closing.start() if closing else len(text)
                yield Text(text[at:end])
                at = end
        else:
            yield Text("<")
            at = found + 1


def _start(text: str, at: int, budget: Budget) -> tuple[Start | None, int]:
    """Read a start tag, from its name on; None if it is never closed."""
    name = _NAME.match(text, at)
    assert name is not None
    attributes: dict[str, str] = {}
    at = name.end()
    while True:
        budget.spend()
        blank = _BLANK.match(text, at)
        assert blank is not None
        at = blank.end()
        if at >= len(text):
            return None, at
        if text[at] == ">":
            return Start(_local(name[0]), attributes, "/" in blank[0]), at + 1
        key = _ATTRIBUTE.match(text, at)
        assert key is not None
        value, at = _value(text, key.end())
        if at < 0:
            return None, len(text)
        attributes.setdefault(_local(key[0]), value)


def _value(text: str, at: int) -> tuple[str, int]:
    """Return the value of an attribute and its end. The end is before the start if the quote is never closed."""
    space = _SPACE.match(text, at)
    assert space is not None
    if text[space.end() : space.end() + 1] != "=":
        return "", at
    space = _SPACE.match(text, space.end() + 1)
    assert space is not None
    at = space.end()
    quote = text[at : at + 1]
    if quote and quote in "\"'":
        end = text.find(quote, at + 1)
        return (_plain(text[at + 1 : end]), end + 1) if end >= 0 else ("", -1)
    word = _UNQUOTED.match(text, at)
    assert word is not None
    # In <img src=a.png/>, the slash does not belong to the address.
    value = word[0].removesuffix("/") if text[word.end() : word.end() + 1] == ">" else word[0]
    return _plain(value), at + len(value)


def _plain(value: str) -> str:
    if "&" not in value or len(value) > _LONGEST_REFERENCE:
        return value
    try:
        return html.unescape(value)
    except ValueError:
        # A number with thousands of digits is not a character.
        return value


def _local(name: str) -> str:
    return name.rpartition(":")[2].lower()


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of a style sheet."""

    selectors: str
    """As written in the sheet."""
    declarations: tuple[tuple[str, str], ...]
    """Properties, lower case, and their values."""


@dataclass(slots=True)
class Sheet:
    """A style sheet."""

    rules: list[Rule] = field(default_factory=list)
    """The rules for screens, in document order."""
    imports: list[str] = field(default_factory=list)
    """The addresses of imported sheets, whose rules come first."""


def read_css(text: str, budget: Budget) -> Sheet:
    """Read a style sheet.

    Args:
        text: of the sheet.
        budget: each declaration counts.

    Raises:
        PageError: the budget is spent.
    """
    sheet = Sheet()
    blocks: list[tuple[str, list[tuple[str, str]]]] = []
    for words, mark in _statements(text, budget):
        if mark == "{":
            blocks.append((words.strip(), []))
            continue
        if blocks and ":" in words:
            blocks[-1][1].append(_declaration(words))
        elif not blocks and words.lstrip()[:7].lower() == "@import":
            sheet.imports += [address for address in [url_of(words)] if address]
        if mark == "}" and blocks:
            selectors, declarations = blocks.pop()
            around = [prelude.lower() for prelude, _ in blocks]
            seen = all(prelude.startswith("@") and "print" not in prelude for prelude in around)
            if declarations and seen and not selectors.startswith("@"):
                sheet.rules.append(Rule(selectors, tuple(declarations)))
    return sheet


def read_style(text: str, budget: Budget) -> list[tuple[str, str]]:
    """Return the declarations of a ``style`` attribute: properties, in lower case, and their values."""
    return [_declaration(words) for words, _ in _statements(text, budget) if ":" in words]


def url_of(value: str) -> str | None:
    """Return the first address in a CSS value, or None."""
    match = _URL.search(value)
    if match is None:
        return None
    begin = match.end()
    mark = match[0] if match[0] in "\"'" else value[begin : begin + 1]
    if mark and mark in "\"'":
        begin += len(match[0]) > 1
        end = _string_end(value, begin, mark)
        address = value[begin:end].removesuffix(mark)
    else:
        end = value.find(")", begin)
        address = value[begin:end] if end >= 0 else value[begin:]
    return _unescape(address.strip()) or None


def _declaration(words: str) -> tuple[str, str]:
    name, _, value = words.partition(":")
    return name.strip().lower(), value.strip()


def _statements(text: str, budget: Budget) -> Iterator[tuple[str, str]]:
    """Yield the CSS before each brace and semicolon, without comments, and that mark, which is empty at the end."""
    parts: list[str] = []
    begin = at = 0
    while (match := _CSS.search(text, at)) is not None:
        budget.spend()
        mark, at = match[0], match.end()
        if mark == "/*":
            parts.append(text[begin : match.start()])
            end = text.find("*/", at)
            if end < 0:
                begin = len(text)
                break
            begin = at = end + 2
        elif mark == "\\":
            at += 1
        elif mark in "\"'":
            at = _string_end(text, at, mark)
        elif mark in "{};":
            yield "".join((*parts, text[begin : match.start()])), mark
            parts, begin = [], at
        elif _is_bare(text, at):
            # An address without quotes may contain any of these marks.
            end = text.find(")", at)
            at = end if end >= 0 else len(text)
    yield "".join((*parts, text[begin:])), ""


def _is_bare(text: str, at: int) -> bool:
    """Return whether an address without quotes begins here."""
    space = _SPACE.match(text, at)
    assert space is not None
    return text[space.end() : space.end() + 1] not in ('"', "'")


def _string_end(text: str, at: int, quote: str) -> int:
    while (end := text.find(quote, at)) >= 0:
        before = end
        while before > at and text[before - 1] == "\\":
            before -= 1
        if (end - before) % 2 == 0:
            return end + 1
        at = end + 1
    return len(text)


def _unescape(value: str) -> str:
    def plain(match: re.Match[str]) -> str:
        if not match[1]:
            return match[2] if match[2] != "\n" else ""
        number = int(match[1], 16)
        return chr(number) if 0 < number < 0x110000 and not 0xD800 <= number < 0xE000 else "\ufffd"

    return _CSS_ESCAPE.sub(plain, value) if "\\" in value and len(value) <= _LONGEST_REFERENCE else value
