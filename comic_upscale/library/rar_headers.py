"""Read facts from the headers of a RAR that libarchive does not report.

libarchive reads the files. It does not report whether a RAR is one of several parts, or whether another part follows.
It does not compare the checksums of stored files. In names without Unicode it treats every byte 0x5C as a backslash,
even if it is half of a Japanese or Chinese character.

Sources: the technical notes of RAR 5.0, and UnRAR's ``headers.hpp``.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Literal

RAR_STARTS = (b"Rar!\x1a\x07\0", b"Rar!\x1a\x07\1\0")
"""The first bytes of a RAR of version 4 and of version 5."""
_MOST_HEADERS = 200_000
_FILE, _SERVICE, _MAIN, _END_MARK = 0x74, 0x7A, 0x73, 0x7B
"""Kinds of headers of RAR 4."""
_HIGH_SIZES, _HAS_UNICODE = 0x100, 0x200
"""Flags of a file of RAR 4: sizes of more than 32 bits follow, and the name has a Unicode form."""
_LONGEST_NUMBER = 10


@dataclass(frozen=True, slots=True)
class RarFacts:
    """Facts about the parts of a RAR, from its headers."""

    is_part: bool
    """Whether the file is one of several parts."""
    number: int | None
    """Number of the part, from 0; None if the headers do not have it."""
    more_follow: bool
    """Whether another part follows."""
    is_whole: bool
    """Whether the headers lead to the end mark."""


@dataclass(frozen=True, slots=True)
class RarFile:
    """A file or a folder in a RAR, as its header describes it."""

    size: int
    """Bytes unpacked."""
    checksum: int | None
    """CRC-32 of the file; None if the header has none."""
    raw_name: bytes | None
    """Its name, if the encoding is unknown; None if libarchive returns the name."""


def read_rar_files(parts: Sequence[IO[bytes]]) -> list[RarFile]:
    """Read the headers of the files of a RAR, in the order of libarchive; none if the headers are encrypted.

    Args:
        parts: the RAR, or all its parts in their order; seekable. Packed data is not read.

    Raises:
        OSError: a part cannot be read.
    """
    found: list[RarFile] = []
    for part in parts:
        for header in _headers_of(part):
            if header.kind == "unknown" or len(found) > _MOST_HEADERS:
                return []
            if header.kind != "file" or header.file is None:
                continue
            if header.goes_on and found:
                # Only the header of the last piece has the checksum of the whole file.
                found[-1] = header.file
            else:
                found.append(header.file)
    return found


def _headers_of(file: IO[bytes]) -> Iterator[_RarHeader]:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    return _rar5_headers(file, size) if file.read(8) == RAR_STARTS[1] else _rar4_headers(file, size)


def read_rar_facts(file: IO[bytes], *, begins_only: bool = False) -> RarFacts:
    """Read the headers of a RAR. Nothing is known about encrypted ones.

    Args:
        file: seekable. Packed data is not read.
        begins_only: read only the first header.

    Raises:
        OSError: the file cannot be read.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    start = file.read(8)
    is_part = more_follow = False
    number: int | None = None
    for count, header in enumerate(_headers_of(file)):
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
    kind: Literal["begin", "file", "other", "end", "unknown"]
    end: int
    """Offset of the next header, after the packed data of this one."""
    is_part: bool = False
    number: int | None = None
    more_follow: bool = False
    goes_on: bool = False
    """Whether the file began in the previous part."""
    file: RarFile | None = None


def _rar5_headers(file: IO[bytes], size: int) -> Iterator[_RarHeader]:
    at = len(RAR_STARTS[1])
    while at < size:
        file.seek(at)
        # A checksum, then the length of the rest of the header.
        block = file.read(4 + 3 + 80)
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
        elif kind == 2:
            about, unpacked = fields.next(), fields.next()
            fields.next()  # attributes
            if about & 2:
                fields.word()  # time
            checksum = fields.word() if about & 4 else None
            described = None if fields.is_short else RarFile(unpacked, checksum, None)
            yield _RarHeader("file", end, goes_on=bool(flags & 8), file=described)
        else:
            yield _RarHeader("other", end)
        at = end


def _rar4_headers(file: IO[bytes], size: int) -> Iterator[_RarHeader]:
    at = len(RAR_STARTS[0])
    while at + 7 <= size:
        file.seek(at)
        block = file.read(48).ljust(48, b"\0")
        kind, flags, length = struct.unpack_from("<BHH", block, 2)
        if length < 7:
            return
        has_data = kind in (_FILE, _SERVICE)
        data = struct.unpack_from("<L", block, 7)[0] if flags & 0x8000 or has_data else 0
        if has_data and flags & _HIGH_SIZES:
            data += struct.unpack_from("<L", block, 32)[0] << 32
        end = at + length + data
        if kind == _MAIN:
            if flags & 0x80:
                yield _RarHeader("unknown", end)
                return
            # Only programs since version 3 mark the first part.
            yield _RarHeader("begin", end, bool(flags & 1), 0 if flags & 0x100 else None)
        elif kind == _END_MARK:
            at_number = 7 + (4 if flags & 2 else 0)
            number = struct.unpack_from("<H", block, at_number)[0] if flags & 8 else None
            yield _RarHeader("end", end, number=number, more_follow=bool(flags & 1))
            return
        elif kind == _FILE:
            described = _describe_rar4(file, at, block, flags)
            yield _RarHeader(
                "file", end, more_follow=bool(flags & 2), goes_on=bool(flags & 1), file=described
            )
        else:
            yield _RarHeader("other", end)
        at = end


def _describe_rar4(file: IO[bytes], at: int, block: bytes, flags: int) -> RarFile:
    """Read the header of a file of RAR 4.

    Args:
        file: the RAR.
        at: offset of the header.
        block: its first 48 bytes.
        flags: its flags.
    """
    size, checksum = struct.unpack_from("<L", block, 11)[0], struct.unpack_from("<L", block, 16)[0]
    name_at, name_length = 32, struct.unpack_from("<H", block, 26)[0]
    if flags & _HIGH_SIZES:
        size += struct.unpack_from("<L", block, 36)[0] << 32
        name_at = 40
    if flags & _HAS_UNICODE:
        return RarFile(size, checksum, None)
    file.seek(at + name_at)
    return RarFile(size, checksum, file.read(name_length))


class _Numbers:
    """Reads the numbers of RAR 5: seven bits a byte, the lowest first."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self.at = at
        self.is_short = False

    def word(self) -> int:
        """Read 32 bits; 0 if they are not there."""
        data = self._data[self.at : self.at + 4]
        self.is_short |= len(data) < 4
        self.at += 4
        return 0 if self.is_short else int.from_bytes(data, "little")

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
