"""The volume writer: the finished pages of an archive become one CBZ, in order, with the other files of the archive.

A CBZ is written beside its place, flushed, read back, renamed and only then recorded. Its loose pages are removed
last. A kill in between loses nothing: the next run finds all pages done and writes the same bytes again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import posixpath
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import IO

from comic_upscale.errors import ComicUpscaleError, PageError
from comic_upscale.imaging.decode import read_header
from comic_upscale.imaging.drawn import as_png
from comic_upscale.imaging.formats import extension_of
from comic_upscale.jobs.context import JobContext
from comic_upscale.ledger.records import LEFT_AS_THEY_ARE, PageFailed, VolumeDone
from comic_upscale.ledger.writer import BoundPage
from comic_upscale.library.cbz import check_cbz, open_cbz, write_cbz
from comic_upscale.library.comicinfo import OddComicInfoError, PageFacts, is_comicinfo, update_page_sizes
from comic_upscale.library.sorting import natural_key
from comic_upscale.library.volume import Member, Volume
from comic_upscale.library.volume_placing import LOOSE_PAGES
from comic_upscale.library.volume_reader import VolumeCache
from comic_upscale.planning.output_checks import check_volume_output
from comic_upscale.planning.volumes import PlannedVolume, page_source, why_incomplete
from comic_upscale.storage.base import OutputStore
from comic_upscale.storage.local import to_the_end

log = logging.getLogger(__name__)

_UNREADABLE = ("damaged", "encrypted", "unsupported", "too-large")
"""Kinds of failure of a member that a retry does not fix."""
_MOST_NAMES = 3


class _PagesLostError(PageError):
    """Finished pages are missing or changed before their volume was written; they must be done again."""

    def __init__(self, sources: list[str]) -> None:
        super().__init__(
            "page-lost",
            f"{len(sources)} finished page(s) are missing or were changed: run the same command again",
        )
        self.sources = sources


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
            done = await to_the_end(self._in_thread(volume, pages))
        except _PagesLostError as error:
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
            await self._on_ledger(self._ledger.record_volumes, [done])
            await asyncio.get_running_loop().run_in_executor(self._thread, self._sweep, volume, pages)
            self._context.emit(done)

    async def _in_thread(self, volume: PlannedVolume, pages: Mapping[str, BoundPage]) -> VolumeDone:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._build, volume, pages)

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

    def _build(self, volume: PlannedVolume, pages: Mapping[str, BoundPage]) -> VolumeDone:
        """Write, check and place the CBZ, on the thread of the volume writer."""
        found = self._volumes.volume(volume.source)
        assert found.contents is not None
        notes = (*found.contents.notes, *_notes(pages.values(), into_cbz=bool(volume.output)))
        size, digest = 0, ""
        if volume.output:
            outputs = self._context.stores.outputs
            with _OpenVolume(outputs, found, self._volumes, pages, volume.output) as archive:
                size, digest = outputs.build(volume.output, volume.row_id, archive.write, archive.check)
                notes += archive.notes()
        return VolumeDone(
            row_id=volume.row_id,
            source=volume.source,
            output=volume.output,
            pages=len(found.contents.pages),
            output_size=size,
            output_sha256=digest,
            notes=notes,
            source_sha256=self._volumes.sha256(volume.source),
        )

    def _sweep(self, volume: PlannedVolume, pages: Mapping[str, BoundPage]) -> None:
        """Remove the loose pages of a written volume, and folders that are then empty."""
        if volume.output:
            outputs = self._context.stores.outputs
            outputs.delete((page.output for page in pages.values()), below=LOOSE_PAGES)

    def shut_down(self) -> None:
        """End the thread and close the volumes."""
        self._thread.shutdown()
        self._volumes.close()


def _notes(pages: Iterable[BoundPage], *, into_cbz: bool) -> tuple[str, ...]:
    """Return notes on pages that are not upscaled: unchanged in a CBZ, left out of a folder."""
    what = "unchanged" if into_cbz else "left out"
    left = [page for page in pages if page.is_settled and page.state != "done"]
    counts = Counter(LEFT_AS_THEY_ARE.get(page.error_kind or "", "failed") for page in left)
    return tuple(f"{count} page(s) {what}: {reason}" for reason, count in counts.items())


@dataclass(slots=True)
class _OpenVolume:
    """The content of one CBZ."""

    outputs: OutputStore
    volume: Volume
    volumes: VolumeCache
    pages: Mapping[str, BoundPage]
    output: str
    """Name of the CBZ in the output folder."""
    _old: zipfile.ZipFile | None = None
    _open_files: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _written: list[str] = field(default_factory=list)
    _left_out: list[str] = field(default_factory=list)
    _odd: list[str] = field(default_factory=list)

    def __enter__(self) -> _OpenVolume:
        # An existing CBZ contains the pages of earlier runs.
        with contextlib.suppress(PageError, OSError, zipfile.BadZipFile):
            self._old = self._open_files.enter_context(open_cbz(self.outputs, self.output))
        return self

    def __exit__(self, *_: object) -> None:
        self._open_files.close()

    def write(self, file: IO[bytes]) -> None:
        """Write the members, one at a time."""
        assert self.volume.contents is not None
        write_cbz(file, self._members(), self.volume.contents.comment)

    def check(self, file: IO[bytes]) -> None:
        """Read back the new CBZ, and close the old one, which it replaces."""
        check_cbz(file, self._written)
        self._open_files.close()

    def notes(self) -> tuple[str, ...]:
        """Return notes on other members that could not be read or updated."""
        if not self._left_out:
            return tuple(self._odd)
        more = ", ..." if len(self._left_out) > _MOST_NAMES else ""
        names = ", ".join(self._left_out[:_MOST_NAMES])
        left_out = f"{len(self._left_out)} unreadable member(s) left out: {names}{more}"
        return (left_out, *self._odd)

    def _names_and_members(self) -> list[tuple[str, Member]]:
        """Return the members with their names in the CBZ."""
        assert self.volume.contents is not None
        return [(self._name(member), member) for member in self.volume.contents.members]

    def _name(self, member: Member) -> str:
        page = self._page(member)
        if page is None or page.state == "done":
            return member.target or member.name
        # An unchanged page keeps its own suffix.
        assert member.target is not None
        return posixpath.splitext(member.target)[0] + posixpath.splitext(member.name)[1]

    def _page(self, member: Member) -> BoundPage | None:
        return self.pages.get(page_source(self.volume, member.name)) if member.is_page else None

    def _members(self) -> Iterator[tuple[str, bytes]]:
        lost: list[str] = []
        self._written.clear()
        self._left_out.clear()
        self._odd.clear()
        for name, member in self._names_and_members():
            page = self._page(member)
            if page is not None and page.state == "done":
                data = self._read_finished(name, page)
                if data is None:
                    lost.append(page_source(self.volume, member.name))
                    continue
            elif member.is_page:
                data = self._read_original(member)
            else:
                data = self._read_other(member)
                if data is None:
                    self._left_out.append(member.name)
                    continue
            self._written.append(name)
            yield name, data
        if lost:
            raise _PagesLostError(lost)

    def _read_finished(self, name: str, page: BoundPage) -> bytes | None:
        """Return a finished page, from its loose file or the old CBZ; None if it is missing or changed."""
        with contextlib.suppress(PageError):
            data = self.outputs.read(page.output)
            if hashlib.sha256(data).hexdigest() == page.sha256:
                return data
        if self._old is not None:
            with contextlib.suppress(Exception):  # an edited ZIP may raise anything
                data = self._old.read(name)
                if hashlib.sha256(data).hexdigest() == page.sha256:
                    return data
        return None

    def _read_original(self, member: Member) -> bytes:
        """Return a source page, unchanged.

        Raises:
            PageError: it cannot be recovered; the reason names it.
        """
        source = self.volume.entry.source
        try:
            data = self.volumes.read(source, member.index)
        except PageError as error:
            if error.kind not in _UNREADABLE:
                raise
        else:
            # Rendered pages of a PDF are PPM, which readers do not show.
            return as_png(data) if extension_of(member.name) == "png" else data
        try:
            return self.volumes.salvage(source, member.index)
        except PageError as error:
            reason = f"{member.name} failed, and the original cannot be recovered either. {error.reason}"
            raise PageError(error.kind, reason) from None

    def _read_other(self, member: Member) -> bytes | None:
        """Return a member that is not a page; None if it is unreadable."""
        if member.content is not None:
            return member.content
        try:
            data = self.volumes.read(self.volume.entry.source, member.index)
        except PageError as error:
            if error.kind not in _UNREADABLE:
                raise
            return None
        if not is_comicinfo(member.name):
            return data
        try:
            return update_page_sizes(data, self._facts())
        except OddComicInfoError as error:
            self._odd.append(f"{member.name} was copied unchanged, because {error.reason}")
            return data

    def _facts(self) -> list[PageFacts | None]:
        """Return the facts of all pages, in reading order, which is the order of their names."""
        facts: list[PageFacts | None] = []
        for _, member in sorted(self._names_and_members(), key=lambda named: natural_key(named[0])):
            page = self._page(member)
            if page is not None and page.state == "done":
                facts.append(PageFacts(page.width or 0, page.height or 0, page.size or 0))
            elif member.is_page:
                facts.append(self._facts_of_original(member))
        return facts

    def _facts_of_original(self, member: Member) -> PageFacts | None:
        data = self._read_original(member)
        try:
            header = read_header(data)
        except PageError:
            return None
        return PageFacts(header.width, header.height, len(data))
