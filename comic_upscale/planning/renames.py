"""Find pages and volumes that were renamed: their content is that of a finished one whose source is gone or changed.

Names, sizes and times only say where to look. The hash of the content decides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

from comic_upscale.ledger.records import LEFT_AS_THEY_ARE, PAGE, VOLUME, PageRow
from comic_upscale.ledger.writer import Ledger
from comic_upscale.library.page import Page
from comic_upscale.library.volume import Volume
from comic_upscale.planning.gone import Absent
from comic_upscale.planning.hashes import SourceHashes
from comic_upscale.planning.volumes import by_volume
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
    matcher: VolumeMatcher,
) -> list[RenamedVolume]:
    """Return the volumes that were renamed, each with the finished volume that it was.

    Args:
        volumes: the volumes that were found.
        rows: of the job.
        absent: the rows whose sources were not found.
        sources: hashes archives.
        matcher: compares the pages of volumes. It is asked where the archives differ, or where the ledger has no hash
            of the archive.
    """

    def is_same(row: PageRow, volume: Volume) -> bool:
        return matcher.is_same(row.id, row.source, volume)

    def is_exact(row: PageRow, volume: Volume) -> bool:
        if row.source_size != volume.entry.size:
            return False
        if row.source_sha256 is None:
            return is_same(row, volume)
        return row.source_sha256 == sources.sha256_of_volume(volume)

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


@dataclass(frozen=True, slots=True)
class _RecordedPage:
    """A page of a finished volume."""

    state: str
    """Its state in the ledger, or why it was left as it is."""
    size: int
    """Bytes of the source."""
    sha256: str | None
    """Of the source."""


class VolumeMatcher:
    """Compares the pages of finished volumes with those that were found, by name and content.

    Args:
        ledger: the open ledger.
        pages: the pages that were found.
        sources: hashes them.
    """

    def __init__(self, ledger: Ledger, pages: Iterable[Page], sources: SourceHashes) -> None:
        self._ledger, self._pages, self._sources = ledger, pages, sources
        # One volume may be compared with many others, so each is looked up once.
        self._found: dict[str, dict[str, Page]] = {}
        self._recorded: dict[int, dict[str, _RecordedPage]] = {}

    @cached_property
    def _inside(self) -> Mapping[str, list[Page]]:
        return by_volume(self._pages)

    def found_pages(self, volume: Volume) -> Mapping[str, Page]:
        """Return the pages of a volume that was found, by their names in it."""
        source = volume.entry.source
        if source not in self._found:
            prefix = f"{source}/"
            self._found[source] = {
                page.source.removeprefix(prefix): page for page in self._inside.get(source, ())
            }
        return self._found[source]

    def is_same(self, row_id: int, source: str, volume: Volume) -> bool:
        """Return whether a volume has the same pages as a finished one.

        Args:
            row_id: row of the finished volume.
            source: source of the finished volume.
            volume: the volume that was found.
        """
        found, recorded = self.found_pages(volume), self._recorded_pages(row_id, source)
        if not found or found.keys() != recorded.keys():
            return False
        # Sizes first, since they cost nothing.
        if any(recorded[name].size != page.size for name, page in found.items()):
            return False
        # Pages that were left as they are have no recorded hash.
        return all(
            recorded[name].state in LEFT_AS_THEY_ARE
            or (recorded[name].sha256 is not None and recorded[name].sha256 == self._sources.sha256(page))
            for name, page in found.items()
        )

    def _recorded_pages(self, row_id: int, source: str) -> Mapping[str, _RecordedPage]:
        """Return the pages of a finished volume, by their names in it."""
        if row_id not in self._recorded:
            self._recorded[row_id] = {
                page_source.removeprefix(f"{source}/"): _RecordedPage(state, size, sha256)
                for _, page_source, state, size, sha256 in self._ledger.page_rows_of(row_id)
                if state == "done" or state in LEFT_AS_THEY_ARE
            }
        return self._recorded[row_id]


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
