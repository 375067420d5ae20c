"""Find pages and volumes that were renamed: their content is that of a finished one whose source is gone or changed.

Names, sizes and times only say where to look. The hash of the content decides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from comic_upscale.ledger.records import LEFT_AS_THEY_ARE, PAGE, VOLUME, PageRow
from comic_upscale.ledger.writer import Ledger
from comic_upscale.library.page import Page
from comic_upscale.library.volume import Volume
from comic_upscale.planning.gone import Absent
from comic_upscale.planning.hashes import SourceHashes
from comic_upscale.settings.paths import MARKER_FOLDER


@dataclass(frozen=True, slots=True)
class RenamedPage:
    """A page with the content of a finished one."""

    row: PageRow
    """The finished page, under its earlier source."""
    page: Page
    """The page as it was found."""


@dataclass(frozen=True, slots=True)
class RenamedVolume:
    """A volume with the content of a finished one."""

    row: PageRow
    """The finished volume, under its earlier source."""
    volume: Volume
    """The volume as it was found."""
    is_exact: bool
    """Whether the archives are equal byte for byte. Otherwise only the pages are, as after a CBR was repacked."""


def find_renamed_pages(
    pages: Iterable[Page], rows: Iterable[PageRow], absent: Absent, sources: SourceHashes
) -> list[RenamedPage]:
    """Return the pages that were renamed, each with the finished page that it was. Pages in volumes are left out.

    Nothing is read unless a finished page is gone or has changed, and then only files of such a size.

    Args:
        pages: the pages that were found.
        rows: of the job.
        absent: the rows whose sources were not found.
        sources: hashes them.
    """
    recorded = {row.source: row for row in rows if row.kind == PAGE}
    # A page that waits for its CBZ, or is in it, has no output of its own.
    free = [
        row
        for row in absent.gone
        if row.kind == PAGE and row.state == "done" and not row.output.startswith(f"{MARKER_FOLDER}/")
    ]
    wanting: list[Page] = []
    for page in pages:
        row = recorded.get(page.source)
        if page.member is not None or (row is not None and _is_unchanged(row, page, sources)):
            continue
        wanting.append(page)
        if row is not None and row.state == "done":
            free.append(row)
    sizes = {row.source_size for row in free}
    by_content: defaultdict[tuple[str, str], list[PageRow]] = defaultdict(list)
    for row in free:
        if row.source_sha256 is not None and row.output_size is not None:
            by_content[row.source_sha256, PurePosixPath(row.output).suffix].append(row)
    found: list[RenamedPage] = []
    rest: list[tuple[Page, list[PageRow]]] = []
    for page in wanting:
        if page.size in sizes and (sha256 := sources.sha256(page)) is not None:
            same = by_content.get((sha256, PurePosixPath(page.output).suffix))
            if same:
                rest.append((page, same))
    # Of several finished pages with one content, each page takes the most alike: first all that kept their names.
    for is_alike in (_same_name, _same_folder, _anything):
        waiting, rest = rest, []
        for page, same in waiting:
            row = next((row for row in same if is_alike(row.source, page.source)), None)
            if row is None:
                rest.append((page, same))
            else:
                same.remove(row)
                found.append(RenamedPage(row, page))
    return found


def find_renamed_volumes(
    volumes: Sequence[Volume],
    rows: Iterable[PageRow],
    absent: Absent,
    sources: SourceHashes,
    is_same: Callable[[PageRow, Volume], bool],
) -> list[RenamedVolume]:
    """Return the volumes that were renamed, each with the finished volume that it was.

    Args:
        volumes: the volumes that were found.
        rows: of the job.
        absent: the rows whose sources were not found.
        sources: hashes archives.
        is_same: compares the pages of a finished volume and a found one. It is asked where the archives differ, or
            where the ledger has no hash of the archive.
    """

    def is_exact(row: PageRow, volume: Volume) -> bool:
        if row.source_size != volume.entry.size:
            return False
        if row.source_sha256 is None:
            return is_same(row, volume)
        return row.source_sha256 == sources.sha256(volume.entry)

    recorded = {row.source: row for row in rows if row.kind == VOLUME}
    free = [row for row in absent.gone if row.kind == VOLUME and row.state == "done"]
    wanting: list[Volume] = []
    for volume in volumes:
        row = recorded.get(volume.entry.source)
        if volume.contents is None:
            continue
        if row is not None:
            same_stat = (row.source_size, row.source_mtime_ns) == (volume.entry.size, volume.entry.mtime_ns)
            if same_stat or (row.state == "done" and (is_exact(row, volume) or is_same(row, volume))):
                continue
            if row.state == "done":
                free.append(row)
        wanting.append(volume)
    found: list[RenamedVolume] = []
    for matches in (is_exact, is_same):
        rest: list[Volume] = []
        for volume in wanting:
            row = next((row for row in free if matches(row, volume)), None)
            if row is None:
                rest.append(volume)
            else:
                free.remove(row)
                found.append(RenamedVolume(row, volume, matches is is_exact))
        wanting = rest
    return found


def is_same_volume(
    ledger: Ledger, pages: Iterable[Page], sources: SourceHashes, row_id: int, source: str, volume: Volume
) -> bool:
    """Return whether a volume has the same pages as a finished one, by their names and content.

    Args:
        ledger: the open ledger.
        pages: the pages of the volume that was found.
        sources: hashes them.
        row_id: row of the finished volume.
        source: source of the finished volume.
        volume: the volume that was found.
    """
    recorded = {
        page_source.removeprefix(f"{source}/"): (state, size, sha256)
        for _, page_source, state, size, sha256 in ledger.page_rows_of(row_id)
        if state == "done" or state in LEFT_AS_THEY_ARE
    }
    by_name = {page.source.removeprefix(f"{volume.entry.source}/"): page for page in pages}
    if not by_name or by_name.keys() != recorded.keys():
        return False
    # Sizes first, since they cost nothing.
    if any(recorded[name][1] != page.size for name, page in by_name.items()):
        return False
    for name, page in by_name.items():
        state, _, sha256 = recorded[name]
        # Pages that were left as they are have no recorded hash.
        if state not in LEFT_AS_THEY_ARE and (sha256 is None or sha256 != sources.sha256(page)):
            return False
    return True


def _is_unchanged(row: PageRow, page: Page, sources: SourceHashes) -> bool:
    """Return whether a page is still the recorded one. A page that was never finished counts as changed."""
    same_stat = (row.source_size, row.source_mtime_ns) == (page.size, page.mtime_ns)
    return row.state == "done" and (same_stat or sources.has_content_of(row, page))


def _same_name(one: str, other: str) -> bool:
    return PurePosixPath(one).name == PurePosixPath(other).name


def _same_folder(one: str, other: str) -> bool:
    return PurePosixPath(one).parent == PurePosixPath(other).parent


def _anything(one: str, other: str) -> bool:
    return True
