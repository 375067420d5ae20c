"""Read ZIPs, and so CBZs and EPUBs: names in the right encoding, kinds of members, limits."""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import IO

from comic_upscale.errors import PageError
from comic_upscale.library.archives import (
    MAX_MEMBER_BYTES,
    Entry,
    Kind,
    Tally,
    closing_on_error,
    encrypted,
    join_pieces,
    kind_of_odd,
    note_cut,
    note_damage,
    too_large,
    volume_errors,
)
from comic_upscale.library.name_encodings import decode_names
from comic_upscale.library.parts import MISSING_PART
from comic_upscale.library.zip_packing import UnsupportedMethodError
from comic_upscale.library.zip_reader import MissingPartsError, ZipMember, ZipReader, extra_fields
from comic_upscale.settings.job import VolumeRules

_UNICODE_PATH = 0x7075
_UNIX_SYSTEMS = (3, 19)
_FILE_TYPE, _REGULAR, _LINK = 0xF000, 0x8000, 0xA000


class ZipContainer:
    """A ZIP, and so a CBZ or an EPUB.

    Args:
        file: open for reading at any place; closed with the container, also where this raises.
        rules: the limits.
        parts: offsets at which the parts of a split ZIP begin in the file.

    Raises:
        PageError: it is none; `MISSING_PART`.
    """

    in_order = False

    def __init__(self, file: IO[bytes], rules: VolumeRules, parts: Sequence[int] = (0,)) -> None:
        self._file, self._rules = file, rules
        self._members: list[ZipMember] | None = None
        self._locked: dict[int, bool] = {}
        """Offset of a member to whether a password protects it, for those that claim it."""
        with volume_errors(), closing_on_error(file):
            self._size = file.seek(0, os.SEEK_END)
            try:
                self._zip = ZipReader(file, parts)
            except MissingPartsError as error:
                raise PageError(
                    MISSING_PART,
                    f"The volume is the last of {error.count} parts of a ZIP, and the others are missing: put all "
                    "parts (.z01, .z02 and so on) into one folder",
                ) from None
        self.comment = self._zip.comment

    @property
    def notes(self) -> Sequence[str]:
        """Faults of the archive as a whole."""
        count = len(self._listed())
        if self._zip.ending == "cut":
            return (note_cut(count),)
        if self._zip.ending == "damaged":
            return (note_damage(count),)
        if self._zip.ending == "no-directory":
            return (f"the directory of the archive is damaged: its {count} file(s) were found without it",)
        return ()

    def entries(self) -> list[Entry]:
        """The directory, with names in the encoding that they were written in."""
        members = self._listed()
        return [
            Entry(name, member.size, self._kind(member), self._is_locked(member))
            for name, member in zip(_zip_names(members), members, strict=True)
        ]

    def _listed(self) -> list[ZipMember]:
        if self._members is None:
            tally = Tally(self._size, self._rules)
            members = []
            with volume_errors():
                for member in self._zip.members():
                    tally.add(member.size)
                    members.append(member)
            self._members = members
        return self._members

    def _kind(self, member: ZipMember) -> Kind:
        if member.raw_name.endswith(b"/") or (member.raw_name.endswith(b"\\") and not member.size):
            return "folder"
        # Programs on other systems fill these bits with anything.
        kind = (member.attributes >> 16) & _FILE_TYPE if member.system in _UNIX_SYSTEMS else _REGULAR
        if kind in (0, _REGULAR):
            return "file"
        return kind_of_odd(is_link=kind == _LINK, size=member.size, head=lambda: self._head(member))

    def _is_locked(self, member: ZipMember) -> bool:
        """Whether a password protects a member. Some programs set the flag on members that unpack without one."""
        if not member.is_encrypted:
            return False
        if member.at not in self._locked:
            # Where one is protected, the others are taken at their word.
            self._locked[member.at] = any(self._locked.values()) or not self._unpacks(member)
        return self._locked[member.at]

    def _unpacks(self, member: ZipMember) -> bool:
        try:
            for _ in self._zip.unpack(member):
                pass
        except Exception:
            return False
        return True

    def _head(self, member: ZipMember) -> bytes:
        with contextlib.suppress(Exception):  # a fault is reported when the member is read
            return next(self._zip.unpack(member), b"")
        return b""

    def pieces(self, index: int) -> Iterator[bytes]:
        """Yield the bytes of a member in pieces; a wrong checksum raises after the last one."""
        return self._unpack(self._listed()[index])

    def _unpack(self, member: ZipMember) -> Iterator[bytes]:
        if self._is_locked(member):
            raise encrypted()
        with volume_errors("member"):
            try:
                yield from self._zip.unpack(member)
            except UnsupportedMethodError as error:
                raise PageError(
                    "unsupported",
                    f"The member is packed in a way that is not read here (by {error}): pack it again",
                ) from None

    def read(self, index: int) -> bytes:
        """The bytes of a member; its checksum is right."""
        return self._join(self._listed()[index])

    def salvage(self, index: int) -> bytes:
        """All bytes of a member, even where its checksum is wrong."""
        # Without a checksum nothing is compared. Each program that reads the page then sees the fault itself.
        return self._join(replace(self._listed()[index], checksum=None))

    def _join(self, member: ZipMember) -> bytes:
        if member.size > MAX_MEMBER_BYTES:
            raise too_large(member.size)
        return join_pieces(self._unpack(member))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _zip_names(members: Sequence[ZipMember]) -> list[str]:
    """Decode the names; those without the flag for UTF-8 from their extra field, or from their bytes."""
    names: dict[int, str] = {}
    plain: dict[int, bytes] = {}
    for at, member in enumerate(members):
        raw = member.raw_name.partition(b"\0")[0]
        if member.says_utf8:
            with contextlib.suppress(UnicodeDecodeError):
                names[at] = raw.decode()
        elif (beside := name_beside(member.extra, member.raw_name)) is not None:
            names[at] = beside
        if at not in names:
            plain[at] = raw
    names.update(zip(plain, decode_names(list(plain.values())), strict=True))
    return [names[at] for at in range(len(members))]


def name_beside(extra: bytes, raw: bytes) -> str | None:
    """Return the name in the extra field 0x7075 of Info-ZIP; None if there is none, or it belongs to another name.

    Args:
        extra: the extra fields of a member.
        raw: the bytes of the plain name; the field holds their checksum.

    Source: APPNOTE.TXT of PKWARE, 4.6.9.
    """
    for kind, field in extra_fields(extra):
        if kind == _UNICODE_PATH and len(field) > 5 and field[0] == 1:
            if int.from_bytes(field[1:5], "little") != zlib.crc32(raw):
                return None
            try:
                return field[5:].decode()
            except UnicodeDecodeError:
                return None
    return None
