"""Trials: one page and several models, compared side by side."""

from __future__ import annotations

import asyncio

from fastapi import Request
from fastapi.responses import JSONResponse

from comic_upscale.imaging.formats import IMAGE_EXTENSIONS, extension_of
from comic_upscale.server import jobs
from comic_upscale.server.api.access import CurrentAccount, Server, require
from comic_upscale.server.api.errors import documented
from comic_upscale.server.api.routing import api_router
from comic_upscale.server.api.uploads import (
    Accepted,
    check_length,
    check_open,
    is_accepted,
    keep_ms,
    store_job,
)
from comic_upscale.server.ids import new_id
from comic_upscale.server.multipart import Limits, UploadReader
from comic_upscale.server.params import FieldError
from comic_upscale.server.trials import read_trial

router = api_router(prefix="/api/v1/trials", tags=["uploads"])

_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "models"],
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": "One image."},
                        "models": {
                            "type": "string",
                            "description": "2 to 4 names of models, with commas between them.",
                            "examples": ["comic-compact-x3,realesr-animevideov3"],
                        },
                        "factor": {
                            "type": "string",
                            "description": "Output size divided by input size. The other options of an upload work, "
                            "too.",
                            "examples": ["2x"],
                        },
                    },
                }
            }
        },
    }
}


@router.post(
    "",
    status_code=202,
    summary="Try several models on one page",
    openapi_extra=_FORM,
    # The reader has limits of its own, from the settings.
    max_body_size=1 << 62,
    responses={202: {"model": Accepted}, **documented(400, 401, 403, 413, 415, 429, 503, 507)},
)
async def try_models(request: Request, services: Server, account: CurrentAccount) -> JSONResponse:
    """Queue a job that upscales one page by each model. It has a result for each of them, in their order."""
    require(account, "jobs:write")
    await check_open(services, account)
    upload_id = new_id()
    limits = Limits(
        max_bytes=services.settings.max_upload_size,
        max_files=1,
        accept=lambda name: is_accepted(services, name) and extension_of(name) in IMAGE_EXTENSIONS,
    )
    check_length(services, request)
    reader = UploadReader(services.files, lambda number: f"uploads/{upload_id}/{number}", limits)
    received = await reader.read(request.headers.get("content-type", ""), request.stream())
    stored = [file.file for file in received.files]
    try:
        if not stored or not stored[0].size:
            raise FieldError("file", "the form has no page: send one image in the field file")
        new = jobs.NewJob(
            upload_id=upload_id,
            received=received,
            params=read_trial(received.fields, services.live.offered),
            lane="batch" if account.is_anonymous else "interactive",
            keep_ms=keep_ms(services, account),
        )
        answer = await store_job(services, account, new)
    except Exception:
        await asyncio.to_thread(jobs.discard_files, services.database, services.files, stored)
        raise
    return JSONResponse(answer.body, 202, {"Location": f"/api/v1/jobs/{answer.body['job_id']}"})
