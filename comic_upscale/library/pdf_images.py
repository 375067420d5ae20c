"""The dictionaries of the images in a PDF, which the API of PDFium does not provide.

A dictionary tells whether an image has a mask and of which size, how its samples are mapped, and whether it can be
hidden. It is plain text directly before the data of the image, also in encrypted files. The file is read from stream
to stream, skipping the data, and an image is identified by its size and its data.
"""

from __future__ import annotations

import mmap
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MOST_STREAMS = 200_000
_LONGEST_DICTIONARY = 1 << 16
_DEEPEST = 32
_TAIL = 64
"""The number of bytes that are compared first."""
_PADDING = 48
"""Bytes that encryption may add to a stream."""
_HEADER = re.compile(rb"(?<!\d)(\d{1,10})[\0\t\n\f\r ]+\d{1,5}[\0\t\n\f\r ]+obj(?![A-Za-z])")
_LENGTH = re.compile(rb"/Length[\0\t\n\f\r ]+(\d{1,12})(?![\d.])(?![\0\t\n\f\r ]+\d+[\0\t\n\f\r ]+R)")
_TOKEN = re.compile(
    rb"(?:[\0\t\n\f\r ]|%[^\r\n]*)*"
    rb"(<<|>>|[\[\]{}()]|/[^\0\t\n\f\r ()<>\[\]{}/%]*|<[^<>]*>|[^\0\t\n\f\r ()<>\[\]{}/%]+)"
)
_HEX_IN_NAME = re.compile(rb"#([0-9A-Fa-f]{2})")
_NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)")


class Name(str):
    """A name, without its slash."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference to another object, by its number."""

    number: int


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """Facts from the dictionary of an image."""

    is_plain: bool
    """All its samples are shown unchanged: no mask, no mapping, no optional content."""
    is_opaque: bool
    """Nothing below it is visible."""
    mask_size: tuple[int, int]
    """Width and height of its mask in pixels, or zeros if it has none or none was found."""
    bits: int
    """Bits of a sample, 0 if unknown."""


@dataclass(frozen=True, slots=True)
class _Stream:
    number: int
    """The number of its object."""
    start: int
    """The offset of its data in the file."""
    length: int | None
    """Bytes of its data; None if this number is in another object."""
    entries: Mapping[str, Any]


class ImageDictionaries:
    """The images in a PDF.

    Args:
        path: the file.
        is_encrypted: whether the file is encrypted, so that the data in it differs from the data of `find`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is empty.
    """

    def __init__(self, path: Path, *, is_encrypted: bool = False) -> None:
        self._is_encrypted = is_encrypted
        with path.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.may_hide_forms = False
        """Whether a form, with the images in it, may be optional content."""
        self._by_number: dict[int, _Stream] = {}
        self._by_size: defaultdict[tuple[int, int], list[_Stream]] = defaultdict(list)
        self._read()

    def find(self, size: tuple[int, int], data: bytes) -> ImageFacts | None:
        """Return the facts of an image.

        Args:
            size: width and height, pixels.
            data: as stored in the file, decrypted.

        Returns:
            None if no dictionary is found, as for inline images. If several images have this data, facts that hold
            for all of them.
        """
        sized = (*self._by_size.get(size, ()), *self._by_size.get((0, 0), ()))
        known = [stream for stream in sized if self._by_number[stream.number] is stream]
        if self._is_encrypted:
            found = [one for one in known if one.length is None or 0 <= one.length - len(data) <= _PADDING]
        else:
            found = [one for one in known if self._stands_at(one.start, data)]
        if not found:
            return None
        facts = [self._facts(stream.entries) for stream in found]
        return ImageFacts(
            is_plain=all(fact.is_plain for fact in facts),
            is_opaque=all(fact.is_opaque for fact in facts),
            mask_size=max((fact.mask_size for fact in facts), key=lambda mask: mask[0] * mask[1]),
            bits=min(fact.bits for fact in facts),
        )

    def close(self) -> None:
        """Close the file."""
        self._data.close()

    def _stands_at(self, start: int, data: bytes) -> bool:
        # The end first: the images of a book often begin alike and have the same size.
        end = start + len(data)
        return self._data[max(start, end - _TAIL) : end] == data[-_TAIL:] and self._data[start:end] == data

    def _facts(self, entries: Mapping[str, Any]) -> ImageFacts:
        masks = [entries[key] for key in ("SMask", "Mask") if entries.get(key) is not None]
        is_stencil = entries.get("ImageMask") is not None and entries["ImageMask"] is not False
        # JPEG 2000 may contain transparency itself.
        is_opaque = not (masks or is_stencil or "OC" in entries or entries.get("SMaskInData"))
        sizes = [
            _size(self._by_number[mask.number].entries)
            for mask in masks
            if isinstance(mask, Reference) and mask.number in self._by_number
        ]
        return ImageFacts(
            is_plain=is_opaque and _maps_nothing(entries),
            is_opaque=is_opaque,
            mask_size=max(sizes, key=lambda size: size[0] * size[1], default=(0, 0)),
            bits=1 if is_stencil else _bits(entries),
        )

    def _read(self) -> None:
        data, at = self._data, 0
        for _ in range(_MOST_STREAMS):
            found = data.find(b"stream", at)
            if found < 0:
                return
            after = data[found + 6 : found + 8]
            if after[:1] not in (b"\r", b"\n") or data[max(0, found - 3) : found] == b"end":
                at = found + 6
                continue
            start = found + (8 if after == b"\r\n" else 7)
            text = data[max(at, found - _LONGEST_DICTIONARY) : found]
            headers = list(_HEADER.finditer(text))
            text = text[headers[-1].end() :] if headers else text
            length = _LENGTH.search(text)
            at = self._behind(start, int(length[1]) if length else None)
            self.may_hide_forms |= b"/OC" in text and b"/Form" in text
            if headers and b"Image" in text:
                self._take(text, int(headers[-1][1]), start)
        # No comic has this many. Nothing is known about the images of such a file.
        self._by_size.clear()

    def _behind(self, start: int, length: int | None) -> int:
        """Return the end of a stream, by its length if that is right, otherwise by ``endstream``."""
        if length is not None and b"endstream" in self._data[start + length : start + length + 16]:
            return start + length
        end = self._data.find(b"endstream", start)
        return end if end >= 0 else len(self._data)

    def _take(self, text: bytes, number: int, start: int) -> None:
        entries = parse_dictionary(text)
        if entries is None or entries.get("Subtype") != "Image":
            return
        length = entries.get("Length")
        stream = _Stream(number, start, length if isinstance(length, int) else None, entries)
        # After incremental updates the last version of an object counts.
        self._by_number[number] = stream
        self._by_size[_size(entries)].append(stream)


def parse_dictionary(text: bytes) -> dict[str, Any] | None:
    """Read a dictionary of a PDF.

    Args:
        text: beginning with its ``<<``, after optional white space.

    Returns:
        Names to numbers, names (`Name`), references (`Reference`), lists and dictionaries. Strings and null are
        None. None instead of a dictionary if there is none or it is nested too deeply.
    """
    parser = _Parser(text)
    value = parser.value(0) if parser.next() == b"<<" and parser.back() else None
    return value if isinstance(value, dict) else None


class _Parser:
    def __init__(self, text: bytes) -> None:
        self._text = text
        self._at = 0
        self._before = 0

    def next(self) -> bytes:
        """Return the next token; empty at the end."""
        match = _TOKEN.match(self._text, self._at)
        if match is None:
            return b""
        self._before, self._at = self._at, match.end()
        return match[1]

    def back(self) -> bool:
        """Return to the previous token."""
        self._at = self._before
        return True

    def value(self, depth: int) -> Any:
        """Return the next value; `_Parser` itself if there is none."""
        token = self.next()
        if not token or token in (b">>", b"]") or depth > _DEEPEST:
            return _Parser
        if token == b"<<":
            return self._dictionary(depth)
        if token == b"[":
            return self._list(depth)
        if token == b"(":
            return self._string()
        if token.startswith(b"/"):
            return _name(token)
        return self._word(token)

    def _dictionary(self, depth: int) -> Any:
        entries: dict[str, Any] = {}
        while (key := self.next()) != b">>":
            if not key.startswith(b"/"):
                return _Parser
            value = self.value(depth + 1)
            if value is _Parser:
                return _Parser
            entries[_name(key)] = value
        return entries

    def _list(self, depth: int) -> Any:
        values: list[Any] = []
        while self.next() != b"]":
            self.back()
            value = self.value(depth + 1)
            if value is _Parser:
                return _Parser
            values.append(value)
        return values

    def _string(self) -> Any:
        open_brackets = 1
        for match in re.finditer(rb"\\.|[()]", self._text[self._at :], re.S):
            open_brackets += {b"(": 1, b")": -1}.get(match[0], 0)
            if open_brackets == 0:
                self._at += match.end()
                return None
        return _Parser

    def _word(self, token: bytes) -> Any:
        if token.isdigit() and len(token) <= 10:
            at, before = self._at, self._before
            generation, letter = self.next(), self.next()
            if generation.isdigit() and letter == b"R":
                return Reference(int(token))
            self._at, self._before = at, before
            return int(token)
        if _NUMBER.fullmatch(token) and len(token) <= 40:
            return float(token)
        return {b"true": True, b"false": False}.get(token)


def _name(token: bytes) -> Name:
    plain = _HEX_IN_NAME.sub(lambda match: bytes((int(match[1], 16),)), token[1:])
    return Name(plain.decode("latin-1"))


def _size(entries: Mapping[str, Any]) -> tuple[int, int]:
    """Return width and height; zeros if they are not in this dictionary."""
    width, height = entries.get("Width", entries.get("W")), entries.get("Height", entries.get("H"))
    return (width, height) if isinstance(width, int) and isinstance(height, int) else (0, 0)


def _bits(entries: Mapping[str, Any]) -> int:
    bits = entries.get("BitsPerComponent", entries.get("BPC"))
    return bits if isinstance(bits, int) and bits in (1, 2, 4, 8, 16) else 0


def _maps_nothing(entries: Mapping[str, Any]) -> bool:
    """Return whether samples are used unchanged: no inverted or limited range, no unusual colour transform."""
    decode = entries.get("Decode")
    if decode is not None and (
        not isinstance(decode, list)
        or any(value != at % 2 or value is True or value is False for at, value in enumerate(decode))
    ):
        return False
    parameters = entries.get("DecodeParms", entries.get("DP"))
    listed = parameters if isinstance(parameters, list) else [parameters]
    return all(one is None or (isinstance(one, dict) and "ColorTransform" not in one) for one in listed)
