"""What a worker adds to the options of a job by its own settings: weights for faces, and engines besides its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comic_upscale.errors import SettingsError
from comic_upscale.server.params import ENGINE, REFINE_FACES
from comic_upscale.server.settings import ServerSettings
from comic_upscale.settings.engines import parse_engine_options
from comic_upscale.settings.processing import AUTO_MODEL


def extra_values(params: Mapping[str, Any], settings: ServerSettings) -> dict[str, Any]:
    """Return options for `JobSettings`.

    Args:
        params: stored with the job.
        settings: of the worker.

    Raises:
        SettingsError: the worker lacks what the job asks for.
    """
    values: dict[str, Any] = {}
    if params.get(REFINE_FACES):
        if settings.face_model is None:
            raise SettingsError("this worker has no weights for faces: start it with --face-model FILE")
        values["face_model"] = settings.face_model
    engine = params.get(ENGINE)
    if engine is None:
        return values
    options = {"flux": settings.flux_options, "imagen": settings.imagen_options}.get(str(engine), ())
    if not options:
        raise SettingsError(
            f"this worker does not have the engine {engine}: start it with --{engine}-option NAME=VALUE"
        )
    values |= {
        "backend": engine,
        "engine_options": parse_engine_options(options),
        "model": AUTO_MODEL,
        "rules": (),
    }
    values["denoise"] = None
    if engine == "imagen":
        values["max_cost"] = settings.imagen_max_cost
    return values
