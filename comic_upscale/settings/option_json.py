"""Options as JSON, in both directions, and messages that name options as for a program.

``to_json`` and ``from_json`` are derived from the definitions in ``settings/options.py``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from comic_upscale.errors import SettingsError
from comic_upscale.settings.options import (
    KIND_WORDS,
    SEVERAL_WORDS,
    Definition,
    Options,
    T,
    as_flag,
    as_json_value,
    definitions,
    shown,
)
from comic_upscale.settings.sizes import as_float


def to_json(options: Options, names: Collection[str] | None = None) -> dict[str, Any]:
    """Return options as a record for JSON, by their names.

    Args:
        options: the options.
        names: names of the options to include; None for all.
    """
    return {
        definition.name: as_json_value(definition, getattr(options, definition.name))
        for definition in definitions(type(options))
        if names is None or definition.name in names
    }


def from_json(options: type[T], record: Mapping[str, Any]) -> T:
    """Make options from a record. Options missing from the record get their defaults.

    Raises:
        SettingsError: a key is unknown, a required key is missing, or a value is not allowed. The message names
            options as for a program.
    """
    values = values_from_json(options, record)
    for definition in definitions(options):
        if definition.is_required and definition.name not in values:
            raise SettingsError(f"{definition.key} is missing")
    try:
        return options(**values)
    except SettingsError as error:
        raise SettingsError(in_program_words(str(error), options)) from None


def values_from_json(options: type[Options], record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a record by option name, as arguments for the options class.

    Raises:
        SettingsError: a key is unknown, or a value has the wrong type. The message names options as for a program.
    """
    known = {definition.name: definition for definition in definitions(options)}
    for name in record:
        if name not in known:
            raise SettingsError(f"there is no option {name!r}{_similar(name, known, options)}")
    values = {name: _read(known[name], value, options) for name, value in record.items()}
    for name, value in values.items():
        if (problem := known[name].problem(value)) is not None:
            raise SettingsError(
                f"{known[name].key} {problem}, not {shown(value)}{known[name].similar(value)}"
            )
    return values


def _read(definition: Definition, value: Any, options: type[Options]) -> Any:
    if value is None:
        if definition.nullable:
            return None
        raise SettingsError(f"{definition.key} must not be null")
    reader = definition.opt.parse if isinstance(value, str) else definition.opt.read
    if reader is not None:
        try:
            return reader(value)
        except SettingsError as error:
            raise SettingsError(in_program_words(str(error), options)) from None
    if definition.item_kind is not None and isinstance(value, list):
        return tuple(_plain(definition, definition.item_kind, item) for item in value)
    return _plain(definition, type(definition.choices[0]) if definition.choices else definition.kind, value)


def _plain(definition: Definition, kind: Any, value: Any) -> Any:
    """Return a JSON value as a simple type. A whole number is accepted as a number."""
    if kind is float and (number := as_float(value)) is not None:
        return number
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    if kind is str and definition.choices and isinstance(value, str):
        return definition.choice(value)
    if kind in (bool, int, str) and type(value) is kind:
        return value
    several = f"a list of {SEVERAL_WORDS.get(definition.item_kind, 'values')}"
    wanted = KIND_WORDS.get(kind, "text" if definition.opt.parse is not None else several)
    raise SettingsError(f"{definition.key} must be {wanted}, not {value!r}")


def _similar(name: str, known: Collection[str], options: type[Options]) -> str:
    import difflib

    # The name of a flag is often not the name in JSON: --engine is processing.backend.
    flag = _owners(options).get(as_flag(name))
    found = [flag] if flag is not None else difflib.get_close_matches(name, known, 1)
    return f": did you mean {found[0]!r}?" if found else ""


def in_program_words(message: str, options: type[Options], only: Collection[str] | None = None) -> str:
    """Return a message that names options as for a program: ``processing.pdf_dpi`` instead of ``--pdf-dpi``.

    Args:
        message: the message.
        options: the options that it may name.
        only: names of the options to rename; None for all.
    """
    names, owners = _program_names(options), _owners(options)

    def rename(match: re.Match[str]) -> str:
        known = match[0] in names and (only is None or owners[match[0]] in only)
        return names[match[0]] if known else match[0]

    return re.sub(r"--[a-z][a-z0-9-]*", rename, message)


@cache
def _program_names(options: type[Options]) -> Mapping[str, str]:
    names: dict[str, str] = {}
    for definition in definitions(options):
        for flag in definition.flags:
            names[flag] = f"{definition.key} = false" if flag in definition.off_flags else definition.key
        for part in definition.parts:
            names[part.flag] = f"{definition.key} ({part.name.replace('_', ' ')})"
    return names


@cache
def _owners(options: type[Options]) -> Mapping[str, str]:
    """Return the option that each flag belongs to; a part of an option belongs to the option."""
    return {
        flag: definition.name
        for definition in definitions(options)
        for each in (definition, *definition.parts)
        for flag in each.flags
    }
