"""Archives in several parts: which files belong together, and whether all of them are there.

RAR starts a new file when one is full. Each of these files has its own headers, which mark it as a part. Names alone
are not enough: "Saga.part1.cbr" and "Saga.part2.cbr" may be two comics. 7-Zip and other programs cut any archive into
``.001``, ``.002`` and so on. PKZIP cuts a ZIP into ``.z01``, ``.z02`` and finally ``.zip``.

Source: APPNOTE.TXT of PKWARE, chapter 8.
"""

from __future__ import annotations

import errno
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, TypeAlias

from comic_upscale.errors import PageError
from comic_upscale.library.rar_headers import RAR_STARTS, read_rar_facts
from comic_upscale.storage.base import SourceStore

MISSING_PART = "missing-part"
"""The kind of failure of an archive that lacks a part."""

Way: TypeAlias = Literal["rar", "cut", "zip"]
"""How an archive is split: ``rar`` into files with headers of their own; ``cut`` at any byte; ``zip`` at any byte, with
a directory that counts from the beginning of each part."""

_NEW = re.compile(r"(?P<stem>.+)\.part(?P<number>\d{1,5})\.(?P<extension>rar|cbr)", re.IGNORECASE)
_OLD = re.compile(r"(?P<stem>.+)\.(?P<letter>[r-y])(?P<number>\d\d)", re.IGNORECASE)
_CUT = re.compile(r"(?P<stem>.+\.(?:7z|cb7|zip|cbz|rar|cbr|tar|cbt))\.(?P<number>\d{3})", re.IGNORECASE)
_SPLIT_ZIP = re.compile(r"(?P<stem>.+)\.z(?P<number>\d\d)", re.IGNORECASE)
_PLAIN = re.compile(r"(?P<stem>.+)\.(?P<extension>rar|cbr|zip|cbz)", re.IGNORECASE)
_LAST = 1 << 20
_CUT_STARTS = (*RAR_STARTS, b"7z\xbc\xaf\x27\x1c", b"PK\3\4", b"PK\7\x08", b"PK00")
_SPLIT_STARTS = (b"PK\7\x08", b"PK\3\4")
_MOST_NAMED = 5
_BUFFER = 1 << 16


@dataclass(frozen=True, slots=True)
class Parts:
    """The files of a folder whose names say that they are parts of one archive."""

    way: Way
    names: tuple[str, ...]
    """In their order. The last part of a split ZIP has no number."""
    gaps: tuple[int, ...]
    """Numbers, from 1, of the parts that are missing before the last of these."""

    @property
    def head(self) -> str:
        """The part whose name stands for the archive."""
        return self.names[-1] if self.way == "zip" else self.names[0]


def group_parts(names: Iterable[str]) -> list[Parts]:
    """Find files that may be parts of one archive, by their names.

    Args:
        names: of all files of a folder.

    Returns:
        Groups of at least two files, and single files whose name only a part can have.
    """
    groups: defaultdict[tuple[str, Way], dict[int, str]] = defaultdict(dict)
    for name in names:
        place = _place_of(name)
        if place is not None:
            stem, way, number = place
            groups[stem, way].setdefault(number, name)
    found = []
    for (_, way), numbered in groups.items():
        numbers = sorted(numbered)
        if (
            len(numbers) == 1
            and _PLAIN.fullmatch(numbered[numbers[0]])
            and not _NEW.fullmatch(numbered[numbers[0]])
        ):
            continue
        counted = [number for number in numbers if number != _LAST]
        gaps = sorted(set(range(max(counted, default=-1) + 1)) - set(counted))
        found.append(
            Parts(way, tuple(numbered[number] for number in numbers), tuple(gap + 1 for gap in gaps))
        )
    return found


def _place_of(name: str) -> tuple[str, Way, int] | None:
    """Return a key of the archive that a file may be a part of, how it is split, and the part's number from 0."""
    if (match := _NEW.fullmatch(name)) is not None:
        return f"{match['stem']}.{match['extension']}/part".lower(), "rar", int(match["number"]) - 1
    if (match := _CUT.fullmatch(name)) is not None:
        return match["stem"].lower(), "cut", int(match["number"]) - 1
    if (match := _SPLIT_ZIP.fullmatch(name)) is not None:
        return match["stem"].lower(), "zip", int(match["number"]) - 1
    if (match := _OLD.fullmatch(name)) is not None:
        hundreds = ord(match["letter"].lower()) - ord("r")
        return match["stem"].lower(), "rar", 100 * hundreds + int(match["number"]) + 1
    if (match := _PLAIN.fullmatch(name)) is not None:
        is_rar = match["extension"].lower() in ("rar", "cbr")
        return match["stem"].lower(), "rar" if is_rar else "zip", 0 if is_rar else _LAST
    return None


def is_part_name(name: str) -> bool:
    """Whether only a part of an archive can have this name: ``a.7z.001``, ``a.r00``."""
    return any(form.fullmatch(name) for form in (_CUT, _SPLIT_ZIP, _OLD))


def are_parts(folder: Path, parts: Parts, store: SourceStore) -> bool:
    """Whether files that are parts by their names are parts by their content.

    Args:
        folder: address of their folder.
        parts: their names.
        store: of the folder.

    Raises:
        OSError: the first of them cannot be read.
    """
    first = folder / parts.names[0]
    with store.open(first) as file:
        head = file.read(16)
        if parts.way == "cut":
            # A tar may begin with anything.
            is_tar = whole_name(first.name).lower().endswith((".tar", ".cbt"))
            return bool(parts.gaps) or is_tar or head.startswith(_CUT_STARTS)
        if parts.way == "zip":
            return len(parts.names) > 1 and (bool(parts.gaps) or head.startswith(_SPLIT_STARTS))
        return head.startswith(RAR_STARTS) and read_rar_facts(file, begins_only=True).is_part


def find_parts(path: Path, store: SourceStore) -> tuple[Way, tuple[Path, ...]]:
    """Find all files of an archive, in their order.

    Args:
        path: address of the part whose name stands for the archive.
        store: of the folder.

    Returns:
        How the archive is split, and the addresses of its files. A single file is ``"cut"``.

    Raises:
        PageError: `MISSING_PART`; the reason names the missing parts.
        OSError: a file cannot be read.
    """
    if not _may_have_others(path, store):
        return "cut", (path,)
    mine = _group_of(path, store) or Parts("rar", (path.name,), ())
    if mine.gaps:
        raise describe_missing(mine)
    files = tuple(path.with_name(name) for name in mine.names)
    if mine.way == "rar":
        _check_rar(files, store)
    return mine.way, files


def _group_of(path: Path, store: SourceStore) -> Parts | None:
    beside = group_parts(entry.name for entry in store.list(str(path.parent)))
    return next((parts for parts in beside if path.name in parts.names), None)


def _may_have_others(path: Path, store: SourceStore) -> bool:
    """Whether other parts of an archive may be in its folder. Most archives need no look at the folder."""
    if is_part_name(path.name):
        return True
    match = _PLAIN.fullmatch(path.name)
    stem = match["stem"] if match is not None and match["extension"].lower() in ("zip", "cbz") else None
    if stem is not None and any(store.exists(path.with_name(f"{stem}.{first}")) for first in ("z01", "Z01")):
        return True
    with store.open(path) as file:
        return file.read(8).startswith(RAR_STARTS) and read_rar_facts(file, begins_only=True).is_part


def find_head(path: Path, store: SourceStore) -> Path | None:
    """Return the part whose name stands for an archive, from any of its parts; None if a file is no part.

    Raises:
        OSError: a file cannot be read.
    """
    if not _may_have_others(path, store):
        return None
    mine = _group_of(path, store)
    if mine is None or not are_parts(path.parent, mine, store):
        return None
    return path.with_name(mine.head)


def stat_parts(path: Path, store: SourceStore) -> tuple[int, int]:
    """Return the bytes of an archive in all its parts, and the time of the last change of any, in nanoseconds.

    Raises:
        PageError: `MISSING_PART`.
        OSError: a file cannot be looked at.
    """
    found = [store.stat(part) for part in find_parts(path, store)[1]]
    return sum(status.size for status in found), max(status.mtime_ns for status in found)


def whole_name(name: str) -> str:
    """Return the name that an archive in parts would have in one piece: ``a.cbr`` for ``a.part1.cbr``."""
    if (match := _CUT.fullmatch(name)) is not None:
        return match["stem"]
    if (match := _NEW.fullmatch(name)) is not None:
        return f"{match['stem']}.{match['extension']}"
    return name


def _check_rar(files: Sequence[Path], store: SourceStore) -> None:
    """Check that files are the parts of one RAR, from the first to the last.

    Raises:
        PageError: `MISSING_PART`.
    """
    for at, part in enumerate(files):
        with store.open(part) as file:
            facts = read_rar_facts(file)
        if not facts.is_part:
            raise _missing(files[0].name, f"part {at + 1} is missing ({part.name} is no part)")
        if facts.number is not None and facts.number != at:
            raise _missing(
                files[0].name, f"part {at + 1} is missing ({part.name} is part {facts.number + 1})"
            )
        if at + 1 == len(files) and facts.more_follow:
            raise _missing(files[0].name, f"part {at + 2} is missing")


def describe_missing(parts: Parts) -> PageError:
    """Name the missing parts of an archive."""
    named = [f"part {gap}" for gap in parts.gaps[:_MOST_NAMED]]
    more = "" if len(parts.gaps) <= _MOST_NAMED else " and more"
    what = f"{', '.join(named)}{more}"
    return _missing(parts.names[0], f"{what} {'is' if len(parts.gaps) == 1 else 'are'} missing")


def _missing(name: str, what: str) -> PageError:
    return PageError(
        MISSING_PART,
        f"{name} is one of several parts of an archive, and {what}: put all parts into one folder, under the names "
        "that they were made with",
    )


class JoinedFile(io.RawIOBase):
    """Files that are read as one, in a row.

    Args:
        files: open for reading and seekable; closed with this one, also where this raises.

    Raises:
        OSError: a file cannot be read.
    """

    def __init__(self, files: Sequence[IO[bytes]]) -> None:
        self._files = files
        self.starts: list[int] = []
        """Offset at which each file begins."""
        self._size = self._at = 0
        try:
            for file in files:
                self.starts.append(self._size)
                self._size += file.seek(0, io.SEEK_END)
        except BaseException:
            self.close()
            raise

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to an offset in all files together."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, "Invalid argument")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read the rest of the file at this offset, or less."""
        which = max((at for at, start in enumerate(self.starts) if start <= self._at), default=-1)
        if which < 0:
            return 0
        # A file may be empty, and the next one then begins at the same offset: the last such file counts.
        file = self._files[which]
        file.seek(self._at - self.starts[which])
        data = file.read(len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        """Close all files."""
        for file in self._files:
            file.close()
        super().close()


def open_joined(files: Sequence[IO[bytes]]) -> IO[bytes]:
    """Return files as one; a single file as it is. Closing it closes them all.

    Args:
        files: open for reading and seekable; closed where this raises.

    Raises:
        OSError: a file cannot be read.
    """
    return files[0] if len(files) == 1 else io.BufferedReader(JoinedFile(files), _BUFFER)
