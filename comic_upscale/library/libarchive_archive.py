"""Read RAR, 7z and compressed tars by the system's libarchive, from the front to the back."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import posixpath
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from comic_upscale.errors import PageError
from comic_upscale.library.archives import (
    MAX_MEMBER_BYTES,
    Entry,
    Kind,
    Tally,
    closing_on_error,
    damaged,
    encrypted,
    join_pieces,
    note_cut,
    note_damage,
    too_large,
    volume_errors,
)
from comic_upscale.library.name_encodings import decode_names
from comic_upscale.library.parts import open_joined
from comic_upscale.library.rar_headers import RAR_STARTS, RarFile, read_rar_facts, read_rar_files
from comic_upscale.settings.job import VolumeRules

_BLOCK = 1 << 16
_KINDS = {
    RAR_STARTS[0]: ("rar", "none"), RAR_STARTS[1]: ("rar5", "none"), b"7z\xbc\xaf\x27\x1c": ("7zip", "none"),
}  # fmt: skip
"""First bytes of a file: libarchive's names of its format and of its filters."""
_COMPRESSED_TAR = ("tar", "all")


class LibarchiveContainer:
    """A RAR, a 7z or a compressed tar, read by the system's libarchive from the front to the back.

    Args:
        paths: files of this machine: the parts in their order, usually one.
        rules: the limits.
        held: closed with the container, also where this raises.
        are_volumes: whether each part has headers of its own, as the parts of a RAR have.

    Raises:
        PageError: ``"library"`` where libarchive is not installed; or the file is none of these.
    """

    in_order = True
    comment = b""

    def __init__(
        self,
        paths: Sequence[Path],
        rules: VolumeRules,
        held: contextlib.ExitStack | None = None,
        *,
        are_volumes: bool = False,
    ) -> None:
        self._paths, self._rules, self._are_volumes = paths, rules, are_volumes
        self._held = held or contextlib.ExitStack()
        with volume_errors(), closing_on_error(self._held):
            self._library = load_libarchive()
            self._size = sum(path.stat().st_size for path in paths)
        self._stack = contextlib.ExitStack()
        self._walk: Iterator[Any] = iter(())
        self._at = -1
        self._places: dict[bytes, int] = {}
        """Name to index of the files that were passed, for hard links after them."""
        self._last_linked: tuple[int, bytes] | None = None
        self._broken: PageError | None = None
        self._rar_files: Sequence[RarFile] | None = None
        self.notes: tuple[str, ...] = ()
        """Faults of the archive as a whole."""

    def entries(self) -> list[Entry]:
        """The directory. The packed data is skipped, not unpacked."""
        tally = Tally(self._size, self._rules)
        found: list[Entry] = []
        raw: list[bytes] = []
        self._rewind()
        try:
            with self._errors():
                for number, entry in enumerate(self._walk):
                    original = self._note(entry, number)
                    size = (entry.size or 0) if original is None else found[original].size
                    kind = _libarchive_kind(entry, size) if original is None else "file"
                    tally.add(size)
                    described = self._describe(entry, number)
                    name = described.raw_name if described is not None else None
                    raw.append(name or _raw_name(entry, number))
                    found.append(Entry("", size, kind, _is_locked(entry)))
            fault = None if self._is_whole() else note_cut
        except PageError as error:
            if error.kind != "damaged" or not found:
                raise
            fault = note_cut if "runcated" in error.reason or not self._is_whole() else note_damage
        self._close()
        if fault is not None:
            found = self._without_broken_end(found)
            self.notes = (fault(len(found)),)
        names = decode_names(raw[: len(found)])
        return [replace(entry, name=name) for name, entry in zip(names, found, strict=True)]

    def _is_whole(self) -> bool:
        """Whether a RAR has its end mark. libarchive accepts the end of the file instead."""
        with self._paths[-1].open("rb") as file:
            return not file.read(8).startswith(RAR_STARTS) or read_rar_facts(file).is_whole

    def _describe(self, entry: Any, index: int) -> RarFile | None:
        """Return what the header of a file in a RAR says; None if that is not known."""
        if self._rar_files is None:
            self._rar_files = ()
            with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
                files = [stack.enter_context(path.open("rb")) for path in self._paths]
                if files[0].read(8).startswith(RAR_STARTS):
                    self._rar_files = read_rar_files(files if self._are_volumes else [open_joined(files)])
        found = self._rar_files[index] if index < len(self._rar_files) else None
        # The sizes tell whether both lists count in the same way.
        return found if found is not None and found.size == entry.size else None

    def _without_broken_end(self, found: list[Entry]) -> list[Entry]:
        """Return the entries of an archive that cannot be read to its end, without the last one if it is incomplete.

        Raises:
            PageError: no entry is left.
        """
        if not found:
            raise damaged("volume", "it is cut short before its first file")
        try:
            self.read(len(found) - 1)
        except PageError:
            found = found[:-1]
            if not found:
                raise
        finally:
            self._broken = None
            self._close()
        return found

    def read(self, index: int) -> bytes:
        """The bytes of a member; its checksum is right.

        The members between the last one read and this one are unpacked and dropped.
        """
        return self._read(index, is_checked=True)

    def salvage(self, index: int) -> bytes:
        """All bytes of a member, even if its checksum is wrong, as far as libarchive gives them out."""
        return self._read(index, is_checked=False)

    def _read(self, index: int, *, is_checked: bool) -> bytes:
        entry, original = self._go_to(index)
        if original is not None:
            return self._linked(original)
        if (entry.size or 0) > MAX_MEMBER_BYTES:
            raise too_large(entry.size)
        return join_pieces(self._unpack(entry, index, is_checked=is_checked))

    def pieces(self, index: int) -> Iterator[bytes]:
        """Yield the bytes of a member in pieces."""
        entry, original = self._go_to(index)
        if original is not None:
            yield self._linked(original)
        else:
            yield from self._unpack(entry, index, is_checked=True)

    def _go_to(self, index: int) -> tuple[Any, int | None]:
        """Walk to a member. Return it, and for a hard link the index of the file that it names."""
        if self._broken is not None:
            raise self._broken
        if index <= self._at or self._at < 0:
            self._rewind()
        entry: Any = None
        original: int | None = None
        try:
            with self._errors():
                while self._at < index:
                    entry = next(self._walk, None)
                    if entry is None:
                        raise damaged("volume", "it ends too early")
                    self._at += 1
                    original = self._note(entry, self._at)
        except PageError as error:
            # The members after it cannot be reached either: do not start from the front again for each page.
            self._broken = error
            raise
        return entry, original

    def _note(self, entry: Any, number: int) -> int | None:
        """Remember the index of an entry; for a hard link, return the index of the earlier file that it names."""
        name = posixpath.normpath(_raw_name(entry, number))
        original = None
        if entry.islnk:
            link = entry.linkpath or b""
            original = self._places.get(
                posixpath.normpath(link if isinstance(link, bytes) else link.encode())
            )
            # An earlier walk has noted the link itself; a file comes before its links.
            original = original if original is not None and original < number else None
        if original is not None or entry.isfile:
            self._places[name] = number if original is None else original
        return original

    def _linked(self, index: int) -> bytes:
        """Return the bytes of the file that a hard link names. The last one is kept: going back is slow."""
        if self._last_linked is None or self._last_linked[0] != index:
            self._last_linked = index, self.read(index)
        return self._last_linked[1]

    def _unpack(self, entry: Any, index: int, *, is_checked: bool) -> Iterator[bytes]:
        size = checksum = 0
        described = self._describe(entry, index) if is_checked else None
        claimed: int | None = entry.size
        # A member without a size may be as large as the whole volume.
        most = Tally(self._size, self._rules).room() if claimed is None else claimed
        with self._errors("member"):
            for piece in read_blocks(self._library, entry):
                size += len(piece)
                if size > most:
                    raise damaged("member", f"it unpacks to more than the {most:,} bytes that it claims")
                if described is not None:
                    checksum = zlib.crc32(piece, checksum)
                yield piece
        if claimed is not None and claimed != size:
            raise damaged("member", f"{size:,} bytes instead of {claimed:,}")
        if described is not None and described.checksum not in (None, checksum):
            raise damaged("member", "its checksum is wrong")

    def _rewind(self) -> None:
        self._close()
        with self._errors():
            archive = self._stack.enter_context(
                _open_libarchive(self._library, self._paths, are_volumes=self._are_volumes)
            )
        self._walk = iter(archive)

    def _close(self) -> None:
        self._walk, self._at = iter(()), -1
        self._stack.close()

    def close(self) -> None:
        """Close the file."""
        self._close()
        self._held.close()

    @contextlib.contextmanager
    def _errors(self, what: str = "volume") -> Iterator[None]:
        with volume_errors(what):
            try:
                yield
            except self._library.exception.ArchiveError as error:
                words = str(error.msg)
                if "ncrypt" in words or "assphrase" in words:
                    raise encrypted() from None
                if "olid archive support" in words:
                    raise PageError(
                        "unsupported",
                        "The volume is a solid RAR of the old format (RAR4), which libarchive does not read: "
                        "unpack it, or pack it again as CBZ",
                    ) from None
                if "nsupported" in words or "not supported" in words or "o support" in words:
                    raise PageError(
                        "unsupported",
                        f"The {what} is packed in a way that this version of libarchive does not read "
                        f"({words[:200]}): unpack it, or pack it again as CBZ",
                    ) from None
                if not all(path.exists() for path in self._paths):
                    raise FileNotFoundError from None
                raise damaged(what, words) from None


@contextlib.contextmanager
def _open_libarchive(library: Any, paths: Sequence[Path], *, are_volumes: bool) -> Iterator[Any]:
    with paths[0].open("rb") as file:
        head = file.read(8)
    # libarchive must not guess the format: it takes a RAR for a ZIP if the last file in it is one. Nor may it look for
    # filters of a RAR, which has none: libarchive 3.6 does not seek back through several files afterwards.
    kind, filters = next((kind for start, kind in _KINDS.items() if head.startswith(start)), _COMPRESSED_TAR)
    if len(paths) == 1:
        with library.file_reader(str(paths[0]), kind, filters, block_size=_BLOCK) as archive:
            yield archive
    elif are_volumes:
        ffi = library.ffi
        # The binding does not wrap this one.
        open_all = ffi.libarchive.archive_read_open_filenames
        open_all.argtypes = [ffi.c_archive_p, ctypes.POINTER(ctypes.c_char_p), ctypes.c_size_t]
        open_all.restype, open_all.errcheck = ctypes.c_int, ffi.check_int
        names = (ctypes.c_char_p * (len(paths) + 1))(*map(_as_bytes, paths), None)
        with library.read.new_archive_read(kind, filters) as pointer:
            open_all(pointer, names, _BLOCK)
            yield library.read.ArchiveRead(pointer)
    else:
        with (
            open_joined([path.open("rb") for path in paths]) as joined,
            library.stream_reader(joined, kind, filters, block_size=_BLOCK) as archive,
        ):
            yield archive


def _as_bytes(path: Path) -> bytes:
    """Return a path as libarchive takes several ones, which is not UTF-8 on Windows.

    Raises:
        PageError: ``"unsupported"``: Windows has no bytes for it.
    """
    if os.name != "nt":
        return os.fsencode(path)
    try:
        return str(path).encode("mbcs")
    except UnicodeEncodeError:
        raise PageError(
            "unsupported",
            f"The parts of the volume cannot be opened, because this Windows cannot pass on {path.name} or the name of "
            "a folder around it: give them names of plain letters",
        ) from None


def load_libarchive() -> Any:
    """Import the binding, which loads the system's library.

    Raises:
        PageError: ``"library"``; the reason says what to install.
    """
    try:
        import libarchive
        import libarchive.exception
        import libarchive.ffi
    except Exception:
        # OSError, TypeError or AttributeError, depending on the system and the binding.
        raise PageError(
            "library",
            "CBR, RAR, CB7, 7z, compressed CBT and Zstandard need libarchive, which is not installed: Debian and "
            "Ubuntu: apt-get install libarchive13 (or libarchive13t64); Fedora: dnf install libarchive; macOS: "
            "brew install libarchive, and set LIBARCHIVE to its libarchive.dylib; Windows 10 and 11 have it as "
            "archiveint.dll, and where that fails, set LIBARCHIVE to a libarchive.dll",
        ) from None
    # What it logs about a strange file is also raised as an error of a member.
    logging.getLogger("libarchive").addHandler(logging.NullHandler())
    return libarchive


def read_blocks(library: Any, entry: Any) -> Iterator[bytes]:
    """Yield the content of an entry in blocks.

    Raises:
        PageError: ``"damaged"``: its checksum is wrong.
        ArchiveError: of the library.
    """
    # Not the binding's get_blocks(): if libarchive warns of a wrong checksum, that method takes the number of the
    # warning for a count of bytes.
    buffer = ctypes.create_string_buffer(_BLOCK)
    while (count := library.ffi.read_data(entry._archive_p, buffer, _BLOCK)) > 0:
        yield buffer.raw[:count]
    if count < 0:
        raise damaged("member", "its checksum is wrong")


def _raw_name(entry: Any, number: int) -> bytes:
    name = entry.pathname
    if isinstance(name, str):
        return name.encode(errors="surrogateescape") if name else f"unnamed-{number + 1}".encode()
    return bytes(name) if name else f"unnamed-{number + 1}".encode()


def _libarchive_kind(entry: Any, size: int) -> Kind:
    if entry.issym or entry.islnk:
        return "link"
    # Odd attributes turn a file into a folder or a device.
    if entry.isfile or size > 0:
        return "file"
    return "folder" if entry.isdir else "special"


def _is_locked(entry: Any) -> bool:
    from libarchive import ffi

    # The binding does not wrap this one. A bare int would be cut to 32 bits: hence the pointer.
    check = getattr(ffi.libarchive, "archive_entry_is_encrypted", None)
    return bool(check is not None and check(ctypes.c_void_p(entry._entry_p)))
