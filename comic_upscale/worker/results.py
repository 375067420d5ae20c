"""The results of a job that has run: which they are, and how the job is completed with them."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.execution.events import JobFinished
from comic_upscale.library.sorting import natural_key
from comic_upscale.server import queue
from comic_upscale.server.database.schema import files as files_table
from comic_upscale.server.database.schema import now_ms
from comic_upscale.server.files import StoredFile
from comic_upscale.server.ids import new_id
from comic_upscale.settings.paths import MARKER_FOLDER
from comic_upscale.worker.beat import FAILURES_KEPT, Heartbeat
from comic_upscale.worker.members import Member
from comic_upscale.worker.saved_state import take_results


def complete(
    connection: Connection,
    claimed: queue.Claim,
    stored: list[tuple[str, StoredFile]],
    members: list[list[Member] | None],
    pictures: list[tuple[str, StoredFile]],
    result: queue.Result,
    report: tuple[str, StoredFile] | None = None,
) -> None:
    """Complete a job with its results, in one transaction.

    Args:
        connection: of the database.
        claimed: the job.
        stored: its results in the storage, by their names, in the order of a reader.
        members: the pages of each result that is a volume; None for an image.
        pictures: files for its pages by their kinds.
        result: the figures of its run.
        report: the hash of its script, and the file.

    Raises:
        LostLeaseError: another worker holds the job.
    """
    queue.complete(connection, claimed, result)
    take_results(connection, claimed.job_id, [file.key for _, file in stored])
    now = connection.scalar(sa.select(now_ms()))
    rows: list[tuple[str, int, str, StoredFile, list[Member] | None]] = [
        ("result", number, name, file, pages)
        for number, ((name, file), pages) in enumerate(zip(stored, members, strict=True))
    ]
    rows += [(kind, 0, kind, file, None) for kind, file in pictures]
    if report is not None:
        rows.append(("report", 0, *report, None))
    if not rows:
        return
    connection.execute(
        sa.insert(files_table),
        [
            {
                "id": new_id(), "job_id": claimed.job_id, "kind": kind, "position": position, "name": name,
                "storage_key": file.key, "size": file.size, "sha256": file.sha256, "created_at": now,
                "members": pages,
            }
            for kind, position, name, file, pages in rows
        ],
    )  # fmt: skip


def find_outputs(folder: Path) -> list[Path]:
    """Return the outputs of a run, in the order of a reader."""
    paths = [
        path
        for path in folder.rglob("*")
        if path.is_file() and MARKER_FOLDER not in path.relative_to(folder).parts
    ]
    return sorted(paths, key=lambda path: natural_key(path.relative_to(folder).as_posix()))


def sum_up(finished: JobFinished, beat: Heartbeat) -> queue.Result:
    """Return the figures of a run for the table of jobs."""
    return queue.Result(
        pages_total=finished.total,
        pages_done=finished.done,
        pages_failed=finished.failed,
        failures=[
            {"source": source, "kind": kind, "reason": reason}
            for source, kind, reason in finished.failures[:FAILURES_KEPT]
        ],
        model=beat.started.model if beat.started else None,
        device=beat.started.device if beat.started else None,
        seconds=round(finished.seconds, 3),
        pixels=beat.pixels,
    )
