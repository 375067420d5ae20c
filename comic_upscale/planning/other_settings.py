"""Why finished outputs are made again: they were made with other settings."""

from __future__ import annotations

import contextlib
from typing import Any

from comic_upscale.errors import SettingsError
from comic_upscale.settings.job import LEGACY_PARTS, JobSettings
from comic_upscale.settings.options import Definition, definitions, fingerprint_parts, shown


def describe_other_settings(settings: JobSettings, model: str, other_model: str, other_settings: str) -> str:
    """Return how outputs were made where it differs: ``made with model comic-compact-x3, size scale 2``.

    Args:
        settings: of the job that makes them again.
        model: its model.
        other_model: the model of the job that made them.
        other_settings: its settings as JSON.
    """
    differences = [] if other_model == model else [f"model {other_model}"]
    with contextlib.suppress(SettingsError):
        other = JobSettings.from_json(other_settings)
        mine, theirs = fingerprint_parts(settings, LEGACY_PARTS), fingerprint_parts(other, LEGACY_PARTS)
        if any(mine.get(key) != theirs.get(key) for key in ("scale", "size")):
            differences.append(str(other.size))
        for definition in definitions(JobSettings):
            name = definition.name
            if name != "size" and mine.get(name) != theirs.get(name):
                differences.append(_words(definition, getattr(other, name)))
    return f"made with {', '.join(differences) or 'other settings'}"


def _words(definition: Definition, value: Any) -> str:
    if definition.name == "rules":
        return "other rules" if value else "no rules"
    if value is None and definition.opt.default_text is not None:
        return f"{definition.flag} {definition.opt.default_text}"
    return f"{definition.flag} {shown(value)}"
