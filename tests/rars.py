"""RARs, whole and in parts, written byte by byte: no free program writes them. Their files are stored."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

_SIGNATURES = {4: b"Rar!\x1a\x07\0", 5: b"Rar!\x1a\x07\1\0"}


class Piece(NamedTuple):
    """What of a file is in one part."""

    name: str
    whole: bytes
    data: bytes
    goes_on: bool
    """It began in the part before."""
    is_split: bool
    """It goes on in the part behind."""


def make_rar(
    path: Path, members: Mapping[str, bytes], version: int = 5, *, method: int = 0, encoding: str = "utf-8"
) -> Path:
    """Write a RAR in one part.

    Args:
        path: of the RAR.
        members: what goes in.
        version: of the format, 4 or 5.
        method: that the headers claim; 0 is stored, and more than 5 does not exist.
        encoding: of the names.
    """
    path.write_bytes(
        _volume(
            version,
            [Piece(*each, each[1], False, False) for each in members.items()],
            None,
            True,
            method,
            encoding,
        )
    )
    return path


def make_rar_parts(
    folder: Path, name: Callable[[int], str], members: Mapping[str, bytes], room: int, version: int = 5
) -> list[Path]:
    """Write a RAR in parts.

    Args:
        folder: for the parts.
        name: of a part, by its number from 0.
        members: what goes in.
        room: bytes of files in a part.
        version: of the format, 4 or 5.
    """
    volumes = list(_fill(members, room))
    paths = []
    for number, pieces in enumerate(volumes):
        paths.append(folder / name(number))
        paths[-1].write_bytes(_volume(version, pieces, number, number + 1 == len(volumes)))
    return paths


def _fill(members: Mapping[str, bytes], room: int) -> Iterator[list[Piece]]:
    pieces: list[Piece] = []
    left = room
    for name, data in members.items():
        at = 0
        while at < len(data):
            length = min(left, len(data) - at)
            end = at + length
            pieces.append(Piece(name, data, data[at:end], at > 0, end < len(data)))
            at, left = end, left - length
            if left == 0:
                yield pieces
                pieces, left = [], room
    if pieces:
        yield pieces


def _volume(
    version: int,
    pieces: Sequence[Piece],
    number: int | None,
    is_last: bool,
    method: int = 0,
    encoding: str = "utf-8",
) -> bytes:
    write = _volume5 if version == 5 else _volume4
    return _SIGNATURES[version] + write(pieces, number, is_last, method, encoding)


def _vint(value: int) -> bytes:
    encoded = bytearray()
    while True:
        encoded.append(value & 0x7F | (0x80 if value > 0x7F else 0))
        value >>= 7
        if not value:
            return bytes(encoded)


def _block5(content: bytes) -> bytes:
    block = _vint(len(content)) + content
    return struct.pack("<L", zlib.crc32(block)) + block


def _volume5(pieces: Sequence[Piece], number: int | None, is_last: bool, method: int, encoding: str) -> bytes:
    about = _vint(0) if number is None else _vint(1) if number == 0 else _vint(3) + _vint(number)
    data = _block5(b"\1\0" + about)
    for piece in pieces:
        flags = 2 | (8 if piece.goes_on else 0) | (16 if piece.is_split else 0)
        checksum = zlib.crc32(piece.data if piece.is_split else piece.whole)
        name = piece.name.encode(encoding)
        data += _block5(
            b"\2" + _vint(flags) + _vint(len(piece.data)) + _vint(4) + _vint(len(piece.whole)) + _vint(0o100644)
            + struct.pack("<L", checksum) + _vint(method << 7) + _vint(1) + _vint(len(name)) + name
        ) + piece.data  # fmt: skip
    return data + _block5(b"\5\0" + _vint(0 if is_last else 1))


def _block4(kind: int, flags: int, rest: bytes) -> bytes:
    block = struct.pack("<BHH", kind, flags, 7 + len(rest)) + rest
    return struct.pack("<H", zlib.crc32(block) & 0xFFFF) + block


def _volume4(pieces: Sequence[Piece], number: int | None, is_last: bool, method: int, encoding: str) -> bytes:
    flags = 0 if number is None else 0x111 if number == 0 else 0x11
    data = _block4(0x73, flags, bytes(6))
    for piece in pieces:
        name = piece.name.encode(encoding)
        checksum = zlib.crc32(piece.data if piece.is_split else piece.whole)
        head = struct.pack(
            "<LLBLLBBHL",
            len(piece.data),
            len(piece.whole),
            3,
            checksum,
            0x21 << 16,
            20,
            0x30 + method,
            len(name),
            0o100644,
        )
        data += _block4(0x74, 0x8000 | piece.goes_on | piece.is_split << 1, head + name) + piece.data
    return data + _block4(0x7B, 0x4000 | (0 if is_last else 1), b"")
