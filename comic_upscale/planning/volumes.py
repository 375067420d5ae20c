"""Decide what is left to do for volumes: which pages are in a finished CBZ or book, and which volumes to write.

A volume is written as one file when all its pages are done. Until then, its finished pages wait in the marker folder.
They are removed when the volume is recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from comic_upscale.ledger.records import INCOMPLETE, PageRow
from comic_upscale.library.books.formats import held_pages
from comic_upscale.library.page import Page
from comic_upscale.library.volume import Volume
from comic_upscale.storage.base import OutputStore, size_of


@dataclass(frozen=True, slots=True)
class PlannedVolume:
    """A volume that a run may write."""

    row_id: int
    source: str
    path: Path
    output: str
    """The CBZ or book, relative to the output folder; empty if the pages go into a folder."""
    todo: int
    """Pages that this run processes first."""


def standing_pages(
    volume: Volume, row: PageRow | None, rows: Mapping[str, PageRow], outputs: OutputStore
) -> frozenset[str]:
    """Return the sources of a volume's finished pages that are in its CBZ.

    If the CBZ does not have the recorded size, its content is checked. The user may have added tags without changing
    the pages, or a run may have died after writing the CBZ and before recording it.

    Args:
        volume: the volume that was found.
        row: row of the volume; None if it is new.
        rows: rows of the job's pages, by source.
        outputs: store of the job's outputs.
    """
    if volume.contents is None or row is None or not row.output:
        return frozenset()
    size = size_of(outputs, row.output)
    if row.output_size is None and row.state == "pending" and size is None:
        return frozenset()
    pages = {f"{volume.entry.source}/{member.name}": member.target for member in volume.contents.pages}
    done = {source for source in pages if source in rows and rows[source].state == "done"}
    if row.output_size is not None and size == row.output_size and row.state == "done":
        return frozenset(done)
    held = held_pages(outputs, row.output, volume.contents.pages)
    return frozenset(source for source in done if held.get(pages[source] or "") == rows[source].output_size)


def is_complete(
    volume: Volume, row: PageRow, rows: Mapping[str, PageRow], standing: frozenset[str], outputs: OutputStore
) -> bool:
    """Whether nothing is left to do for a volume whose pages are all done, or failed and given up.

    Args:
        volume: as it was found.
        row: of the volume.
        rows: of the job's pages, by source.
        standing: what ``standing_pages`` returned.
        outputs: of the job.
    """
    same_stat = (row.source_size, row.source_mtime_ns) == (volume.entry.size, volume.entry.mtime_ns)
    if row.state != "done" or not same_stat:
        return False
    if not row.output:
        return True
    sources = [page_source(volume, name) for name in _page_names(volume)]
    done = [source for source in sources if source in rows and rows[source].state == "done"]
    return size_of(outputs, row.output) is not None and all(source in standing for source in done)


def page_source(volume: Volume, name: str) -> str:
    """The source of a page of a volume, which is its key in the ledger."""
    return f"{volume.entry.source}/{name}"


def why_incomplete(failed: int, total: int) -> str:
    """Say that a volume waits for pages."""
    return (
        f"{failed} of its {total} pages failed; the finished ones are kept. --retry-failed tries again, "
        "--keep-original-on-failure puts the original pages into the CBZ"
    )


def by_volume(pages: Iterable[Page]) -> dict[str, list[Page]]:
    """The pages that are in volumes, by the volume's source, in their order."""
    found: dict[str, list[Page]] = {}
    for page in pages:
        if page.member is not None:
            found.setdefault(page.member.volume, []).append(page)
    return found


def waits(row: PageRow) -> bool:
    """Whether a volume is known to wait for pages that failed."""
    return row.error_kind == INCOMPLETE


def _page_names(volume: Volume) -> Sequence[str]:
    return [member.name for member in volume.contents.pages] if volume.contents else []
