"""Answers of services that are billed by call, on the disk until the page that they belong to is recorded.

Whoever kills a run loses its pages in flight. The next run asks for nothing that was paid for.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from comic_upscale.errors import OutputError
from comic_upscale.storage.atomic import write_whole
from comic_upscale.storage.marker import make_marker_folder

_NAME = re.compile(r"[0-9a-z-]{1,128}")
_ROW = ".row"
"""The file that names the row of a page whose output is in its place. No part has such a name."""


class AnswerStore:
    """A folder of answers, by page and by part of the page. May be used from any thread.

    Args:
        folder: below the marker folder of the output folder; created with the first answer.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, page: str, part: str) -> bytes | None:
        """Return an answer; None if there is none.

        Args:
            page: identifies the page and everything that decides its answers: letters, digits and hyphens.
            part: identifies the part of the page in the same way.
        """
        try:
            return self._path(page, part).read_bytes()
        except OSError:
            return None

    def put(self, page: str, part: str, data: bytes) -> None:
        """Keep an answer; arguments as for `get`.

        Raises:
            OutputError: it cannot be written.
        """
        path = self._path(page, part)
        try:
            # Checks that the folder is nobody else's.
            make_marker_folder(self._folder.parents[1])
        except OSError as error:
            raise OutputError(f"{self._folder} cannot be written: {error.strerror or error}") from error
        write_whole(data, path)

    def note_row(self, pages: Iterable[str], row_id: int) -> None:
        """Note the row of the ledger for which the answers of pages were used.

        Whoever kills a run after the row was recorded leaves answers that nobody needs. `used` finds them by this note.
        """
        for page in pages:
            if (folder := self._path(page, "x").parent).is_dir():
                write_whole(str(row_id).encode("ascii"), folder / _ROW, make_folders=False)

    def used(self) -> dict[str, int]:
        """Return the row for which the answers of each page were used, by page; pages without a note are left out."""
        found = {}
        for note in self._folder.glob(f"*/{_ROW}"):
            if not _NAME.fullmatch(note.parent.name):
                continue
            with contextlib.suppress(OSError, ValueError):
                # A row's number has 64 bits.
                found[note.parent.name] = int(note.read_bytes()[:18])
        return found

    def forget(self, pages: Iterable[str]) -> None:
        """Delete the answers of pages. What cannot be deleted stays."""
        for page in pages:
            shutil.rmtree(self._path(page, "x").parent, ignore_errors=True)

    def _path(self, page: str, part: str) -> Path:
        if not (_NAME.fullmatch(page) and _NAME.fullmatch(part)):
            raise ValueError(f"not names of an answer: {page!r}, {part!r}")
        return self._folder / page / part
