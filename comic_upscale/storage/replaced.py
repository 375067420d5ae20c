"""Originals that were replaced by their outputs: the trash that keeps them.

The trash is a folder inside the input, ``.comic-upscale/trash``. It keeps each original under its own path, and a
journal. An original is in the trash before anything else happens, and its replacement is complete and in its place
before it leaves its own. So a kill at any moment loses nothing. `Trash.settle` completes what a kill interrupted.

A file that was changed meanwhile is never overwritten or removed: right before each such step, its identity, size and
time are compared with those from before its content was hashed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from comic_upscale.errors import PageError
from comic_upscale.settings.paths import TRASH
from comic_upscale.storage.base import check_name
from comic_upscale.storage.guarded import (
    NotReplacedError,
    as_error,
    check_unchanged,
    copy_into,
    finish,
    hash_of,
    is_file,
    make_folders,
    place,
    set_attributes,
    status_of,
    unlink_if,
    unlink_unchanged,
)
from comic_upscale.storage.parts import flush_folder, open_part, remove, sweep_parts
from comic_upscale.storage.replaced_edits import Marks, find_edited
from comic_upscale.storage.replaced_journal import JOURNAL, Journal, Replaced
from comic_upscale.storage.replaced_moves import find_moved

_TOKEN = "replace"
_TRIES = 1000
_READ_ONLY = "its folder is read-only: make it writable, then run the same command again"


class Trash:
    """The replaced originals of an input folder.

    Args:
        library: the folder.
        marks: recognises outputs that were edited; None if they need not be.
    """

    def __init__(self, library: Path, marks: Marks | None = None) -> None:
        self._library = library
        self._marks = marks
        self._folder = library / TRASH
        self._journal = Journal(self._folder)
        self._moved: tuple[Replaced, ...] = ()
        """What `follow` found."""

    @property
    def folder(self) -> Path:
        """The folder of the originals."""
        return self._folder

    def is_there(self) -> bool:
        """Return whether anything was ever replaced."""
        return self._journal.is_there()

    def records(self) -> list[Replaced]:
        """Return the records in the order in which they were last noted, with those that are not noted yet."""
        return [*dict.fromkeys((*self._journal.records(), *self._moved))]

    def is_in_place(self, record: Replaced) -> bool:
        """Return whether the output of a record is in the input."""
        path = self._library / record.new
        try:
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode) or status.st_size != record.new_size:
                return False
            return status.st_mtime_ns == record.new_mtime_ns or hash_of(path) == record.new_sha256
        except OSError:
            return False

    def in_force(self) -> tuple[Replaced, ...]:
        """Return the replacements that are in the input, the oldest first."""
        found: dict[str, Replaced] = {}
        records = self.records()
        for record in reversed(records):
            # A kill may have come after a later record of the place was noted, and before its output was there.
            if record.new not in found and self.is_in_place(record):
                found[record.new] = record
        return tuple(record for record in records if found.get(record.new) == record)

    def stranded(self) -> tuple[Replaced, ...]:
        """Return the last record of each original that is in the trash, but whose replacement is not in the input."""
        known = {record.trash for record in self.in_force()}
        last = {record.trash: record for record in self.records() if record.trash not in known}
        return tuple(record for record in last.values() if self.holds(record))

    def settle(self) -> None:
        """Complete the replacements that a kill interrupted, and note which outputs were moved.

        An original that is in its place after its replacement was complete was put back, and stays.
        """
        self._moved = ()
        records = self.records()
        for folder in {(self._library / record.source).parent for record in records}:
            if self._is_inside(folder):
                sweep_parts(folder, {_TOKEN})
        unfinished = [record for record in records if not record.done]
        in_force = set(self.in_force()) if unfinished else set()
        for record in unfinished:
            # What cannot be removed now is tried again by the next run.
            with contextlib.suppress(OSError, NotReplacedError):
                if record in in_force and record.older:
                    self._settle_renewed(record, records)
                elif record in in_force and record.source != record.new:
                    source = self._library / record.source
                    self._check_inside(source)
                    if is_file(source) and self._has(source, record):
                        status = source.lstat()
                        unlink_if(source, record.source_sha256)
                        set_attributes(self._folder / record.trash, status)
                self._journal.note(replace(record, done=True))
        self.follow()
        with contextlib.suppress(OSError):
            for record in self._moved:
                self._journal.note(record)
            self._moved = ()

    def follow(self) -> None:
        """Find the outputs that somebody moved, copied or edited. From now on they count as in force where they are.

        It reads the folder and changes nothing. `settle` also notes them.
        """
        if not self.records():
            return
        self._moved += tuple(find_moved(self._library, self.records(), self.in_force()))
        if self._marks is not None:
            self._moved += tuple(find_edited(self._library, self.records(), self.in_force(), self._marks))

    def exchange(
        self, path: Path, new: Path, output: Path, *, source_sha256: str, new_sha256: str, marks: str = ""
    ) -> None:
        """Replace an original by a copy of an output, and keep the original in the trash.

        Args:
            path: of the original.
            new: the place of the output: in the folder of the original; may be the path of the original.
            output: the verified output.
            source_sha256: of the original, which is checked.
            new_sha256: of the output.
            marks: what tells an edited output from a new file; empty if nothing does.

        Raises:
            NotReplacedError: something is in the way, or a file has changed.
            OutputError: no more files can be written.
        """
        source, target = self._name(path), self._name(new)
        if new != path and os.path.lexists(new):
            raise NotReplacedError(f"{target} exists already")
        try:
            self._check_inside(path)
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode) or hash_of(path) != source_sha256:
                raise NotReplacedError("it is a link, or has changed since it was upscaled")
            _check_writable(path.parent)
            trash = self._keep(path, source, source_sha256)
            # What is in the trash may be a link to a newer file.
            check_unchanged(path, status)
            now = time.time_ns()
            record = Replaced(
                source, target, trash, source_sha256, status.st_size, status.st_mtime_ns, new_sha256,
                output.stat().st_size, now, marks=marks,
            )  # fmt: skip
            # Noted before anything is written, so that nothing in the input is unknown after a kill.
            self._journal.note(record)
            self._put(new, output, record, status, over=new == path)
            if new != path:
                unlink_unchanged(path, status)
            set_attributes(self._folder / trash, status)
            self._journal.note(replace(record, done=True))
        except OSError as error:
            raise self._as_error(error, path) from error

    def renew(self, record: Replaced, name: str, output: Path, new_sha256: str, marks: str = "") -> None:
        """Replace a replacement by a newer output of the same original.

        Args:
            record: the replacement, in force.
            name: of the new file, in the same folder.
            output: the verified output.
            new_sha256: of the output.
            marks: as in `exchange`.

        Raises:
            NotReplacedError: something is in the way, or the replacement was edited.
            OutputError: no more files can be written.
        """
        old = self._library / record.new
        new = old.with_name(name)
        try:
            self._check_inside(old)
            status = None if record.edited else status_of(old, record.new_sha256)
            if status is None:
                raise NotReplacedError(f"{record.new} was edited since")
            if new != old and os.path.lexists(new):
                raise NotReplacedError(f"{self._name(new)} exists already")
            newer = replace(
                record, new=self._name(new), new_sha256=new_sha256, new_size=output.stat().st_size,
                new_mtime_ns=time.time_ns(), done=False, older=record.new, marks=marks,
            )  # fmt: skip
            self._journal.note(newer)
            self._put(new, output, newer, status, over=new == old)
            if new != old:
                unlink_unchanged(old, status)
            self._journal.note(replace(newer, done=True))
        except OSError as error:
            raise self._as_error(error, old) from error

    def restore(self, record: Replaced) -> None:
        """Put an original back in its place, and remove its replacement.

        An original that is in its place already, as after a kill, counts as put back.

        Raises:
            NotReplacedError: the original was pruned, or its replacement was edited.
            OutputError: no more files can be written.
        """
        source, new = self._library / record.source, self._library / record.new
        try:
            self._check_inside(source)
            self._check_inside(new)
            self.check_restorable(record)
            status = status_of(new, record.new_sha256)
            if status is None:
                raise NotReplacedError(_edited(record))
            if source == new:
                self._bring_back(record, over=status)
            else:
                if os.path.lexists(source):
                    if status_of(source, record.source_sha256) is None:
                        raise NotReplacedError(f"another file is at {record.source}")
                else:
                    self._bring_back(record, over=None)
                unlink_unchanged(new, status)
            self._drop(record)
        except OSError as error:
            raise self._as_error(error, source) from error

    def check_restorable(self, record: Replaced) -> None:
        """Check that the trash has the original of a replacement, and that nobody edited the replacement.

        Raises:
            NotReplacedError: the reason.
        """
        if not self.holds(record):
            raise NotReplacedError("its original is no longer in the trash")
        if record.edited:
            raise NotReplacedError(_edited(record))

    def put_back(self, record: Replaced, *, change: bool) -> None:
        """Put an original back whose replacement is no longer in the input.

        Args:
            record: one of `stranded`.
            change: whether to do it; otherwise only tell whether it is possible.

        Raises:
            NotReplacedError: a file is in the place of the original or of its replacement.
            OutputError: no more files can be written.
        """
        source, new = self._library / record.source, self._library / record.new
        try:
            self._check_inside(source)
            if status_of(source, record.source_sha256) is None:
                if os.path.lexists(source) or os.path.lexists(new):
                    raise NotReplacedError(
                        "its replacement was edited, moved or deleted; the original is "
                        f"{PurePosixPath(TRASH) / record.trash}"
                    )
                if change:
                    make_folders(source.parent)
                    self._bring_back(record, over=None)
            if change:
                self._drop(record)
        except OSError as error:
            raise self._as_error(error, source) from error

    def originals(self) -> list[tuple[str, int]]:
        """Return the files in the trash: (path relative to the trash, bytes), sorted."""
        found = []
        for folder, _, names in os.walk(self._folder):
            for name in names:
                path = Path(folder) / name
                if path != self._folder / JOURNAL and is_file(path):
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

    def outputs_without_originals(self, left: Collection[str]) -> list[tuple[str, str]]:
        """Return what the job no longer needs once the trash is pruned: (a name that the output had, its hash).

        The input has these outputs, or their originals were put back.

        Args:
            left: the originals that stay in the trash, as `prune` returns them.
        """
        in_force = self.in_force()
        held = {record.output_sha256 for record in in_force if record.trash in left}
        gone = {record.output_sha256 for record in in_force}
        gone |= {record.output_sha256 for record in self.records() if self._was_put_back(record)}
        return [
            (record.new, record.output_sha256)
            for record in self.records()
            if record.output_sha256 in gone - held
        ]

    def _was_put_back(self, record: Replaced) -> bool:
        """Return whether an original is in its place again, by its size, and no longer in the trash."""
        try:
            status = (self._library / record.source).lstat()
        except OSError:
            return False
        return status.st_size == record.source_size and not self.holds(record)

    def holds(self, record: Replaced) -> bool:
        """Return whether the original is still in the trash."""
        try:
            status = (self._folder / record.trash).lstat()
        except OSError:
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size == record.source_size

    # Steps

    def _put(self, new: Path, output: Path, record: Replaced, status: os.stat_result, *, over: bool) -> None:
        """Copy an output to its place: over the file of a status, or where there is none.

        It gets the mode and owner of that status. It is no link: an edit of the file in the input must not change the
        output of the job.
        """
        with open_part(new, _TOKEN) as part:
            if copy_into(output, part) != record.new_sha256:
                raise NotReplacedError("its output has changed since it was written")
            finish(part, status, record.new_mtime_ns)
            if over:
                check_unchanged(new, status)
                part.move_to(new)
            else:
                place(part, new)
        set_attributes(new, status)

    def _bring_back(self, record: Replaced, *, over: os.stat_result | None) -> None:
        """Copy an original from the trash to its place: over the file of a status, or where there is none."""
        kept, source = self._folder / record.trash, self._library / record.source
        with open_part(source, _TOKEN) as part:
            if copy_into(kept, part) != record.source_sha256:
                raise NotReplacedError("its original in the trash has changed")
            status = kept.lstat()
            finish(part, status, record.source_mtime_ns)
            if over is None:
                place(part, source)
            else:
                check_unchanged(source, over)
                part.move_to(source)
        set_attributes(source, status)

    def _settle_renewed(self, record: Replaced, records: Sequence[Replaced]) -> None:
        """Remove the output that a newer one took the place of, if it is still that output."""
        if record.older == record.new:
            return
        path = self._library / record.older
        self._check_inside(path)
        for each in records:
            if (each.new, each.source, each.trash) == (record.older, record.source, record.trash):
                unlink_if(path, each.new_sha256)

    def _keep(self, path: Path, source: str, sha256: str) -> str:
        """Make a file appear in the trash, too, and return its name there."""
        for number in range(1, _TRIES):
            name = source if number == 1 else f"{number}/{source}"
            kept = self._folder / name
            if name.split("/")[0].casefold() == JOURNAL or not self._has_room(kept.parent):
                continue
            # The original may have been pruned, but its name still stands in a record that counts.
            if any(each.source_sha256 != sha256 and self.is_in_place(each) for each in self._named(name)):
                continue
            if is_file(kept):
                if hash_of(kept) == sha256:
                    # A kill came after this step, or the same original comes again.
                    return name
                continue
            if os.path.lexists(kept):
                continue
            make_folders(kept.parent)
            with contextlib.suppress(OSError):
                # At once, and without room on the disk. Not every file system has links.
                os.link(path, kept, follow_symlinks=False)
                flush_folder(kept.parent)
                return name
            with open_part(kept, _TOKEN) as part:
                if copy_into(path, part) != sha256:
                    raise NotReplacedError("it has changed since it was upscaled")
                status = path.lstat()
                finish(part, status, status.st_mtime_ns)
                part.move_to(kept)
            return name
        raise NotReplacedError("there are too many files of its name in the trash")

    def _has_room(self, folder: Path) -> bool:
        """Return whether a folder is in the trash, or can be created there."""
        while not os.path.lexists(folder):
            folder = folder.parent
        return folder.is_dir() and not folder.is_symlink()

    def _drop(self, record: Replaced) -> None:
        """Remove an original from the trash, once it is back in its place. A copy of its output may still need it."""
        kept = self._folder / record.trash
        if any(each.new != record.new and self.is_in_place(each) for each in self._named(record.trash)):
            return
        if status_of(kept, record.source_sha256) is not None:
            self._remove(kept)

    def _remove(self, kept: Path) -> None:
        remove(kept)
        for folder in kept.parents:
            if folder == self._folder:
                return
            try:
                folder.rmdir()
            except OSError:
                return

    def _named(self, trash: str) -> list[Replaced]:
        """Return the records whose originals have this name in the trash."""
        return [*self._journal.records_of(trash), *(each for each in self._moved if each.trash == trash)]

    def _as_error(self, error: OSError, path: Path) -> Exception:
        """Return the error to raise. A folder that is read-only hits only its own files."""
        if error.errno == errno.EROFS and os.access(self._folder, os.W_OK):
            return NotReplacedError(_READ_ONLY)
        return as_error(error, path)

    def _has(self, path: Path, record: Replaced) -> bool:
        """Return whether a file is the original of a record, and the trash has it, too."""
        try:
            kept = self._folder / record.trash
            return (
                hash_of(path) == record.source_sha256
                and is_file(kept)
                and hash_of(kept) == record.source_sha256
            )
        except OSError:
            return False

    def _is_inside(self, folder: Path) -> bool:
        return folder.resolve().is_relative_to(self._library.resolve())

    def _check_inside(self, path: Path) -> None:
        """Check that no linked folder leads out of the input: what is there may belong to something else."""
        if not self._is_inside(path.parent):
            raise NotReplacedError("its folder is a link that leads out of the input")

    def _name(self, path: Path) -> str:
        try:
            return check_name(path.relative_to(self._library).as_posix(), "output")
        except (ValueError, PageError):
            raise NotReplacedError("it is not inside the input folder") from None


def _edited(record: Replaced) -> str:
    return (
        f"{record.new} was edited since: move it out of the folder, then try again; the original is "
        f"{PurePosixPath(TRASH) / record.trash}"
    )


def _check_writable(folder: Path) -> None:
    """Check that files can be created in a folder, before anything is written.

    Raises:
        NotReplacedError: they cannot.
    """
    if not os.access(folder, os.W_OK | os.X_OK):
        raise NotReplacedError(_READ_ONLY)
