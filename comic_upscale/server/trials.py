"""Trials: one page, upscaled by several models, to choose one of them. A trial is a job with a list of models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comic_upscale.server.offered import Offered
from comic_upscale.server.params import FieldError, read_params
from comic_upscale.settings.processing import AUTO_MODEL

MODELS = "try_models"
"""The parameter of a job that makes it a trial: names of models. Its other parameters are processing options."""
FEWEST, MOST = 2, 4
"""Models of a trial."""


def read_trial(fields: Mapping[str, str], offered: Offered) -> dict[str, Any]:
    """Return the parameters of a trial that form fields ask for.

    Args:
        fields: those of an upload, and ``models``, names with commas between them, in place of ``model``.
        offered: what the request may choose from.

    Raises:
        FieldError: a field is wrong.
    """
    options = {name: text for name, text in fields.items() if name != "models"}
    if "model" in options:
        raise FieldError("model", "a trial has several models: name them in the field models")
    names = list(dict.fromkeys(name.strip() for name in fields.get("models", "").split(",") if name.strip()))
    if not FEWEST <= len(names) <= MOST:
        raise FieldError("models", f"a trial has {FEWEST} to {MOST} different models, not {len(names)}")
    if AUTO_MODEL in names:
        raise FieldError("models", f"{AUTO_MODEL} stands for one of the models: name the models themselves")
    models = []
    for name in names:
        try:
            models.append(str(read_params({**options, "model": name}, offered)["model"]))
        except FieldError as error:
            raise FieldError("models" if error.field == "model" else error.field, str(error)) from None
    return {**read_params(options, offered), "model": models[0], MODELS: models}


def models_of(row: Mapping[str, Any]) -> list[str]:
    """Return the models of a trial; an empty list for any other job."""
    found = row["params"].get(MODELS)
    return [str(name) for name in found] if isinstance(found, list) else []
