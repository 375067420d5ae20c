"""Read archives: their directory, and one member at a time, into memory and never onto a disk.

``zipfile`` and ``tarfile`` of the standard library jump to any member; RAR, 7z and compressed tars are read
by the system's libarchive from the front to the back, since in a solid archive a page cannot be had without
those before it.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import errno
import logging
import os
import posixpath
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Protocol, TypeAlias

from comic_upscale.errors import PageError
from comic_upscale.library.member_names import decode_names
from comic_upscale.settings.job import VolumeRules

MAX_MEMBER_BYTES = 512 << 20
"""The most bytes that one member may unpack to: it is held in memory."""

_UTF8_FLAG, _ENCRYPTED_FLAG = 0x800, 0x1
_UNICODE_PATH = 0x7075
_SMALLEST_BOMB = 64 << 20
_BLOCK = 1 << 16

Kind: TypeAlias = Literal["file", "folder", "link", "special"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of an archive's directory."""

    name: str
    """As it stands there; may lead anywhere."""
    size: int
    """Bytes unpacked, as the directory says; 0 where it does not."""
    kind: Kind = "file"
    encrypted: bool = False


class Container(Protocol):
    """An open archive. Used by one thread at a time."""

    in_order: bool
    """Whether reading goes from the front to the back: members are best read in the directory's order."""
    comment: bytes
    """Of the archive as a whole; empty where its kind has none."""

    def entries(self) -> list[Entry]:
        """The directory.

        Raises:
            PageError: it makes no sense, or breaks a rule.
        """

    def read(self, index: int) -> bytes:
        """The bytes of a member by its place in the directory.

        Raises:
            PageError: it cannot be read.
        """

    def salvage(self, index: int) -> bytes:
        """All bytes of a member, even where its checksum is wrong.

        Raises:
            PageError: they cannot be had.
        """

    def close(self) -> None:
        """Close the file."""


class SupportsClose(Protocol):
    """What can be closed."""

    def close(self) -> object:
        """Close it."""


class Tally:
    """Counts what an archive says that it holds, and refuses a decompression bomb.

    Args:
        packed: bytes of the archive.
        rules: the limits.
    """

    def __init__(self, packed: int, rules: VolumeRules) -> None:
        self._packed = max(packed, 1)
        self._rules = rules
        self._count = 0
        self._bytes = 0

    def add(self, size: int) -> None:
        """Count a member of ``size`` bytes unpacked.

        Raises:
            PageError: ``"bomb"``; the reason names the option that raises the limit.
        """
        rules = self._rules
        self._count += 1
        self._bytes += max(size, 0)
        if self._count > rules.max_members:
            raise PageError(
                "bomb", f"The volume holds more than {rules.max_members:,} files: --max-members allows more."
            )
        if self._bytes > rules.max_unpacked:
            raise PageError(
                "bomb",
                f"The volume unpacks to more than {rules.max_unpacked:,} bytes: --max-unpacked allows more.",
            )
        if self._bytes > max(_SMALLEST_BOMB, rules.max_ratio * self._packed):
            raise PageError(
                "bomb",
                f"The volume unpacks to more than {rules.max_ratio:g} times its own size, as decompression "
                "bombs do: --max-ratio allows more.",
            )


@contextlib.contextmanager
def volume_errors(what: str = "volume") -> Iterator[None]:
    """Turn whatever a library raises over a hostile archive into a ``PageError``.

    Args:
        what: what is being read, for the reason: ``"volume"`` or ``"member"``.

    Raises:
        PageError: ``"vanished"``, ``"permission"``, ``"encrypted"``, ``"unsupported"``, ``"out-of-memory"``,
            ``"unreadable"``, ``"damaged"``, or the one that was raised inside.
    """
    try:
        yield
    except PageError:
        raise
    except FileNotFoundError:
        raise PageError("vanished", "The volume is no longer there, or is a link to nowhere.") from None
    except PermissionError:
        raise PageError("permission", "There is no permission to read the volume.") from None
    except NotImplementedError as error:
        raise PageError(
            "unsupported", f"The {what} is packed in a way that is not read here ({error}): pack it again."
        ) from None
    except MemoryError:
        raise PageError("out-of-memory", f"The machine's memory was not enough to read the {what}.") from None
    except RecursionError:
        raise damaged(what, "its directory is nested without end") from None
    except RuntimeError as error:
        if "encrypted" in str(error) or "password" in str(error):
            raise encrypted() from None
        raise damaged(what, error) from None
    except OSError as error:
        # EINVAL is a seek to where no byte can be: what the directory says is wrong.
        if error.errno and error.errno != errno.EINVAL:
            words = error.strerror or str(error)
            raise PageError("unreadable", f"The {what} cannot be read: {words}.") from None
        raise damaged(what, error) from None
    except Exception as error:
        # bz2, lzma and zipfile each have exceptions of their own.
        raise damaged(what, error) from None


@contextlib.contextmanager
def closing_on_error(held: SupportsClose) -> Iterator[None]:
    """Close something if the code inside raises; else it stays open for whoever has it then."""
    try:
        yield
    except BaseException:
        held.close()
        raise


def damaged(what: str, error: object) -> PageError:
    """Say that a volume or a member is broken."""
    lines = str(error).strip().splitlines()
    words = (lines[0].strip().rstrip(".") if lines else "") or type(error).__name__
    return PageError("damaged", f"The {what} is damaged ({words[:200]}): copy or download it again.")


def encrypted() -> PageError:
    """Say that a volume needs a password."""
    return PageError("encrypted", "The volume is protected by a password: unpack it with that first.")


def too_large(size: int) -> PageError:
    """Say that a member does not fit into memory."""
    return PageError(
        "too-large", f"The member has {size:,} bytes unpacked; at most {MAX_MEMBER_BYTES:,} are read."
    )


class ZipContainer:
    """A ZIP, and so a CBZ or an EPUB.

    Args:
        file: open for reading at any place; closed with the container, also where this raises.
        rules: the limits.

    Raises:
        PageError: it is none.
    """

    in_order = False

    def __init__(self, file: IO[bytes], rules: VolumeRules) -> None:
        self._file, self._rules = file, rules
        with volume_errors(), closing_on_error(file):
            self._size = file.seek(0, os.SEEK_END)
            self._zip = zipfile.ZipFile(file)
        self.comment = self._zip.comment
        self._infos = self._zip.infolist()

    def entries(self) -> list[Entry]:
        """The directory, with names in the encoding that they were written in."""
        tally = Tally(self._size, self._rules)
        for info in self._infos:
            tally.add(info.file_size)
        names = _zip_names(self._infos)
        return [
            Entry(name, info.file_size, _zip_kind(info), bool(info.flag_bits & _ENCRYPTED_FLAG))
            for name, info in zip(names, self._infos, strict=True)
        ]

    def read(self, index: int) -> bytes:
        """The bytes of a member; its checksum is right."""
        return self._unpacked(self._infos[index])

    def salvage(self, index: int) -> bytes:
        """All bytes of a member, even where its checksum is wrong."""
        info = copy.copy(self._infos[index])
        # What has none is not checked; each program that reads the page sees then what is wrong with it.
        del info.CRC
        return self._unpacked(info)

    def _unpacked(self, info: zipfile.ZipInfo) -> bytes:
        if info.file_size > MAX_MEMBER_BYTES:
            raise too_large(info.file_size)
        # By its entry and not by its name, which two members may share.
        with volume_errors("member"), self._zip.open(info) as file:
            data = file.read()
            if len(data) != info.file_size:
                raise damaged("member", f"{len(data):,} bytes instead of {info.file_size:,}")
            return data

    def close(self) -> None:
        """Close the file."""
        self._zip.close()
        self._file.close()


def _zip_names(infos: list[zipfile.ZipInfo]) -> list[str]:
    """The names; those that do not say that they are UTF-8 are read anew from their bytes, or from beside them."""
    names = [info.filename for info in infos]
    plain: dict[int, bytes] = {}
    for at, info in enumerate(infos):
        if info.flag_bits & _UTF8_FLAG:
            continue
        # The bytes as they stand there: some versions of Python have put another name into `filename`.
        raw = info.orig_filename.encode("cp437", "replace")
        beside = name_beside(info.extra, raw)
        if beside is None:
            plain[at] = raw.partition(b"\0")[0]
        else:
            names[at] = beside
    for at, name in zip(plain, decode_names(list(plain.values())), strict=True):
        names[at] = name
    return names


def name_beside(extra: bytes, raw: bytes) -> str | None:
    """The name that Info-ZIP keeps in the field 0x7075, in UTF-8; None if there is none, or it is of another name.

    Args:
        extra: the extra fields of a member.
        raw: the bytes of the plain name, which the field has a checksum of.

    Source: APPNOTE.TXT of PKWARE, 4.6.9.
    """
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, at)
        field = extra[at + 4 : at + 4 + size]
        if kind == _UNICODE_PATH and len(field) > 5 and field[0] == 1:
            if int.from_bytes(field[1:5], "little") != zlib.crc32(raw):
                return None
            try:
                return field[5:].decode()
            except UnicodeDecodeError:
                return None
        at += 4 + size
    return None


def _zip_kind(info: zipfile.ZipInfo) -> Kind:
    # Not its is_dir(), which stumbles over an empty name.
    if info.filename.endswith("/"):
        return "folder"
    # Unix programs keep the file's type here: 0xA000 is a symbolic link.
    type_bits = (info.external_attr >> 16) & 0xF000
    if type_bits == 0xA000:
        return "link"
    return "file" if type_bits in (0, 0x8000) else "special"


class TarContainer:
    """A tar that is not compressed.

    Args:
        file: open for reading at any place; closed with the container, also where this raises.
        rules: the limits.

    Raises:
        PageError: it is none.
    """

    in_order = False
    comment = b""

    def __init__(self, file: IO[bytes], rules: VolumeRules) -> None:
        self._file, self._rules = file, rules
        with volume_errors(), closing_on_error(file):
            self._size = file.seek(0, os.SEEK_END)
            file.seek(0)
            self._tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - closed by close()
        self._listing: list[tuple[str, tarfile.TarInfo]] | None = None

    def entries(self) -> list[Entry]:
        """The directory: the headers, from one to the next."""
        return [Entry(name, info.size, _tar_kind(info)) for name, info in self._listed()]

    def _listed(self) -> list[tuple[str, tarfile.TarInfo]]:
        """The names, and where the bytes of each are: of a hard link, those of the file before it that it names."""
        if self._listing is None:
            tally = Tally(self._size, self._rules)
            listing = []
            files: dict[str, tarfile.TarInfo] = {}
            with volume_errors():
                for header in self._tar:
                    info = header
                    if header.islnk():
                        info = files.get(posixpath.normpath(header.linkname), header)
                    if info.isreg():
                        files[posixpath.normpath(header.name)] = info
                    tally.add(info.size)
                    listing.append((header.name, info))
            self._listing = listing
        return self._listing

    def read(self, index: int) -> bytes:
        """The bytes of a member."""
        _, info = self._listed()[index]
        if info.size > MAX_MEMBER_BYTES:
            raise too_large(info.size)
        with volume_errors("member"):
            file = self._tar.extractfile(info) if info.isreg() else None
            data = b"" if file is None else file.read()
        if len(data) != info.size:
            raise damaged("member", f"{len(data):,} bytes instead of {info.size:,}")
        return data

    def salvage(self, index: int) -> bytes:
        """The same: a tar has no checksums of what it holds."""
        return self.read(index)

    def close(self) -> None:
        """Close the file."""
        self._tar.close()
        self._file.close()


def _tar_kind(info: tarfile.TarInfo) -> Kind:
    if info.isdir():
        return "folder"
    if info.issym() or info.islnk():
        return "link"
    return "file" if info.isreg() else "special"


class LibarchiveContainer:
    """A RAR, a 7z or a compressed tar, read by the system's libarchive from the front to the back.

    Args:
        path: a file of this machine.
        rules: the limits.
        held: closed with the container, also where this raises.

    Raises:
        PageError: ``"library"`` where libarchive is not installed; or the file is none of these.
    """

    in_order = True
    comment = b""

    def __init__(self, path: Path, rules: VolumeRules, held: contextlib.ExitStack | None = None) -> None:
        self._path, self._rules = path, rules
        self._held = held or contextlib.ExitStack()
        with closing_on_error(self._held):
            self._library = _libarchive()
        self._stack = contextlib.ExitStack()
        self._walk: Iterator[Any] = iter(())
        self._at = -1
        self._places: dict[str, int] = {}
        """Where the files are that were come by, for the hard links behind them."""
        self._last_linked: tuple[int, bytes] | None = None
        self._broken: PageError | None = None

    def entries(self) -> list[Entry]:
        """The directory. The packed data is passed over, not unpacked."""
        with volume_errors():
            tally = Tally(self._path.stat().st_size, self._rules)
        found: list[Entry] = []
        self._rewind()
        with self._errors():
            for number, entry in enumerate(self._walk):
                original = self._note(entry, number)
                size = (entry.size or 0) if original is None else found[original].size
                kind = _libarchive_kind(entry) if original is None else "file"
                tally.add(size)
                found.append(Entry(_text(entry, number), size, kind, _is_locked(entry)))
        self._close()
        return found

    def read(self, index: int) -> bytes:
        """The bytes of a member; those between the last one read and this one are unpacked and dropped."""
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
            # What follows cannot be reached either: do not try anew from the front for each page.
            self._broken = error
            raise
        return self._joined(entry) if original is None else self._linked(original)

    def _note(self, entry: Any, number: int) -> int | None:
        """Remember where an entry is; of a hard link, return the place of the file before it that it names."""
        name = posixpath.normpath(_text(entry, number))
        original = None
        if entry.islnk:
            link = entry.linkpath
            link = decode_names([link])[0] if isinstance(link, bytes) else link or ""
            original = self._places.get(posixpath.normpath(link))
            # A walk that came by here before has noted the link itself; a file lies before its links.
            original = original if original is not None and original < number else None
        if original is not None or entry.isfile:
            self._places[name] = number if original is None else original
        return original

    def _linked(self, index: int) -> bytes:
        """The bytes of the file that a hard link names. The last one is kept: going back is dear."""
        if self._last_linked is None or self._last_linked[0] != index:
            self._last_linked = index, self.read(index)
        return self._last_linked[1]

    def _joined(self, entry: Any) -> bytes:
        parts: list[bytes] = []
        size = 0
        # Not the binding's get_blocks(): where libarchive warns of a wrong checksum, that takes the number
        # of the warning for a count of bytes.
        buffer = ctypes.create_string_buffer(_BLOCK)
        read = self._library.ffi.read_data
        with self._errors("member"):
            while (count := read(entry._archive_p, buffer, _BLOCK)) > 0:
                size += count
                if size > MAX_MEMBER_BYTES:
                    raise too_large(size)
                parts.append(buffer.raw[:count])
        if count < 0:
            raise damaged("member", "its checksum is wrong")
        if entry.size is not None and entry.size != size:
            raise damaged("member", f"{size:,} bytes instead of {entry.size:,}")
        return b"".join(parts)

    def salvage(self, index: int) -> bytes:
        """The same as `read`: libarchive does not give out the end of what has a wrong checksum."""
        return self.read(index)

    def _rewind(self) -> None:
        self._close()
        with self._errors():
            archive = self._stack.enter_context(self._library.file_reader(str(self._path), block_size=_BLOCK))
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
                        "unpack it, or pack it again as CBZ.",
                    ) from None
                if not self._path.exists():
                    raise FileNotFoundError from None
                raise damaged(what, words) from None


def _libarchive() -> Any:
    """Import the binding, which loads the system's library.

    Raises:
        PageError: ``"library"``; the reason says what to install.
    """
    try:
        import libarchive
        import libarchive.exception
        import libarchive.ffi
    except Exception:
        # OSError, TypeError or AttributeError, as the system and the binding please.
        raise PageError(
            "library",
            "CBR, RAR, CB7, 7z and compressed CBT are read by libarchive, which is not installed: Debian and "
            "Ubuntu: apt-get install libarchive13 (or libarchive13t64); Fedora: dnf install libarchive; macOS: "
            "brew install libarchive, and set LIBARCHIVE to its libarchive.dylib; Windows: set LIBARCHIVE to "
            "libarchive.dll.",
        ) from None
    # What it thinks of a strange file is said member by member, by ourselves.
    logging.getLogger("libarchive").addHandler(logging.NullHandler())
    return libarchive


def _text(entry: Any, number: int) -> str:
    name = entry.pathname
    if isinstance(name, bytes):
        return decode_names([name])[0]
    return name if name else f"unnamed-{number + 1}"


def _libarchive_kind(entry: Any) -> Kind:
    if entry.isdir:
        return "folder"
    if entry.issym or entry.islnk:
        return "link"
    return "file" if entry.isfile else "special"


def _is_locked(entry: Any) -> bool:
    from libarchive import ffi

    # The binding does not wrap this one. A bare int would be cut to 32 bits: hence the pointer.
    check = getattr(ffi.libarchive, "archive_entry_is_encrypted", None)
    return bool(check is not None and check(ctypes.c_void_p(entry._entry_p)))
