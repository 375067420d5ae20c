"""The extras of AUTOMATIC1111's web UI, as its clients call them: images come and go in base64."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Sequence
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import Body, Request
from pydantic import BaseModel, Field, ValidationError
from sqlalchemy.engine import Connection

from comic_upscale.models.catalogue import CATALOGUE
from comic_upscale.server import queue
from comic_upscale.server.accounts import Account
from comic_upscale.server.api.access import CurrentAccount, Server, require
from comic_upscale.server.api.errors import ApiError, documented
from comic_upscale.server.api.immediate import Image, convert, read_whole, with_extension
from comic_upscale.server.api.routing import api_router
from comic_upscale.server.api.uploads import INTERACTIVE_FILES, check_open, is_accepted
from comic_upscale.server.database.schema import jobs
from comic_upscale.server.params import FieldError, read_params
from comic_upscale.server.services import Services

router = api_router(
    prefix="/sdapi/v1", tags=["other programs"], responses=documented(400, 401, 403, 413, 422, 429, 503, 507)
)

MOST_BODY = 128 << 20
"""Bytes of a request, in which images take a third more than in a file."""
NAMES = {
    "r-esrgan 4x+": "RealESRGAN_x4plus",
    "r-esrgan 4x+ anime6b": "RealESRGAN_x4plus_anime_6B",
    "r-esrgan animevideo": "realesr-animevideov3",
    "r-esrgan general 4xv3": "realesr-general-x4v3",
    "r-esrgan 2x+": "RealESRGAN_x2plus",
}
"""Models by the names that the web UI has for them, in lower case."""
_OWN_CHOICE = ("", "none")


class _Extras(BaseModel):
    """What both kinds of requests have. Fields that are not listed have no effect."""

    resize_mode: Annotated[int, Field(ge=0, le=1, description="0: by a factor. 1: to a size.")] = 0
    upscaling_resize: Annotated[float, Field(gt=0, le=16, description="The factor.")] = 2
    upscaling_resize_w: Annotated[int, Field(ge=1, le=65_535)] = 512
    upscaling_resize_h: Annotated[int, Field(ge=1, le=65_535)] = 512
    upscaling_crop: Annotated[
        bool, Field(description="Has no effect: pages keep their proportions, and fit within the size.")
    ] = True
    upscaler_1: Annotated[str, Field(max_length=128, description="A model; None for that of the server.")] = (
        "None"
    )
    upscaler_2: Annotated[str, Field(max_length=128)] = "None"
    extras_upscaler_2_visibility: Annotated[float, Field(ge=0, le=1)] = 0
    gfpgan_visibility: Annotated[float, Field(ge=0, le=1)] = 0
    codeformer_visibility: Annotated[float, Field(ge=0, le=1)] = 0


class SingleImage(_Extras):
    """One image."""

    image: Annotated[str, Field(description="Base64, or a data URL. The URL of a host is refused.")]


class NamedImage(BaseModel):
    """An image of several."""

    data: str
    name: Annotated[str, Field(max_length=1000)] = "image"


class BatchImages(_Extras):
    """Several images."""

    imageList: Annotated[list[NamedImage], Field(min_length=1, max_length=INTERACTIVE_FILES)]  # noqa: N815


def _body(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    if "imageList" in schema["properties"]:
        schema["properties"]["imageList"]["items"] = NamedImage.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


@router.post(
    "/extra-single-image",
    summary="Upscale one image",
    max_body_size=MOST_BODY,
    openapi_extra=_body(SingleImage),
)
async def extra_single_image(request: Request, services: Server, account: CurrentAccount) -> dict[str, Any]:
    """Return the image as a PNG in base64."""
    asked = await _read(request, account, SingleImage)
    found = await _convert(request, services, account, asked, [("image", _decoded(asked.image, "image"))])
    return {"html_info": _info(found), "image": found[0][1]}


@router.post(
    "/extra-batch-images",
    summary="Upscale several images",
    max_body_size=MOST_BODY,
    openapi_extra=_body(BatchImages),
)
async def extra_batch_images(request: Request, services: Server, account: CurrentAccount) -> dict[str, Any]:
    """Return the images as PNGs in base64, in their order."""
    asked = await _read(request, account, BatchImages)
    images = [(each.name, _decoded(each.data, "imageList")) for each in asked.imageList]
    found = await _convert(request, services, account, asked, images)
    return {"html_info": _info(found), "images": [image for _, image in found]}


@router.get("/upscalers", summary="List the models")
async def list_upscalers(services: Server, account: CurrentAccount) -> list[dict[str, Any]]:
    """Return the models as upscalers. ``None`` stands for the model of the server."""
    require(account, "jobs:read")
    offered = services.live.offered
    names = [*CATALOGUE, *(name for name, model in offered.models.items() if model.storage_key)]
    scales = {name: model.native_scale for name, model in CATALOGUE.items()}
    return [
        {
            "name": name,
            "model_name": name,
            "model_path": None,
            "model_url": None,
            "scale": scales.get(name, 4),
        }
        for name in ("None", *(name for name in names if not offered.is_demoted(name)))
    ]


@router.get("/progress", summary="Show the progress of your images")
async def show_progress(services: Server, account: CurrentAccount) -> dict[str, Any]:
    """Return the progress of the interactive job of the account that runs now, from 0 to 1."""
    require(account, "jobs:read")

    def read(connection: Connection) -> Any:
        mine = (
            jobs.c.owner_id == account.user_id,
            jobs.c.lane == "interactive",
            jobs.c.status.in_(("running", "queued")),
        )
        found = sa.select(jobs).where(*mine).order_by(jobs.c.status.desc(), jobs.c.created_at).limit(1)
        return connection.execute(found).mappings().first()

    row = await services.database.read_async(read)
    total = row["pages_total"] if row else None
    done = (row["pages_done"] + row["pages_failed"]) / total if row and total else 0.0
    state = {
        "job": row["title"] if row else "", "job_count": 1 if row else 0, "job_no": 0, "interrupted": False,
        "skipped": False, "sampling_step": 0, "sampling_steps": 0,
    }  # fmt: skip
    return {
        "progress": round(min(done, 1.0), 3), "eta_relative": 0.0, "state": state, "current_image": None,
        "textinfo": row["status"] if row else None,
    }  # fmt: skip


@router.post("/interrupt", summary="Cancel your images")
async def interrupt(services: Server, account: CurrentAccount) -> dict[str, Any]:
    """Cancel the interactive jobs of the account."""
    require(account, "jobs:write")
    if account.is_anonymous:
        raise ApiError(403, "forbidden", "This needs an account.")

    def write(connection: Connection) -> None:
        mine = sa.select(jobs.c.id).where(
            jobs.c.owner_id == account.user_id,
            jobs.c.lane == "interactive",
            jobs.c.status.in_(("running", "queued")),
        )
        for job_id in list(connection.scalars(mine)):
            queue.request_cancel(connection, job_id)

    await services.database.write_async(write)
    return {}


@router.get("/options", summary="Show options")
async def show_options(account: CurrentAccount) -> dict[str, Any]:
    """Return the few options of the web UI that mean something here."""
    require(account, "jobs:read")
    return {"samples_format": "png", "sd_model_checkpoint": None, "upscaler_for_img2img": None}


@router.post("/options", summary="Accept options")
async def set_options(account: CurrentAccount, options: Annotated[dict[str, Any], Body()]) -> None:
    """Accept options, and change nothing: a request names what it wants, and other clients share this server."""
    require(account, "jobs:write")


@router.get("/sd-models", summary="List checkpoints")
async def list_checkpoints(account: CurrentAccount) -> list[dict[str, Any]]:
    """Return none: this server makes no images from text."""
    require(account, "jobs:read")
    return []


async def _read(request: Request, account: Account, model: type[Any]) -> Any:
    """Read the body of a request after its account is known, so that strangers cannot send so much."""
    require(account, "jobs:write")
    body = await request.body()
    try:
        return await asyncio.to_thread(model.model_validate_json, body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ApiError(400, "invalid", str(first["msg"]), field=field or None) from None


def _decoded(text: str, field: str) -> bytes:
    text = text.strip()
    if text[:8].lower().startswith(("http:", "https:", "ftp:", "file:")):
        raise FieldError(field, "this server fetches no URL: send the image itself, in base64")
    if text[:5].lower() == "data:":
        text = text.partition(",")[2]
    try:
        content = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise FieldError(field, "the image is not in base64") from None
    if not content:
        raise FieldError(field, "the image is empty")
    return content


async def _convert(
    request: Request,
    services: Services,
    account: Account,
    asked: _Extras,
    images: Sequence[tuple[str, bytes]],
) -> list[tuple[str, str]]:
    """Return name and base64 of each upscaled image."""
    params = read_params(_fields(asked), services.live.offered)
    await check_open(services, account)
    given: list[Image] = []
    for name, content in images:
        full = with_extension(name, content[:16])
        if not is_accepted(services, full):
            raise ApiError(415, "unsupported_file", "This is no image that this server takes.", field="image")
        given.append(Image(full, len(content), lambda content=content: iter((content,))))  # type: ignore[misc]
    if sum(each.size for each in given) > services.settings.max_upload_size:
        raise ApiError(413, "too_large", "The images are larger than this server allows.", field="image")
    done = await convert(request, services, account, given, params)
    if len(done.results) != len(given):
        raise ApiError(422, "failed", "An image cannot be upscaled.")
    return [
        (row["name"], await asyncio.to_thread(_encoded, await read_whole(services, row)))
        for row in done.results
    ]


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _fields(asked: _Extras) -> dict[str, str]:
    if asked.gfpgan_visibility or asked.codeformer_visibility:
        raise FieldError("gfpgan_visibility", "this server cannot refine faces: leave the visibility at 0")
    if asked.extras_upscaler_2_visibility and asked.upscaler_2.lower() not in _OWN_CHOICE:
        raise FieldError("upscaler_2", "this server does not mix two models: leave upscaler_2 out")
    fields = {"format": "png"}
    if asked.resize_mode:
        fields["fit"] = f"{asked.upscaling_resize_w}x{asked.upscaling_resize_h}"
    else:
        fields["factor"] = f"{asked.upscaling_resize:g}"
    name = asked.upscaler_1.strip()
    if name.lower() not in _OWN_CHOICE:
        fields["model"] = NAMES.get(name.lower(), name)
    return fields


def _info(found: Sequence[tuple[str, str]]) -> str:
    return json.dumps([name for name, _ in found])
