"""Following renames: the outputs of pages and volumes that were renamed move with them, instead of being made again.

An output moves only if its bytes are those that the ledger recorded. Files are moved first, then one transaction
records all moves. After a kill in between, the next run finds each file by its content: at its earlier name, in the
waiting place, or already at its new name.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePath, PurePosixPath

from comic_upscale.errors import PageError
from comic_upscale.ledger.changes import MovedRow, RecordedOutput
from comic_upscale.ledger.records import VOLUME, CopiedFile, PageRow
from comic_upscale.ledger.writer import Ledger
from comic_upscale.library.books.formats import held_pages
from comic_upscale.library.books.names import part_name
from comic_upscale.library.discover import Discovery
from comic_upscale.library.page import Page
from comic_upscale.library.page_rules import PageRules
from comic_upscale.library.sorting import fold
from comic_upscale.library.volume import Member
from comic_upscale.planning.gone import Absent, find_absent, gives_up, has_content, is_unedited
from comic_upscale.planning.hashes import SourceHashes
from comic_upscale.planning.names import OutputNames
from comic_upscale.planning.output_checks import is_among_sources
from comic_upscale.planning.renames import (
    RenamedPage,
    RenamedVolume,
    VolumeMatcher,
    find_renamed_pages,
    find_renamed_volumes,
)
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.paths import MARKER_FOLDER
from comic_upscale.storage.base import OutputStore, SourceStore, sha256_of

_WAITING = f"{MARKER_FOLDER}/moving"
"""Where outputs wait whose new names still belong to others, as when two pages swap names."""


@dataclass(frozen=True, slots=True)
class MovedOutput:
    """An output that moved with its renamed source."""

    source: str
    """The earlier source."""
    output: str
    """The earlier output, relative to the output folder."""
    to: str
    """The new output."""


@dataclass(slots=True)
class _Move:
    """An output to move, and the row to change."""

    row_id: int
    page: Page
    """The page or volume as it was found."""
    recorded: RecordedOutput
    to: str
    """The new name of the output; empty for a volume whose pages are in a folder."""
    is_ours: Callable[[str], bool]
    """Whether the file of a name has the recorded content."""
    now_at: str | None = None
    """The name under which the output was found."""
    volume_id: int | None = None

    @property
    def waiting(self) -> str:
        """The name in the waiting place."""
        return f"{_WAITING}/{self.row_id}{PurePosixPath(self.recorded.output).suffix}"

    def row(self) -> MovedRow:
        """The new place of the row."""
        page = self.page
        return MovedRow(self.row_id, page.source, self.to, page.size, page.mtime_ns, self.volume_id)


def follow_renames(
    ledger: Ledger,
    job_id: int,
    discovery: Discovery,
    settings: JobSettings,
    *,
    sources: SourceHashes,
    outputs: OutputStore,
    source_folders: Set[PurePath],
) -> tuple[MovedOutput, ...]:
    """Move the outputs of renamed pages and volumes, and record it; on the thread of the ledger, before planning.

    Args:
        ledger: the open ledger.
        job_id: id of the job.
        discovery: of the input.
        settings: settings of the job.
        sources: hashes the sources.
        outputs: store of the outputs.
        source_folders: the real folders of the pages; nothing is written there.

    Raises:
        OutputError: no more files can be written.
        LedgerError: the ledger cannot be used.
    """
    rows = ledger.rows(job_id)
    if not rows:
        return ()
    found = {page.source for page in discovery.pages} | {volume.entry.source for volume in discovery.volumes}
    absent = find_absent(rows, found, discovery.volumes, discovery.unread, discovery.selector)
    matcher = VolumeMatcher(ledger, discovery.pages, sources)
    rules = PageRules(settings)
    pages = [
        each
        for each in find_renamed_pages(discovery.pages, rows, absent, sources)
        if rules.path_matches(each.row.source) == rules.path_matches(each.page.source)
    ]
    volumes = [
        each
        for each in find_renamed_volumes(discovery.volumes, rows, absent, sources, matcher)
        if _keeps_rules(each, rules)
    ]
    if not pages and not volumes:
        return ()
    follower = _Follower(ledger, job_id, settings, outputs, rows, absent)
    follower.add_pages(pages)
    for volume in volumes:
        follower.add_volume(volume, matcher.found_pages(volume.volume))
    follower.keep_possible(partial(_may_place, sources.store, outputs, source_folders))
    return follower.carry_out()


def _keeps_rules(renamed: RenamedVolume, rules: PageRules) -> bool:
    """Return whether the same rules match the pages of a volume under its new name."""
    contents = renamed.volume.contents
    before, now = renamed.row.source, renamed.volume.entry.source
    return contents is None or all(
        rules.path_matches(f"{before}/{page.name}") == rules.path_matches(f"{now}/{page.name}")
        for page in contents.pages
    )


class _Follower:
    """Collects moves, drops those that are not possible, and carries out the rest."""

    def __init__(
        self,
        ledger: Ledger,
        job_id: int,
        settings: JobSettings,
        outputs: OutputStore,
        rows: Sequence[PageRow],
        absent: Absent,
    ) -> None:
        self._ledger, self._job_id, self._settings, self._outputs = ledger, job_id, settings, outputs
        self._rows = {row.source: row for row in rows}
        self._absent = {row.id for row in absent.gone}
        self._replaced: Mapping[str, PageRow] = {}
        self._moves: list[_Move] = []
        self._volume_pages: list[MovedRow] = []
        """Rows of pages in CBZs that move: they have no file of their own."""
        self._copies: Mapping[str, CopiedFile] = (
            {} if settings.max_volume_size is None else ledger.carried(settings.output)
        )
        """The further files of split volumes, by name."""

    def add_pages(self, renamed: Iterable[RenamedPage]) -> None:
        """Add pages, each with an output of its own."""
        renamed = list(renamed)
        recorded = self._recorded(each.row.id for each in renamed)
        for each in renamed:
            self._add(each.page, recorded[each.row.id])

    def add_volume(self, renamed: RenamedVolume, by_name: Mapping[str, Page]) -> None:
        """Add a volume with its pages, which are given by their names in it."""
        row, volume = renamed.row, renamed.volume
        prefix = f"{volume.entry.source}/"
        contents = volume.contents
        assert contents is not None
        targets = {member.name: member.target for member in contents.pages}
        rows = self._ledger.page_rows_of(row.id)
        recorded = self._recorded([row.id, *(page[0] for page in rows)])
        page_of: dict[int, Page] = {}
        for row_id, source, *_ in rows:
            page = by_name.get(source.removeprefix(f"{row.source}/"))
            if page is not None:
                page_of[row_id] = page
        in_cbz = bool(row.output)
        held = {
            row_id: recorded[row_id] for row_id, _, state, *_ in rows if state == "done" and row_id in page_of
        }
        sizes = {
            volume_target: held[row_id].size
            for row_id, page in page_of.items()
            if row_id in held and (volume_target := targets.get(page.source.removeprefix(prefix)))
        }
        entry = volume.entry if renamed.is_exact else replace(volume.entry, size=0, mtime_ns=0)
        self._add(
            entry,
            recorded[row.id],
            partial(_holds_pages, self._outputs, sizes, contents.pages) if in_cbz else None,
        )
        for row_id, page in page_of.items():
            if in_cbz or row_id not in held:
                self._volume_pages.append(
                    MovedRow(row_id, page.source, page.output, page.size, page.mtime_ns, row.id)
                )
            else:
                self._add(page, recorded[row_id], volume_id=row.id)

    def keep_possible(self, may_place: Callable[[Page, str], bool]) -> None:
        """Give new names, find the files, and drop each move whose file was edited or whose new name is taken."""
        moving = {move.row_id for move in self._moves}
        others = [row for row in self._rows.values() if row.id not in moving]
        names = OutputNames(
            others, self._ledger.earlier_names(self._job_id), self.gives_up, self._outputs.storable_name
        )
        for move in self._moves:
            move.to = self._new_name(move, names)
            move.now_at = self._locate(move)
        self._moves = [move for move in self._moves if move.now_at is not None]
        while True:
            leaving = {fold(move.now_at) for move in self._moves if move.now_at}
            possible = [move for move in self._moves if self._is_free(move, leaving, may_place)]
            if len(possible) == len(self._moves):
                break
            self._moves = possible
        self._replaced = names.replaced

    def carry_out(self) -> tuple[MovedOutput, ...]:
        """Move the files, then record all moves."""
        wanted = {fold(move.to) for move in self._moves}
        for move in self._moves:
            if move.now_at and move.now_at != move.to and fold(move.now_at) in wanted:
                self._try(move, move.waiting)
        held = {fold(move.now_at): move for move in self._moves if move.now_at}
        placed: list[_Move] = []
        for move in self._moves:
            at_home = not move.to or move.now_at == move.to
            if at_home or (held.get(fold(move.to), move) is move and self._try(move, move.to)):
                placed.append(move)
        volumes = {move.row_id for move in placed if move.recorded.kind == VOLUME}
        rows = [move.row() for move in placed if move.volume_id is None or move.volume_id in volumes]
        rows += [row for row in self._volume_pages if row.volume_id in volumes]
        self._move_parts(move for move in placed if move.recorded.kind == VOLUME)
        if rows:
            replaced = [self._replaced[row.source].id for row in rows if row.source in self._replaced]
            self._ledger.move_rows(self._job_id, rows, self._settings.output, replaced)
        return tuple(
            MovedOutput(move.recorded.source, move.recorded.output, move.to)
            for move in placed
            if move.to != move.recorded.output
        )

    def gives_up(self, row: PageRow) -> bool:
        """Return whether a row gives up its output to a new page: see `planning.gone.gives_up`."""
        return row.id in self._absent and gives_up(row, self._ledger, self._job_id, self._outputs)

    # Steps

    def _move_parts(self, volumes: Iterable[_Move]) -> None:
        """Move the further files of split volumes. Where one cannot be moved, the volume is written again."""
        for move in volumes:
            for file, to in list(self._parts(move)):
                with contextlib.suppress(PageError):
                    if self._outputs.stat(to) is None:
                        self._outputs.relocate(file.output, to)
                self._ledger.record_carried(self._job_id, [replace(file, source=move.page.source, output=to)])
                self._ledger.forget_copies(self._settings.output, [file.output])

    def _parts(self, move: _Move) -> Iterator[tuple[CopiedFile, str]]:
        """Yield the further files of a split volume that gets another name, each with its new name."""
        split = move.recorded.kind == VOLUME and self._settings.max_volume_size is not None
        if not split or move.to == move.recorded.output:
            return
        for part in itertools.count(2):
            file = self._copies.get(part_name(move.recorded.output, part))
            if file is None or file.source != move.recorded.source:
                return
            yield file, part_name(move.to, part)

    def _parts_fit(self, move: _Move) -> bool:
        """Return whether the new names of all further files are free. One that a kill interrupted is there already."""
        return all(
            _kind_of(self._outputs, to) is None or sha256_of(self._outputs, to) == file.sha256
            for file, to in self._parts(move)
        )

    def _add(
        self,
        page: Page,
        recorded: RecordedOutput,
        is_ours: Callable[[str], bool] | None = None,
        volume_id: int | None = None,
    ) -> None:
        def known(name: str) -> bool:
            return has_content(recorded, name, self._outputs) or (is_ours is not None and is_ours(name))

        self._moves.append(_Move(recorded.row_id, page, recorded, "", known, volume_id=volume_id))

    def _new_name(self, move: _Move, names: OutputNames) -> str:
        if not move.recorded.output:
            return ""
        row = self._rows.get(move.page.source)
        return row.output if row is not None and row.output else names.with_output(move.page).output

    def _locate(self, move: _Move) -> str | None:
        """Return the name under which the output of a move exists; None if it is missing or was edited."""
        if not move.recorded.output:
            return ""
        names = (move.recorded.output, move.waiting, move.to)
        return next((name for name in names if move.is_ours(name)), None)

    def _is_free(self, move: _Move, leaving: Set[str], may_place: Callable[[Page, str], bool]) -> bool:
        """Return whether the new name of an output is free, or becomes free."""
        if not self._parts_fit(move):
            # A book whose halves are in two places would be half a book.
            return False
        if not move.to or move.now_at == move.to:
            return True
        kind = _kind_of(self._outputs, move.to)
        if kind not in (None, "file") or not may_place(move.page, move.to):
            return False
        if kind is None or fold(move.to) in leaving:
            return True
        # An output that nobody edited is replaced if its source changed or is gone.
        holder = self._rows.get(move.page.source) or self._holder_of(move.to)
        return holder is not None and holder.output == move.to and is_unedited(
            holder, self._ledger, self._job_id, self._outputs
        )  # fmt: skip

    def _holder_of(self, output: str) -> PageRow | None:
        return next((row for row in self._rows.values() if row.output == output and self.gives_up(row)), None)

    def _recorded(self, row_ids: Iterable[int]) -> Mapping[int, RecordedOutput]:
        return self._ledger.outputs(self._job_id, row_ids)

    def _try(self, move: _Move, to: str) -> bool:
        """Move a file; a file that cannot be moved stays, and its page is processed again."""
        assert move.now_at
        try:
            self._outputs.relocate(move.now_at, to)
        except PageError:
            return False
        move.now_at = to
        return True


def _may_place(
    sources: SourceStore,
    outputs: OutputStore,
    folders: Set[PurePath],
    page: Page,
    to: str,
) -> bool:
    """Return whether an output may go to a place: it is not among the sources."""
    try:
        return not is_among_sources(to, page.path, sources, outputs, folders)
    except (OSError, PageError):
        return False


def _holds_pages(
    outputs: OutputStore, sizes: Mapping[str, int | None], pages: Sequence[Member], name: str
) -> bool:
    """Return whether a CBZ or book, to which somebody may have added tags, contains all finished pages of a volume.

    Args:
        outputs: store of the outputs.
        sizes: bytes of the finished pages, by their names in the CBZ.
        pages: of the volume.
        name: of the CBZ or book.
    """
    held = held_pages(outputs, name, pages) if sizes else {}
    return bool(sizes) and all(held.get(page) == size for page, size in sizes.items())


def _kind_of(outputs: OutputStore, name: str) -> str | None:
    try:
        found = outputs.stat(name)
    except PageError:
        return "other"
    return None if found is None else found.kind
