"""What a request may choose from: models, presets and options."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from comic_upscale.models.catalogue import CATALOGUE
from comic_upscale.server.api.access import CurrentAccount, require
from comic_upscale.server.api.errors import documented
from comic_upscale.server.params import DENOISE, OPTION_FIELDS, PRESETS, SIZE_FIELDS, json_type
from comic_upscale.settings.options import Definition
from comic_upscale.settings.processing import AUTO_MODEL

router = APIRouter(prefix="/api/v1", tags=["catalogue"], responses=documented(401, 403, 429))


@router.get("/models", summary="List models")
async def list_models(account: CurrentAccount) -> dict[str, Any]:
    """Return the models that the field ``model`` takes, besides ``auto``."""
    require(account, "jobs:read")
    return {
        "default": AUTO_MODEL,
        "models": [
            {
                "name": model.name, "native_scale": model.native_scale, "purpose": model.purpose,
                "licence": model.licence, "sha256": model.weights.sha256,
                "has_denoise": model.denoise_weights is not None,
            }
            for model in CATALOGUE.values()
        ],
    }  # fmt: skip


@router.get("/presets", summary="List presets")
async def list_presets(account: CurrentAccount) -> dict[str, Any]:
    """Return the presets, with the options that each one sets, and the denoise strengths by name."""
    require(account, "jobs:read")
    presets = [{"name": name, "options": dict(options)} for name, options in PRESETS.items()]
    return {"presets": presets, "denoise": dict(DENOISE)}


@router.get("/options", summary="List options")
async def list_options(account: CurrentAccount) -> dict[str, Any]:
    """Return the processing options that an upload may set."""
    require(account, "jobs:read")
    return {"options": [_option_json(option) for option in (*SIZE_FIELDS, *OPTION_FIELDS)]}


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
