"""Outputs of earlier settings under other names, such as PNGs beside the WebPs that a run made of the same pages."""

from __future__ import annotations

from comic_upscale.ledger.changes import EarlierOutput
from comic_upscale.ledger.writer import Ledger
from comic_upscale.library.sorting import fold
from comic_upscale.storage.base import OutputStore, size_of


def find_earlier(ledger: Ledger, job_id: int, outputs: OutputStore) -> list[EarlierOutput]:
    """Return the outputs that earlier jobs over the same folders wrote and that a job did not replace.

    They still exist with their recorded size. Whether somebody edited one in place, only its content tells.

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
    return [each for each in by_output.values() if each.size == size_of(outputs, each.output)]
