"""The volume writer: the finished pages of an archive become one CBZ, with its other files, or a book.

A volume is written beside its place, flushed, read back, renamed and only then recorded. Its loose pages are removed
last. A kill in between loses nothing: the next run finds all pages done and writes the same bytes again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from comic_upscale.errors import ComicUpscaleError, PageError
from comic_upscale.jobs.book_files import BookFile, write_book
from comic_upscale.jobs.context import JobContext
from comic_upscale.jobs.volume_content import PagesLostError, VolumeContent
from comic_upscale.ledger.records import (
    FAILED_PAGES,
    LEFT_AS_THEY_ARE,
    TOO_LARGE,
    CopiedFile,
    PageFailed,
    VolumeDone,
)
from comic_upscale.ledger.writer import BoundPage
from comic_upscale.library.books.formats import BookFormat
from comic_upscale.library.books.names import part_name
from comic_upscale.library.volume_placing import LOOSE_PAGES
from comic_upscale.library.volume_reader import VolumeCache
from comic_upscale.planning.output_checks import check_volume_output
from comic_upscale.planning.volumes import PlannedVolume, page_source, why_incomplete
from comic_upscale.settings.processing import BOOK_FORMATS
from comic_upscale.storage.base import sha256_of
from comic_upscale.storage.local import to_the_end

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Built:
    """A volume that was written and placed."""

    done: VolumeDone
    parts: tuple[CopiedFile, ...] = ()
    """The files of a split book, except the first."""


class VolumeWriter:
    """Writes the volumes of a plan, each when its last page is settled.

    Args:
        context: of the run; its events report which volumes were written and which failed.
    """

    def __init__(self, context: JobContext) -> None:
        plan = context.plan
        self._context = context
        self._settings = context.settings
        self._ledger = context.ledger
        self._on_ledger = context.on_ledger
        # A cache of its own, since decoding reads the same volumes at other positions.
        self._volumes = VolumeCache(
            context.discovery.volumes, context.settings.volume_rules, context.stores.sources
        )
        self._planned = {volume.source: volume for volume in plan.volumes}
        self._open = {volume.source: volume.todo for volume in plan.volumes}
        self._volume_of = {page.row_id: page.member.volume for page in plan.todo if page.member is not None}
        output = context.settings.archive_output
        self._kind = BookFormat(output) if output in BOOK_FORMATS else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="volumes")

    def ready(self) -> list[PlannedVolume]:
        """Return the volumes with no pending page in this run."""
        return [volume for volume in self._planned.values() if volume.todo == 0]

    def settle(self, row_id: int) -> PlannedVolume | None:
        """Note that a page is done, skipped or failed; return its volume if this was its last page."""
        source = self._volume_of.get(row_id)
        if source is None or source not in self._open:
            return None
        self._open[source] -= 1
        return self._planned[source] if self._open[source] == 0 else None

    async def write(self, volume: PlannedVolume) -> None:
        """Write a volume and record it, or record why it failed.

        Raises:
            OutputError: no more outputs can be written.
            LedgerError: the ledger cannot be used.
        """
        try:
            pages = await self._on_ledger(self._claim, volume)
            if pages is None:
                return
            known = await self._on_ledger(self._ledger.carried, self._settings.output)
            built = await to_the_end(self._in_thread(volume, pages, known))
        except PagesLostError as error:
            await self._on_ledger(self._reopen, error.sources, volume)
            await self._fail(volume, error)
        except PageError as error:
            await self._fail(volume, error)
        except ComicUpscaleError:
            raise
        except Exception as error:
            # No content of a volume may end a run.
            log.error("unforeseen error with %s", volume.source, exc_info=error)
            reason = f"The volume could not be written because of an unforeseen error: {error!r}."
            await self._fail(volume, PageError("internal", reason))
        else:
            if built.parts:
                await self._on_ledger(self._ledger.record_carried, self._context.job_id, built.parts)
            await self._on_ledger(self._ledger.record_volumes, [built.done])
            stale = [] if self._kind is None else _stale_parts(known, built)
            await asyncio.get_running_loop().run_in_executor(self._thread, self._sweep, volume, pages, stale)
            if stale:
                names = [file.output for file in stale]
                await self._on_ledger(self._ledger.forget_copies, self._settings.output, names)
            self._context.emit(built.done)

    async def _in_thread(
        self, volume: PlannedVolume, pages: Mapping[str, BoundPage], known: Mapping[str, CopiedFile]
    ) -> _Built:
        build = partial(self._build, volume, pages, known)
        return await asyncio.get_running_loop().run_in_executor(self._thread, build)

    async def _fail(self, volume: PlannedVolume, error: PageError) -> None:
        failure = PageFailed(row_id=volume.row_id, source=volume.source, kind=error.kind, reason=error.reason)
        await self._on_ledger(self._ledger.record, [failure])
        self._context.emit(failure)

    def _claim(self, volume: PlannedVolume) -> Mapping[str, BoundPage] | None:
        """Claim a volume, on the thread of the ledger; return None if it has pending pages."""
        pages = self._ledger.bound_pages(volume.row_id)
        found = self._volumes.volume(volume.source)
        contents = found.contents
        assert contents is not None
        sources = [page_source(found, member.name) for member in contents.pages]
        states = [pages[source].state for source in sources if source in pages]
        failed = states.count("failed")
        if any(not pages[source].is_settled for source in sources if source in pages):
            return None
        if failed and not self._settings.keep_original_on_failure:
            self._ledger.wait_for_pages([(volume.row_id, why_incomplete(failed, len(sources)))])
            return None
        check_volume_output(
            partial(self._ledger.owners, self._settings.output),
            volume,
            self._settings,
            self._context.fingerprint,
            self._context.sources,
            self._context.stores.outputs,
        )
        if volume.output:
            self._ledger.claim(self._context.run_id, self._settings.output, [(volume.row_id, volume.output)])
        return pages

    def _reopen(self, sources: list[str], volume: PlannedVolume) -> None:
        found = self._volumes.volume(volume.source)
        assert found.contents is not None
        sizes = {page_source(found, member.name): member.size for member in found.contents.pages}
        rows = self._ledger.page_ids(volume.row_id)
        mtime_ns = found.entry.mtime_ns
        self._ledger.reopen((rows[source], sizes[source], mtime_ns) for source in sources)

    def _build(
        self, volume: PlannedVolume, pages: Mapping[str, BoundPage], known: Mapping[str, CopiedFile]
    ) -> _Built:
        """Write, check and place the volume, on the thread of the volume writer."""
        found = self._volumes.volume(volume.source)
        assert found.contents is not None
        notes = (*found.contents.notes, *_notes(pages.values(), into_volume=bool(volume.output)))
        size, digest = 0, ""
        parts: tuple[CopiedFile, ...] = ()
        if volume.output:
            outputs = self._context.stores.outputs
            with VolumeContent(
                outputs, found, self._volumes, pages, volume.output, self._settings
            ) as content:
                if self._kind is None:
                    size, digest = outputs.build(
                        volume.output, volume.row_id, content.write_cbz, content.check_cbz
                    )
                    notes += content.notes()
                else:
                    files = write_book(outputs, content, volume, self._kind, known, self._settings)
                    size, digest = files[0].size, files[0].sha256
                    entry = found.entry
                    parts = tuple(
                        CopiedFile(entry.source, each.name, entry.size, entry.mtime_ns, each.sha256)
                        for each in files[1:]
                    )
                    split = (f"split into {len(files)} files",) if parts else ()
                    notes += (*split, *self._too_large(files), *content.notes(is_book=True))
        done = VolumeDone(
            row_id=volume.row_id,
            source=volume.source,
            output=volume.output,
            pages=len(found.contents.pages),
            output_size=size,
            output_sha256=digest,
            notes=notes,
            source_sha256=self._volumes.sha256(volume.source),
        )
        return _Built(done, parts)

    def _too_large(self, files: Iterable[BookFile]) -> tuple[str, ...]:
        """Return the note for files above ``--max-volume-size``, each of which has one page."""
        most = self._settings.max_volume_size
        count = sum(file.size > most for file in files) if most is not None else 0
        return (f"{count} file(s) {TOO_LARGE}",) if count else ()

    def _sweep(
        self, volume: PlannedVolume, pages: Mapping[str, BoundPage], stale: Iterable[CopiedFile]
    ) -> None:
        """Remove the loose pages of a written volume, files of it that are no longer needed, and empty folders."""
        if volume.output:
            outputs = self._context.stores.outputs
            outputs.delete((page.output for page in pages.values()), below=LOOSE_PAGES)
            outputs.delete(file.output for file in stale if sha256_of(outputs, file.output) == file.sha256)

    def shut_down(self) -> None:
        """End the thread and close the volumes."""
        self._thread.shutdown()
        self._volumes.close()


def _stale_parts(known: Mapping[str, CopiedFile], built: _Built) -> list[CopiedFile]:
    """Return the files of a split book that an earlier run wrote and this one did not."""
    kept = {file.output for file in built.parts}
    stale: list[CopiedFile] = []
    part = 2
    while (file := known.get(part_name(built.done.output, part))) is not None:
        if file.source == built.done.source and file.output not in kept:
            stale.append(file)
        part += 1
    return stale


def _notes(pages: Iterable[BoundPage], *, into_volume: bool) -> tuple[str, ...]:
    """Return notes on pages that are not upscaled: unchanged in a CBZ or book, left out of a folder."""
    what = "unchanged" if into_volume else "left out"
    left = [page for page in pages if page.is_settled and page.state != "done"]
    counts = Counter(LEFT_AS_THEY_ARE.get(page.error_kind or "", FAILED_PAGES) for page in left)
    return tuple(f"{count} page(s) {what}: {reason}" for reason, count in counts.items())
