"""An engine's own options: a dataclass of the kind that `settings/options.py` describes, given as names and texts.

::

    @dataclass(frozen=True, slots=True, kw_only=True)
    class MyOptions:
        strength: Annotated[float, Ge(0), Opt("How much.", fingerprint="if-changed")] = 0.5
        threads: Annotated[int | None, Ge(1), Opt("Threads to compute with.", default_text="auto")] = None

A field is a ``str``, ``int``, ``float``, ``bool``, ``Path`` or ``Literal``, or has a ``parse``. It may also be None,
which is given as ``auto``.
An option that decides pixels has a ``fingerprint`` rule, so that a job with another value is another job.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comic_upscale.errors import SettingsError
from comic_upscale.settings.engines import EngineOptions
from comic_upscale.settings.options import Definition, definitions
from comic_upscale.settings.paths import path_text
from comic_upscale.settings.sizes import number_text

_WORDS = {
    "true": True, "yes": True, "on": True, "1": True,
    "false": False, "no": False, "off": False, "0": False,
}  # fmt: skip
_KINDS: Mapping[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", Path: "a path"}


@dataclass(frozen=True, slots=True)
class OptionHelp:
    """The description of an option."""

    name: str
    """The name for ``--engine-option``."""
    values: str
    """The allowed values: ``"a number, at least 1"``, ``"fast|exact"``."""
    default: str
    """The default; empty for a required option."""
    help: str
    """The effect of the option."""


def read_options(kind: type, given: EngineOptions, engine: str) -> Any:
    """Return an instance of an engine's options.

    Args:
        kind: the dataclass.
        given: the options in the settings.
        engine: the engine's name, for messages.

    Raises:
        SettingsError: the engine has no such option, a value is not allowed, or a required option is missing.
    """
    known = {each.name: each for each in definitions(kind)}
    values = {}
    for name, text in given:
        if name not in known:
            raise SettingsError(_unknown(name, engine, list(known)))
        values[name] = _read(known[name], text, engine)
    for name, definition in known.items():
        if name not in values and definition.is_required:
            raise SettingsError(f"--engine {engine} needs --engine-option {name}=...: {definition.opt.help}")
    return kind(**values)


def pixel_options(options: Any) -> EngineOptions:
    """Return the options that belong to a job's fingerprint, by their rules, in order of their names."""
    kind: type = type(options)
    parts = []
    for each in definitions(kind):
        value, rule = getattr(options, each.name), each.opt.fingerprint
        if rule == "always" or (rule == "if-changed" and value != each.default):
            parts.append((each.name, _exactly(each, value)))
    return tuple(sorted(parts))


def describe_options(kind: type) -> list[OptionHelp]:
    """Return the options of a dataclass in words, in their order."""
    return [
        OptionHelp(
            name=each.name,
            values=_values(each),
            default="" if each.is_required else _in_words(each.default) or "empty",
            help=each.opt.help,
        )
        for each in definitions(kind)
    ]


def _read(definition: Definition, text: str, engine: str) -> Any:
    if definition.nullable and text.strip().lower() == "auto":
        return None
    try:
        value = _convert(definition, text)
        problem = definition.problem(value)
    except ValueError:
        problem = f"must be {_values(definition)}"
    if problem is not None:
        raise SettingsError(
            f"--engine-option {definition.name} of the engine {engine} {problem}, not {text!r}"
            f"{definition.similar(text)}"
        )
    return value


def _convert(definition: Definition, text: str) -> Any:
    """Convert a text to the option's type; ValueError if it is not valid."""
    if definition.opt.parse is not None:
        return definition.opt.parse(text)
    if definition.item_kind is not None:
        raise TypeError(f"an engine's option has one value: {definition.name} needs a parse")
    if definition.choices:
        return definition.choice(text)
    if definition.kind is Path:
        return Path(text)
    if definition.kind is bool:
        if text.strip().lower() not in _WORDS:
            raise ValueError(text)
        return _WORDS[text.strip().lower()]
    if definition.kind is int:
        return int(text)
    if definition.kind is float:
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(text)
        return number
    return text


def _values(definition: Definition) -> str:
    auto = "auto, or " if definition.nullable else ""
    if definition.choices:
        return auto + "|".join(definition.choice_texts)
    bounds = f", {definition.range}" if definition.range else ""
    return f"{auto}{_KINDS.get(definition.kind, 'text')}{bounds}"


def _exactly(definition: Definition, value: object) -> str:
    """Return a value as text for the fingerprint: two values that differ are two texts."""
    if definition.opt.write is not None and value is not None:
        return str(definition.opt.write(value))
    return number_text(value) if isinstance(value, float) else _in_words(value)


def _in_words(value: object) -> str:
    if value is None:
        return "auto"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Path):
        return path_text(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _unknown(name: str, engine: str, known: list[str]) -> str:
    similar = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {similar[0]}?" if similar else ""
    has = f"it has {', '.join(known)}" if known else "it has none"
    return f"the engine {engine} has no option {name!r}: {has}.{hint}"
