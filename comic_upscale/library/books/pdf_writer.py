"""Write a volume as a PDF, page by page. Images are embedded as they are, without another round of compression.

A JPEG becomes a DCT stream. A PNG becomes a Flate stream with the predictors of PNG. Only the places of the objects
stay in memory. img2pdf and pikepdf embed images in the same way, but both keep the whole book in memory, which for a
volume at four times its size is gigabytes.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import IO

from comic_upscale.errors import PageError
from comic_upscale.imaging.leaves import Leaf
from comic_upscale.imaging.reader import open_image
from comic_upscale.library.books.about import UNKNOWN_LANGUAGE, About
from comic_upscale.library.books.images import BookImage

DPI = 150.0
"""Decides the size of a page on paper, unless the job has a resolution."""

_LONGEST_SIDE = 14_400
"""The longest side of a page in units of 1/72 inch, by the standard."""
_ENTRY_BYTES = 600
_CATALOG, _PAGES, _INFO = 1, 2, 3
_GRAY, _RGB, _PALETTE = 0, 2, 3
"""Colour types of PNG."""


@dataclass(frozen=True, slots=True)
class _Stream:
    """An image as the stream of a PDF."""

    data: list[bytes]
    """Its content, in pieces."""
    filter: str
    """The entries that say how it is packed."""
    space: str
    """The colour space without a profile."""
    channels: int
    bits: int
    width: int
    height: int
    profile: bytes | None


class PdfWriter:
    """Writes a book to a file.

    Args:
        file: open for writing, and seekable.
        about: the book.
        dpi: pixels of an inch of paper.
    """

    def __init__(self, file: IO[bytes], about: About, *, dpi: float = DPI) -> None:
        self._file, self._about, self._dpi = file, about, dpi
        self._offsets: dict[int, int] = {}
        self._next = _INFO + 1
        self._pages: list[int] = []
        self._first: dict[int, int] = {}
        self._profiles: dict[bytes, int] = {}
        self._digest = hashlib.sha256()
        file.write(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")

    def room_for(self, leaf: Leaf) -> int:
        """Return the bytes that the file would have with this leaf, at most."""
        return self._file.tell() + len(leaf.data) + _ENTRY_BYTES * (len(self._pages) + 3) + 8192

    def add(self, leaf: Leaf, image: BookImage) -> None:
        """Add a leaf, with its image, which is not transparent."""
        stream = _png_stream(image.data) if image.kind == "png" else _jpeg_stream(image.data)
        self._digest.update(hashlib.sha256(image.data).digest())
        space = stream.space
        if stream.profile is not None:
            space = f"[/ICCBased {self._profile(stream.profile, stream.channels)} 0 R]"
        picture = self._write(
            f"/Type /XObject /Subtype /Image /Width {stream.width} /Height {stream.height} "
            f"/ColorSpace {space} /BitsPerComponent {stream.bits} {stream.filter}",
            stream.data,
        )
        dpi = max(self._dpi, max(leaf.width, leaf.height) * 72 / _LONGEST_SIDE)
        width, height = (
            f"{side * 72 / dpi:.4f}".rstrip("0").rstrip(".") for side in (leaf.width, leaf.height)
        )
        content = self._write("", [f"q {width} 0 0 {height} 0 0 cm /I Do Q".encode()])
        page = self._write(
            f"/Type /Page /Parent {_PAGES} 0 R /MediaBox [0 0 {width} {height}] /Contents {content} 0 R "
            f"/Resources << /XObject << /I {picture} 0 R >> >>"
        )
        self._first.setdefault(leaf.number - 1, page)
        self._pages.append(page)

    def finish(self) -> None:
        """Write the tree of the pages, the outline, and the table of the objects."""
        kids = " ".join(f"{page} 0 R" for page in self._pages)
        self._write(f"/Type /Pages /Count {len(self._pages)} /Kids [{kids}]", number=_PAGES)
        outline = self._outline()
        about = self._about
        catalog = f"/Type /Catalog /Pages {_PAGES} 0 R"
        if outline is not None:
            catalog += f" /Outlines {outline} 0 R /PageMode /UseOutlines"
        if about.right_to_left:
            catalog += " /ViewerPreferences << /Direction /R2L >>"
        if about.language != UNKNOWN_LANGUAGE:
            catalog += f" /Lang ({about.language})"
        self._write(catalog, number=_CATALOG)
        facts = [("Title", about.title), ("Author", ", ".join(name for name, _ in about.people))]
        facts += [("Subject", about.description), ("Keywords", ", ".join(about.subjects))]
        self._write(" ".join(f"/{name} {_text(text)}" for name, text in facts if text), number=_INFO)
        start = self._file.tell()
        lines = [f"xref\n0 {self._next}\n0000000000 65535 f \n"]
        lines += [f"{self._offsets[number]:010} 00000 n \n" for number in range(1, self._next)]
        name = self._digest.hexdigest()[:32]
        lines.append(
            f"trailer\n<< /Size {self._next} /Root {_CATALOG} 0 R /Info {_INFO} 0 R /ID [<{name}> <{name}>] >>\n"
            f"startxref\n{start}\n%%EOF\n"
        )
        self._file.write("".join(lines).encode())

    def close(self) -> None:
        """Forget the book, which may be unfinished."""

    def _outline(self) -> int | None:
        marks = [
            (each.title, self._first[each.page]) for each in self._about.bookmarks if each.page in self._first
        ]
        if not marks:
            return None
        top = self._next
        self._next += 1
        numbers = [self._next + at for at in range(len(marks))]
        for at, (title, page) in enumerate(marks):
            links = f" /Prev {numbers[at - 1]} 0 R" if at else ""
            links += f" /Next {numbers[at + 1]} 0 R" if at + 1 < len(marks) else ""
            self._write(f"/Title {_text(title)} /Parent {top} 0 R /Dest [{page} 0 R /Fit]{links}")
        self._write(
            f"/Type /Outlines /First {numbers[0]} 0 R /Last {numbers[-1]} 0 R /Count {len(marks)}", number=top
        )
        return top

    def _profile(self, profile: bytes, channels: int) -> int:
        if profile not in self._profiles:
            packed = zlib.compress(profile, 9)
            self._profiles[profile] = self._write(f"/N {channels} /Filter /FlateDecode", [packed])
        return self._profiles[profile]

    def _write(self, entries: str, data: list[bytes] | None = None, *, number: int | None = None) -> int:
        """Write an object, and return its number."""
        if number is None:
            number = self._next
            self._next += 1
        self._offsets[number] = self._file.tell()
        if data is None:
            self._file.write(f"{number} 0 obj\n<< {entries} >>\nendobj\n".encode())
            return number
        length = sum(map(len, data))
        self._file.write(f"{number} 0 obj\n<< {entries} /Length {length} >>\nstream\n".encode())
        for piece in data:
            self._file.write(piece)
        self._file.write(b"\nendstream\nendobj\n")
        return number


def check_pdf(file: IO[bytes], pages: int) -> None:
    """Prove that a PDF that `PdfWriter` wrote can be read: each object is at its place, and each image is complete.

    Args:
        file: open for reading, and seekable.
        pages: that it contains.

    Raises:
        PageError: ``"encode"``.
    """
    try:
        end = file.seek(0, 2)
        file.seek(max(0, end - 512))
        tail = file.read()
        start = int(tail[tail.rindex(b"startxref") :].split()[1])
        file.seek(start)
        table = file.read(end - start).split(b"trailer")[0].split(b"\n")[3:-1]
        found = 0
        for number, line in enumerate(table, 1):
            file.seek(int(line[:10]))
            head = file.read(400)
            if not head.startswith(f"{number} 0 obj\n".encode()):
                raise ValueError("an object is not at its place")
            found += b"/Type /Page " in head.split(b"endobj")[0]
            if b"stream\n" in head:
                length = int(head[head.index(b"/Length") + 7 :].split()[0])
                file.seek(int(line[:10]) + head.index(b"stream\n") + 7 + length)
                if file.read(10) != b"\nendstream":
                    raise ValueError("a stream has another length")
        whole = found == pages and tail.endswith(b"%%EOF\n")
    except (ValueError, IndexError):
        whole = False
    if not whole:
        raise PageError("encode", "The new volume cannot be read back: the disk may be failing")


def _text(text: str) -> str:
    """Return a text as a string of PDF."""
    marked = f"\ufeff{text}".encode("utf-16-be")
    return f"<{marked.hex()}>"


def _jpeg_stream(data: bytes) -> _Stream:
    with BytesIO(data) as file:
        image = open_image(file, header_only=True)
        width, height = image.size
        profile = image.info.get("icc_profile")
    channels = 1 if image.mode == "L" else 3
    space = "/DeviceGray" if channels == 1 else "/DeviceRGB"
    return _Stream(
        [data], "/Filter /DCTDecode", space, channels, 8, width, height, _matching(profile, channels)
    )


def _png_stream(data: bytes) -> _Stream:
    width, height, bits, kind, _, _, interlaced = struct.unpack_from(">LLBBBBB", data, 16)
    packed: list[bytes] = []
    palette, profile = b"", None
    for name, content in _chunks(data):
        if name == b"IDAT":
            packed.append(bytes(content))
        elif name == b"PLTE":
            palette = bytes(content)
        elif name == b"iCCP":
            profile = zlib.decompress(bytes(content).split(b"\0", 1)[1][1:])
    if interlaced or kind not in (_GRAY, _RGB, _PALETTE):
        raise PageError("encode", "The PNG of a page cannot be embedded in a PDF")
    channels = 3 if kind == _RGB else 1
    space = {_GRAY: "/DeviceGray", _RGB: "/DeviceRGB"}.get(kind, "")
    if kind == _PALETTE:
        space, profile = f"[/Indexed /DeviceRGB {len(palette) // 3 - 1} <{palette.hex()}>]", None
    filters = (
        f"/Filter /FlateDecode /DecodeParms << /Predictor 15 /Colors {channels} /BitsPerComponent {bits} "
        f"/Columns {width} >>"
    )
    return _Stream(packed, filters, space, channels, bits, width, height, _matching(profile, channels))


def can_embed(data: bytes) -> bool:
    """Return whether a PNG can be embedded as it is."""
    kind, interlaced = data[25], data[28]
    return kind in (_GRAY, _RGB, _PALETTE) and not interlaced


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    view, at = memoryview(data), 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">L", data, at)
        yield data[at + 4 : at + 8], view[at + 8 : at + 8 + length]
        at += 12 + length


def _matching(profile: bytes | None, channels: int) -> bytes | None:
    """Return a profile if it is for so many channels, and complete enough to be embedded."""
    if not profile or len(profile) < 132:
        return None
    wanted = {1: b"GRAY", 3: b"RGB "}[channels]
    return profile if profile[16:20] == wanted else None
