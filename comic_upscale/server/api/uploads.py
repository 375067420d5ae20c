"""Uploads: a form with files becomes a job. Accepted means durable: files flushed, rows committed, then the answer."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, cast

from fastapi import Header, Request
from fastapi.responses import JSONResponse, RedirectResponse
from limits import RateLimitItemPerDay, RateLimitItemPerHour
from pydantic import BaseModel

from comic_upscale.imaging.formats import ARCHIVE_EXTENSIONS, IMAGE_EXTENSIONS, extension_of
from comic_upscale.server import idempotency, jobs
from comic_upscale.server.accounts import Account
from comic_upscale.server.api.access import CurrentAccount, Server, limit, require
from comic_upscale.server.api.downloads import link_to
from comic_upscale.server.api.errors import ApiError, documented, not_found
from comic_upscale.server.api.routing import api_router
from comic_upscale.server.callbacks import CallbackError, check_url
from comic_upscale.server.ids import new_id
from comic_upscale.server.mail import check_address
from comic_upscale.server.multipart import Limits, Received, UploadReader
from comic_upscale.server.offered import PRESETS
from comic_upscale.server.params import (
    OPTION_FIELDS,
    SIZE_FIELDS,
    FieldError,
    json_type,
    read_params,
)
from comic_upscale.server.queue import PRIORITY, Lane
from comic_upscale.server.services import Services

router = api_router(prefix="/api/v1/uploads", tags=["uploads"])

_HOUR_MS, _DAY_MS = 3_600_000, 86_400_000
INTERACTIVE_FILES = 10
"""Images of an interactive job. More of them, and volumes, wait in the batch lane."""
MAILS_PER_DAY, ANONYMOUS_MAILS_PER_DAY = 200, 5
"""Mails that one user, or one address without an account, may ask for in a day."""
_OTHER_FIELDS = frozenset(("email", "callback_url", "lane"))


class Accepted(BaseModel):
    """An accepted upload."""

    job_id: str
    upload_id: str
    status: str
    created_at: str
    estimated_seconds: float | None
    queue_position: int | None


def _form() -> dict[str, Any]:
    """Return the OpenAPI description of the form, from the definitions of the options."""
    properties: dict[str, Any] = {
        "file": {
            "type": "string",
            "format": "binary",
            "description": "An image or a comic. May be repeated.",
        },
        "factor": {
            "type": "string",
            "description": "Output size divided by input size.",
            "examples": ["2x", "2.5"],
        },
        "preset": {
            "type": "string",
            "description": f"{', '.join(PRESETS)}, or a preset of this server: GET /api/v1/presets.",
        },
        "lane": {
            "type": "string",
            "enum": list(PRIORITY),
            "description": "interactive jobs of up to 10 images start at once, beside a batch job that runs. Default: "
            "batch. Needs an account.",
        },
        "callback_url": {
            "type": "string",
            "format": "uri",
            "description": "Gets a webhook when the job ends, if the server has a secret for webhooks.",
        },
        "email": {
            "type": "string",
            "format": "email",
            "description": "Gets one mail with a link when the job ends, if the server has a mail server.",
        },
    }
    for option in (*SIZE_FIELDS, *OPTION_FIELDS):
        described: dict[str, Any] = {"description": option.opt.help, "type": json_type(option)}
        if option.choices:
            described["enum"] = list(option.choices)
        properties[option.name] = described
    properties["denoise"] = {
        "type": "string",
        "description": "none, low, med, high, or a number from 0 to 1.",
    }
    schema = {"type": "object", "required": ["file"], "properties": properties}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


@router.post(
    "",
    status_code=202,
    summary="Upload images or comics, and queue a job",
    openapi_extra=_form(),
    # The reader has limits of its own, from the settings.
    max_body_size=1 << 62,
    responses={202: {"model": Accepted}, **documented(400, 401, 403, 409, 413, 415, 429, 503, 507)},
)
async def upload(
    request: Request,
    services: Server,
    account: CurrentAccount,
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
) -> JSONResponse:
    """Store the files of a form, and queue a job over them.

    Send the same ``Idempotency-Key`` again to get the first answer again, for 24 hours.
    """
    require(account, "jobs:write")
    await check_open(services, account)
    upload_id = new_id()
    reader = UploadReader(
        services.files,
        lambda number: f"uploads/{upload_id}/{number}",
        Limits(
            max_bytes=services.settings.max_upload_size,
            max_files=services.settings.max_files,
            accept=lambda name: is_accepted(services, name),
        ),
    )
    content_type = request.headers.get("content-type", "")
    check_length(services, request)
    received = await reader.read(content_type, request.stream())
    try:
        new, asked = new_job(services, account, upload_id, received)
        await limit_mail(services, account, new.email)
        answer = await store_job(services, account, new, idempotency_key, asked)
    except Exception:
        # A cancelled request keeps its files: its row may be committed a moment later.
        stored = [file.file for file in received.files]
        await asyncio.to_thread(jobs.discard_files, services.database, services.files, stored)
        raise
    return JSONResponse(answer.body, 202, {"Location": f"/api/v1/jobs/{answer.body['job_id']}"})


@router.get(
    "/{upload_id}/download",
    summary="Download an original",
    status_code=307,
    responses=documented(401, 404),
)
async def download_original(services: Server, account: CurrentAccount, upload_id: str) -> RedirectResponse:
    """Redirect to a signed link that is valid for some minutes."""
    require(account, "jobs:read")
    owner = await services.database.read_async(lambda connection: jobs.owner_of_upload(connection, upload_id))
    if owner is None or not (account.is_admin or owner == account.user_id):
        raise not_found("upload")
    originals = await services.database.read_async(
        lambda connection: jobs.files_of(connection, "original", upload_id=upload_id)
    )
    return link_to(services, originals, purpose="originals", object_id=upload_id, title=originals[0]["name"])


async def check_open(services: Services, account: Account, *, is_counted: bool = True) -> None:
    """Refuse an upload while the server takes none, before its body is read.

    Args:
        services: of the server.
        account: who uploads.
        is_counted: whether it counts as an upload of an address without an account.
    """
    if services.live.in_maintenance:
        raise ApiError(
            503, "maintenance", "The server takes no uploads for now. Running jobs continue; try again later.",
            headers={"Retry-After": "120", "Connection": "close"},
        )  # fmt: skip
    await check_room(services)
    if account.is_anonymous and is_counted:
        item = RateLimitItemPerHour(services.settings.uploads_per_hour)
        await limit(services, item, f"upload:{account.address}")


async def check_room(services: Services) -> None:
    """Refuse bytes while the disk is almost full."""
    free = await services.monitor.free_percent()
    if free is not None and free < services.settings.min_free_disk:
        raise ApiError(
            507, "insufficient_storage", "The disk of the server is almost full. Try again later.",
            headers={"Connection": "close"},
        )  # fmt: skip


def check_length(services: Services, request: Request) -> None:
    """Refuse an upload whose header says that it is too large, before its body is read."""
    length = request.headers.get("content-length", "")
    if (
        length.isascii()
        and length.isdigit()
        and int(length[:19]) > services.settings.max_upload_size + (8 << 20)
    ):
        raise ApiError(
            413, "too_large", f"An upload has at most {services.settings.max_upload_size:,} bytes.",
            field="file", headers={"Connection": "close"},
        )  # fmt: skip


def is_interactive(received: Received) -> bool:
    """Return whether an upload is small enough for the lane of jobs that somebody waits for."""
    names = [file.name for file in received.files]
    return len(names) <= INTERACTIVE_FILES and all(extension_of(name) in IMAGE_EXTENSIONS for name in names)


def is_accepted(services: Services, name: str) -> bool:
    """Return whether a file with this name may be uploaded."""
    extension = extension_of(name)
    wanted = services.settings.accepted_extensions
    return extension in IMAGE_EXTENSIONS | ARCHIVE_EXTENSIONS and (not wanted or extension in wanted)


def new_job(
    services: Services, account: Account, upload_id: str, received: Received
) -> tuple[jobs.NewJob, str]:
    """Return the job over a complete upload, and a hash of everything that is asked for.

    Raises:
        FieldError: there is no file, a file is empty, or a field is wrong.
    """
    if not received.files:
        raise FieldError("file", "the form has no file: send one in the field file")
    if empty := [file.name for file in received.files if not file.file.size]:
        raise FieldError("file", f"{empty[0][:100]!r} is empty")
    params, others = read_fields(services, account, received.fields)
    if others.get("lane") == "interactive" and not is_interactive(received):
        raise FieldError(
            "lane",
            f"an interactive job has at most {INTERACTIVE_FILES} single images: leave lane out for more",
        )
    new = jobs.NewJob(
        upload_id=upload_id,
        received=received,
        params=params,
        lane=cast("Lane", others.get("lane", "batch")),
        keep_ms=keep_ms(services, account),
        callback_url=others.get("callback_url"),
        email=others.get("email"),
    )
    return new, _hash(received, params, others)


def keep_ms(services: Services, account: Account) -> int:
    """Return the milliseconds for which the files of a job are kept."""
    settings = services.settings
    keep = settings.anonymous_hours * _HOUR_MS if account.is_anonymous else settings.retention_days * _DAY_MS
    return int(keep)


async def store_job(
    services: Services, account: Account, new: jobs.NewJob, key: str | None = None, request_hash: str = ""
) -> idempotency.Answer:
    """Store an upload and its job, and wake the worker; arguments and errors as for `idempotency.create_once`."""
    answer = await services.database.write_async(
        lambda connection: idempotency.create_once(connection, account, key, request_hash, new)
    )
    if answer.is_repeated:
        for file in new.received.files:
            await asyncio.to_thread(services.files.delete, file.file.key)
    services.wake()
    size = 0 if answer.is_repeated else new.received.size
    answer.body["estimated_seconds"] = await services.estimator.seconds_until_done(new.lane, size)
    return answer


def read_fields(
    services: Services, account: Account, fields: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the processing options, and the other fields that are not empty.

    Raises:
        FieldError: a field is unknown, or has a value that is not allowed.
    """
    others = {name: text.strip() for name, text in fields.items() if name in _OTHER_FIELDS and text.strip()}
    if (email := others.get("email")) is not None:
        if services.settings.smtp_host is None:
            raise FieldError("email", "this server sends no mail: leave email out")
        try:
            check_address(email)
        except CallbackError as error:
            raise FieldError("email", str(error)) from None
    if (lane := others.get("lane", "batch")) not in PRIORITY:
        raise FieldError("lane", f"lane must be {' or '.join(PRIORITY)}, not {lane[:64]!r}")
    if lane != "batch" and account.is_anonymous:
        raise FieldError("lane", "jobs without an account wait in the lane batch: leave lane out")
    if (url := others.get("callback_url")) is not None:
        if services.settings.webhook_secret is None:
            raise FieldError("callback_url", "this server sends no webhooks: leave callback_url out")
        try:
            check_url(url)
        except CallbackError as error:
            raise FieldError("callback_url", str(error)) from None
    options = {name: text for name, text in fields.items() if name not in _OTHER_FIELDS}
    return read_params(options, services.live.offered), others


async def limit_mail(services: Services, account: Account, receiver: str | None) -> None:
    """Refuse mail to somebody who gets much of it already, and mail of somebody who sends much.

    Args:
        services: of the server.
        account: who asks for the mail.
        receiver: an address; None if no mail is wanted.

    Raises:
        ApiError: 429.
    """
    if receiver is None:
        return
    sender = f"address:{account.address}" if account.is_anonymous else f"user:{account.user_id}"
    most = ANONYMOUS_MAILS_PER_DAY if account.is_anonymous else MAILS_PER_DAY
    # Without an account, one receiver gets few mails from all addresses together.
    names = [f"mail-from:{sender}"] + [f"mail-to:{receiver.lower()}"] * account.is_anonymous
    for name in names:
        await limit(services, RateLimitItemPerDay(most), name)


def _hash(received: Received, params: Mapping[str, Any], others: Mapping[str, str]) -> str:
    """Return a hash of everything that a request asks for."""
    content = [[file.name, file.file.sha256] for file in received.files]
    return hashlib.sha256(json.dumps([content, params, others], sort_keys=True).encode()).hexdigest()
