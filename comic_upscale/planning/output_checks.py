"""Whether an output may be written: over no file of somebody else, and not among the sources."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TypeAlias

from comic_upscale.errors import PageError
from comic_upscale.ledger.records import OutputOwner
from comic_upscale.ledger.writer import Ledger
from comic_upscale.library.page import MemberOf, Page
from comic_upscale.library.source_reader import SourceReader
from comic_upscale.planning.volumes import PlannedVolume
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.paths import MARKER_FOLDER, path_text
from comic_upscale.storage.base import OutputStore, SourceStore
from comic_upscale.storage.object_outputs import ObjectOutputStore

OUTPUT_EXISTS = "output-exists"
"""The kind of a failure that every run checks again, because the user may have moved the file away."""

FindOwners: TypeAlias = Callable[[str], Sequence[OutputOwner]]
"""Returns the pages that wrote, or may have written, an output: `Ledger.owners` for one folder."""


@dataclass(frozen=True, slots=True)
class PlannedPage:
    """A page that a run will process."""

    row_id: int
    source: str
    path: Path
    output: str
    member: MemberOf | None = None
    """The place of a page inside a volume; None for any other page."""
    size: int = 0
    """Bytes of the source, as discovery found them; 0 if unknown before it is read."""


def check_volume_output(
    owners: FindOwners,
    volume: PlannedVolume,
    settings: JobSettings,
    fingerprint: str,
    sources: SourceReader,
    outputs: OutputStore,
) -> None:
    """Check that the CBZ of a volume may be written.

    Raises:
        PageError: a file that this ledger does not know is in the way.
    """
    if not volume.output:
        return
    may_write(
        owners,
        PlannedPage(volume.row_id, volume.source, volume.path, volume.output),
        settings=settings,
        fingerprint=fingerprint,
        sources=sources,
        outputs=outputs,
        source_folders=frozenset((sources.store.real_folder(volume.path),)),
    )


def may_write(
    owners: FindOwners,
    page: PlannedPage,
    *,
    settings: JobSettings,
    fingerprint: str,
    sources: SourceReader,
    outputs: OutputStore,
    source_folders: Set[PurePath] = frozenset(),
) -> OutputOwner | None:
    """Check that a page's output may be written.

    Args:
        owners: finds the pages that wrote an output of the job's folder.
        page: the page.
        settings: settings of the job.
        fingerprint: fingerprint of the job.
        sources: reads the job's sources.
        outputs: store of the job's outputs.
        source_folders: the folders of the job's pages, with links resolved; nothing is written there.

    Returns:
        The owner to adopt the page from, if another job recorded the same work (same content and fingerprint, because
        the input folder was moved); otherwise None.

    Raises:
        PageError: a file that this ledger does not know is in the way, or the output cannot be read.
    """
    try:
        among_sources = is_among_sources(page.output, page.path, sources.store, outputs, source_folders)
    except OSError as error:
        reason = f"the output cannot be read: {error.strerror or error}"
        raise PageError("output", reason) from None
    if among_sources:
        raise PageError(
            OUTPUT_EXISTS, f"{page.output} would be written into the input folder: choose another --output"
        )
    standing = outputs.stat(page.output)
    if standing is None:
        return None
    if standing.kind == "folder":
        raise PageError(OUTPUT_EXISTS, f"a folder is in the way of the output: {page.output}. Move it away")
    for owner in owners(page.output):
        known_size = bool(owner.claimed) or owner.output_size == standing.size
        if owner.input == path_text(settings.input) and owner.source == page.source and known_size:
            return None
        if (
            owner.output_size == standing.size
            and owner.state == "done"
            and (owner.fingerprint, owner.source) == (fingerprint, page.source)
            and owner.source_sha256 == sources.sha256(page)
        ):
            return owner
    # Nobody else writes into the marker folder.
    if settings.overwrite or page.output.startswith(f"{MARKER_FOLDER}/"):
        return None
    raise PageError(
        OUTPUT_EXISTS,
        f"{page.output} exists and was not written by this job: move it away, or allow --overwrite",
    )


def claim_marked(ledger: Ledger, output: Path, outputs: OutputStore) -> int:
    """Open claims for the outputs in a bucket that are newer than a fetched ledger; return how many.

    Their pages are done again, and their objects are replaced. Without a claim they would look like those of somebody
    else.

    Args:
        ledger: fetched from the bucket.
        output: the output of the job.
        outputs: its store.
    """
    if not isinstance(outputs, ObjectOutputStore):
        return 0

    def is_ours(name: str, size: int | None) -> bool:
        try:
            found = outputs.stat(name)
        except PageError:
            return False
        return found is not None and found.size != size and outputs.is_marked(name)

    return ledger.claim_unrecorded(output, is_ours)


def source_folders(pages: Iterable[Page], store: SourceStore) -> frozenset[PurePath]:
    """Return the folders of pages, with links resolved."""
    one_of_each = {page.path.parent: page.path for page in pages}
    return frozenset(store.real_folder(path) for path in one_of_each.values())


def is_among_sources(
    output: str,
    source: Path,
    sources: SourceStore,
    outputs: OutputStore,
    source_folders: Set[PurePath],
) -> bool:
    """Return whether an output would be written into a source folder, and not into an output folder inside the input.

    Args:
        output: name of the output.
        source: address of its source.
        sources: store of the job's sources.
        outputs: store of the job's outputs.
        source_folders: the result of `source_folders`.

    Raises:
        PageError: the output's name leads out of the store.
        OSError: the folders cannot be checked.
    """
    if not sources.is_folder():
        return outputs.is_same(output, source)
    parent = outputs.real_folder(output)
    real_input, real_output = sources.real_folder(), outputs.real_folder()
    inside = real_output.is_relative_to(real_input) and parent.is_relative_to(real_output)
    return parent in source_folders or (parent.is_relative_to(real_input) and not inside)
