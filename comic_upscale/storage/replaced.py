"""Originals that were replaced by their outputs: the trash that keeps them, and a view of the input with them.

The trash is a folder inside the input, ``.comic-upscale/trash``. It keeps each original under its own path, and a
journal. An original is in the trash before anything else happens, and its replacement is complete and in its place
before it leaves its own. So a kill at any moment loses nothing. `Trash.settle` completes what a kill interrupted.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

from comic_upscale.errors import OutputError, PageError
from comic_upscale.settings.paths import TRASH
from comic_upscale.storage.base import SourceEntry, check_name, sha256_of_file
from comic_upscale.storage.local import LocalSourceStore
from comic_upscale.storage.parts import HITS_EVERY_PAGE, Part, flush_folder, open_part, sweep_parts

_JOURNAL = "journal.jsonl"
_TOKEN = "replace"
_TRIES = 1000


@dataclass(frozen=True, slots=True)
class Replaced:
    """An original that was replaced, or is about to be. All paths are POSIX paths relative to the input."""

    source: str
    """Where the original was."""
    new: str
    """Where the output is now; the same as ``source`` if they have the same name."""
    trash: str
    """Where the original is, relative to the trash."""
    source_sha256: str
    source_size: int
    source_mtime_ns: int
    new_sha256: str
    new_size: int
    new_mtime_ns: int


class NotReplacedError(Exception):
    """An original was not replaced, or not put back. Nothing was changed.

    Args:
        reason: a clause.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Trash:
    """The replaced originals of an input folder.

    Args:
        library: the folder.
    """

    def __init__(self, library: Path) -> None:
        self._library = library
        self._folder = library / TRASH

    @property
    def folder(self) -> Path:
        """The folder of the originals."""
        return self._folder

    def is_there(self) -> bool:
        """Return whether anything was ever replaced."""
        return _is_file(self._folder / _JOURNAL)

    def in_force(self) -> tuple[Replaced, ...]:
        """Return the replacements that are in the input, the oldest first."""
        return tuple(record for record in self._records() if self._is_in_place(record))

    def settle(self) -> None:
        """Complete the replacements that a kill interrupted."""
        records = [*self._records()]
        for folder in {str(PurePosixPath(record.source).parent) for record in records}:
            sweep_parts(self._library / folder, {_TOKEN})
        for record in records:
            source = self._library / record.source
            if not self._is_in_place(record):
                continue
            if record.source != record.new and _is_file(source) and self._has(source, record):
                # Both are there: the kill came after the replacement was placed.
                with contextlib.suppress(OSError):
                    source.unlink()
                    flush_folder(source.parent)

    def exchange(self, path: Path, new: Path, output: Path, *, source_sha256: str, new_sha256: str) -> None:
        """Replace an original by a copy of an output, and keep the original in the trash.

        Args:
            path: of the original.
            new: the place of the output: in the folder of the original; may be the path of the original.
            output: the verified output.
            source_sha256: of the original, which is checked.
            new_sha256: of the output.

        Raises:
            NotReplacedError: something is in the way, or a file has changed.
            OutputError: no more files can be written.
        """
        source, target = self._name(path), self._name(new)
        if new != path and os.path.lexists(new):
            raise NotReplacedError(f"{target} exists already")
        try:
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode) or _sha256(path) != source_sha256:
                raise NotReplacedError("it is a link, or has changed since it was upscaled")
            trash = self._keep(path, source, source_sha256)
            now = time.time_ns()
            # Noted before anything is written, so that nothing in the input is unknown after a kill.
            self._note(
                Replaced(
                    source, target, trash, source_sha256, status.st_size, status.st_mtime_ns, new_sha256,
                    output.stat().st_size, now,
                )
            )  # fmt: skip
            self._put(new, output, new_sha256, now, over=new == path)
            if new != path:
                path.unlink()
                flush_folder(path.parent)
        except OSError as error:
            raise _as_error(error, path) from error

    def renew(self, record: Replaced, name: str, output: Path, new_sha256: str) -> None:
        """Replace a replacement by a newer output of the same original.

        Args:
            record: the replacement, in force.
            name: of the new file, in the same folder.
            output: the verified output.
            new_sha256: of the output.

        Raises:
            NotReplacedError: something is in the way, or the replacement was edited.
            OutputError: no more files can be written.
        """
        old = self._library / record.new
        new = old.with_name(name)
        if _sha256(old) != record.new_sha256:
            raise NotReplacedError(f"{record.new} was edited since")
        if new != old and os.path.lexists(new):
            raise NotReplacedError(f"{self._name(new)} exists already")
        try:
            now = time.time_ns()
            size = output.stat().st_size
            self._note(
                replace(record, new=self._name(new), new_sha256=new_sha256, new_size=size, new_mtime_ns=now)
            )
            self._put(new, output, new_sha256, now, over=new == old)
            if new != old:
                old.unlink()
                flush_folder(old.parent)
        except OSError as error:
            raise _as_error(error, old) from error

    def restore(self, record: Replaced) -> None:
        """Put an original back in its place, and remove its replacement.

        Raises:
            NotReplacedError: the original was pruned, or its replacement was edited.
            OutputError: no more files can be written.
        """
        kept, source, new = (
            self._folder / record.trash,
            self._library / record.source,
            self._library / record.new,
        )
        try:
            if not _is_file(kept):
                raise NotReplacedError("its original is no longer in the trash")
            if not _is_file(new) or _sha256(new) != record.new_sha256:
                raise NotReplacedError(f"{record.new} was edited since: move it away, then try again")
            if source != new and os.path.lexists(source):
                raise NotReplacedError(f"another file is at {record.source}")
            with open_part(source, _TOKEN) as part:
                with kept.open("rb") as reader:
                    shutil.copyfileobj(reader, part.file, 1 << 20)
                part.flush()
                part.file.seek(0)
                if sha256_of_file(part.file) != record.source_sha256:
                    raise NotReplacedError("its original in the trash has changed")
                os.utime(part.path, ns=(record.source_mtime_ns, record.source_mtime_ns))
                part.move_to(source)
            if source != new:
                new.unlink()
                flush_folder(new.parent)
            self._remove(kept)
        except OSError as error:
            raise _as_error(error, source) from error

    def originals(self) -> list[tuple[str, int]]:
        """Return the files in the trash: (path relative to the trash, bytes), sorted."""
        found = []
        for folder, _, names in os.walk(self._folder):
            for name in names:
                path = Path(folder) / name
                if path != self._folder / _JOURNAL and _is_file(path):
                    found.append((path.relative_to(self._folder).as_posix(), path.stat().st_size))
        return sorted(found)

    def prune(self) -> list[str]:
        """Remove the originals for good, and return those that could not be removed.

        The journal stays: it says which files of the input are outputs.
        """
        left = []
        for name, _ in self.originals():
            try:
                self._remove(self._folder / name)
            except OSError:
                left.append(name)
        return left

    def holds(self, record: Replaced) -> bool:
        """Return whether the original is still in the trash."""
        return _is_file(self._folder / record.trash)

    # Steps

    def _put(self, new: Path, output: Path, sha256: str, time_ns: int, *, over: bool) -> None:
        """Copy an output to its place: over the file there, or where there is none.

        It is no link: an edit of the file in the input must not change the output of the job.
        """
        with open_part(new, _TOKEN) as part:
            with output.open("rb") as reader:
                shutil.copyfileobj(reader, part.file, 1 << 20)
            part.flush()
            part.file.seek(0)
            if sha256_of_file(part.file) != sha256:
                raise NotReplacedError("its output has changed since it was written")
            os.utime(part.path, ns=(time_ns, time_ns))
            if over:
                part.move_to(new)
            else:
                _place(part, new)

    def _keep(self, path: Path, source: str, sha256: str) -> str:
        """Make a file appear in the trash, too, and return its name there."""
        for number in range(1, _TRIES):
            name = source if number == 1 else f"{number}/{source}"
            kept = self._folder / name
            if _is_file(kept):
                if _sha256(kept) == sha256:
                    # A kill came after this step, or the same original comes again.
                    return name
                continue
            if os.path.lexists(kept):
                continue
            _make_folders(kept.parent)
            with contextlib.suppress(OSError):
                # At once, and without room on the disk. Not every file system has links.
                os.link(path, kept, follow_symlinks=False)
                flush_folder(kept.parent)
                return name
            with open_part(kept, _TOKEN) as part:
                with path.open("rb") as reader:
                    shutil.copyfileobj(reader, part.file, 1 << 20)
                part.flush()
                part.file.seek(0)
                if sha256_of_file(part.file) != sha256:
                    raise NotReplacedError("it has changed since it was upscaled")
                part.move_to(kept)
            return name
        raise NotReplacedError("there are too many files of its name in the trash")

    def _remove(self, kept: Path) -> None:
        kept.unlink()
        for folder in kept.parents:
            if folder == self._folder:
                return
            try:
                folder.rmdir()
            except OSError:
                return

    def _note(self, record: Replaced) -> None:
        """Append a record to the journal, and flush it."""
        _make_folders(self._folder)
        with (self._folder / _JOURNAL).open("ab") as file:
            # A line that a kill cut short must not join this one.
            file.write(f"\n{json.dumps(asdict(record))}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        flush_folder(self._folder)

    def _records(self) -> Iterator[Replaced]:
        """Yield the last record of each place in the input."""
        last: dict[str, Replaced] = {}
        with contextlib.suppress(OSError):
            for line in (self._folder / _JOURNAL).read_bytes().splitlines():
                record = _parse(line)
                if record is not None:
                    last.pop(record.new, None)
                    last[record.new] = record
        yield from last.values()

    def _is_in_place(self, record: Replaced) -> bool:
        """Return whether the output of a record is in the input."""
        path = self._library / record.new
        try:
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode) or status.st_size != record.new_size:
                return False
            return status.st_mtime_ns == record.new_mtime_ns or _sha256(path) == record.new_sha256
        except OSError:
            return False

    def _has(self, path: Path, record: Replaced) -> bool:
        """Return whether a file is the original of a record, and the trash has it, too."""
        try:
            kept = self._folder / record.trash
            return (
                _sha256(path) == record.source_sha256
                and _is_file(kept)
                and _sha256(kept) == record.source_sha256
            )
        except OSError:
            return False

    def _name(self, path: Path) -> str:
        try:
            return check_name(path.relative_to(self._library).as_posix(), "output")
        except (ValueError, PageError):
            raise NotReplacedError("it is not inside the input folder") from None


@dataclass(frozen=True, slots=True)
class _KeptStatus:
    """The size and time of an original, as when it was in its place."""

    st_mode: int
    st_size: int
    st_mtime_ns: int


@dataclass(frozen=True, slots=True)
class _KeptEntry:
    """An original in the trash, as an entry of the folder where it was."""

    name: str
    path: str
    status: _KeptStatus

    def is_dir(self) -> bool:
        """It is none."""
        return False

    def is_file(self) -> bool:
        """It is one."""
        return True

    def is_symlink(self) -> bool:
        """It is none."""
        return False

    def stat(self) -> _KeptStatus:
        """Its size and time."""
        return self.status


class ReplacedSourceStore(LocalSourceStore):
    """An input folder as it was before originals were replaced: they are read from the trash.

    A replacement whose original was pruned is not there at all, so nothing is upscaled twice.

    Args:
        root: the folder.
        executor: as for `LocalSourceStore`.
    """

    def __init__(self, root: Path, executor: Executor | None = None) -> None:
        super().__init__(root, executor)
        self._trash = Trash(root)
        self._kept: dict[str, Replaced] = {}
        self._by_folder: defaultdict[str, list[Replaced]] = defaultdict(list)
        for record in self._trash.in_force():
            self._by_folder[str(PurePosixPath(record.new).parent)].append(record)
            if self._trash.holds(record):
                self._kept[record.source] = record

    @property
    def pruned(self) -> int:
        """Replacements whose originals were pruned."""
        return sum(map(len, self._by_folder.values())) - len(self._kept)

    def list(self, folder: str) -> Sequence[SourceEntry]:
        """The entries of a folder, with originals in place of their replacements."""
        entries = super().list(folder)
        records = self._by_folder.get(Path(os.path.relpath(folder, self.root)).as_posix())
        if not records:
            return entries
        hidden = {PurePosixPath(record.new).name for record in records}
        kept: list[SourceEntry] = [
            _KeptEntry(
                PurePosixPath(record.source).name,
                str(self._trash.folder / record.trash),
                _KeptStatus(stat.S_IFREG | 0o644, record.source_size, record.source_mtime_ns),
            )
            for record in records
            if record.source in self._kept
        ]
        shown = {entry.name: entry for entry in kept}
        # A file that came to the place of an original counts.
        shown.update({entry.name: entry for entry in entries if entry.name not in hidden})
        return [*shown.values()]

    def address(self, name: str) -> Path:
        """The path of a file by its name relative to the folder."""
        record = self._kept.get(name)
        return super().address(name) if record is None else self._trash.folder / record.trash


def _place(part: Part, path: Path) -> None:
    """Move a file to a place where there is none, so that no file of somebody else is replaced."""
    try:
        os.link(part.path, path, follow_symlinks=False)
        flush_folder(path.parent)
    except FileExistsError:
        raise NotReplacedError(f"{path.name} exists already") from None
    except OSError:
        # Not every file system has links.
        part.move_to(path)


def _parse(line: bytes) -> Replaced | None:
    """Read a line of the journal; None if it is none. The folder may come from a stranger."""
    try:
        values: Any = json.loads(line)
        record = Replaced(**values)
        for field in fields(Replaced):
            kind = int if field.name.endswith(("_size", "_ns")) else str
            if type(getattr(record, field.name)) is not kind:
                return None
        for name in (record.source, record.new, record.trash):
            check_name(name, "output")
    except (ValueError, TypeError, PageError):
        return None
    return record


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return sha256_of_file(file)


def _make_folders(folder: Path) -> None:
    for each in reversed((folder, *folder.parents)):
        if not each.is_dir():
            each.mkdir(exist_ok=True)
            flush_folder(each.parent)


def _as_error(error: OSError, path: Path) -> Exception:
    words = error.strerror or str(error)
    if error.errno in HITS_EVERY_PAGE:
        return OutputError(
            f"no more files can be written to {path.parent}: {words}. No original is lost. Free some space, then run "
            "the same command again"
        )
    return NotReplacedError(words)
