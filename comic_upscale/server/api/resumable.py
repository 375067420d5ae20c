"""Resumable uploads: the protocol tus 1.0 for each file, and one request that makes a job of complete files.

https://tus.io/protocols/resumable-upload says what the headers mean. A file whose metadata has no ``hold`` becomes a
job of its own at its last byte, so that any tus client can be used. Files with ``hold`` wait for `complete`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import Depends, Header, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy.engine import Connection
from starlette.requests import ClientDisconnect

from comic_upscale.server import idempotency, jobs, resumable
from comic_upscale.server.accounts import Account
from comic_upscale.server.api.access import CurrentAccount, Server, WriterAccount, require
from comic_upscale.server.api.errors import ApiError, documented, not_found
from comic_upscale.server.api.routing import api_router
from comic_upscale.server.api.uploads import (
    Accepted,
    check_open,
    check_room,
    is_accepted,
    keep_ms,
    limit_mail,
    new_job,
    read_fields,
)
from comic_upscale.server.database.schema import jobs as jobs_table
from comic_upscale.server.files import StoredFile
from comic_upscale.server.ids import new_id
from comic_upscale.server.multipart import Received, ReceivedFile
from comic_upscale.server.params import FieldError
from comic_upscale.server.services import Services

VERSION = "1.0.0"
EXTENSIONS = "creation,termination,expiration,checksum"
CHECKSUMS = ("sha1", "sha256")
CONTENT_TYPE = "application/offset+octet-stream"
JOB_HEADER = "Comic-Upscale-Job"
"""Of answers about an upload that has become a job."""
_NOT_FIELDS = frozenset(("filename", "name", "filetype", "type", "relativePath", "hold"))
_RENEW_SECONDS = resumable.LOCK_MS / 1000 / 3
_MOST = 1 << 62

router = api_router(prefix="/api/v1/uploads/resumable", tags=["uploads"])


class ResumableState(BaseModel):
    """A resumable upload."""

    id: str
    name: str
    offset: int = Field(description="Bytes that the server has flushed to its storage.")
    length: int
    expires_at: str
    job_id: str | None = Field(description="The job that the upload has become.")


class Completion(BaseModel):
    """Complete uploads that become one job."""

    uploads: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=36)]], Field(min_length=1, max_length=10_000)
    ]
    fields: Annotated[
        dict[str, str],
        Field(max_length=100, description="Fields of an upload.", examples=[{"factor": "2x"}]),
    ] = {}


async def check_version(tus_resumable: Annotated[str | None, Header(max_length=20)] = None) -> None:
    """Refuse a request of another version of the protocol.

    Raises:
        ApiError: 412.
    """
    if tus_resumable != VERSION:
        raise ApiError(
            412, "version", f"Send the header Tus-Resumable: {VERSION}.", headers={"Tus-Version": VERSION}
        )


Version = Depends(check_version)


@router.options("", include_in_schema=False)
@router.options("/{upload_id}", include_in_schema=False)
async def show_abilities(services: Server) -> Response:
    """Say what this server can do, as a client of tus asks for it."""
    return Response(
        status_code=204,
        headers={
            "Tus-Version": VERSION, "Tus-Extension": EXTENSIONS, "Tus-Max-Size": str(services.settings.max_upload_size),
            "Tus-Checksum-Algorithm": ",".join(CHECKSUMS),
        },
    )  # fmt: skip


@router.post(
    "",
    status_code=201,
    summary="Begin a resumable upload",
    response_class=Response,
    responses=documented(400, 401, 403, 412, 413, 415, 429, 503, 507),
)
async def begin(
    services: Server,
    account: WriterAccount,
    upload_length: Annotated[int | None, Header(ge=0, le=_MOST, description="Bytes of the file.")] = None,
    upload_metadata: Annotated[
        str | None,
        Header(
            max_length=16_000,
            description="Pairs of a name and a value in base64, separated by commas: filename, the fields of an upload "
            "for its job, and hold, which has no value.",
        ),
    ] = None,
    tus_resumable: Annotated[str | None, Header(max_length=20)] = None,
) -> Response:
    """Begin an upload by the protocol tus 1.0. Its address is in the header ``Location``.

    Send the bytes by PATCH. After a break, ask for ``Upload-Offset`` by HEAD, and continue there.
    """
    await check_version(tus_resumable)
    await check_open(services, account, is_counted=False)
    if upload_length is None:
        raise ApiError(400, "invalid", "Send the bytes of the file in Upload-Length.", field="Upload-Length")
    if upload_length > services.settings.max_upload_size:
        raise ApiError(
            413, "too_large", f"An upload has at most {services.settings.max_upload_size:,} bytes.",
            field="Upload-Length",
        )  # fmt: skip
    metadata = _read_metadata(upload_metadata or "")
    name = metadata.get("filename") or metadata.get("name") or ""
    if not is_accepted(services, name):
        raise ApiError(
            415, "unsupported_file", f"{name[:100]!r} is neither an image nor a comic by its extension.",
            field="filename",
        )  # fmt: skip
    if not upload_length:
        raise FieldError("filename", f"{name[:100]!r} is empty")
    fields = {key: text for key, text in metadata.items() if key not in _NOT_FIELDS}
    read_fields(services, account, fields)
    new = resumable.NewUpload(
        name=name, length=upload_length, fields=fields, is_held="hold" in metadata, keep_ms=_keep_ms(services, account)
    )  # fmt: skip
    row = await services.database.write_async(
        lambda connection: resumable.create(
            connection, account, new, most_bytes=resumable.OPEN_TIMES * services.settings.max_upload_size,
            most_files=resumable.OPEN_TIMES * services.settings.max_files,
        )
    )  # fmt: skip
    return Response(status_code=201, headers={"Location": f"{router.prefix}/{row['id']}", **_headers(row)})


@router.post(
    "/complete",
    status_code=202,
    summary="Make a job of resumable uploads",
    responses={202: {"model": Accepted}, **documented(400, 404, 409, 413, 423, 429, 507)},
)
async def complete(services: Server, account: WriterAccount, asked: Completion) -> JSONResponse:
    """Queue a job over complete uploads, with the checks of an upload in one request.

    Sent again, the request gets the first answer again.
    """
    await check_open(services, account)
    body = await _finish(services, account, asked.uploads, asked.fields)
    return JSONResponse(body, 202, {"Location": f"/api/v1/jobs/{body['job_id']}"})


@router.head("/{upload_id}", include_in_schema=False, dependencies=[Version])
async def show_offset(services: Server, account: WriterAccount, upload_id: str) -> Response:
    """Say how many bytes of an upload the server has."""
    row = await _find(services, account, upload_id)
    return Response(headers={**_headers(row), "Upload-Length": str(row["length"])})


@router.get("/{upload_id}", summary="Get a resumable upload", responses=documented(404))
async def show_state(services: Server, account: CurrentAccount, upload_id: str) -> ResumableState:
    """Return how many bytes of an upload the server has. A client of tus asks by HEAD, which answers in headers."""
    require(account, "jobs:read")
    row = await _find(services, account, upload_id)
    return ResumableState(
        id=row["id"], name=row["name"], offset=row["offset"], length=row["length"],
        expires_at=str(jobs.iso(row["expires_at"])), job_id=row["job_id"],
    )  # fmt: skip


@router.patch(
    "/{upload_id}",
    status_code=204,
    summary="Send bytes of a resumable upload",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {CONTENT_TYPE: {"schema": {"type": "string", "format": "binary"}}},
        }
    },
    # The length of the upload is the limit.
    max_body_size=_MOST,
    responses={
        460: {"description": "the checksum does not match"},
        **documented(400, 404, 409, 412, 413, 415, 423, 429, 507),
    },
)
async def append(
    request: Request,
    services: Server,
    account: WriterAccount,
    upload_id: str,
    upload_offset: Annotated[int | None, Header(ge=0, le=_MOST, description="Where the bytes begin.")] = None,
    upload_checksum: Annotated[
        str | None, Header(max_length=200, description="sha1 or sha256, a space, and the checksum in base64.")
    ] = None,
    tus_resumable: Annotated[str | None, Header(max_length=20)] = None,
) -> Response:
    """Append bytes at ``Upload-Offset``. Bytes that arrived before a break count, unless there is a checksum."""
    await _find(services, account, upload_id)
    await check_version(tus_resumable)
    await check_room(services)
    if request.headers.get("content-type", "").partition(";")[0].strip() != CONTENT_TYPE:
        raise ApiError(415, "unsupported_media_type", f"Send the bytes as {CONTENT_TYPE}.")
    if upload_offset is None:
        raise ApiError(
            400, "invalid", "Send the offset of the bytes in Upload-Offset.", field="Upload-Offset"
        )
    checksum = _read_checksum(upload_checksum)
    token = new_id()
    await services.database.write_async(lambda connection: resumable.lock(connection, [upload_id], token))
    try:
        row = await _find(services, account, upload_id)
        if row["offset"] != upload_offset:
            raise resumable.OffsetError(row["offset"])
        receiver = _Receiver(services, account, row, token, checksum)
        await receiver.read(request.stream())
    finally:
        await services.database.write_async(lambda connection: resumable.unlock(connection, token))
    row = await _find(services, account, upload_id)
    if row["offset"] == row["length"] and not row["is_held"]:
        await check_open(services, account)
        body = await _finish(services, account, [upload_id], row["fields"])
        row = {**row, "job_id": body["job_id"]}
    return Response(status_code=204, headers=_headers(row))


@router.delete(
    "/{upload_id}",
    status_code=204,
    summary="Give a resumable upload up",
    responses=documented(404, 412, 423),
)
async def give_up(
    services: Server,
    account: WriterAccount,
    upload_id: str,
    tus_resumable: Annotated[str | None, Header(max_length=20)] = None,
) -> Response:
    """Delete an upload and its bytes. A job that it has become stays."""
    await _find(services, account, upload_id)
    await check_version(tus_resumable)
    token = new_id()

    def delete(connection: Connection) -> list[str]:
        resumable.lock(connection, [upload_id], token)
        return resumable.delete(connection, upload_id, token)

    await _delete_files(services, await services.database.write_async(delete))
    return Response(status_code=204)


@router.post("/{upload_id}", include_in_schema=False, max_body_size=_MOST)
async def override_method(
    request: Request,
    services: Server,
    account: WriterAccount,
    upload_id: str,
    x_http_method_override: Annotated[str, Header(max_length=20)] = "",
    upload_offset: Annotated[int | None, Header(ge=0, le=_MOST)] = None,
    upload_checksum: Annotated[str | None, Header(max_length=200)] = None,
    tus_resumable: Annotated[str | None, Header(max_length=20)] = None,
) -> Response:
    """Do what a client means that can send no other method."""
    method = x_http_method_override.upper()
    if method == "PATCH":
        return await append(
            request, services, account, upload_id, upload_offset, upload_checksum, tus_resumable
        )
    if method == "DELETE":
        return await give_up(services, account, upload_id, tus_resumable)
    raise ApiError(405, "method_not_allowed", "Send PATCH or DELETE in X-HTTP-Method-Override.")


class _Receiver:
    """Reads the body of one request into pieces.

    Args:
        services: of the server.
        account: that uploads.
        row: of the upload, which is locked.
        token: of the lock.
        checksum: its algorithm and digest; None without one.
    """

    def __init__(
        self, services: Services, account: Account, row: Mapping[str, Any], token: str,
        checksum: tuple[str, bytes] | None,
    ) -> None:  # fmt: skip
        self._services, self._upload_id, self._token = services, str(row["id"]), token
        self._writer = resumable.PieceWriter(services.files, self._upload_id)
        self._room: int = row["length"] - row["offset"]
        self._keep_ms = _keep_ms(services, account)
        self._checksum = checksum
        self._digest = hashlib.new(checksum[0]) if checksum else None
        self._waiting: list[bytes] = []
        self._size = 0
        self._unrecorded: list[StoredFile] = []

    async def read(self, stream: AsyncIterator[bytes]) -> None:
        """Read the body to its end.

        Raises:
            ApiError: 413, there are too many bytes; 460, the checksum does not match.
            ClientDisconnect: the client went away. What it sent is recorded, unless there is a checksum.
            LockedError, CutsError: as `resumable.add_pieces`.
            OutputError: the storage cannot be written.
        """
        try:
            try:
                await self._receive(stream)
            except ClientDisconnect:
                if self._checksum is None:
                    await self._flush()
                raise
            await self._flush()
            if self._checksum is not None:
                self._check()
                await self._record()
        finally:
            await asyncio.to_thread(self._writer.discard, self._unrecorded)

    async def _receive(self, stream: AsyncIterator[bytes]) -> None:
        renewed = time.monotonic()
        async for chunk in stream:
            self._room -= len(chunk)
            if self._room < 0:
                raise ApiError(
                    413, "too_large", "The upload has more bytes than its Upload-Length.",
                    headers={"Connection": "close"},
                )  # fmt: skip
            self._waiting.append(chunk)
            self._size += len(chunk)
            if self._digest is not None:
                self._digest.update(chunk)
            if self._size >= resumable.PIECE_BYTES:
                await self._flush()
                if self._checksum is None:
                    # The record of a piece renews the lock. With a checksum, all are recorded at the end.
                    renewed = time.monotonic()
            if time.monotonic() - renewed > _RENEW_SECONDS:
                await self._services.database.write_async(
                    lambda connection: resumable.lock(connection, [self._upload_id], self._token)
                )
                renewed = time.monotonic()

    async def _flush(self) -> None:
        data, self._waiting, self._size = self._waiting, [], 0
        if any(data):
            self._unrecorded.append(await asyncio.to_thread(self._writer.store, data))
        if self._checksum is None:
            await self._record()

    async def _record(self) -> None:
        if self._unrecorded:
            await self._services.database.write_async(
                lambda connection: resumable.add_pieces(
                    connection, self._upload_id, self._token, self._unrecorded, self._keep_ms
                )
            )
            self._unrecorded = []

    def _check(self) -> None:
        assert self._checksum is not None and self._digest is not None
        if self._digest.digest() != self._checksum[1]:
            raise ApiError(460, "checksum", "The checksum does not match: send the same bytes again.")


async def _finish(
    services: Services, account: Account, upload_ids: Sequence[str], fields: Mapping[str, str]
) -> dict[str, Any]:
    """Make one job of uploads, and return the answer about it: the first one if that was done before.

    Raises:
        ApiError: an upload does not exist or is not complete.
        FieldError, QuotaError, LockedError, OutputError: nothing is queued, and the uploads stay.
    """
    token, stored = new_id(), list[StoredFile]()
    if len(set(upload_ids)) < len(upload_ids):
        raise FieldError("uploads", "an upload is named twice")
    for upload_id in upload_ids:
        await _find(services, account, upload_id)
    await services.database.write_async(lambda connection: resumable.lock(connection, upload_ids, token))
    try:
        rows = [await _find(services, account, upload_id) for upload_id in upload_ids]
        if (earlier := await _earlier(services, rows)) is not None:
            return earlier
        _check_complete(services, rows)
        _, others = read_fields(services, account, fields)
        await limit_mail(services, account, others.get("email"))
        job_upload = new_id()
        for number, row in enumerate(rows):
            key = f"uploads/{job_upload}/{number}"
            stored.append(
                await asyncio.to_thread(
                    resumable.assemble, services.database, services.files, row["id"], upload_ids, token, key
                )
            )
        files = [ReceivedFile(row["name"], file) for row, file in zip(rows, stored, strict=True)]
        new, _ = new_job(services, account, job_upload, Received(dict(fields), files))

        def queue(connection: Connection) -> tuple[idempotency.Answer, list[str]]:
            answer = idempotency.create_once(connection, account, None, "", new)
            return answer, resumable.attach(connection, upload_ids, token, answer.body["job_id"])

        answer, keys = await services.database.write_async(queue)
    except Exception:
        await asyncio.to_thread(jobs.discard_files, services.database, services.files, stored)
        raise
    finally:
        await services.database.write_async(lambda connection: resumable.unlock(connection, token))
    await _delete_files(services, keys)
    services.wake()
    estimate = services.estimator.seconds_until_done(new.lane, new.received.size)
    return {**answer.body, "estimated_seconds": await estimate}


def _check_complete(services: Services, rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse uploads that cannot be a job: with the limits of an upload in one request."""
    for row in rows:
        if row["offset"] < row["length"]:
            message = (
                f"{row['name'][:100]!r} has {row['offset']:,} of {row['length']:,} bytes: send the rest."
            )
            raise ApiError(409, "incomplete", message, field="uploads")
    settings = services.settings
    if len(rows) > settings.max_files:
        raise ApiError(
            413, "too_many_files", f"An upload has at most {settings.max_files} files.", field="uploads"
        )
    if sum(row["length"] for row in rows) > settings.max_upload_size:
        raise ApiError(
            413, "too_large", f"An upload has at most {settings.max_upload_size:,} bytes.", field="uploads"
        )


async def _earlier(services: Services, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the answer about the job that these uploads have become; None if they have not."""
    found = {row["job_id"] for row in rows}
    if found == {None}:
        return None
    if len(found) > 1:
        raise ApiError(409, "in_use", "Some of these uploads belong to another job.", field="uploads")

    def read(connection: Connection) -> dict[str, Any]:
        wanted = sa.select(jobs_table).where(jobs_table.c.id.in_(found))
        return idempotency.accepted(connection, connection.execute(wanted).mappings().one())

    return await services.database.read_async(read)


async def _find(services: Services, account: Account, upload_id: str) -> Mapping[str, Any]:
    row = await services.database.read_async(
        lambda connection: resumable.find(connection, account, upload_id)
    )
    if row is None:
        raise not_found("upload")
    return row


async def _delete_files(services: Services, keys: Sequence[str]) -> None:
    for key in keys:
        await asyncio.to_thread(services.files.delete, key)


def _headers(row: Mapping[str, Any]) -> dict[str, str]:
    expires = datetime.fromtimestamp(row["expires_at"] / 1000, UTC)
    headers = {
        "Upload-Offset": str(row["offset"]), "Upload-Expires": format_datetime(expires, usegmt=True),
    }  # fmt: skip
    return {**headers, JOB_HEADER: row["job_id"]} if row["job_id"] else headers


def _keep_ms(services: Services, account: Account) -> int:
    return min(resumable.KEEP_MS, keep_ms(services, account))


def _read_metadata(text: str) -> dict[str, str]:
    """Return the pairs of ``Upload-Metadata``.

    Raises:
        ApiError: 400, a value is not in base64.
    """
    found: dict[str, str] = {}
    for pair in text.split(","):
        name, _, value = pair.strip().partition(" ")
        if not name:
            continue
        try:
            found[name] = base64.b64decode(value.strip(), validate=True).decode("utf-8", "replace")
        except binascii.Error:
            raise ApiError(
                400, "invalid", f"The value of {name[:64]} must be in base64.", field="Upload-Metadata"
            ) from None
    return found


def _read_checksum(text: str | None) -> tuple[str, bytes] | None:
    """Return algorithm and digest of ``Upload-Checksum``.

    Raises:
        ApiError: 400.
    """
    if text is None:
        return None
    algorithm, _, value = text.strip().partition(" ")
    try:
        digest = base64.b64decode(value.strip(), validate=True)
    except binascii.Error:
        digest = b""
    if algorithm not in CHECKSUMS or not digest:
        raise ApiError(
            400, "invalid", f"Send {' or '.join(CHECKSUMS)}, a space, and the checksum in base64.",
            field="Upload-Checksum",
        )  # fmt: skip
    return algorithm, digest
