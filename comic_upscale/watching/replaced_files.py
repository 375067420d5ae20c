"""Replaced originals in a watched folder: a look sees them in place of their outputs, as a run with `--replace`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from comic_upscale.storage.replaced import Trash
from comic_upscale.storage.replaced_journal import Replaced
from comic_upscale.watching.scan import FileState


class ReplacedFiles:
    """The originals of a folder that were replaced. What a run itself exchanges is then no change of the folder.

    Args:
        library: the folder.
    """

    def __init__(self, library: Path) -> None:
        self._trash = Trash(library)
        self._compared: dict[tuple[Replaced, FileState], bool] = {}
        """Whether a file of the right size and another time is an output: it is read once, and not at each look."""

    def with_originals(self, files: Mapping[str, FileState]) -> dict[str, FileState]:
        """Return files with the states of originals in place of their outputs, also of those that were pruned.

        Args:
            files: by their POSIX paths relative to the folder.
        """
        found: dict[str, Replaced] = {}
        compared: dict[tuple[Replaced, FileState], bool] = {}
        for record in reversed(self._trash.records()):
            state = files.get(record.new)
            if state is None or record.new in found or state.size != record.new_size:
                continue
            if state.mtime_ns != record.new_mtime_ns:
                key = (record, state)
                known = self._compared.get(key)
                compared[key] = self._trash.is_in_place(record) if known is None else known
                if not compared[key]:
                    continue
            found[record.new] = record
        self._compared = compared
        shown = {name: state for name, state in files.items() if name not in found}
        for record in found.values():
            # A file that came to the place of an original counts.
            shown.setdefault(record.source, FileState(record.source_size, record.source_mtime_ns))
        return shown
