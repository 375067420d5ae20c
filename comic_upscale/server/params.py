"""What a request asks of a job: presets, the fields of the API, and processing options by their names.

A request comes from a stranger. So an option counts only if it is on the list here: an option that names a file or a
program of the server is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from comic_upscale.errors import ComicUpscaleError, SettingsError
from comic_upscale.models.catalogue import FAMILIES, NAMES, PATHS_WORK, find_model
from comic_upscale.server.offered import BUILT_IN, Offered
from comic_upscale.settings.option_json import from_json, to_json, values_from_json
from comic_upscale.settings.options import Definition, as_flag, definitions, value_from_text
from comic_upscale.settings.processing import AUTO_MODEL, ProcessingSettings, SizeOptions, join_size
from comic_upscale.settings.rules import Rule

DENOISE: Mapping[str, float | None] = MappingProxyType({"none": None, "low": 0.25, "med": 0.5, "high": 1.0})

REFINE_FACES, ENGINE = "refine_faces", "engine"
"""Names beside the options in what is stored with a job. Each worker has its own weights and options for them."""

ALLOWED = frozenset(
    (
        "size", "skip_larger_than", "model", "denoise", "format", "quality", "png_level", "gray", "icc", "animated",
        "archive_output", "pdf_dpi", "gate", "strict", "crop_margins", "right_to_left", "max_volume_size",
        "levels", "neutral_paper", "rules", "tta",
    )
)  # fmt: skip
"""Processing options that a request may set."""

SIZE_FIELDS: tuple[Definition, ...] = definitions(SizeOptions)
OPTION_FIELDS: tuple[Definition, ...] = tuple(
    definition for definition in definitions(ProcessingSettings) if definition.name in ALLOWED
)
FIELDS = frozenset(
    (
        "factor",
        "preset",
        "denoise",
        REFINE_FACES,
        *(option.name for option in (*SIZE_FIELDS, *OPTION_FIELDS)),
    )
)
"""All fields of a form that describe the processing."""


class FieldError(ComicUpscaleError):
    """A field of a request has a value that is not allowed.

    Args:
        field: its name.
        message: a sentence for the user.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def read_params(fields: Mapping[str, str], offered: Offered = BUILT_IN) -> dict[str, Any]:
    """Return the processing options that form fields ask for, as JSON that `processing_settings` reads.

    Args:
        fields: of the form.
        offered: what the request may choose from.

    Raises:
        FieldError: a field is unknown, or has a value that is not allowed.
    """
    given = _given(fields)
    asked = _asked(given, offered)
    if "model" not in asked:
        asked |= model_for(asked, offered.default_model)
    params: dict[str, Any] = to_json(_settings(given, asked), ALLOWED)
    if _wants_faces(given, offered):
        params[REFINE_FACES] = True
    return params


def read_changes(fields: Mapping[str, str], offered: Offered = BUILT_IN) -> dict[str, Any]:
    """Return only the options that form fields set, also where they set a default; otherwise like `read_params`."""
    given = _given(fields)
    if _flag(given, REFINE_FACES):
        raise FieldError(REFINE_FACES, "only the preset face refines faces: leave refine_faces out")
    asked = _asked(given, offered)
    return to_json(_settings(given, asked), asked.keys())


def _given(fields: Mapping[str, str]) -> dict[str, str]:
    """Return the fields that are not empty."""
    given = {name: text for name, text in fields.items() if text.strip()}
    for name in given:
        if name in ("replace", "replace_sources"):
            raise FieldError(
                name,
                "a server replaces no originals: download the results, or run `comic-upscale run --replace`",
            )
        if name not in FIELDS:
            raise FieldError(name, f"there is no option {name}, or a request may not set it")
    return given


def model_for(options: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return what to add to options with this model, which no request has named for them.

    Few models have a denoise strength. If the options ask for one that the model lacks, ``auto`` takes its place.

    Args:
        options: by their names.
        model: of the job before, of the preset, or the default.
    """
    strength = options.get("denoise")
    if strength is None or _has_strength(model):
        return {"model": model}
    return {"model": model, "denoise": None} if strength == 0 else {"model": AUTO_MODEL}


def _asked(given: Mapping[str, str], offered: Offered) -> dict[str, Any]:
    """Return the values of the options that fields set."""
    values = _preset(given, offered)
    if "model" in given and not _keeps_strength(values, given["model"].strip()):
        values.pop("denoise", None)
    values |= _denoise(given)
    if (size := _size(given)) is not None:
        values["size"] = size
    for option in OPTION_FIELDS:
        if option.name in given and option.name not in ("size", "denoise"):
            values[option.name] = _value(option, given[option.name])
    if "denoise" in given and "model" not in given and "model" in values:
        values |= model_for(values, values["model"])
    if "rules" in values:
        field = "rules" if "rules" in given else "preset"
        values["rules"] = tuple(_rule(rule, offered, field) for rule in values["rules"])
    if "model" in values:
        values["model"] = _model(values["model"], offered, "model" if "model" in given else "preset")
    return values


def _settings(given: Mapping[str, str], values: Mapping[str, Any]) -> ProcessingSettings:
    try:
        return ProcessingSettings(**values)
    except SettingsError as error:
        raise FieldError(_culprit(str(error), given), _as_field(str(error))) from None


def processing_settings(params: Mapping[str, Any]) -> ProcessingSettings:
    """Return the settings that `read_params` made, as stored with a job.

    Raises:
        SettingsError: an earlier or later version wrote options that this version does not know.
    """
    return from_json(ProcessingSettings, {name: value for name, value in params.items() if name in ALLOWED})


def json_type(option: Definition) -> str:
    """Return the type of an option in JSON Schema; text for everything that is not a number or a flag."""
    return {int: "integer", float: "number", bool: "boolean"}.get(option.kind, "string")


def _preset(given: Mapping[str, str], offered: Offered) -> dict[str, Any]:
    name = given.get("preset", "standard").strip()
    if name not in offered.presets:
        raise FieldError("preset", f"there is no preset {name[:64]!r}: choose {', '.join(offered.presets)}")
    try:
        return values_from_json(ProcessingSettings, offered.presets[name].options)
    except SettingsError as error:
        # A later version of the server stored it.
        raise FieldError("preset", f"the preset {name} cannot be used: {_as_field(str(error))}") from None


def _keeps_strength(of_preset: Mapping[str, Any], model: str) -> bool:
    """Return whether a model that the request names keeps the strength of a preset, which is that of its own model."""
    own = of_preset.get("model")
    return _has_strength(model) if own is None else model == own


def _denoise(given: Mapping[str, str]) -> dict[str, Any]:
    text = given.get("denoise", "").strip().lower()
    if not text:
        return {}
    if text in DENOISE:
        return {"denoise": DENOISE[text]}
    try:
        return {"denoise": float(text)}
    except ValueError:
        raise FieldError(
            "denoise", f"denoise must be {', '.join(DENOISE)} or a number from 0 to 1, not {text!r}"
        ) from None


def _has_strength(model: str) -> bool:
    return model == AUTO_MODEL or (model in NAMES and find_model(model).denoise_weights is not None)


def _size(given: Mapping[str, str]) -> Any:
    if "factor" in given:
        wanted = given["factor"].strip()
        if clash := [option.name for option in SIZE_FIELDS if option.name in given] + ["size"] * (
            "size" in given
        ):
            raise FieldError("factor", f"factor and {clash[0]} exclude each other: give one of them")
        try:
            factor = float(wanted.lower().removesuffix("x"))
        except ValueError:
            raise FieldError(
                "factor", f"factor must be a number such as 2x or 2.5, not {wanted[:64]!r}"
            ) from None
        return _join({"scale": factor}, "factor")
    parts = {
        option.name: _value(option, given[option.name]) for option in SIZE_FIELDS if option.name in given
    }
    if "size" in given:
        if parts:
            raise FieldError("size", f"size and {next(iter(parts))} exclude each other: give one of them")
        return _value(next(option for option in OPTION_FIELDS if option.name == "size"), given["size"])
    return _join(parts, next(iter(parts))) if parts else None


def _join(parts: Mapping[str, Any], field: str) -> Any:
    try:
        return join_size(parts)
    except SettingsError as error:
        raise FieldError(
            field, _as_field(str(error)).replace("scale", field, 1 if field == "factor" else 0)
        ) from None


def _value(option: Definition, text: str) -> Any:
    try:
        value = value_from_text(option, text)
        problem = option.problem(value)
    except SettingsError as error:
        raise FieldError(option.name, _as_field(str(error))) from None
    if problem is not None:
        raise FieldError(option.name, f"{option.name} {problem}, not {text!r}{option.similar(text)}")
    return value


def _flag(given: Mapping[str, str], name: str) -> bool:
    text = given.get(name, "false").strip().lower()
    if text not in ("true", "false", "1", "0", "yes", "no", "on", "off"):
        raise FieldError(name, f"{name} must be true or false, not {text!r}")
    return text in ("true", "1", "yes", "on")


def _wants_faces(given: Mapping[str, str], offered: Offered) -> bool:
    """Return whether faces are refined: if the request says so, or by the preset ``face`` if it says nothing."""
    if REFINE_FACES not in given:
        return offered.refines_faces and given.get("preset", "").strip() == "face"
    if not _flag(given, REFINE_FACES):
        return False
    if not offered.refines_faces:
        raise FieldError(REFINE_FACES, "this server cannot refine faces: leave refine_faces out")
    return True


def _model(name: str, offered: Offered, field: str) -> str:
    """Return the official name of a model. A path is refused: it would open a file of the server."""
    name = name.strip()
    if name == AUTO_MODEL:
        return AUTO_MODEL
    networks = FAMILIES.get(name)
    if networks is None and name not in offered.models:
        try:
            name = find_model(name).name
        except ComicUpscaleError as error:
            message = str(error).removesuffix(f". {PATHS_WORK}")
            if own := [each for each, model in offered.models.items() if model.storage_key]:
                message = f"{message}. This server also has {', '.join(own)}"
            raise FieldError(field, message) from None
    # A job decides which network of a family it uses, so none of them may be withdrawn.
    if any(map(offered.is_demoted, [name, *(network.name for network in networks or ())])):
        raise FieldError(field, f"the model {name} has been withdrawn: choose another one, or leave it out")
    return name


def _rule(rule: Rule, offered: Offered, field: str) -> Rule:
    """Return a rule with the official name of its model, which must be one of the catalogue."""
    name = rule.changes.get("model")
    if name is None:
        return rule
    name = _model(str(name), offered, field)
    if name == AUTO_MODEL or (name in offered.models and offered.models[name].storage_key):
        raise FieldError(field, f"a rule cannot use the model {name}: choose one of the package's catalogue")
    return rule.changed(model=name)


def _culprit(message: str, given: Mapping[str, str]) -> str:
    """Return the field that a message about contradicting options names first."""
    places = {name: message.find(as_flag(name)) for name in given}
    named = {name: place for name, place in places.items() if place >= 0}
    return min(named, key=lambda name: named[name]) if named else next(iter(given), "file")


def _as_field(message: str) -> str:
    """Return a message that names fields of a form in place of options of the command line."""
    # The longest first: --fit is the beginning of --fit-device.
    for option in sorted((*SIZE_FIELDS, *OPTION_FIELDS), key=lambda option: len(option.flag), reverse=True):
        message = message.replace(option.flag, option.name)
    return message
