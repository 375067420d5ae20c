"""Which answers that were paid for are still of use, and when the others are deleted.

The recorder deletes the answers of a page when it has recorded the page. What is left over is deleted here: after a
kill in between, by the next run; once every page of the job is done, at the end of a run; otherwise by ``prune``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from comic_upscale.ledger.changes import SourceRow
from comic_upscale.ledger.writer import Ledger
from comic_upscale.storage.answers import AnswerStore, AskingPage


def forget_recorded(answers: AnswerStore, ledger: Ledger, job_id: int) -> None:
    """Delete answers whose page is done: its run was killed before it deleted them. On the thread of the ledger."""
    noted = answers.noted()
    done = {(row.id, row.source) for row in _rows(noted, ledger, job_id) if row.state == "done"}
    answers.forget(
        page
        for page, asking in noted.items()
        if asking is not None and (asking.row_id, asking.source) in done
    )


def find_unneeded(
    answers: AnswerStore, ledger: Ledger, job_id: int, is_gone: Callable[[str], bool] = lambda source: False
) -> list[str]:
    """Return the pages whose answers no run will ask for. On the thread of the ledger.

    Answers are needed while their page is not done, in this job or in one with another input. Those of other settings
    are not needed once the page is done with those of this job.

    Args:
        answers: of the output folder.
        ledger: of the job.
        job_id: the newest job of the ledger.
        is_gone: whether a source is no longer in the input of that job.
    """
    noted = answers.noted()
    needed = {
        row.source
        for row in _rows(noted, ledger, job_id)
        if row.state != "done" and (not is_gone(row.source) if row.is_of_job else not row.has_its_input)
    }
    return [page for page, asking in noted.items() if asking is None or asking.source not in needed]


def _rows(noted: Mapping[str, AskingPage | None], ledger: Ledger, job_id: int) -> list[SourceRow]:
    return ledger.rows_of_sources(job_id, {asking.source for asking in noted.values() if asking is not None})
