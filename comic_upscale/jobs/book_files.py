"""Write the file or the files of a book, so that either all of them are in their places or the old ones are.

A book in one file is written like a CBZ. A book that is split is built in the marker folder first, because pages may
move from one file to another. Then each file is renamed to its place, the first one last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from comic_upscale.errors import PageError
from comic_upscale.imaging.leaves import Leaf
from comic_upscale.jobs.volume_content import VolumeContent, with_first
from comic_upscale.ledger.records import CopiedFile
from comic_upscale.library.books.formats import BookFormat
from comic_upscale.library.books.names import part_name, stem_of_volume
from comic_upscale.library.volume_placing import LOOSE_PAGES
from comic_upscale.planning.output_checks import OUTPUT_EXISTS
from comic_upscale.planning.volumes import PlannedVolume
from comic_upscale.settings.job import JobSettings
from comic_upscale.storage.base import OutputStore, sha256_of


@dataclass(frozen=True, slots=True)
class BookFile:
    """A file of a book."""

    name: str
    """Relative to the output folder."""
    size: int
    """Bytes."""
    sha256: str


def write_book(
    outputs: OutputStore,
    content: VolumeContent,
    volume: PlannedVolume,
    kind: BookFormat,
    known: Mapping[str, CopiedFile],
    settings: JobSettings,
) -> list[BookFile]:
    """Write a volume as a book, and return its files: one, or several with ``--max-volume-size``.

    Args:
        outputs: of the job.
        content: of the volume.
        volume: with its output, which is the first file.
        kind: of the book.
        known: files that earlier runs wrote besides outputs, by name.
        settings: of the job.

    Raises:
        PagesLostError: finished pages are missing.
        PageError: a file cannot be read back, or another file is in the way.
        OutputError: no more files can be written.
    """
    about = content.about()
    leaves = content.leaves(about)
    staged: list[tuple[str, BookFile]] = []
    part = 0
    while True:
        part += 1
        rest: list[Leaf | None] = []
        name = part_name(volume.output, part)
        place = name if settings.max_volume_size is None else _staging_name(volume.output, part)
        size, sha256 = outputs.build(
            place,
            volume.row_id,
            # Bound now: the lambdas are called before the next turn.
            lambda file: rest.append(content.write_book(file, leaves, about.in_part(part), kind)),  # noqa: B023
            lambda file: content.check_book(file, kind),
        )
        staged.append((place, BookFile(name, size, sha256)))
        (left,) = rest
        if left is None:
            break
        leaves = with_first(left, leaves)
    files = [file for _, file in staged]
    for file in files[1:]:
        _check_place(outputs, file, known, volume.source, overwrite=settings.overwrite)
    content.end()
    for place, file in reversed(staged):
        if place != file.name:
            outputs.relocate(place, file.name)
    return files


def _staging_name(output: str, part: int) -> str:
    return f"{LOOSE_PAGES}/{output}/part{part}{stem_of_volume(output)[1]}"


def _check_place(
    outputs: OutputStore, file: BookFile, known: Mapping[str, CopiedFile], source: str, *, overwrite: bool
) -> None:
    """Check that a file of a split book may be placed.

    Raises:
        PageError: a file that this job does not know is in the way.
    """
    standing = outputs.stat(file.name)
    if standing is None or (overwrite and standing.kind == "file"):
        return
    before = known.get(file.name)
    current = sha256_of(outputs, file.name) if standing.kind == "file" else None
    # The same content: a run was killed after it had placed the file.
    ours = before is not None and before.source == source and before.sha256 == current
    if current is None or not (ours or current == file.sha256):
        raise PageError(
            OUTPUT_EXISTS,
            f"{file.name} exists and was not written by comic-upscale: move it away, or allow --overwrite",
        )
