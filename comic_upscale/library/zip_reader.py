"""Read ZIPs as programs write them, also those that break the rules.

The standard library's ``zipfile`` refuses a member whose name differs between the directory and the member's own
header, a name that is not the UTF-8 that it claims to be, a broken extra field, a ZIP in parts, and a ZIP whose end is
missing. It also unpacks bzip2 and LZMA without a bound. This reader follows the directory, as ``unzip`` and libarchive
do. If there is no directory, it finds the members one by one.

Source: APPNOTE.TXT of PKWARE, version 6.3.10.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Literal, TypeAlias

from comic_upscale.library.zip_packing import DEFLATED, PIECE, STORED, BadZipError, unpack

_CHUNK = 1 << 16
_LOCAL, _CENTRAL, _END, _END_64, _LOCATOR = b"PK\3\4", b"PK\1\2", b"PK\5\6", b"PK\6\6", b"PK\6\7"
_DESCRIPTOR, _SPANNED, _ONE_PART = b"PK\7\x08", b"PK\7\x08", b"PK00"
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_CENTRAL_HEADER = struct.Struct("<4s6H3L5H2L")
_END_RECORD = struct.Struct("<4s4H2LH")
_END_RECORD_64 = struct.Struct("<4sQ2H2L4Q")
_ENCRYPTED, _DESCRIPTOR_FOLLOWS, _UTF8 = 0x1, 0x8, 0x800
_ZIP64 = 1
_UNKNOWN_32, _UNKNOWN_16 = 0xFFFFFFFF, 0xFFFF
_WRAP = 1 << 32
_MOST_MEASURED = 2 << 30
"""Most bytes that are unpacked to find the end of a member."""
Ending: TypeAlias = Literal["directory", "cut", "no-directory", "damaged"]
"""How the list of members ended: with the directory; or, read without it, where the file is cut, where the directory
should be, or at bytes that make no sense."""


class MissingPartsError(Exception):
    """The file is the last part of a ZIP in several parts, and the other parts are missing.

    Args:
        count: of the parts.
    """

    def __init__(self, count: int) -> None:
        super().__init__(f"it is the last of {count} parts")
        self.count = count


@dataclass(frozen=True, slots=True)
class ZipMember:
    """A file or a folder in a ZIP, as the directory describes it."""

    raw_name: bytes
    """Its name in an unknown encoding."""
    says_utf8: bool
    """Whether its flags say that the name is UTF-8."""
    extra: bytes
    """Its extra fields."""
    flags: int
    """General purpose bit flags."""
    method: int
    """Number of the compression method."""
    checksum: int | None
    """CRC-32 of the file; None if it must not be checked."""
    packed: int
    """Bytes in the archive."""
    size: int
    """Bytes unpacked."""
    at: int
    """Offset of the member's own header in the file."""
    system: int = 3
    """The system whose attributes these are: 3 is UNIX."""
    attributes: int = 0
    """External attributes; for UNIX, the upper 16 bits are the mode."""

    @property
    def is_encrypted(self) -> bool:
        """Whether a password protects it."""
        return bool(self.flags & _ENCRYPTED)


@dataclass(frozen=True, slots=True)
class _End:
    """The end record of a ZIP, which describes the directory."""

    disk: int
    """Number of this part, from 0."""
    directory_disk: int
    """Number of the part in which the directory begins."""
    size: int
    """Bytes of the directory."""
    offset: int
    """Offset of the directory when the ZIP was written."""
    at: int
    """Offset of this record: the directory ends here."""
    stop: int
    """Offset after the record and its comment: the end of the file, unless other bytes follow."""
    comment: bytes
    """Of the archive."""


class ZipReader:
    """A ZIP. Any member can be unpacked at any time.

    Args:
        file: seekable; the caller closes it.
        parts: offsets at which the parts of a ZIP begin in the file, which is all of them in a row.

    Raises:
        BadZipError: the file is not a ZIP.
        MissingPartsError: the file is the last part of a ZIP.
        OSError: the file cannot be read.
    """

    def __init__(self, file: IO[bytes], parts: Sequence[int] = (0,)) -> None:
        self._file = file
        self._parts = parts
        self._size = file.seek(0, io.SEEK_END)
        self.ending: Ending = "directory"
        """How the list of members ended; final after `members` was read to its end."""
        end = self._find_end()
        self._end = None if end is None or self._is_of_member(end) else end
        self.comment = self._end.comment if self._end else b""
        """Of the archive."""
        if self._end is None and not self._begins_with_member():
            raise BadZipError("File is not a zip file")
        if self._end is not None and len(parts) <= self._end.disk < _UNKNOWN_16:
            raise MissingPartsError(self._end.disk + 1)

    def members(self) -> Iterator[ZipMember]:
        """Yield the members in the order of the directory, or in the order of the file if there is no directory.

        Raises:
            BadZipError: the directory cannot be understood, and no member was found without it.
        """
        if self._end is None:
            yield from self._found()
            return
        listed: set[int] = set()
        try:
            for member in self._directory(self._end):
                listed.add(member.at)
                yield member
        except BadZipError:
            # The members after the break are still in the file.
            yield from self._found(listed)

    def unpack(self, member: ZipMember) -> Iterator[bytes]:
        """Unpack a member in pieces, never more than the directory claims.

        Raises:
            BadZipError: the member is broken or larger than claimed; after the last piece, its checksum is wrong.
            UnsupportedMethodError: its compression method is not supported.
        """
        header = self._read(member.at, _LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size or not header.startswith(_LOCAL):
            raise BadZipError("Bad magic number for file header")
        # Only the length of this header counts: all other fields are also in the directory, and may differ here.
        name_length, extra_length = _LOCAL_HEADER.unpack(header)[-2:]
        packed = self._chunks(member.at + _LOCAL_HEADER.size + name_length + extra_length, member.packed)
        made, checksum = 0, 0
        for piece in unpack(packed, member.method, member.size):
            made += len(piece)
            if made > member.size:
                raise BadZipError(f"it unpacks to more than the {member.size:,} bytes that it claims")
            checksum = zlib.crc32(piece, checksum)
            yield piece
        if made != member.size:
            raise BadZipError(f"{made:,} bytes instead of {member.size:,}")
        if member.checksum is not None and checksum != member.checksum:
            raise BadZipError("its checksum is wrong")

    def _read(self, at: int, length: int) -> bytes:
        if at < 0:
            return b""
        self._file.seek(at)
        return self._file.read(length)

    def _chunks(self, at: int, length: int) -> Iterator[bytes]:
        """Read a range of the file, or the part of it that exists."""
        end = at + length
        while at < end:
            # The caller may have moved the file's position between two pieces.
            chunk = self._read(at, min(_CHUNK, end - at))
            if not chunk:
                return
            at += len(chunk)
            yield chunk

    # --- the directory

    def _find_end(self) -> _End | None:
        """Find the record at the end of the file. A comment may follow it, and so may other bytes."""
        start = max(0, self._size - _END_RECORD.size - _UNKNOWN_16)
        tail = self._read(start, self._size - start)
        at = len(tail)
        while (at := tail.rfind(_END, 0, at)) >= 0:
            if at + _END_RECORD.size > len(tail):
                continue
            _, disk, directory_disk, _, _, size, offset, length = _END_RECORD.unpack_from(tail, at)
            comment = tail[at + _END_RECORD.size :][:length]
            if len(comment) == length:
                stop = start + at + _END_RECORD.size + length
                return self._wide_end(_End(disk, directory_disk, size, offset, start + at, stop, comment))
        return None

    def _is_of_member(self, end: _End) -> bool:
        """Whether an end record belongs to a ZIP that is stored inside this one, which is cut short.

        Its directory then does not reach back to the beginning of the file, though a member begins there.
        """
        before = end.at - end.size - end.offset
        return len(self._parts) == 1 and end.stop < self._size and before > 0 and self._begins_with_member()

    def _wide_end(self, end: _End) -> _End:
        """Return the end record of a ZIP64 if there is one."""
        locator = self._read(end.at - 20, 20)
        if len(locator) < 20 or not locator.startswith(_LOCATOR):
            return end
        (offset,) = struct.unpack_from("<Q", locator, 8)
        # At its offset, or right before the locator if other bytes were put before the ZIP later.
        for at in (offset, end.at - 20 - _END_RECORD_64.size):
            record = self._read(at, _END_RECORD_64.size)
            if len(record) == _END_RECORD_64.size and record.startswith(_END_64):
                *_, disk, directory_disk, _, _, size, directory = _END_RECORD_64.unpack(record)
                return _End(disk, directory_disk, size, directory, at, end.stop, end.comment)
        return end

    def _directory(self, end: _End) -> Iterator[ZipMember]:
        at, shift = self._place_of(end)
        stop = min(end.at, at + end.size)
        # The Archive Utility of macOS writes no ZIP64: offsets beyond 4 GiB lose their upper bits.
        wraps = shift > 0 and shift % _WRAP == 0 and self._begins_with_member()
        before = 0
        while at < stop:
            header = self._read(at, _CENTRAL_HEADER.size)
            if len(header) < _CENTRAL_HEADER.size or not header.startswith(_CENTRAL):
                raise BadZipError("Bad magic number for central directory")
            (
                _, made_by, _, flags, method, _, _, checksum, packed, size, name_length, extra_length,
                comment_length, disk, _, attributes, offset,
            ) = _CENTRAL_HEADER.unpack(header)  # fmt: skip
            rest = self._read(at + _CENTRAL_HEADER.size, name_length + extra_length)
            if len(rest) < name_length + extra_length:
                raise BadZipError("Truncated central directory")
            name, extra = rest[:name_length], rest[name_length:]
            size, packed, offset, disk = _wide(extra, size, packed, offset, disk)
            if wraps:
                shift = before - before % _WRAP + (_WRAP if offset < before % _WRAP else 0)
                before = offset + shift
            begins = self._parts[disk] if disk < len(self._parts) else 0
            yield ZipMember(
                name, bool(flags & _UTF8), extra, flags, method, checksum, packed, size,
                begins + offset + shift, made_by >> 8, attributes,
            )  # fmt: skip
            at += _CENTRAL_HEADER.size + name_length + extra_length + comment_length

    def _place_of(self, end: _End) -> tuple[int, int]:
        """Return the offset of the directory, and the number of bytes that were put before the ZIP later.

        Raises:
            BadZipError: the directory is not in its place.
        """
        if len(self._parts) > 1:
            if end.directory_disk >= len(self._parts):
                raise BadZipError("its directory is in a part that is missing")
            return self._parts[end.directory_disk] + end.offset, 0
        before_end = end.at - end.size
        if end.size == 0:
            return before_end, 0
        for at, shift in ((before_end, before_end - end.offset), (end.offset, 0)):
            if self._read(at, 4) == _CENTRAL:
                return at, shift
        raise BadZipError("Bad magic number for central directory")

    # --- without the directory

    def _begins_with_member(self) -> bool:
        head = self._read(0, 8)
        return head[:4] == _LOCAL or (head[:4] in (_SPANNED, _ONE_PART) and head[4:] == _LOCAL)

    def _found(self, listed: Collection[int] = ()) -> Iterator[ZipMember]:
        """Yield the members that are found without the directory, except those whose offsets are in ``listed``."""
        count = len(listed)
        for member in self._walk():
            if member.at not in listed:
                count += 1
                yield member
        if count == 0:
            raise BadZipError("File is not a zip file")

    def _walk(self) -> Iterator[ZipMember]:
        """Yield the members from the beginning of the file, each by its own header, and set `ending`."""
        at = 0 if self._read(0, 4) == _LOCAL else 4
        while True:
            header = self._read(at, _LOCAL_HEADER.size)
            if len(header) < _LOCAL_HEADER.size or not header.startswith(_LOCAL):
                is_cut = len(header) < _LOCAL_HEADER.size and header[:4] == _LOCAL[: len(header)]
                is_directory = header.startswith((_CENTRAL, _END))
                self.ending = "cut" if is_cut else "no-directory" if is_directory else "damaged"
                return
            _, _, flags, method, _, _, checksum, packed, size, name_length, extra_length = (
                _LOCAL_HEADER.unpack(header)
            )
            begins = at + _LOCAL_HEADER.size + name_length + extra_length
            rest = self._read(at + _LOCAL_HEADER.size, name_length + extra_length)
            name, extra = rest[:name_length], rest[name_length:]
            size, packed, _, _ = _wide(extra, size, packed, 0, 0)
            end = begins + packed
            if flags & _DESCRIPTOR_FOLLOWS:
                described = self._described(begins, method, packed)
                if described is None:
                    self.ending = "cut"
                    return
                checksum, packed, size, end = described
            if begins + packed > self._size:
                self.ending = "cut"
                return
            yield ZipMember(name, bool(flags & _UTF8), extra, flags, method, checksum, packed, size, at)
            at = end

    def _described(self, begins: int, method: int, packed: int) -> tuple[int, int, int, int] | None:
        """Find the data descriptor after a member whose header holds no sizes.

        Returns:
            Checksum, bytes in the archive, bytes unpacked, and offset of the next header; None if there is no end.
        """
        ends = [begins + packed] if packed else self._possible_ends(begins, method)
        for at in ends:
            descriptor = self._read(at, 28)
            descriptor = descriptor[4:] if descriptor.startswith(_DESCRIPTOR) else descriptor
            skipped = 4 if self._read(at, 4) == _DESCRIPTOR else 0
            for form in ("<3L", "<L2Q"):
                length = struct.calcsize(form)
                if len(descriptor) < length:
                    continue
                checksum, packed, size = struct.unpack_from(form, descriptor)
                if packed == at - begins and (method != STORED or size == packed):
                    return checksum, packed, size, at + skipped + length
        return None

    def _possible_ends(self, begins: int, method: int) -> Iterator[int]:
        if method == DEFLATED:
            yield from self._end_of_deflated(begins)
            return
        # Stored data has no end mark: the descriptor must fit.
        at = begins
        overlap = len(_DESCRIPTOR) - 1
        while chunk := self._read(at, PIECE):
            place = -1
            while (place := chunk.find(_DESCRIPTOR, place + 1)) >= 0:
                yield at + place
            if len(chunk) <= overlap:
                return
            at += len(chunk) - overlap

    def _end_of_deflated(self, begins: int) -> Iterator[int]:
        unpacker = zlib.decompressobj(-15)
        at, made = begins, 0
        for chunk in self._chunks(begins, self._size - begins):
            at += len(chunk)
            while chunk and not unpacker.eof and made <= _MOST_MEASURED:
                try:
                    made += len(unpacker.decompress(chunk, PIECE))
                except zlib.error:
                    return
                chunk = unpacker.unconsumed_tail
            if unpacker.eof:
                yield at - len(unpacker.unused_data)
                return


def _wide(extra: bytes, size: int, packed: int, offset: int, disk: int) -> tuple[int, int, int, int]:
    """Return the numbers of a member; those that need 64 bits come from its extra fields."""
    for kind, field in extra_fields(extra):
        if kind != _ZIP64:
            continue
        at = 0
        numbers = []
        for number, unknown, form in (
            (size, _UNKNOWN_32, "<Q"), (packed, _UNKNOWN_32, "<Q"), (offset, _UNKNOWN_32, "<Q"),
            (disk, _UNKNOWN_16, "<L"),
        ):  # fmt: skip
            if number == unknown and at + struct.calcsize(form) <= len(field):
                (number,) = struct.unpack_from(form, field, at)
                at += struct.calcsize(form)
            numbers.append(number)
        size, packed, offset, disk = numbers
    return size, packed, offset, disk


def extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the content of each extra field of a member; stop at a broken one."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        yield kind, extra[at + 4 : at + 4 + length]
        at += 4 + length
