"""Outputs of earlier settings under other names, such as PNGs beside the WebPs that a run made of the same pages."""

from __future__ import annotations

import posixpath
from dataclasses import replace

from comic_upscale.ledger.changes import EarlierOutput
from comic_upscale.ledger.writer import Ledger
from comic_upscale.library.sorting import fold
from comic_upscale.storage.base import OutputStore, size_of


def find_earlier(ledger: Ledger, job_id: int, outputs: OutputStore) -> list[EarlierOutput]:
    """Return the outputs that earlier jobs over the same folders wrote and that a job did not replace.

    They still exist with their recorded size, and so do the outputs that the job has instead: nobody is left without
    any output of a page. Whether somebody edited one in place, only its content tells.

    Args:
        ledger: the open ledger.
        job_id: id of the job.
        outputs: its outputs.
    """
    found = ledger.earlier_outputs(job_id)
    if not found:
        return []
    earlier = {each.row_id for each in found}
    in_use = {fold(output) for row_id, output in ledger.standing_outputs(job_id) if row_id not in earlier}
    # Several jobs may have recorded one file.
    by_output = {fold(each.output): each for each in found if fold(each.output) not in in_use}
    standing = (each for each in by_output.values() if _stands(each.output, each.size, outputs))
    return [known for each in standing if (known := _with_other(each, ledger, outputs)) is not None]


def _with_other(earlier: EarlierOutput, ledger: Ledger, outputs: OutputStore) -> EarlierOutput | None:
    """Return an earlier output with the name of the one instead of it; None if that one does not exist."""
    if earlier.instead is None:
        return earlier
    if earlier.instead:
        return earlier if _stands(earlier.instead, earlier.instead_size, outputs) else None
    assert earlier.instead_row is not None
    pages = ledger.outputs_of_volume(earlier.instead_row)
    if not pages or not all(_stands(output, size, outputs) for output, size in pages):
        return None
    return replace(
        earlier, instead=posixpath.commonpath([posixpath.dirname(output) for output, _ in pages]) + "/"
    )


def _stands(output: str, size: int | None, outputs: OutputStore) -> bool:
    """Return whether an output exists with its recorded size."""
    return bool(output) and size is not None and size == size_of(outputs, output)
