"""Jobs and uploads as records: creating them, finding them, and the form in which the API returns them.

Functions take the connection of a transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.errors import DatabaseError
from comic_upscale.server import spent
from comic_upscale.server.accounts import Account
from comic_upscale.server.database.engine import Database
from comic_upscale.server.database.schema import NOW, files, jobs, models, now_ms, pieces, uploads
from comic_upscale.server.files import FileStore, StoredFile
from comic_upscale.server.ids import new_id
from comic_upscale.server.multipart import Received
from comic_upscale.server.names import clean_name, distinct_names
from comic_upscale.server.queue import PRIORITY, Lane, positions

Status: TypeAlias = Literal["queued", "running", "completed", "failed", "canceled"]
ENDED: tuple[Status, ...] = ("completed", "failed", "canceled")
"""The statuses of jobs that have ended."""


_NEW_UPLOAD, _NEW_FILE, _NEW_JOB = sa.insert(uploads), sa.insert(files), sa.insert(jobs)
_FIND_JOB = sa.select(jobs).where(jobs.c.id == sa.bindparam("job_id"))


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """What a request asks for."""

    upload_id: str
    received: Received
    params: Mapping[str, Any]
    """As `params.read_params` returns it."""
    lane: Lane = "batch"
    keep_ms: int = 0
    """Milliseconds until originals and results are deleted."""
    callback_url: str | None = None
    email: str | None = None


def create_job(connection: Connection, account: Account, new: NewJob) -> Mapping[str, Any]:
    """Store an upload and its job, and return the columns of the job that are set.

    The files are in the storage already.
    """
    now = connection.scalar(NOW) or 0
    names = distinct_names([received.name for received in new.received.files])
    connection.execute(
        _NEW_UPLOAD,
        {
            "id": new.upload_id, "owner_id": account.user_id, "address": account.address, "size": new.received.size,
            "files": len(names), "created_at": now, "expires_at": now + new.keep_ms,
        },
    )  # fmt: skip
    connection.execute(
        _NEW_FILE,
        [
            {
                "id": new_id(), "upload_id": new.upload_id, "kind": "original", "position": number, "name": name,
                "storage_key": received.file.key, "size": received.file.size, "sha256": received.file.sha256,
                "created_at": now,
            }
            for number, (name, received) in enumerate(zip(names, new.received.files, strict=True))
        ],
    )  # fmt: skip
    title = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    row = {
        "id": new_id(), "owner_id": account.user_id, "upload_id": new.upload_id, "lane": new.lane,
        "priority": PRIORITY[new.lane], "status": "queued", "params": dict(new.params),
        "title": clean_name(title)[:256], "created_at": now, "updated_at": now, "expires_at": now + new.keep_ms,
        "callback_url": new.callback_url, "email": new.email,
    }  # fmt: skip
    connection.execute(_NEW_JOB, row)
    return row


def create_folder_job(
    connection: Connection,
    account: Account,
    *,
    source: str,
    output: str,
    params: Mapping[str, Any],
    lane: Lane,
    selection: Mapping[str, Any] | None = None,
) -> Mapping[str, Any]:
    """Store a job over a folder or file of the server's machine, and return its row.

    Args:
        connection: in a transaction that writes.
        account: who asks, an administrator or a user of the library.
        source: its real path.
        output: the real path of the output folder.
        params: as `params.read_params` returns it.
        lane: of the job.
        selection: the part of the source that is looked at, as `write_selection` returns it; None for all of it.
    """
    row = connection.execute(
        sa.insert(jobs)
        .values(
            id=new_id(), owner_id=account.user_id, lane=lane, priority=PRIORITY[lane], status="queued",
            params=dict(params), title=clean_name(source)[:256], input=source, output=output, selection=selection,
            created_at=now_ms(), updated_at=now_ms(),
        )
        .returning(*jobs.c)
    ).mappings().one()  # fmt: skip
    return dict(row)


def find_job(connection: Connection, account: Account, job_id: str) -> Mapping[str, Any] | None:
    """Return the row of a job that the account may see; None if there is none.

    An administrator sees all jobs. Without an account, whoever knows the id of a job sees it: the id is random.
    """
    row = connection.execute(_FIND_JOB, {"job_id": job_id}).mappings().first()
    if row is None or not (account.is_admin or row["owner_id"] == account.user_id):
        return None
    return dict(row)


def list_jobs(
    connection: Connection,
    account: Account,
    *,
    status: str | None = None,
    before: tuple[int, str] | None = None,
    limit: int = 50,
    everyone: bool = False,
    owner_id: str | None = None,
) -> list[Mapping[str, Any]]:
    """Return jobs, the latest first.

    Args:
        connection: of the database.
        account: whose jobs.
        status: only jobs with this status.
        before: time and id of the last job of the page before this one.
        limit: the most jobs.
        everyone: jobs of all users, for administrators.
        owner_id: of all users, only jobs of this one.
    """
    wanted: list[sa.ColumnElement[bool]] = []
    if not everyone:
        wanted.append(jobs.c.owner_id == account.user_id)
    elif owner_id is not None:
        wanted.append(jobs.c.owner_id == owner_id)
    if status is not None:
        wanted.append(jobs.c.status == status)
    if before is not None:
        wanted.append(sa.tuple_(jobs.c.created_at, jobs.c.id) < sa.tuple_(*before))
    rows = connection.execute(
        sa.select(jobs).where(*wanted).order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(limit)
    )
    return [dict(row) for row in rows.mappings()]


def files_of(
    connection: Connection, kind: str, *, job_id: str | None = None, upload_id: str | None = None
) -> Sequence[Mapping[str, Any]]:
    """Return the files of a job or of an upload, in order."""
    owner = files.c.job_id == job_id if job_id is not None else files.c.upload_id == upload_id
    rows = connection.execute(sa.select(files).where(owner, files.c.kind == kind).order_by(files.c.position))
    return [dict(row) for row in rows.mappings()]


def find_file(connection: Connection, file_id: str) -> Mapping[str, Any] | None:
    """Return the row of a file; None if there is none."""
    row = connection.execute(sa.select(files).where(files.c.id == file_id)).mappings().first()
    return None if row is None else dict(row)


def keys_in_use(connection: Connection, keys: Iterable[str]) -> set[str]:
    """Return those of some keys that a row of a file, of a model or of a resumable upload names."""
    wanted = list(keys)
    return {
        key
        for column in (files.c.storage_key, models.c.storage_key, pieces.c.storage_key)
        for key in connection.scalars(sa.select(column).where(column.in_(wanted)))
    }


def discard_files(database: Database, store: FileStore, stored: Iterable[StoredFile]) -> None:
    """Delete stored files after an error, unless a row names them. Blocks.

    A row may exist in spite of the error, if the connection broke after the commit. If the database does not answer,
    all files stay; the janitor deletes those without a row later.
    """
    keys = {file.key for file in stored}
    try:
        unused = keys - database.read(lambda connection: keys_in_use(connection, keys))
    except DatabaseError:
        return
    for key in unused:
        store.delete(key)


def delete_job(connection: Connection, job_id: str) -> list[str] | None:
    """Delete an ended or queued job with its files, and its upload if no other job uses it.

    What it took of the daily limits stays counted.

    Returns the keys of the files, which the caller deletes from the storage after the commit. None if the job runs.
    """
    row = connection.execute(
        sa.select(jobs.c.upload_id).where(jobs.c.id == job_id, jobs.c.status != "running").with_for_update()
    ).first()
    if row is None:
        return None
    (upload_id,) = row
    keys = _take_keys(connection, files.c.job_id == job_id)
    spent.keep_job(connection, job_id)
    connection.execute(sa.delete(jobs).where(jobs.c.id == job_id))
    used = sa.select(jobs.c.id).where(jobs.c.upload_id == upload_id).limit(1)
    if upload_id is not None and connection.execute(used).first() is None:
        keys += _take_keys(connection, files.c.upload_id == upload_id)
        spent.keep_uploads(connection, [upload_id])
        connection.execute(sa.delete(uploads).where(uploads.c.id == upload_id))
    return keys


def _take_keys(connection: Connection, which: sa.ColumnElement[bool]) -> list[str]:
    return list(connection.scalars(sa.delete(files).where(which).returning(files.c.storage_key)))


def job_json(connection: Connection, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a job as the API shows it."""
    return jobs_json(connection, [row])[0]


def jobs_json(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return several jobs as the API shows them."""
    places = positions(connection, rows)
    return [_json(row, places[row["id"]]) for row in rows]


def _json(row: Mapping[str, Any], place: int | None) -> dict[str, Any]:
    pages_total, done, failed = row["pages_total"], row["pages_done"], row["pages_failed"]
    progress = 100.0 if row["status"] == "completed" else 0.0
    within = (row["within"] or []) if row["status"] == "running" else []
    if pages_total and row["status"] != "completed":
        settled = done + failed + sum(page["done"] / page["total"] for page in within)
        progress = round(min(settled / pages_total, 1.0) * 100, 1)
    job = f"/api/v1/jobs/{row['id']}"
    return {
        "job_id": row["id"],
        "upload_id": row["upload_id"],
        "title": row["title"],
        "status": row["status"],
        "progress": progress,
        "pages": {"total": pages_total, "done": done, "failed": failed},
        "in_progress": within,
        "queue_position": place,
        "created_at": iso(row["created_at"]),
        "started_at": iso(row["started_at"]),
        "finished_at": iso(row["finished_at"]),
        "expires_at": iso(row["expires_at"]),
        "duration_seconds": _duration(row),
        "original_url": f"/api/v1/uploads/{row['upload_id']}/download" if row["upload_id"] else None,
        "result_url": f"{job}/result" if row["status"] == "completed" and row["input"] is None else None,
        "input": row["input"],
        "output": row["output"],
        "params": row["params"],
        "model": row["model"],
        "device": row["device"],
        "worker_id": row["worker_id"],
        "attempts": row["attempts"],
        "cancel_requested": row["cancel_requested"],
        "failures": row["failures"] or [],
        "error": None if row["error"] is None else {"code": row["error_code"], "message": row["error"]},
        "revision": row["revision"],
    }


def _duration(row: Mapping[str, Any]) -> float | None:
    if row["started_at"] is None or row["finished_at"] is None:
        return None
    return float(row["finished_at"] - row["started_at"]) / 1000


def iso(milliseconds: int | None) -> str | None:
    """Return a time as ISO 8601 in UTC."""
    if milliseconds is None:
        return None
    return (
        datetime.fromtimestamp(milliseconds / 1000, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )


def owner_of_upload(connection: Connection, upload_id: str) -> str | None:
    """Return the user that owns an upload; None if there is no such upload."""
    return connection.scalar(sa.select(uploads.c.owner_id).where(uploads.c.id == upload_id))
