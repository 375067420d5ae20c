"""Read the headers of a RAR, as far as they tell about its parts.

libarchive reads the files. It does not tell whether a RAR is one of several parts, or whether another part follows.

Sources: the technical notes of RAR 5.0, and UnRAR's ``headers.hpp``.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Literal

RAR_STARTS = (b"Rar!\x1a\x07\0", b"Rar!\x1a\x07\1\0")
"""The first bytes of a RAR of version 4 and of version 5."""
_MOST_HEADERS = 200_000
_LONGEST_NUMBER = 10


@dataclass(frozen=True, slots=True)
class RarFacts:
    """What the headers of a RAR tell about its parts."""

    is_part: bool
    """Whether the file is one of several parts."""
    number: int | None
    """Number of the part, from 0; None if the headers do not tell."""
    more_follow: bool
    """Whether another part follows."""
    is_whole: bool
    """Whether the headers lead to the end mark."""


def read_rar_facts(file: IO[bytes], *, begins_only: bool = False) -> RarFacts:
    """Read the headers of a RAR. Encrypted headers tell nothing.

    Args:
        file: seekable. Packed data is not read.
        begins_only: read only the first header.

    Raises:
        OSError: the file cannot be read.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    start = file.read(8)
    headers = _rar5_headers(file, size) if start == RAR_STARTS[1] else _rar4_headers(file, size)
    is_part = more_follow = False
    number: int | None = None
    for count, header in enumerate(headers):
        if header.kind == "begin":
            is_part, number = header.is_part, header.number
            if begins_only:
                return RarFacts(is_part, number, False, False)
        elif header.kind == "end":
            return RarFacts(is_part, header.number if number is None else number, header.more_follow, True)
        elif header.kind == "unknown" or count > _MOST_HEADERS:
            return RarFacts(is_part, number, more_follow, True)
        if header.end == size and start[:7] == RAR_STARTS[0]:
            # Old programs wrote no end mark.
            return RarFacts(is_part, number, header.more_follow, True)
    return RarFacts(is_part, number, more_follow, False)


@dataclass(frozen=True, slots=True)
class _RarHeader:
    kind: Literal["begin", "file", "end", "unknown"]
    end: int
    """Offset of the next header, after the packed data of this one."""
    is_part: bool = False
    number: int | None = None
    more_follow: bool = False


def _rar5_headers(file: IO[bytes], size: int) -> Iterator[_RarHeader]:
    at = len(RAR_STARTS[1])
    while at < size:
        file.seek(at)
        # A checksum, then the length of the rest of the header.
        block = file.read(4 + 3 + 64)
        fields = _Numbers(block, 4)
        length = fields.next()
        begins = fields.at
        kind, flags = fields.next(), fields.next()
        if fields.is_short or length == 0:
            return
        if flags & 1:
            fields.next()  # bytes of the extra area
        data = fields.next() if flags & 2 else 0
        end = at + begins + length + data
        if kind == 4:
            yield _RarHeader("unknown", end)
            return
        if kind == 1:
            about = fields.next()
            number = fields.next() if about & 2 else 0
            yield _RarHeader("begin", end, bool(about & 1), number)
        elif kind == 5:
            yield _RarHeader("end", end, more_follow=bool(fields.next() & 1))
            return
        else:
            yield _RarHeader("file", end)
        at = end


def _rar4_headers(file: IO[bytes], size: int) -> Iterator[_RarHeader]:
    at = len(RAR_STARTS[0])
    while at + 7 <= size:
        file.seek(at)
        block = file.read(48).ljust(48, b"\0")
        kind, flags, length = struct.unpack_from("<BHH", block, 2)
        if length < 7:
            return
        data = struct.unpack_from("<L", block, 7)[0] if flags & 0x8000 or kind in (0x74, 0x7A) else 0
        if kind in (0x74, 0x7A) and flags & 0x100:
            data += struct.unpack_from("<L", block, 32)[0] << 32
        end = at + length + data
        if kind == 0x73:
            if flags & 0x80:
                yield _RarHeader("unknown", end)
                return
            # Only programs since version 3 mark the first part.
            yield _RarHeader("begin", end, bool(flags & 1), 0 if flags & 0x100 else None)
        elif kind == 0x7B:
            at_number = 7 + (4 if flags & 2 else 0)
            number = struct.unpack_from("<H", block, at_number)[0] if flags & 8 else None
            yield _RarHeader("end", end, number=number, more_follow=bool(flags & 1))
            return
        else:
            yield _RarHeader("file", end, more_follow=bool(kind == 0x74 and flags & 2))
        at = end


class _Numbers:
    """Reads the numbers of RAR 5: seven bits a byte, the lowest first."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self.at = at
        self.is_short = False

    def next(self) -> int:
        """Read the next number; 0 if there is none."""
        value = 0
        for shift in range(_LONGEST_NUMBER):
            if self.at >= len(self._data):
                self.is_short = True
                return 0
            byte = self._data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << (7 * shift)
            if not byte & 0x80:
                break
        return value
