"""Further spellings of the same calls, for programs that were written against other services.

They differ from those services where those were unsafe: a result is addressed by the id of its job and by a signed
link, never by a file name; nothing is fetched from a URL; a folder of the server is for administrators.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import Body, Form, Request
from fastapi.responses import JSONResponse, RedirectResponse
from pydantic import BaseModel, Field
from sqlalchemy.engine import Connection

from comic_upscale.errors import DatabaseError, SettingsError
from comic_upscale.server import audit, jobs, queue
from comic_upscale.server.accounts import Account
from comic_upscale.server.api import auth
from comic_upscale.server.api.access import AdminAccount, CurrentAccount, Server, require
from comic_upscale.server.api.admin_jobs import FolderJob, queue_folder_job
from comic_upscale.server.api.errors import ApiError, documented, not_found
from comic_upscale.server.api.jobs import download_result, own_job
from comic_upscale.server.api.routing import api_router
from comic_upscale.server.api.uploads import check_length, check_open, is_accepted, keep_ms, store_job
from comic_upscale.server.database.schema import jobs as jobs_table
from comic_upscale.server.ids import new_id
from comic_upscale.server.jobs import discard_files, files_of
from comic_upscale.server.links import Link
from comic_upscale.server.multipart import Limits, Received, UploadReader
from comic_upscale.server.params import ENGINE, REFINE_FACES, FieldError, read_params
from comic_upscale.server.roots import find_below, output_in_place
from comic_upscale.server.services import Services
from comic_upscale.settings.paths import MARKER_FOLDER

router = api_router(tags=["other programs"])

_ERRORS = documented(400, 401, 403, 413, 415, 429, 503, 507)
_STATUS = {
    "queued": "queued", "running": "processing", "completed": "completed", "failed": "failed", "canceled": "failed",
}  # fmt: skip
_FORM: dict[str, Any] = {
    "type": "object",
    "additionalProperties": {"type": "string"},
    "properties": {"file": {"type": "string", "format": "binary", "description": "Also: files, image."}},
}
_UPLOAD: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}
}
_OWN_DEVICE = frozenset(("tile_size", "use_fp16", "steps"))
"""Fields about the device, which each worker chooses itself."""
_OF_THE_SERVER = frozenset(
    (
        "gcp_project_id",
        "gcp_location",
        "prompt",
        "model",
        "strength",
        "denoise_strength",
        "guidance_scale",
        "seed",
    )
)
"""Fields about engines that draw, whose options the server sets."""
_FACES = "Faces are not refined: this server has no model for it."


# Neural Image Restore: POST /enhance, GET /status/{id}


@router.post(
    "/enhance",
    summary="Upscale images (Neural Image Restore)",
    status_code=202,
    max_body_size=1 << 62,
    openapi_extra=_UPLOAD,
    responses=_ERRORS,
)
async def enhance(request: Request, services: Server, account: CurrentAccount) -> dict[str, Any]:
    """Queue images from the field ``files``. ``face_enhance`` refines faces, or ``notes`` says that it does not."""
    received = await _receive(request, services, account)

    def options(fields: dict[str, str]) -> tuple[dict[str, str], list[str]]:
        faces = fields.pop("face_enhance", "true").strip().lower() in ("true", "1", "yes", "on")
        refines = services.live.offered.refines_faces
        if faces and refines:
            fields[REFINE_FACES] = "true"
        return {"factor": "4", **fields}, [_FACES] if faces and not refines else []

    body, notes = await _queue(services, account, received, options)
    return {
        "job_id": body["job_id"], "status": "queued", "queue_position": body["queue_position"], "notes": notes,
    }  # fmt: skip


@router.get(
    "/status/{job_id}", summary="Show a job (Neural Image Restore)", responses=documented(401, 404, 429)
)
async def enhance_status(services: Server, account: CurrentAccount, job_id: str) -> dict[str, Any]:
    """Return the status, and the signed links of the results once they are there."""
    require(account, "jobs:read")
    row = await own_job(services, account, job_id)
    results: list[dict[str, str]] = []
    if row["status"] == "completed":
        results = await services.database.read_async(lambda connection: _results(connection, services, row))
    return {"status": _STATUS[row["status"]], "results": results, "error": row["error"]}


def _results(connection: Connection, services: Services, row: Any) -> list[dict[str, str]]:
    originals = files_of(connection, "original", upload_id=row["upload_id"]) if row["upload_id"] else []
    by_stem = {PurePosixPath(each["name"]).stem: each["name"] for each in originals}
    return [
        {
            "original_filename": by_stem.get(PurePosixPath(result["name"]).stem, result["name"]),
            "url": _signed(services, result),
        }
        for result in files_of(connection, "result", job_id=row["id"])
    ]


def _signed(services: Services, file: Any) -> str:
    token = services.links.sign(Link("file", file["id"]))
    return f"/api/v1/files/{token}/{quote(PurePosixPath(file['name']).name)}"


# The upscaler API: POST /api/upscale/{esrgan,flux,imagen}, GET /api/status, /api/results, /api/health


@router.post(
    "/api/upscale/esrgan",
    summary="Upscale an image (upscaler API)",
    status_code=202,
    max_body_size=1 << 62,
    openapi_extra=_UPLOAD,
    responses=_ERRORS,
)
async def upscale_esrgan(request: Request, services: Server, account: CurrentAccount) -> dict[str, Any]:
    """Queue an image. The sizes are null: only a worker opens the image, and the job has them when it is done."""
    received = await _receive(request, services, account)
    body, notes = await _queue(services, account, received, lambda fields: _esrgan_options(fields, services))
    job_id = body["job_id"]
    return {
        "jobId": job_id, "task_id": job_id, "status": "queued", "estimatedTime": body["estimated_seconds"],
        "inputSize": None, "outputSize": None, "statusUrl": f"/api/status/{job_id}", "notes": notes,
    }  # fmt: skip


@router.post(
    "/api/upscale/{engine}",
    summary="Upscale an image with another engine (upscaler API)",
    status_code=202,
    max_body_size=1 << 62,
    openapi_extra=_UPLOAD,
    responses=documented(400, 401, 403, 413, 415, 429, 501, 503, 507),
)
async def upscale_otherwise(
    request: Request, services: Server, account: CurrentAccount, engine: Literal["flux", "imagen"]
) -> JSONResponse:
    """Queue an image for an engine that draws, if this server has it; otherwise say so in words."""
    require(account, "jobs:write")
    names = {"flux": "FLUX, a diffusion model", "imagen": "Imagen, a service of Google Cloud"}
    if engine not in services.live.offered.engines:
        raise ApiError(
            501, "not_available",
            f"This server does not have {names[engine]}. Send the image to /api/upscale/esrgan.",
            headers={"Connection": "close"},
        )  # fmt: skip
    received = await _receive(request, services, account)

    def options(fields: dict[str, str]) -> tuple[dict[str, str], list[str]]:
        # The project, the prompt and the like are those of the server.
        own = [name for name in fields if name in _OF_THE_SERVER]
        notes = [f"{name} has no effect: the server has its own." for name in own]
        kept = {name: text for name, text in fields.items() if name not in _OF_THE_SERVER}
        found, more = _esrgan_options(kept, services)
        return found, [*notes, *more]

    body, notes = await _queue(services, account, received, options, engine=engine)
    job_id = body["job_id"]
    return JSONResponse(
        {
            "jobId": job_id, "task_id": job_id, "status": "queued", "estimatedTime": None, "inputSize": None,
            "outputSize": None, "statusUrl": f"/api/status/{job_id}", "notes": notes,
        },
        status_code=202,
    )  # fmt: skip


@router.get("/api/status/{task_id}", summary="Show a job (upscaler API)", responses=documented(401, 404, 429))
async def task_status(services: Server, account: CurrentAccount, task_id: str) -> dict[str, Any]:
    """Return the status, the progress from 0 to 100, and where the result is."""
    require(account, "jobs:read")
    row = await own_job(services, account, task_id)
    shown = await services.database.read_async(lambda connection: jobs.job_json(connection, row))
    status = _STATUS[row["status"]]
    return {
        "task_id": task_id,
        "status": "processing" if status == "queued" else status,
        "progress": shown["progress"],
        "output_url": f"/api/results/{task_id}" if status == "completed" else None,
        "error": row["error"] or ("The job was canceled." if row["status"] == "canceled" else None),
    }


@router.get(
    "/api/results/{name}",
    summary="Download a result (upscaler API)",
    status_code=307,
    responses=documented(401, 404, 409, 429),
)
@router.get(
    "/download/{name}",
    summary="Download a result",
    status_code=307,
    responses=documented(401, 404, 409, 429),
)
async def download(services: Server, account: CurrentAccount, name: str) -> RedirectResponse:
    """Redirect to a signed link. The name is the id of the job; an extension is ignored."""
    return await download_result(services, account, PurePosixPath(name).stem)


@router.get(
    "/api/health",
    summary="Show the state of the server (upscaler API)",
    responses={503: {"description": "down"}},
)
async def upscaler_health(services: Server) -> JSONResponse:
    """Return ``healthy`` or ``degraded``, and the GPU of the worker that is online."""
    try:
        figures = await services.monitor.figures()
    except DatabaseError:
        return JSONResponse({"status": "down"}, 503)
    gpus = figures["gpu"]
    free = gpus[0].get("memory_free") if gpus else None
    return JSONResponse(
        {
            "status": "degraded" if services.problems() or figures["stalled"] else "healthy",
            "gpu_available": bool(gpus),
            "gpu_name": gpus[0].get("name") if gpus else None,
            "gpu_memory_free": None if free is None else round(free / 1e9, 1),
            "models_loaded": figures["models_loaded"],
            "queue_size": figures["queue_length"],
        }
    )


# ChibiBooru: POST and DELETE /api/upscale for an image of a folder of the server


class BooruImage(BaseModel):
    """An image below an allowed root."""

    filepath: Annotated[str, Field(min_length=1, max_length=4000, examples=["images/ab/cat.png"])]
    force: Annotated[bool, Field(description="Upscale it again.")] = False


@router.post("/api/upscale", summary="Upscale an image of the server (ChibiBooru)", responses=_ERRORS)
async def upscale_image(services: Server, admin: AdminAccount, image: BooruImage) -> dict[str, Any]:
    """Queue an image below a ``--root``, for administrators. The output goes into the folder ``upscaled`` beside it."""
    source, output = await _booru_paths(services, image.filepath, must_exist=True)
    if await asyncio.to_thread(_has_output, output):
        if not image.force:
            return {
                "success": False, "error": "Already upscaled", "filepath": image.filepath, "upscaled_path": str(output),
            }  # fmt: skip
        await _delete_output(services, admin, source, output)
    created = await queue_folder_job(services, admin, FolderJob(input=str(source)), "interactive")
    return {
        "success": True, "status": "queued", "job_id": created["job_id"], "filepath": image.filepath,
        "upscaled_path": created["output"],
    }  # fmt: skip


@router.delete(
    "/api/upscale",
    summary="Delete the output of an image of the server (ChibiBooru)",
    responses=documented(400, 401, 403, 404, 409, 429),
)
async def delete_upscaled(
    services: Server, admin: AdminAccount, image: Annotated[BooruImage, Body()]
) -> dict[str, Any]:
    """Delete the output of an image, also after the image itself is gone."""
    source, output = await _booru_paths(services, image.filepath, must_exist=False)
    if not await asyncio.to_thread(_has_output, output):
        raise not_found("output")
    await _delete_output(services, admin, source, output)
    return {"success": True, "filepath": image.filepath}


# A roadmap's Flask pages: POST /login


@router.post(
    "/login", summary="Log in with a form", status_code=303, responses=documented(400, 401, 403, 429, 503)
)
async def log_in(
    request: Request,
    services: Server,
    username: Annotated[str, Form(min_length=1, max_length=128)],
    password: Annotated[str, Form(min_length=1, max_length=1024)],
) -> RedirectResponse:
    """Begin a session like ``POST /api/v1/auth/login``, and go to the first page."""
    answer = await auth.log_in(request, services, auth.Login(username=username, password=password))
    response = RedirectResponse("/", 303)
    for cookie in answer.headers.getlist("set-cookie"):
        response.headers.append("set-cookie", cookie)
    return response


# Shared


async def _receive(request: Request, services: Services, account: Account) -> Received:
    require(account, "jobs:write")
    await check_open(services, account)
    check_length(services, request)
    folder = new_id()
    limits = Limits(
        max_bytes=services.settings.max_upload_size, max_files=services.settings.max_files,
        accept=lambda name: is_accepted(services, name),
    )  # fmt: skip
    reader = UploadReader(services.files, lambda number: f"uploads/{folder}/{number}", limits)
    return await reader.read(request.headers.get("content-type", ""), request.stream())


async def _queue(
    services: Services, account: Account, received: Received, options: Any, engine: str | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Queue a job over received files, and return the answer and notes for the client.

    Args:
        services: of the server.
        account: who asks.
        received: the files and fields.
        options: returns the fields of this server for those of the form, and notes.
        engine: in place of the server's own; None for that.
    """
    try:
        if not received.files:
            raise FieldError("file", "the form has no file: send one in the field file")
        fields, notes = options(dict(received.fields))
        params = read_params(fields, services.live.offered)
        if engine is not None:
            params[ENGINE] = engine
        new = jobs.NewJob(
            upload_id=new_id(), received=received, params=params, keep_ms=keep_ms(services, account)
        )
        return (await store_job(services, account, new)).body, notes
    except Exception:
        stored = [file.file for file in received.files]
        await asyncio.to_thread(discard_files, services.database, services.files, stored)
        raise


def _esrgan_options(fields: dict[str, str], services: Services) -> tuple[dict[str, str], list[str]]:
    """Return the options that the fields of the upscaler API ask for, and notes on those that differ here."""
    given = {name: text.strip() for name, text in fields.items() if text.strip()}
    options, notes = {"format": "png"}, []
    for name in sorted(_OWN_DEVICE & given.keys()):
        del given[name]
        notes.append(f"{name} has no effect: the worker chooses what suits its device.")
    if (format := given.pop("output_format", None)) is not None:
        options["format"] = format
    if (model := given.pop("model", None)) is not None:
        known = {name.lower() for name in services.live.offered.models}
        if model.lower().startswith(("4x-", "4x_")) and model.lower() not in known:
            notes.append(
                f"The model {model[:64]} is not on this server, so its default is used. "
                "An administrator can register it."
            )
        else:
            options["model"] = model
    factor = given.pop("upscale_factor", None)
    dpi = _number(given.pop("target_dpi", "150"), "target_dpi")
    inches = [
        _number(given.pop(f"target_{side}_inches", ""), f"target_{side}_inches")
        for side in ("width", "height")
    ]
    pixels = [given.pop(f"target_{side}", "") for side in ("width", "height")]
    if any(inches) and dpi:
        pixels = [
            str(round(length * dpi)) if length else each for length, each in zip(inches, pixels, strict=True)
        ]
    width, height = pixels
    if width and height:
        options["fit"] = f"{width}x{height}"
    elif width or height:
        options["width" if width else "height"] = width or height
    else:
        options["factor"] = factor or "4"
    return {**options, **given}, notes


def _number(text: str, field: str) -> float | None:
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number < 100_000:
        raise FieldError(field, f"{field} must be a number above 0, not {text[:64]!r}")
    return number


async def _booru_paths(services: Services, text: str, *, must_exist: bool) -> tuple[Path, Path]:
    roots = services.settings.root_folders

    def find() -> tuple[Path, Path]:
        source = find_below(roots, text, must_exist=must_exist)
        if source.is_dir():
            raise SettingsError(f"{text[:200]} is a folder: give an image")
        # The folder may be a link that leads elsewhere.
        return source, find_below(roots, str(output_in_place(source)), must_exist=False)

    try:
        return await asyncio.to_thread(find)
    except SettingsError as error:
        raise FieldError("filepath", str(error)) from None


def _has_output(output: Path) -> bool:
    """Return whether a folder is the output of a job: only such a folder is ever deleted."""
    return (output / MARKER_FOLDER).is_dir()


async def _delete_output(services: Services, admin: Account, source: Path, output: Path) -> None:
    def write(connection: Connection) -> bool:
        if queue.is_busy(connection, jobs_table.c.output == str(output)):
            return False
        audit.record(connection, admin, "output.delete", str(output)[:256], input=str(source))
        return True

    if not await services.database.write_async(write):
        raise ApiError(409, "running", "A job for this image is queued or running: cancel it first.")
    await asyncio.to_thread(shutil.rmtree, output, ignore_errors=True)
