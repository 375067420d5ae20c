"""Replace originals by their outputs, page by page and volume by volume, once each is proven.

An original is replaced only if the quality gate compared its output and accepted it, the output is larger, and its file
was read back just now. A volume is replaced as a whole, and only if this holds for every page in it and nothing of it
was left out. Everything else stays as it is, with a reason.
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from comic_upscale.errors import PageError
from comic_upscale.imaging.encode import check_encoded
from comic_upscale.jobs.context import JobContext
from comic_upscale.ledger.records import LARGE_ENOUGH, LEFT_AS_THEY_ARE, VOLUME, DoneRow
from comic_upscale.library.page import Page
from comic_upscale.library.parts import whole_name
from comic_upscale.library.volume import Volume
from comic_upscale.planning.output_marks import OutputMarks
from comic_upscale.settings.paths import MARKER_FOLDER
from comic_upscale.storage.base import sha256_of
from comic_upscale.storage.guarded import NotReplacedError
from comic_upscale.storage.replaced import Trash
from comic_upscale.storage.replaced_journal import Replaced

_HARMLESS = re.compile(rf"\d+ page\(s\) unchanged: {re.escape(LEFT_AS_THEY_ARE[LARGE_ENOUGH])}")
"""A note of a volume that has all its content."""


@dataclass(slots=True)
class ReplaceResult:
    """What became of the originals of a run."""

    replaced: int = 0
    """Originals that were replaced by this run."""
    kept: list[tuple[str, str]] = field(default_factory=list)
    """(source, reason) of those that stay although their outputs are done."""
    in_all: int = 0
    """Originals that are replaced, also by earlier runs."""
    left: int = 0
    """Originals that the next run looks at, because this one was stopped."""

    def describe_kept(self, most: int) -> tuple[str, ...]:
        """Return a sentence for each original that stays, and one for those beyond the first ones."""
        sentences = [f"{source} was not replaced: {reason}" for source, reason in self.kept[:most]]
        if more := len(self.kept) - len(sentences):
            sentences.append(f"{more:,} more originals were not replaced")
        return tuple(sentences)


def replace_sources(context: JobContext, rows: Iterable[DoneRow]) -> ReplaceResult:
    """Replace the originals of a job whose outputs are proven, one after the other until a stop.

    Args:
        context: of the run.
        rows: the pages and volumes of the job, from `Ledger.done_rows`.

    Raises:
        OutputError: no more files can be written.
    """
    library = context.settings.input
    trash = Trash(library)
    records = {record.source: record for record in trash.in_force()}
    entries, containers = _originals(context), _containers(context)
    pages: defaultdict[int, list[DoneRow]] = defaultdict(list)
    candidates: list[DoneRow] = []
    for row in rows:
        if row.volume_id is not None:
            pages[row.volume_id].append(row)
        elif row.state == "done" and row.source in entries:
            candidates.append(row)
    result = ReplaceResult()
    for row in candidates:
        entry = entries[row.source]
        in_trash = _is_in_trash(entry.path, library)
        record = records.get(row.source) if in_trash else None
        if record is not None and record.output_sha256 == row.output_sha256:
            continue
        if context.stop.requested:
            result.left += _may_be_replaced(row, entry, pages.get(row.id, ()))
            continue
        try:
            if in_trash and record is None:
                # What is in the trash must never be taken for an original of the library.
                raise NotReplacedError("its replacement was moved or removed during the run")
            if row.kind == VOLUME:
                _check_volume(context, row, entry, containers)
            _check(row, entry, pages.get(row.id, ()))
            _verify(context, row)
            name = posixpath.basename(row.output)
            output = context.settings.output / row.output
            marks = OutputMarks().sample(output)
            if record is not None:
                # Its original was upscaled again, with other settings.
                trash.renew(record, name, output, row.output_sha256 or "", marks)
                result.replaced += 1
                continue
            trash.exchange(
                entry.path,
                entry.path.with_name(name),
                output,
                source_sha256=row.source_sha256 or "",
                new_sha256=row.output_sha256 or "",
                marks=marks,
            )
            result.replaced += 1
        except NotReplacedError as error:
            result.kept.append((row.source, error.reason))
        except PageError as error:
            result.kept.append((row.source, error.reason.rstrip(".")))
    result.in_all = _count(trash.in_force())
    return result


def _count(in_force: Sequence[Replaced]) -> int:
    """Return how many originals are replaced, and copies of replaced ones."""
    # Where the renewal of an output is not done, its older one is left, and is in force, too.
    older = {record.older for record in in_force if not record.done and record.older != record.new}
    # An original that could not be removed stands beside its output. Where an output was renewed, it is gone.
    return sum((record.done or bool(record.older)) and record.new not in older for record in in_force)


def _originals(context: JobContext) -> Mapping[str, Page]:
    """Return the pages and volumes that are files of their own, by source."""
    entries = (*context.discovery.pages, *(volume.entry for volume in context.discovery.volumes))
    return {entry.source: entry for entry in entries if entry.member is None}


def _containers(context: JobContext) -> frozenset[str]:
    """Return the sources of the volumes that contain other volumes, whose pages go elsewhere."""
    found = {volume.entry.source for volume in context.discovery.volumes if _has_volumes(volume)}
    for volume in context.discovery.volumes:
        member = volume.entry.member
        while member is not None:
            found.add(member.volume)
            member = member.around
    return frozenset(found)


def _has_volumes(volume: Volume) -> bool:
    return volume.contents is not None and bool(volume.contents.nested)


def _check_volume(context: JobContext, row: DoneRow, entry: Page, containers: Collection[str]) -> None:
    """Check that the output of a volume can keep everything that the volume holds.

    Raises:
        NotReplacedError: it cannot; the reason says why.
    """
    if row.source in containers:
        raise NotReplacedError("it contains other volumes, and its output does not")
    if _is_pdf(context, entry):
        raise NotReplacedError("a PDF may hold text and notes that its pages don't")
    is_epub = entry.path.name.lower().endswith(".epub")
    if not is_epub and context.settings.archive_output not in ("cbz", "folder"):
        raise NotReplacedError("only a CBZ keeps everything that the volume holds")


def _is_pdf(context: JobContext, entry: Page) -> bool:
    """Return whether a volume is a PDF by its name or its first bytes, as when it is read."""
    if entry.path.name.lower().endswith(".pdf"):
        return True
    try:
        with context.stores.sources.open(entry.path) as file:
            return b"%PDF-" in file.read(512)
    except OSError as error:
        raise NotReplacedError(error.strerror or str(error)) from error


def _is_in_trash(path: Path, library: Path) -> bool:
    return path.is_relative_to(library / MARKER_FOLDER)


def _may_be_replaced(row: DoneRow, entry: Page, pages: Iterable[DoneRow]) -> bool:
    """Return whether an original is worth a look by the next run. Reads no file."""
    try:
        _check(row, entry, pages)
    except NotReplacedError:
        return False
    return True


def _check(row: DoneRow, entry: Page, pages: Iterable[DoneRow]) -> None:
    """Check that an output may replace its original.

    Raises:
        NotReplacedError: it may not; the reason says why.
    """
    if row.kind != VOLUME:
        _check_page(row)
        return
    if not row.output:
        raise NotReplacedError("its pages are not in one file")
    if whole_name(entry.path.name) != entry.path.name:
        raise NotReplacedError("it is an archive in several parts")
    notes = [note for note in (row.notes or "").split("; ") if note and not _HARMLESS.fullmatch(note)]
    if notes:
        raise NotReplacedError(f"its output is not the whole volume: {notes[0]}")
    for page in pages:
        if page.state == "skipped" and page.error_kind == LARGE_ENOUGH:
            continue
        if page.state != "done":
            raise NotReplacedError(f"its page {posixpath.basename(page.source)} is not done")
        try:
            _check_page(page)
        except NotReplacedError as error:
            raise NotReplacedError(f"its page {posixpath.basename(page.source)}: {error.reason}") from None


def _check_page(row: DoneRow) -> None:
    if row.suspect:
        raise NotReplacedError("the quality gate rejects its output")
    if not row.scores or row.scores == "{}":
        raise NotReplacedError("the quality gate has not compared it: it is tiny, or did not grow")
    if (row.output_width or 0) < (row.width or 0) or (row.output_height or 0) < (row.height or 0):
        raise NotReplacedError("its output is smaller")


def _verify(context: JobContext, row: DoneRow) -> None:
    """Read the output of a page or volume back.

    Raises:
        NotReplacedError: it is not what the ledger has.
        PageError: it cannot be read.
    """
    outputs = context.stores.outputs
    if row.source_sha256 is None or row.output_sha256 is None:
        raise NotReplacedError("the ledger has no hash of it")
    if sha256_of(outputs, row.output) != row.output_sha256:
        raise NotReplacedError("its output is missing, or was changed")
    if row.kind != VOLUME:
        check_encoded(outputs.read(row.output), (row.output_width or 0, row.output_height or 0))
