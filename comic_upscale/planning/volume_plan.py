"""Plan the volumes of a job: give each a row and an output, and decide which are written."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import partial
from pathlib import PurePosixPath

from comic_upscale.errors import PageError
from comic_upscale.ledger.records import VOLUME, PageFailed, PageRow
from comic_upscale.ledger.writer import Ledger
from comic_upscale.library.books.formats import held_pages
from comic_upscale.library.books.names import part_name
from comic_upscale.library.page import Page
from comic_upscale.library.source_reader import SourceReader
from comic_upscale.library.volume import Volume
from comic_upscale.library.volume_placing import LOOSE_PAGES
from comic_upscale.planning.names import OutputNames
from comic_upscale.planning.output_checks import PlannedPage, check_volume_output
from comic_upscale.planning.volumes import (
    PlannedVolume,
    is_complete,
    standing_pages,
    waits,
    why_incomplete,
)
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.processing import BOOK_FORMATS
from comic_upscale.storage.base import OutputStore, size_of


class VolumePlan:
    """Decides about volumes: call ``register``, then plan the pages, then call ``decide``."""

    def __init__(
        self,
        ledger: Ledger,
        job_id: int,
        settings: JobSettings,
        sources: SourceReader,
        outputs: OutputStore,
        volumes: Sequence[Volume],
        pages: dict[str, list[Page]],
        rows: Iterable[PageRow],
    ) -> None:
        self._ledger, self._job_id, self._settings = ledger, job_id, settings
        self._sources, self._outputs = sources, outputs
        self._volumes, self._pages = volumes, pages
        self._rows: dict[str, PageRow] = {}
        self.page_rows: dict[str, PageRow] = {}
        for row in rows:
            (self._rows if row.kind == VOLUME else self.page_rows)[row.source] = row
        self._standing = {
            volume.entry.source: standing_pages(
                volume, self._rows.get(volume.entry.source), self.page_rows, outputs
            )
            for volume in volumes
        }
        self._lacks_parts = self._find_missing_parts()
        self.standing = frozenset().union(*self._standing.values())
        """Sources of the pages whose outputs are in finished volumes."""
        self.row_ids: dict[str, int] = {}
        """The row of each volume, by its source."""
        self.planned: list[PlannedVolume] = []
        self.refused: list[PageFailed] = []
        self.held_back: set[str] = set()
        """Sources of pages that are not processed now, because their volume could not be written."""

    def register(self, names: OutputNames) -> None:
        """Give every volume a row, and a free output.

        Args:
            names: of the job.
        """
        self.row_ids = {source: row.id for source, row in self._rows.items()}
        new = []
        for volume in self._volumes:
            entry = volume.entry
            if entry.source not in self._rows:
                new.append(names.with_output(entry) if entry.output else entry)
        for row_id, entry in zip(self._ledger.add_volumes(self._job_id, new), new, strict=True):
            self.row_ids[entry.source] = row_id
            self._rows[entry.source] = PageRow(
                row_id,
                entry.source,
                entry.size,
                entry.mtime_ns,
                None,
                "pending",
                entry.output,
                None,
                None,
                kind=VOLUME,
            )

    def find_lost(self, todo: Set[str]) -> list[Page]:
        """Return finished pages that must be done again, because their volume is written again without them.

        A CBZ gives its pages back. A PDF does not, and no volume gives back a page that was cut for a screen.

        Args:
            todo: sources of the pages that this run processes anyway.
        """
        if self._settings.archive_output not in BOOK_FORMATS and self._settings.screen is None:
            return []
        lost: list[Page] = []
        for volume in self._volumes:
            pages = self._pages.get(volume.entry.source, [])
            row = self._rows[volume.entry.source]
            if volume.contents is None or not row.output or all(page.source in todo for page in pages):
                continue
            if not any(page.source in todo for page in pages) and self._is_complete(volume, row):
                continue
            held = held_pages(self._outputs, row.output, volume.contents.pages)
            targets = {f"{row.source}/{member.name}": member.target or "" for member in volume.contents.pages}
            lost += [
                page
                for page in pages
                if page.source not in todo
                and (known := self.page_rows.get(page.source)) is not None
                and known.state == "done"
                and size_of(self._outputs, known.output) != known.output_size
                and held.get(targets[page.source]) != known.output_size
            ]
        return lost

    def _is_complete(self, volume: Volume, row: PageRow) -> bool:
        source = volume.entry.source
        return source not in self._lacks_parts and is_complete(
            volume, row, self.page_rows, self._standing[source], self._outputs
        )

    def _find_missing_parts(self) -> Set[str]:
        """Return the sources of the volumes that are split into several files, some of which are missing."""
        if self._settings.max_volume_size is None:
            return frozenset()
        known = self._ledger.carried(self._settings.output)
        missing = set()
        for source, row in self._rows.items():
            for part in itertools.count(2):
                file = known.get(part_name(row.output, part))
                if not row.output or file is None or file.source != source:
                    break
                if size_of(self._outputs, file.output) is None:
                    missing.add(source)
        return missing

    def decide(self, todo: Mapping[str, PlannedPage], fingerprint: str) -> None:
        """Decide about every volume, after its pending pages are known."""
        waiting: list[tuple[int, str]] = []
        reopened: list[tuple[int, int, int]] = []
        for volume in self._volumes:
            row = self._rows[volume.entry.source]
            if volume.failure is not None:
                self._refuse(volume, row, *volume.failure)
                continue
            pages = self._pages.get(volume.entry.source, [])
            open_pages = [page.source for page in pages if page.source in todo]
            failed = sum(
                page.source not in todo and self.page_rows[page.source].state == "failed" for page in pages
            )
            complete = self._is_complete(volume, row)
            if not open_pages and complete and not self._has_leftovers(pages):
                continue
            if not open_pages and failed and not self._settings.keep_original_on_failure:
                if not waits(row):
                    waiting.append((row.id, why_incomplete(failed, len(pages))))
                continue
            planned = PlannedVolume(row.id, row.source, volume.entry.path, row.output, len(open_pages))
            try:
                owners = partial(self._ledger.owners, self._settings.output)
                check_volume_output(
                    owners, planned, self._settings, fingerprint, self._sources, self._outputs
                )
            except PageError as error:
                self._refuse(volume, row, error.kind, error.reason)
                self.held_back.update(open_pages)
                self._ledger.skip(
                    [todo[source].row_id for source in open_pages],
                    "the output of its volume cannot be written",
                )
                continue
            reopened.append((row.id, volume.entry.size, volume.entry.mtime_ns))
            self.planned.append(planned)
        self._ledger.reopen(reopened)
        self._ledger.wait_for_pages(waiting)

    def _has_leftovers(self, pages: Sequence[Page]) -> bool:
        """Return whether loose pages of a finished volume still exist, because a run died before it removed them."""
        folders = {str(PurePosixPath(self.page_rows[page.source].output).parent) for page in pages}
        return any(
            folder.startswith(f"{LOOSE_PAGES}/") and _is_folder(self._outputs, folder) for folder in folders
        )

    def _refuse(self, volume: Volume, row: PageRow, kind: str, reason: str) -> None:
        if (row.state, row.error_kind) != ("failed", kind) or self._settings.retry_failed:
            self.refused.append(PageFailed(row_id=row.id, source=row.source, kind=kind, reason=reason))
            self._ledger.record(self.refused[-1:])


def _is_folder(outputs: OutputStore, name: str) -> bool:
    try:
        found = outputs.stat(name)
    except PageError:
        return False
    return found is not None and found.kind == "folder"
