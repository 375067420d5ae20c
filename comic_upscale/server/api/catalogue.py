"""What a request may choose from: models, presets, engines and options; and what a job would take and cost."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Annotated, Any

from pydantic import BaseModel, Field

from comic_upscale.errors import ComicUpscaleError, SettingsError
from comic_upscale.models.catalogue import CATALOGUE, NAMES
from comic_upscale.server.api.access import CurrentAccount, Server, require
from comic_upscale.server.api.errors import ApiError, documented
from comic_upscale.server.api.routing import api_router
from comic_upscale.server.engines import EngineList
from comic_upscale.server.offered import Offered
from comic_upscale.server.params import (
    DENOISE,
    OPTION_FIELDS,
    SIZE_FIELDS,
    FieldError,
    json_type,
    processing_settings,
    read_params,
)
from comic_upscale.server.quotes import count_work, pixels_per_second, quote
from comic_upscale.settings.options import Definition
from comic_upscale.settings.processing import AUTO_MODEL

router = api_router(prefix="/api/v1", tags=["catalogue"], responses=documented(401, 403, 429))

_engines = EngineList()


class PagesOfASize(BaseModel):
    """Some pages of one size."""

    width: Annotated[int, Field(ge=1, le=65_535, examples=[512])]
    height: Annotated[int, Field(ge=1, le=65_535, examples=[768])]
    count: Annotated[int, Field(ge=1, le=10_000_000, examples=[36])] = 1
    bytes: Annotated[
        int | None, Field(ge=0, le=1 << 32, description="Of each file. Default: those of a PNG.")
    ] = None


class EstimateRequest(BaseModel):
    """A job that is not there yet."""

    pages: Annotated[list[PagesOfASize], Field(min_length=1, max_length=1000)]
    options: Annotated[
        dict[str, str], Field(max_length=50, description="Fields of an upload.", examples=[{"factor": "2x"}])
    ] = {}
    gpus: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=100)]],
        Field(max_length=20, description="GPUs to quote. Default: every GPU with a price."),
    ] = []
    price: Annotated[
        float | None, Field(ge=0, le=1e6, allow_inf_nan=False, description="Dollars an hour.")
    ] = None
    link_mbps: Annotated[float | None, Field(gt=0, le=1e6, allow_inf_nan=False)] = None


@router.get("/models", summary="List models")
async def list_models(services: Server, account: CurrentAccount) -> dict[str, Any]:
    """Return the models that the field ``model`` takes, besides ``auto``."""
    require(account, "jobs:read")
    return models_json(services.live.offered)


@router.get("/presets", summary="List presets")
async def list_presets(services: Server, account: CurrentAccount) -> dict[str, Any]:
    """Return the presets, with the options that each one sets, and the denoise strengths by name."""
    require(account, "jobs:read")
    return presets_json(services.live.offered)


@router.get("/engines", summary="List engines", responses=documented(503))
async def list_engines(account: CurrentAccount) -> dict[str, Any]:
    """Return the engines that are installed beside the server, with their options.

    Jobs of the server use the engine of its worker; the options of an engine are those of the command line.
    """
    require(account, "jobs:read")
    found = await _engines.get()
    if found is None:
        raise ApiError(
            503, "unavailable", "The engines cannot be listed now: try again later.",
            headers={"Retry-After": "30"},
        )  # fmt: skip
    return {"default": "torch", "engines": found}


@router.get("/options", summary="List options")
async def list_options(account: CurrentAccount) -> dict[str, Any]:
    """Return the processing options that an upload may set."""
    require(account, "jobs:read")
    return {"options": [_option_json(option) for option in (*SIZE_FIELDS, *OPTION_FIELDS)]}


@router.post("/estimates", summary="Estimate time, cost and bytes of a job", responses=documented(400))
async def estimate(services: Server, account: CurrentAccount, asked: EstimateRequest) -> dict[str, Any]:
    """Return what a job would take, before anything is sent: on this server, and on machines with a price.

    ``seconds`` is the time on this server without the jobs before it, from the jobs that it has done; null before
    the first one. ``cost`` is in dollars, by the price of the server; null without one. ``quotes`` come from the
    arithmetic of ``comic-upscale cost``.
    """
    require(account, "jobs:read")
    params = read_params(asked.options, services.live.offered)
    processing = processing_settings(params)
    pages = [page.model_dump() for page in asked.pages]
    try:
        work = await asyncio.to_thread(count_work, pages, processing)
    except SettingsError as error:
        raise FieldError("pages", str(error)) from None
    quotes: list[dict[str, Any]] = []
    # Nothing is known about the arithmetic of a model of the user's own.
    if work.pages and (processing.model == AUTO_MODEL or processing.model in NAMES):
        try:
            quotes = await asyncio.to_thread(
                quote, work, processing, gpus=asked.gpus, price=asked.price, link_mbps=asked.link_mbps,
                quoting=services.quoting,
            )  # fmt: skip
        except SettingsError as error:
            from comic_upscale.estimates.quotes import PRICE_OPTIONS

            raise FieldError("gpus", str(error).replace(PRICE_OPTIONS, "price")) from None
        except ComicUpscaleError as error:
            raise FieldError("options", str(error)) from None
    rate = await services.database.read_async(
        lambda connection: pixels_per_second(connection, processing.model)
    )
    seconds = None if rate is None else work.output_pixels / rate
    price = services.settings.price
    return {
        "pages": work.pages,
        "skipped": sum(page["count"] for page in pages) - work.pages,
        "output_pixels": work.output_pixels,
        "output_bytes": dataclasses.asdict(work.download_bytes),
        "seconds": None if seconds is None else round(seconds, 1),
        "cost": round(seconds * price / 3600, 4) if seconds is not None and price else None,
        "params": params,
        "work": dataclasses.asdict(work),
        "quotes": quotes,
    }


def models_json(offered: Offered, *, everything: bool = False) -> dict[str, Any]:
    """Return the models as JSON.

    Args:
        offered: what requests may choose from.
        everything: also withdrawn models.
    """
    shown: list[dict[str, Any]] = [
        {
            "name": model.name, "native_scale": model.native_scale, "purpose": model.purpose,
            "licence": model.licence, "sha256": model.weights.sha256,
            "has_denoise": model.denoise_weights is not None, "is_own": False,
        }
        for model in CATALOGUE.values()
    ]  # fmt: skip
    shown += [
        {
            "name": model.name, "native_scale": None, "purpose": "registered on this server", "licence": None,
            "sha256": model.sha256, "has_denoise": False, "is_own": True,
        }
        for model in offered.models.values()
        if model.storage_key is not None
    ]  # fmt: skip
    for model in shown:
        registered = offered.models.get(model["name"])
        model["note"] = "" if registered is None else registered.note
        model["is_default"] = model["name"] == offered.default_model
        model["is_demoted"] = offered.is_demoted(model["name"])
    visible = [model for model in shown if everything or not model["is_demoted"]]
    return {"default": offered.default_model, "models": visible}


def presets_json(offered: Offered) -> dict[str, Any]:
    """Return the presets as JSON."""
    presets = [
        {
            "name": name, "description": preset.description, "options": dict(preset.options),
            "is_own": preset.is_own,
        }
        for name, preset in offered.presets.items()
    ]  # fmt: skip
    return {"presets": presets, "denoise": dict(DENOISE)}


def _option_json(option: Definition) -> dict[str, Any]:
    plain = isinstance(option.default, str | int | float | bool)
    return {
        "name": option.name,
        "type": json_type(option),
        "choices": list(option.choices),
        "range": option.range,
        "default": option.default if plain else option.opt.default_text,
        "help": option.opt.help,
    }
