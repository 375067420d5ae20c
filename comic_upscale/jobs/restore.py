"""Putting replaced originals back, and removing them for good."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from comic_upscale.errors import InputError
from comic_upscale.ledger.lock import hold_job
from comic_upscale.planning.output_marks import OutputMarks
from comic_upscale.settings.paths import default_ledger, path_text, replace_folder
from comic_upscale.storage.base import sha256_of, size_of
from comic_upscale.storage.guarded import NotReplacedError
from comic_upscale.storage.replaced import Trash
from comic_upscale.storage.stores import open_stores


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """What became of the originals of a folder."""

    files: tuple[str, ...]
    """Originals that were put back, or would be: paths relative to the folder."""
    kept: tuple[tuple[str, str], ...]
    """(original, reason) of those that cannot be put back."""


@dataclass(frozen=True, slots=True)
class TrashResult:
    """The originals in the trash of a folder."""

    folder: str
    """The trash."""
    files: tuple[tuple[str, int], ...]
    """(path, bytes) of each that was removed, or would be."""
    left: tuple[str, ...]
    """Those that could not be removed."""
    removed: bool
    """Whether they were removed; otherwise they were only listed."""
    copies: int = 0
    """The job's own copies of outputs that were removed, too, or would be."""
    copy_bytes: int = 0
    """Bytes of these."""


def restore(library: Path, *, change: bool) -> RestoreResult:
    """Put the originals of a folder back where they were, and remove their replacements.

    Args:
        library: the input of the job that replaced them.
        change: whether to do it; otherwise only list them.

    Raises:
        InputError: nothing was replaced there.
        LedgerError: a run is working on the folder.
        OutputError: no more files can be written.
    """
    trash = _trash_of(library)
    output = replace_folder(library)
    with hold_job(output, default_ledger(output)):
        if change:
            trash.settle()
        else:
            trash.follow()
        files: list[str] = []
        kept: list[tuple[str, str]] = []
        for record in reversed(trash.in_force()):
            try:
                if change:
                    trash.restore(record)
                else:
                    trash.check_restorable(record)
                files.append(record.source)
            except NotReplacedError as error:
                kept.append((record.source, error.reason))
        for record in trash.stranded():
            try:
                trash.put_back(record, change=change)
                files.append(record.source)
            except NotReplacedError as error:
                kept.append((record.source, error.reason))
    return RestoreResult(tuple(sorted(files)), tuple(sorted(kept)))


def prune_trash(library: Path, *, remove: bool) -> TrashResult:
    """Remove the originals in the trash of a folder for good, with the job's own copies of the outputs, or list them.

    Args:
        library: the input of the job that replaced them.
        remove: whether to remove them.

    Raises:
        InputError: nothing was replaced there.
        LedgerError: a run is working on the folder.
    """
    trash = _trash_of(library)
    output = replace_folder(library)
    with hold_job(output, default_ledger(output)):
        if remove:
            trash.settle()
        files = tuple(trash.originals())
        left = tuple(trash.prune()) if remove else ()
        outputs = open_stores(library, output).outputs
        # A list reads no file.
        copies = {
            name: size
            for name, sha256 in trash.outputs_without_originals(left)
            if (size := size_of(outputs, name)) and (not remove or sha256_of(outputs, name) == sha256)
        }
        if remove:
            outputs.delete(copies)
    return TrashResult(path_text(trash.folder), files, left, remove, len(copies), sum(copies.values()))


def _trash_of(library: Path) -> Trash:
    trash = Trash(library, OutputMarks())
    if not trash.is_there():
        raise InputError(
            f"no original of {path_text(library)} was replaced: give the input folder of a `run --replace`"
        )
    return trash
