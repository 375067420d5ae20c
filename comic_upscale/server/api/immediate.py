"""Jobs that a client waits for: the request is answered with the result itself."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from fastapi import Request
from sqlalchemy.engine import Connection

from comic_upscale.server import jobs, queue
from comic_upscale.server.accounts import Account
from comic_upscale.server.api.errors import ApiError, not_found
from comic_upscale.server.api.uploads import is_interactive, store_job
from comic_upscale.server.database.schema import jobs as jobs_table
from comic_upscale.server.files import StoredFile
from comic_upscale.server.ids import new_id
from comic_upscale.server.jobs import ENDED, discard_files
from comic_upscale.server.multipart import Received, ReceivedFile
from comic_upscale.server.names import distinct_names
from comic_upscale.server.services import Services

WAIT_SECONDS = 600.0
"""How long a client may wait. Then the job is cancelled."""
KEEP_MS = 3_600_000
"""How long the files of such a job are kept: the client has the result already."""
_LOOK_SECONDS = (0.1, 0.5)
"""How often the job is looked at, in its first seconds and later."""
_SOON = 10.0

_SIGNATURES: tuple[tuple[bytes, int, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", 0, "png"),
    (b"\xff\xd8\xff", 0, "jpg"),
    (b"WEBP", 8, "webp"),
    (b"GIF8", 0, "gif"),
    (b"ftypavi", 4, "avif"),
    (b"ftyphei", 4, "heic"),
    (b"\xff\x0a", 0, "jxl"),
    (b"\0\0\0\x0cJXL ", 0, "jxl"),
    (b"II*\0", 0, "tif"),
    (b"MM\0*", 0, "tif"),
    (b"BM", 0, "bmp"),
)


@dataclass(frozen=True, slots=True)
class Image:
    """An image of a request, in memory or in a file of its own."""

    name: str
    """A file name. Its extension may be missing."""
    size: int
    """Bytes."""
    pieces: Callable[[], Iterator[bytes]]
    """Returns the content from its beginning."""


@dataclass(frozen=True, slots=True)
class Converted:
    """A job that has ended well."""

    job: Mapping[str, Any]
    """Its row."""
    results: Sequence[Mapping[str, Any]]
    """The rows of its results, in the order of the images."""


async def convert(
    request: Request, services: Services, account: Account, images: Sequence[Image], params: Mapping[str, Any]
) -> Converted:
    """Upscale images in the interactive lane, and wait for the results.

    A client that goes away cancels its job.

    Args:
        request: the client that waits.
        services: of the server.
        account: who asks; it may write jobs.
        images: what is upscaled.
        params: processing options, as `read_params` returns them.

    Raises:
        ApiError: 422 if an image cannot be upscaled, 504 if it takes too long.
        QuotaError: the user has sent as much as allowed.
        DiskFullError, OutputError: an image cannot be stored.
    """
    received = await _store(services, images)
    stored = [file.file for file in received.files]
    try:
        new = jobs.NewJob(
            upload_id=new_id(), received=received, params=params, keep_ms=KEEP_MS,
            lane="interactive" if is_interactive(received) and not account.is_anonymous else "batch",
        )  # fmt: skip
        answer = await store_job(services, account, new)
    except Exception:
        await asyncio.to_thread(discard_files, services.database, services.files, stored)
        raise
    job = await _wait(request, services, str(answer.body["job_id"]))
    if job["status"] != "completed" or job["pages_failed"]:
        raise ApiError(422, job["error_code"] or "failed", _reason(job))
    results = await services.database.read_async(
        lambda connection: jobs.files_of(connection, "result", job_id=job["id"])
    )
    return Converted(job, _in_order(received, results))


def with_extension(name: str, head: bytes) -> str:
    """Return the name of an image with the extension that its first bytes tell, if they tell one."""
    stem = name.rpartition(".")[0] or name or "image"
    for signature, offset, extension in _SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return name if name.lower().endswith(f".{extension}") else f"{stem}.{extension}"
    return name


def read_pieces(services: Services, row: Mapping[str, Any]) -> Iterator[bytes]:
    """Return the content of a stored file in pieces."""
    return services.files.read(row["storage_key"], 0, row["size"])


async def read_whole(services: Services, row: Mapping[str, Any]) -> bytes:
    """Return the content of a stored file, which must be small.

    Raises:
        ApiError: 404, the storage has lost the file.
    """
    try:
        return await asyncio.to_thread(lambda: b"".join(read_pieces(services, row)))
    except FileNotFoundError:
        raise not_found("result") from None


async def _store(services: Services, images: Sequence[Image]) -> Received:
    received, folder = Received(), new_id()

    def store(number: int, image: Image) -> StoredFile:
        with services.files.create(f"uploads/{folder}/{number}") as writer:
            for piece in image.pieces():
                writer.write(piece)
            return writer.commit()

    try:
        for number, image in enumerate(images):
            file = await asyncio.to_thread(store, number, image)
            received.files.append(ReceivedFile(image.name, file))
    except Exception:
        for each in received.files:
            await asyncio.to_thread(services.files.delete, each.file.key)
        raise
    return received


async def _wait(request: Request, services: Services, job_id: str) -> Mapping[str, Any]:
    began = time.monotonic()

    def read(connection: Connection) -> Mapping[str, Any] | None:
        row = connection.execute(sa.select(jobs_table).where(jobs_table.c.id == job_id)).mappings().first()
        return None if row is None else dict(row)

    try:
        while True:
            job = await services.database.read_async(read)
            if job is None:
                raise ApiError(422, "deleted", "The job was deleted while it ran.")
            if job["status"] in ENDED:
                return job
            waited = time.monotonic() - began
            if waited > WAIT_SECONDS:
                raise ApiError(504, "timeout", f"The image took longer than {WAIT_SECONDS:g} seconds.")
            if await request.is_disconnected():
                raise ApiError(499, "disconnected", "The client went away.")
            await asyncio.sleep(_LOOK_SECONDS[waited > _SOON])
    except BaseException:
        # Nobody waits for the result any more. The request itself may be cancelled, so this runs by itself.
        _keep(asyncio.ensure_future(_cancel(services, job_id)))
        raise


async def _cancel(services: Services, job_id: str) -> None:
    with contextlib.suppress(Exception):
        await services.database.write_async(lambda connection: queue.request_cancel(connection, job_id))


_running: set[asyncio.Future[None]] = set()


def _keep(task: asyncio.Future[None]) -> None:
    """Hold a task until it ends: the event loop itself does not."""
    _running.add(task)
    task.add_done_callback(_running.discard)


def _reason(job: Mapping[str, Any]) -> str:
    if job["error"]:
        return str(job["error"])
    if job["failures"]:
        return str(job["failures"][0]["reason"])
    return f"The job was {job['status']}." if job["status"] == "canceled" else "The image cannot be upscaled."


def _in_order(received: Received, results: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the results in the order of the images, whose names are distinct by then."""
    names = distinct_names([file.name for file in received.files])
    stems = {name.rpartition(".")[0]: number for number, name in enumerate(names)}
    last = len(stems)
    return sorted(results, key=lambda row: stems.get(row["name"].rpartition(".")[0], last))
