"""Administration of what requests may choose from: presets and models."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import Path, Request
from pydantic import BaseModel, Field
from sqlalchemy.engine import Connection

from comic_upscale.server import audit, offered
from comic_upscale.server.api.access import AdminAccount, Server
from comic_upscale.server.api.catalogue import models_json, presets_json
from comic_upscale.server.api.errors import ApiError, documented, not_found
from comic_upscale.server.api.routing import api_router
from comic_upscale.server.ids import new_id
from comic_upscale.server.jobs import discard_files
from comic_upscale.server.multipart import Limits, UploadReader
from comic_upscale.server.params import FieldError, read_changes

router = api_router(
    prefix="/api/v1/admin", tags=["administration"], responses=documented(400, 401, 403, 404, 429)
)

MOST_MODEL_BYTES = 2 << 30
"""Bytes of the weights of a model."""
_WEIGHTS = (".safetensors", ".pth")

Name = Annotated[str, Path(max_length=64)]


class NewPreset(BaseModel):
    """A preset of this server."""

    description: Annotated[str, Field(max_length=500)] = ""
    options: Annotated[
        dict[str, str],
        Field(
            max_length=50, description="Fields of an upload.", examples=[{"denoise": "low", "format": "webp"}]
        ),
    ]


class NewNote(BaseModel):
    """A note on a model."""

    note: Annotated[str, Field(max_length=500, examples=["Best for old scans."])]


@router.get("/presets", summary="List presets")
async def list_presets(services: Server, admin: AdminAccount) -> dict[str, Any]:
    """Return the presets of the server, built-in ones first."""
    return presets_json(services.live.offered)


@router.put("/presets/{name}", summary="Create or change a preset")
async def put_preset(services: Server, admin: AdminAccount, name: Name, new: NewPreset) -> dict[str, Any]:
    """Create a preset of this server, or replace it. Its options are checked like those of an upload."""
    if "preset" in new.options:
        raise FieldError("options", "a preset cannot name another preset: give its options")
    options = read_changes(new.options, services.live.offered)

    def write(connection: Connection) -> None:
        offered.set_preset(connection, name, new.description, options)
        audit.record(connection, admin, "preset.set", name, options=options)

    await services.database.write_async(write)
    await services.live.refresh(now=True)
    return presets_json(services.live.offered)


@router.delete("/presets/{name}", status_code=204, summary="Delete a preset")
async def delete_preset(services: Server, admin: AdminAccount, name: Name) -> None:
    """Delete a preset of this server. Jobs that were created with it keep their options."""

    def write(connection: Connection) -> bool:
        found = offered.delete_preset(connection, name)
        if found:
            audit.record(connection, admin, "preset.delete", name)
        return found

    if not await services.database.write_async(write):
        raise not_found("preset of this server")
    await services.live.refresh(now=True)


@router.get("/models", summary="List models, also withdrawn ones")
async def list_models(services: Server, admin: AdminAccount) -> dict[str, Any]:
    """Return the models of the catalogue and the registered ones."""
    return models_json(services.live.offered, everything=True)


@router.post(
    "/models",
    status_code=201,
    summary="Register a model",
    max_body_size=1 << 62,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["file", "name"],
                        "properties": {
                            "file": {"type": "string", "format": "binary", "description": "Weights."},
                            "name": {"type": "string", "pattern": f"^{offered.NAME}$"},
                            "sha256": {"type": "string", "description": "Refuse a file with another hash."},
                        },
                    }
                }
            },
        }
    },
    responses=documented(413, 415, 507),
)
async def register_model(request: Request, services: Server, admin: AdminAccount) -> dict[str, Any]:
    """Store the weights of a model under a name, and record their hash. Requests may then choose it.

    A child process loads the file first, tensors alone: weights never run code. What is no network is refused.
    """
    model_id = new_id()
    limits = Limits(
        max_bytes=MOST_MODEL_BYTES, max_files=1, accept=lambda name: name.lower().endswith(_WEIGHTS)
    )
    reader = UploadReader(services.files, lambda _number: f"models/{model_id}", limits)
    received = await reader.read(request.headers.get("content-type", ""), request.stream())
    stored = [file.file for file in received.files]
    try:
        if not stored:
            raise FieldError("file", "the form has no file: send the weights in the field file")
        name, wanted = received.fields.get("name", "").strip(), received.fields.get("sha256", "").strip()
        file = stored[0]
        if wanted and wanted.lower() != file.sha256:
            raise FieldError("sha256", f"the file has another hash: {file.sha256}")
        # A name that cannot be used is said before the check, which takes seconds.
        await services.database.read_async(lambda connection: offered.check_new_model(connection, name))
        checked = None
        if services.weights_check is not None:
            checked = await services.weights_check.check(services.files, file.key)

        def write(connection: Connection) -> None:
            offered.register_model(connection, name, file.sha256, file.key)
            audit.record(connection, admin, "model.register", name, sha256=file.sha256)

        await services.database.write_async(write)
    except Exception:
        await asyncio.to_thread(discard_files, services.database, services.files, stored)
        raise
    await services.live.refresh(now=True)
    return {
        "name": name,
        "sha256": file.sha256,
        "size": file.size,
        "architecture": None if checked is None else checked.architecture,
        "native_scale": None if checked is None else checked.native_scale,
    }


@router.post(
    "/models/{name}/{action}", summary="Make a model the default, or withdraw it", responses=documented(409)
)
async def change_model(
    services: Server, admin: AdminAccount, name: Name, action: Literal["default", "demote", "promote"]
) -> dict[str, Any]:
    """``default``: requests without a model get it (``auto`` ends that). ``demote``: requests may not choose it.

    Jobs of a demoted model stay as they are: ``POST /api/v1/admin/requeue`` runs them again.
    """

    def write(connection: Connection) -> bool:
        found = (
            offered.make_default(connection, name)
            if action == "default"
            else offered.demote(connection, name, is_demoted=action == "demote")
        )
        if found:
            audit.record(connection, admin, f"model.{action}", name)
        return found

    if not await services.database.write_async(write):
        raise not_found("model")
    await services.live.refresh(now=True)
    return models_json(services.live.offered, everything=True)


@router.put("/models/{name}/note", summary="Set the note on a model")
async def put_note(services: Server, admin: AdminAccount, name: Name, new: NewNote) -> dict[str, Any]:
    """Set the text that everybody sees where a model is chosen, such as what it is good at. An empty one removes it."""

    def write(connection: Connection) -> bool:
        found = offered.set_note(connection, name, new.note)
        if found:
            audit.record(connection, admin, "model.note", name, note=new.note)
        return found

    if not await services.database.write_async(write):
        raise not_found("model")
    await services.live.refresh(now=True)
    return models_json(services.live.offered, everything=True)


@router.delete(
    "/models/{name}", status_code=204, summary="Delete a registered model", responses=documented(409)
)
async def delete_model(services: Server, admin: AdminAccount, name: Name) -> None:
    """Delete a model that was registered here, with its weights."""
    model = services.live.offered.models.get(name)
    if model is not None and model.is_default:
        raise ApiError(409, "default", "This model is the default: make another one the default first.")

    def write(connection: Connection) -> str | None:
        key = offered.delete_model(connection, name)
        if key is not None:
            audit.record(connection, admin, "model.delete", name)
        return key

    key = await services.database.write_async(write)
    if key is None:
        raise not_found("registered model")
    await asyncio.to_thread(services.files.delete, key)
    await services.live.refresh(now=True)
