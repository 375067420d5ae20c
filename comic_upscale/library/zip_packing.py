"""Unpack the member of a ZIP in pieces, and never further than one byte beyond its claimed size.

The decompressors of ``zipfile`` have no such bound for bzip2 and LZMA: 900 bytes become a gigabyte of memory.

Source: APPNOTE.TXT of PKWARE, version 6.3.10, chapter 5.
"""

from __future__ import annotations

import bz2
import io
import itertools
import lzma
import zlib
from collections.abc import Iterator
from typing import Any, Protocol

from comic_upscale.library.libarchive_archive import load_libarchive, read_blocks

PIECE = 1 << 20
"""Bytes that are unpacked at once."""
_BLOCK = 1 << 16

STORED, DEFLATED = 0, 8
_BZIP2, _LZMA, _XZ = 12, 14, 95
_ZSTANDARD = (93, 20)
_OTHER_METHODS = {1: "Shrink", 6: "Implode", 9: "Deflate64", 97: "WavPack", 98: "PPMd", 99: "AES"}
_MEMORY_OF_XZ = 256 << 20
_SMALLEST_DICTIONARY = 4096


class BadZipError(Exception):
    """A ZIP is broken; the text says how."""


class UnsupportedMethodError(Exception):
    """A member of a ZIP is packed by a method that is not supported; the text names the method."""


class _Unpacker(Protocol):
    """The common interface of the decompressors of `bz2` and `lzma`."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def unpack(packed: Iterator[bytes], method: int, size: int) -> Iterator[bytes]:
    """Unpack chunks of a member in pieces of at most `PIECE` bytes, up to one byte more than ``size`` in all.

    Raises:
        BadZipError: the packed data is broken.
        UnsupportedMethodError: the compression method is not supported.
        PageError: ``"library"``: the method needs libarchive, which is not installed.
    """
    try:
        if method == STORED:
            yield from packed
        elif method == DEFLATED:
            yield from _inflate(packed, size + 1)
        elif method == _BZIP2:
            yield from _pieces(packed, bz2.BZ2Decompressor(), size + 1)
        elif method == _XZ:
            yield from _pieces(packed, lzma.LZMADecompressor(lzma.FORMAT_XZ, _MEMORY_OF_XZ), size + 1)
        elif method == _LZMA:
            yield from _unpack_lzma(packed, size)
        elif method in _ZSTANDARD:
            yield from _unpack_zstandard(packed, size + 1)
        else:
            raise UnsupportedMethodError(_OTHER_METHODS.get(method, f"method {method}"))
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise BadZipError(f"its packed data is broken: {error}") from None


def _inflate(packed: Iterator[bytes], most: int) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(-15)
    for chunk in packed:
        while chunk and most > 0:
            piece = unpacker.decompress(chunk, min(PIECE, most))
            most -= len(piece)
            yield piece
            chunk = unpacker.unconsumed_tail
        if unpacker.eof or most <= 0:
            return
    yield unpacker.flush(most)


def _pieces(packed: Iterator[bytes], unpacker: _Unpacker, most: int) -> Iterator[bytes]:
    for chunk in packed:
        while most > 0 and not unpacker.eof and (chunk or not unpacker.needs_input):
            piece = unpacker.decompress(chunk, min(PIECE, most))
            chunk = b""
            most -= len(piece)
            yield piece
        if unpacker.eof or most <= 0:
            return


def _unpack_lzma(packed: Iterator[bytes], size: int) -> Iterator[bytes]:
    first = b""
    while len(first) < 4 or len(first) < 4 + int.from_bytes(first[2:4], "little"):
        chunk = next(packed, b"")
        if not chunk:
            raise BadZipError("the header of its packed data is missing")
        first += chunk
    length = int.from_bytes(first[2:4], "little")
    if length != 5 or first[4] >= 9 * 5 * 5:
        raise BadZipError("the header of its packed data is broken")
    rest, context = divmod(first[4], 9)
    # A match never reaches back further than the beginning, so a larger dictionary would only take memory.
    dictionary = max(_SMALLEST_DICTIONARY, min(int.from_bytes(first[5:9], "little"), size))
    filters = [
        {"id": lzma.FILTER_LZMA1, "dict_size": dictionary, "lc": context, "lp": rest % 5, "pb": rest // 5}
    ]
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)
    yield from _pieces(itertools.chain((first[9:],), packed), unpacker, size + 1)


def _unpack_zstandard(packed: Iterator[bytes], most: int) -> Iterator[bytes]:
    """Unpack by libarchive. It refuses a window of more than 128 MiB."""
    library = load_libarchive()
    if "zstd" not in library.ffi.READ_FILTERS:
        raise UnsupportedMethodError("Zstandard")
    stream = _PackedStream(packed)
    try:
        with library.stream_reader(stream, "raw", "zstd", block_size=_BLOCK) as archive:
            if b"zstd" not in archive.filter_names:
                # libarchive would return such data unchanged.
                raise BadZipError("its packed data is not Zstandard")
            for entry in archive:
                for piece in read_blocks(library, entry):
                    yield piece[:most]
                    most -= len(piece)
                    if most <= 0:
                        return
    except library.exception.ArchiveError as error:
        raise stream.error or BadZipError(f"its packed data is broken: {error.msg}") from None
    if stream.error is not None:
        raise stream.error


class _PackedStream(io.RawIOBase):
    """Packed chunks as a stream for libarchive.

    An exception would be lost in libarchive's callback, so it is kept, and the stream ends there.
    """

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""
        self.error: Exception | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            self._rest = self._rest or next(self._chunks, b"")
        except Exception as error:
            self.error = error
            return 0
        part = self._rest[: len(buffer)]
        buffer[: len(part)] = part
        self._rest = self._rest[len(part) :]
        return len(part)
