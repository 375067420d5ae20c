"""Which sources of a job are gone, and which are only out of sight because a folder or a volume cannot be read."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from comic_upscale.errors import PageError
from comic_upscale.ledger.changes import RecordedOutput
from comic_upscale.ledger.records import PageRow
from comic_upscale.ledger.writer import Ledger
from comic_upscale.library.selector import EVERYTHING, Selector
from comic_upscale.library.volume import Volume
from comic_upscale.settings.paths import MARKER_FOLDER
from comic_upscale.storage.base import OutputStore, sha256_of, size_of

GONE = "no longer in the input"
OUT_OF_SIGHT = "its folder or volume cannot be read now"


@dataclass(frozen=True, slots=True)
class Absent:
    """The rows of a job whose sources were not found."""

    gone: tuple[PageRow, ...]
    """Their sources are no longer in the input."""
    out_of_sight: tuple[PageRow, ...]
    """Their sources may still exist: they are in a folder or a volume that cannot be read."""
    left_out: tuple[PageRow, ...] = ()
    """Nobody looked at their sources: the selection leaves them out."""


def find_absent(
    rows: Iterable[PageRow],
    found: Collection[str],
    volumes: Sequence[Volume],
    unread: Sequence[str],
    selector: Selector = EVERYTHING,
) -> Absent:
    """Return the rows whose sources were not found.

    Args:
        rows: pages and volumes of the job.
        found: sources of the pages and volumes that were found.
        volumes: the volumes that were found.
        unread: prefixes of sources that could not be listed, as in `Discovery.unread`.
        selector: says which sources were looked at.
    """
    hidden = hidden_prefixes(volumes, unread)
    gone: list[PageRow] = []
    out_of_sight: list[PageRow] = []
    left_out: list[PageRow] = []
    for row in rows:
        if row.source in found:
            continue
        if not selector.looks_at(row.source):
            left_out.append(row)
        else:
            (out_of_sight if row.source.startswith(hidden) else gone).append(row)
    return Absent(tuple(gone), tuple(out_of_sight), tuple(left_out))


def hidden_prefixes(volumes: Iterable[Volume], unread: Iterable[str]) -> tuple[str, ...]:
    """Return the prefixes of sources that may exist although they were not found; arguments as in `find_absent`."""
    return (*unread, *(f"{volume.entry.source}/" for volume in volumes if volume.contents is None))


def is_orphan(row: PageRow, outputs: OutputStore) -> bool:
    """Return whether the output of a row whose source is gone still exists, and has its recorded size.

    Args:
        row: the row.
        outputs: store of the job's outputs.
    """
    if row.state != "done" or not row.output or row.output.startswith(f"{MARKER_FOLDER}/"):
        return False
    size = size_of(outputs, row.output)
    return size is not None and size == row.output_size


def gives_up(row: PageRow, ledger: Ledger, job_id: int, outputs: OutputStore) -> bool:
    """Return whether a page or volume whose source is gone gives up the name of its output to a new one.

    It does if nothing is left of the output, or if the file is unedited.

    Args:
        row: the row, whose source is gone.
        ledger: the open ledger.
        job_id: id of the job.
        outputs: store of the job's outputs.
    """
    if not row.output or row.output.startswith(f"{MARKER_FOLDER}/"):
        return False
    try:
        if outputs.stat(row.output) is None:
            return True
    except PageError:
        return False
    return is_unedited(row, ledger, job_id, outputs)


def is_unedited(row: PageRow, ledger: Ledger, job_id: int, outputs: OutputStore) -> bool:
    """Return whether the output of a row exists with exactly the recorded content; arguments as in `gives_up`."""
    recorded = ledger.outputs(job_id, [row.id]).get(row.id)
    return recorded is not None and has_content(recorded, row.output, outputs)


def has_content(recorded: RecordedOutput, name: str, outputs: OutputStore) -> bool:
    """Return whether a file has the content of a recorded output.

    Args:
        recorded: the output.
        name: of the file, relative to the output folder.
        outputs: store of the job's outputs.
    """
    if recorded.sha256 is None or recorded.size is None or size_of(outputs, name) != recorded.size:
        return False
    return sha256_of(outputs, name) == recorded.sha256
