"""The input as it was before originals were replaced."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from comic_upscale.storage.base import SourceEntry
from comic_upscale.storage.local import LocalSourceStore
from comic_upscale.storage.replaced import Trash
from comic_upscale.storage.replaced_edits import Marks
from comic_upscale.storage.replaced_journal import Replaced


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
        self._read()

    def follow_changes(self, marks: Marks) -> None:
        """Find the outputs that were moved or edited since the last run. A run does it, too, and notes what it finds.

        Args:
            marks: recognises outputs that were edited.
        """
        self._trash = Trash(self.root, marks)
        self._trash.follow()
        self._read()

    def _read(self) -> None:
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
        record, path = self._kept.get(name), super().address(name)
        if record is None or (record.source != record.new and os.path.lexists(path)):
            return path
        return self._trash.folder / record.trash
