"""Answers of services that are billed by call, on the disk until the page that they belong to is recorded.

Whoever kills a run loses its pages in flight. The next run asks for nothing that was paid for.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from comic_upscale.errors import OutputError
from comic_upscale.storage.atomic import write_whole
from comic_upscale.storage.marker import make_marker_folder

_NAME = re.compile(r"[0-9a-z-]{1,128}")
_NOTE = ".page"
"""The file that says which page of the job has asked. No part has such a name."""
_LARGEST_NOTE = 65536


@dataclass(frozen=True, slots=True)
class AskingPage:
    """The page of a job for which a service is asked."""

    row_id: int
    """Its row in the ledger."""
    source: str
    """As the ledger names it. A new ledger may have another page in that row."""


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

    def put(self, page: str, part: str, data: bytes, asking: AskingPage | None = None) -> None:
        """Keep an answer; arguments as for `get`, and the page of the job that has asked, if it is known.

        Raises:
            OutputError: it cannot be written.
        """
        path = self._path(page, part)
        try:
            # Checks that the folder is nobody else's.
            make_marker_folder(self._folder.parents[1])
        except OSError as error:
            raise OutputError(f"{self._folder} cannot be written: {error.strerror or error}") from error
        if asking is not None and not (path.parent / _NOTE).exists():
            # First, so that a kill leaves no answer that nobody seems to need.
            _write_note(path.parent, asking)
        write_whole(data, path)

    def note(self, pages: Iterable[str], asking: AskingPage) -> None:
        """Note the page of the job that uses answers.

        By this note, answers are found that nobody needs: a run was killed after their page was recorded, or the page
        will never be done.

        Raises:
            OutputError: it cannot be written.
        """
        for page in pages:
            if (folder := self._path(page, "x").parent).is_dir():
                _write_note(folder, asking)

    def noted(self) -> dict[str, AskingPage | None]:
        """Return the page of the job for each page that has answers; None for one without a note."""
        folders = self._folder.iterdir() if self._folder.is_dir() else ()
        return {each.name: _read_note(each / _NOTE) for each in sorted(folders) if _NAME.fullmatch(each.name)}

    def size(self, pages: Iterable[str]) -> int:
        """Return the bytes of the answers of pages."""
        files = (file for page in pages for file in self._path(page, "x").parent.glob("*"))
        return sum(file.lstat().st_size for file in files if file.name != _NOTE)

    def forget(self, pages: Iterable[str]) -> None:
        """Delete the answers of pages. What cannot be deleted stays."""
        for page in pages:
            shutil.rmtree(self._path(page, "x").parent, ignore_errors=True)

    def _path(self, page: str, part: str) -> Path:
        if not (_NAME.fullmatch(page) and _NAME.fullmatch(part)):
            raise ValueError(f"not names of an answer: {page!r}, {part!r}")
        return self._folder / page / part


def _write_note(folder: Path, asking: AskingPage) -> None:
    write_whole(json.dumps(asdict(asking)).encode("ascii"), folder / _NOTE)


def _read_note(path: Path) -> AskingPage | None:
    """Return a note; None if it is none, as after a crash."""
    try:
        with path.open("rb") as opened:
            values = json.loads(opened.read(_LARGEST_NOTE))
        row_id, source = values["row_id"], values["source"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if type(row_id) is not int or not isinstance(source, str):
        return None
    # Other text is no text of a database.
    return AskingPage(row_id, source.encode(errors="replace").decode())
