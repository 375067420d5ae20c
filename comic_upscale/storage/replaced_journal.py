"""The journal of replaced originals: which file of the input is the output of which original."""

from __future__ import annotations

import contextlib
import json
import os
from collections import defaultdict
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from comic_upscale.errors import OutputError, PageError
from comic_upscale.settings.paths import path_text
from comic_upscale.storage.atomic import write_whole
from comic_upscale.storage.base import check_name
from comic_upscale.storage.guarded import is_file, make_folders
from comic_upscale.storage.parts import flush_folder

JOURNAL = "journal.jsonl"
"""Its name in the trash."""

JOURNAL_COPY = "replaced.jsonl"
"""The name of its copy, beside the trash. People empty a trash by hand."""


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
    done: bool = False
    """Whether the replacement is complete. It is noted once before anything changes, and again at the end."""
    older: str = ""
    """Where the output was that this one takes the place of; empty if it took the place of the original."""
    edited: str = ""
    """The hash of the output, if somebody edited it since; then ``new`` and its values are those of the edited file."""
    marks: str = ""
    """What tells an edited output from a new file, as `Marks` names it; empty if nothing does."""

    @property
    def output_sha256(self) -> str:
        """The hash of the output as the job wrote it."""
        return self.edited or self.new_sha256


class Journal:
    """The journal of a trash. One process writes it at a time.

    Without it, outputs would be taken for originals. So there is a copy of it outside of the trash, and a journal that
    cannot be read is an error.

    Args:
        folder: the trash.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path, self._copy = folder / JOURNAL, folder.with_name(JOURNAL_COPY)
        self._stamp: tuple[int, int] | None = None
        """Size and time of the file when it was read."""
        self._last: dict[Replaced, Replaced] = {}
        self._by_trash: defaultdict[str, dict[Replaced, None]] = defaultdict(dict)

    def is_there(self) -> bool:
        """Return whether anything was ever noted."""
        return is_file(self._path) or is_file(self._copy)

    def note(self, record: Replaced) -> None:
        """Append a record, and flush it.

        Raises:
            OSError: it cannot be written.
            OutputError: it cannot be read, or its copy cannot be written.
        """
        self._read()
        make_folders(self._folder)
        self._match_copy()
        # A line that a kill cut short must not join this one.
        line = f"\n{json.dumps(asdict(record))}\n".encode()
        for path in (self._path, self._copy):
            with path.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        flush_folder(self._folder)
        self._add(record)
        self._stamp = self._stamp_now()

    def records(self) -> list[Replaced]:
        """Return the records in the order in which they were last noted."""
        self._read()
        return [*self._last.values()]

    def records_of(self, trash: str) -> list[Replaced]:
        """Return the records whose originals have this name in the trash."""
        self._read()
        return [self._last[key] for key in self._by_trash.get(trash, ())]

    def _match_copy(self) -> None:
        """Make the journal and its copy equal, after a kill, or if one of them is missing. The journal counts."""
        if not is_file(self._path) and is_file(self._copy):
            write_whole(self._copy.read_bytes(), self._path)
        size = self._path.stat().st_size if is_file(self._path) else 0
        if not is_file(self._copy) or self._copy.stat().st_size != size:
            write_whole(self._path.read_bytes() if size else b"", self._copy)

    def _read(self) -> None:
        stamp = self._stamp_now()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        self._last.clear()
        self._by_trash.clear()
        for line in self._content().splitlines():
            record = _parse(line)
            if record is not None:
                self._add(record)

    def _content(self) -> bytes:
        for path in (self._path, self._copy):
            try:
                return path.read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                continue
            except OSError as error:
                self._stamp = None
                raise OutputError(
                    f"{path_text(path)} cannot be read ({error.strerror or error}). It says which files replaced an "
                    "original, so nothing is done without it: make it readable, then try again"
                ) from error
        return b""

    def _stamp_now(self) -> tuple[int, int] | None:
        for path in (self._path, self._copy):
            with contextlib.suppress(OSError):
                status = path.stat()
                return status.st_size, status.st_mtime_ns
        return None

    def _add(self, record: Replaced) -> None:
        key = replace(record, done=False)
        self._last.pop(key, None)
        self._last[key] = record
        self._by_trash[record.trash][key] = None


def _parse(line: bytes) -> Replaced | None:
    """Read a line of the journal; None if it is none. The folder may come from a stranger."""
    try:
        values: Any = json.loads(line)
        if isinstance(values, dict):
            # Journals of earlier versions do not tell, and what is done removes nothing.
            values.setdefault("done", True)
        record = Replaced(**values)
        for field in fields(Replaced):
            kind = bool if field.name == "done" else int if field.name.endswith(("_size", "_ns")) else str
            if type(getattr(record, field.name)) is not kind:
                return None
        for name in (record.source, record.new, record.trash, *filter(None, (record.older,))):
            check_name(name, "output")
    except (ValueError, TypeError, PageError):
        return None
    return record
