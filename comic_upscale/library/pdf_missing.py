"""Find pages of a PDF whose content or images are not in the file, as after a transfer that failed or a faulty repair.

PDFium reports no error about them: it draws the rest of the page, which mostly is white. Its API shows neither the
content of a page nor its resources. But PDFium can copy a page into a new document, in which references that lead to
nothing are left out and every object is written in plain form.
"""

from __future__ import annotations

import contextlib
import io
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from comic_upscale.library.pdf_images import Reference, parse_dictionary

_OBJECT = re.compile(rb"(?<!\d)(\d{1,10}) 0 obj\s")
_LONGEST_DICTIONARY = 1 << 18
_STREAM = re.compile(rb">>\s*stream\r?\n")
_SHOWN = re.compile(
    rb"/([^\0\t\n\f\r ()<>\[\]{}/%]+)[\0\t\n\f\r ]+Do(?=[\0\t\n\f\r ()<>\[\]{}/%]|$)"
)  # fmt: skip
_MOST_CONTENT = 16 << 20
_MOST_FORMS = 1_000


@dataclass(frozen=True, slots=True)
class _Object:
    entries: Mapping[str, Any]
    data: bytes
    """The compressed data of a stream; empty for another object."""


def find_missing(document: Any, index: int) -> str:
    """Return what is missing from a page, or nothing, also if that cannot be found out.

    Args:
        document: of pypdfium2.
        index: of the page.
    """
    # The copy only serves to fail a page. A page that cannot be copied or understood is drawn.
    with contextlib.suppress(Exception):
        return _find_missing(_copy_page(document, index))
    return ""


def _copy_page(document: Any, index: int) -> bytes:
    import pypdfium2

    copy = pypdfium2.PdfDocument.new()
    try:
        copy.import_pages(document, [index])
        buffer = io.BytesIO()
        copy.save(buffer)
    finally:
        copy.close()
    return buffer.getvalue()


def _find_missing(copy: bytes) -> str:
    objects = dict(_read_objects(copy))
    page = next(each for each in objects.values() if each.entries.get("Type") == "Page")
    contents = page.entries.get("Contents")
    listed = contents if isinstance(contents, list) else [] if contents is None else [contents]
    content = []
    for reference in listed:
        data, problem = _unpack(objects[reference.number])
        if problem:
            return problem
        content.append(data)
    # A command may continue in the next stream of the list.
    forms = [(b"\n".join(content), page.entries.get("Resources"))]
    seen: set[int] = set()
    while forms and len(seen) < _MOST_FORMS:
        shown, resources = forms.pop()
        images = _resolve(_resolve(resources, objects).get("XObject"), objects)
        for name in {match[1].decode("latin-1") for match in _SHOWN.finditer(shown)}:
            reference = images.get(name)
            found = objects.get(reference.number) if isinstance(reference, Reference) else None
            if found is None or "Length" not in found.entries:
                return "an image or a drawing on it is missing from the file"
            if found.entries.get("Subtype") == "Form" and id(found) not in seen:
                seen.add(id(found))
                data, problem = _unpack(found)
                if problem:
                    return problem
                forms.append((data, found.entries.get("Resources", resources)))
    return ""


def _read_objects(copy: bytes) -> Iterator[tuple[int, _Object]]:
    at = 0
    while (match := _OBJECT.search(copy, at)) is not None:
        entries = parse_dictionary(copy[match.end() : match.end() + _LONGEST_DICTIONARY]) or {}
        length = entries.get("Length")
        begin = _STREAM.search(copy, match.end())
        if isinstance(length, int) and begin is not None:
            at = begin.end() + length
            yield int(match[1]), _Object(entries, copy[begin.end() : at])
        else:
            end = copy.find(b"endobj", match.end())
            at = end if end >= 0 else len(copy)
            yield int(match[1]), _Object(entries, b"")


def _resolve(value: Any, objects: Mapping[int, _Object]) -> Mapping[str, Any]:
    if isinstance(value, Reference):
        value = objects[value.number].entries
    return value if isinstance(value, dict) else {}


def _unpack(stream: _Object) -> tuple[bytes, str]:
    """Return the commands of a stream, and what is wrong with its data.

    Raises:
        ValueError: its data is packed in another way than PDFium packs, or is very large.
    """
    filters = stream.entries.get("Filter")
    if filters is None:
        return stream.data, ""
    if filters not in ("FlateDecode", ["FlateDecode"]) or stream.entries.get("DecodeParms") is not None:
        raise ValueError(filters)
    # Without the header of zlib, so that a missing checksum at the end does not count.
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = unpacker.decompress(stream.data[2:], _MOST_CONTENT)
    except zlib.error:
        return b"", "its content cannot be decoded"
    if len(data) == _MOST_CONTENT:
        raise ValueError("large")
    return data, "" if unpacker.eof else "its content is cut short"
