"""Check the chunks of a PNG before Pillow reads it, because Pillow refuses a whole page for one bad chunk.

The metadata of a PNG (texts, profile, resolution, animation) may be too large to unpack, truncated or broken while
the image is intact. libpng skips such a chunk and continues. This module does the same and adds a note.

Source: the PNG specification, third edition, chapters 5 and 11; the limits are those of Pillow's ``PngImagePlugin``.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO

LARGEST_TEXT = 1 << 20
"""The most bytes that one compressed text may unpack to. Pillow refuses a file with a larger one."""
MOST_TEXT = 16 << 20
"""The most bytes of all texts together. Pillow refuses a file with more than 64 MiB."""
LARGEST_PROFILE = 16 << 20
"""The most bytes that a compressed profile may unpack to."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END = b"\0\0\0\0IEND\xaeB`\x82"
_LONGEST_CHUNK = 2**31 - 1
_LEAST = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9}
_LEAST_TRANSPARENCY = {0: 2, 2: 6}
"""Bytes of a transparent shade or colour, by the colour type of the image."""
_WHAT = {
    b"gAMA": "gamma",
    b"cHRM": "colour space",
    b"sRGB": "colour space",
    b"pHYs": "resolution",
    b"tRNS": "transparency",
    b"iCCP": "ICC profile",
    b"eXIf": "EXIF",
}
"""What the output lacks if a chunk is left out."""
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")
_ELSEWHERE = {"XML:com.adobe.xmp": "XMP", "Raw profile type exif": "EXIF"}
"""Keywords of texts that contain something else."""
_PILLOWS_OWN = frozenset((
    "interlace", "bbox", "default_image", "transparency", "gamma", "chromaticity", "srgb", "dpi", "aspect",
    "icc_profile", "duration", "disposal", "blend", "loop", "timestamp",
))  # fmt: skip
"""Keywords under which Pillow stores facts about the image. A text with such a keyword would replace them."""


@dataclass(frozen=True, slots=True)
class SoundPng:
    """A PNG without the chunks for which Pillow would refuse it."""

    file: IO[bytes]
    """The given file if nothing was left out; otherwise a copy in memory."""
    notes: tuple[str, ...] = ()
    """Notes about the parts that were left out."""
    texts: dict[str, str] = field(default_factory=dict)
    """Texts that Pillow must not see, by their keywords."""
    profile: bytes | None = None
    """An ICC profile that is too large for Pillow."""


def find_sound_png(file: IO[bytes], *, header_only: bool = False) -> SoundPng:
    """Leave out chunks that would keep a PNG from being read although its image may be intact.

    Critical chunks stay unchanged, so a broken image still fails. If a file ends within or after the last chunk of its
    image, that chunk gets its true length, and the file gets an end.

    Args:
        file: seekable. The image is read only if a chunk is left out.
        header_only: check only the chunks before the image.
    """
    return _Inspection(file, header_only=header_only).result()


@dataclass(frozen=True, slots=True)
class _Chunk:
    kind: bytes
    start: int
    """The offset of its length field."""
    length: int
    """The declared number of bytes of its content."""

    @property
    def end(self) -> int:
        """The offset of the next chunk."""
        return self.start + 12 + self.length


class _Inspection:
    """The inspection of one file."""

    def __init__(self, file: IO[bytes], *, header_only: bool) -> None:
        self._file = file
        self._header_only = header_only
        self._size = file.seek(0, io.SEEK_END)
        self._chunks = tuple(self._walk())
        # In the order of their creation, each once.
        self._notes: dict[str, None] = {}
        self._left_out: set[int] = set()
        self._texts: dict[str, str] = {}
        self._text_bytes = 0
        self._profile: bytes | None = None

    def result(self) -> SoundPng:
        """Check every chunk."""
        chunks = self._chunks
        header = self._content(chunks[0]) if chunks else b""
        if not chunks or chunks[0].kind != b"IHDR" or len(header) < 13:
            return SoundPng(self._file)
        for chunk in chunks:
            # A lower-case first letter means that the image can be read without the chunk.
            if chunk.kind[0] & 0x20 and chunk.kind not in _ANIMATION:
                self._check(chunk, _LEAST_TRANSPARENCY.get(header[9], 0))
        is_cut = self._is_cut()
        self._check_animation(struct.unpack(">LL", header[:8]), is_cut=is_cut)
        if is_cut:
            self._notes["the end of the file is missing"] = None
        if not self._left_out and not is_cut:
            return SoundPng(self._file)
        return SoundPng(self._copy(is_cut=is_cut), tuple(self._notes), self._texts, self._profile)

    def _walk(self) -> Iterator[_Chunk]:
        at = len(_SIGNATURE)
        while at + 8 <= self._size:
            self._file.seek(at)
            length, kind = struct.unpack(">L4s", self._file.read(8))
            if length > _LONGEST_CHUNK or not kind.isalpha() or (self._header_only and kind == b"IDAT"):
                return
            chunk = _Chunk(kind, at, length)
            yield chunk
            if kind == b"IEND":
                return
            at = chunk.end

    def _content(self, chunk: _Chunk) -> bytes:
        self._file.seek(chunk.start + 8)
        return self._file.read(chunk.length)

    def _leave_out(self, chunk: _Chunk, note: str = "") -> None:
        self._left_out.add(chunk.start)
        if note:
            self._notes[note] = None

    def _check(self, chunk: _Chunk, least_transparency: int) -> None:
        """Leave out a chunk that Pillow, or no program, can read."""
        content = self._content(chunk)
        checksum = self._file.read(4)
        is_text = chunk.kind in _TEXTS
        what = _describe(content) if is_text else _WHAT.get(chunk.kind, f"{chunk.kind.decode()} chunk")
        least = least_transparency if chunk.kind == b"tRNS" else _LEAST.get(chunk.kind, 0)
        is_whole = len(content) == chunk.length and least <= chunk.length
        if not is_whole or checksum != struct.pack(">L", zlib.crc32(chunk.kind + content)):
            self._leave_out(chunk, f"{what} left out: it is broken")
        elif chunk.kind == b"iCCP":
            self._check_profile(chunk, content)
        elif is_text:
            self._check_text(chunk, content, what)

    def _check_profile(self, chunk: _Chunk, content: bytes) -> None:
        _, _, packed = content.partition(b"\0")
        if not packed or packed[0] != 0:
            self._leave_out(chunk, "ICC profile left out: it is broken")
            return
        try:
            profile = _unpack(packed[1:], LARGEST_PROFILE)
        except zlib.error:
            return  # Pillow leaves it out itself.
        if profile is None:
            self._leave_out(chunk, f"ICC profile left out: it is larger than {LARGEST_PROFILE >> 20} MiB")
        elif len(profile) > LARGEST_TEXT:
            self._leave_out(chunk)
            self._profile = profile

    def _check_text(self, chunk: _Chunk, content: bytes, what: str) -> None:
        keyword, _, text = content.partition(b"\0")
        packed = _split_packed(chunk.kind, text)
        if packed is not None:
            if packed[:1] not in (b"", b"\0"):
                # Pillow accepts an international text like this.
                if chunk.kind == b"zTXt":
                    self._leave_out(chunk, f"{what} left out: its compression is unknown")
                return
            try:
                unpacked = _unpack(packed[1:], LARGEST_TEXT)
            except zlib.error:
                return
            if unpacked is None:
                self._leave_out(chunk, f"{what} left out: it is larger than {LARGEST_TEXT >> 20} MiB")
                return
            text = unpacked
        self._text_bytes += len(text)
        if self._text_bytes > MOST_TEXT:
            self._leave_out(
                chunk, f"texts of the PNG left out: they are larger than {MOST_TEXT >> 20} MiB together"
            )
        elif (name := keyword.decode("latin-1")) in _PILLOWS_OWN:
            self._leave_out(chunk)
            if chunk.kind == b"iTXt":
                text = text if packed is not None else text.split(b"\0", 3)[-1].removeprefix(b"\0")
                self._texts[name] = text.decode("utf-8", "replace")
            else:
                self._texts[name] = text.decode("latin-1")

    def _check_animation(self, size: tuple[int, int], *, is_cut: bool) -> None:
        """Leave out a broken animation. The image remains that programs without animation show."""
        chunks = [chunk for chunk in self._chunks if chunk.kind in _ANIMATION]
        if is_cut and chunks and chunks[-1].end > self._size:
            self._leave_out(chunks.pop())
        if chunks and not self._is_sound_animation(chunks, size):
            for chunk in chunks:
                self._leave_out(chunk, "animation left out: it is broken")

    def _is_sound_animation(self, chunks: Sequence[_Chunk], size: tuple[int, int]) -> bool:
        """Return whether frames are numbered in order and lie within the image, and their number is declared once."""
        number = counts = 0
        for chunk in chunks:
            self._file.seek(chunk.start + 8)
            content = self._file.read(min(chunk.length, 26))
            first = int.from_bytes(content[:4])
            if len(content) < {b"acTL": 8, b"fcTL": 26, b"fdAT": 4}[chunk.kind]:
                return False
            if chunk.kind == b"acTL":
                counts += 1
                if not 0 < first <= 0x80000000:
                    return False
                continue
            if first != number:
                return False
            number += 1
            if chunk.kind == b"fcTL":
                width, height, left, top = struct.unpack(">4L", content[4:20])
                if left + width > size[0] or top + height > size[1]:
                    return False
        return counts == 1

    def _is_cut(self) -> bool:
        """Return whether the file ends within or right after a chunk, once the image has begun."""
        last = self._chunks[-1]
        has_picture = any(chunk.kind == b"IDAT" for chunk in self._chunks)
        return has_picture and last.kind != b"IEND" and last.end + 8 > self._size

    def _copy(self, *, is_cut: bool) -> io.BytesIO:
        copy = io.BytesIO()
        copy.write(_SIGNATURE)
        for chunk in self._chunks:
            if chunk.start in self._left_out:
                continue
            if chunk.kind == b"IDAT" and chunk.end > self._size:
                # All that exists of the last chunk. The decoder finds out whether it is enough.
                content = self._content(chunk)
                copy.write(struct.pack(">L", len(content)) + chunk.kind + content)
                copy.write(struct.pack(">L", zlib.crc32(chunk.kind + content)))
                continue
            self._file.seek(chunk.start)
            copy.write(self._file.read(12 + chunk.length))
        if is_cut:
            copy.write(_END)
        else:
            self._file.seek(self._chunks[-1].end)
            copy.write(self._file.read())
        copy.seek(0)
        return copy


def _describe(content: bytes) -> str:
    """Return the name of the text in a chunk."""
    keyword = content.partition(b"\0")[0].decode("latin-1")
    known = _ELSEWHERE.get(keyword)
    if known is not None:
        return known
    return f'text "{keyword}"' if keyword.isprintable() and len(keyword) <= 79 else "a text"


def _split_packed(kind: bytes, text: bytes) -> bytes | None:
    """Return the compression method of a text, one byte, and the compressed bytes; None for an uncompressed text.

    Args:
        kind: of the chunk.
        text: the bytes after its keyword.
    """
    if kind == b"zTXt":
        return text
    if kind == b"iTXt" and len(text) >= 2 and text[0] != 0:
        parts = text[2:].split(b"\0", 2)
        return text[1:2] + parts[2] if len(parts) == 3 else None
    return None


def _unpack(packed: bytes, most: int) -> bytes | None:
    """Return the uncompressed bytes; None if they are more than ``most``.

    Raises:
        zlib.error: it is broken.
    """
    unpacker = zlib.decompressobj()
    unpacked = unpacker.decompress(packed, most + 1)
    return unpacked if len(unpacked) <= most else None
