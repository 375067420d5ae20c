"""An engine's own options: a frozen dataclass, from which reading, checking and help are derived.

::

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        threads: Annotated[int | None, Option("Threads to compute with.", least=1, decides_pixels=False)] = None

A field is a ``str``, ``int``, ``float``, ``bool`` or ``Literal``, or one of them or None; ``auto`` reads as None.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import MISSING, Field, dataclass, fields
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from comic_upscale.errors import SettingsError
from comic_upscale.settings.engines import EngineOptions

_WORDS = {
    "true": True, "yes": True, "on": True, "1": True,
    "false": False, "no": False, "off": False, "0": False,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Option:
    """What must be known of an option besides its type."""

    help: str
    """A sentence for users."""
    least: float | None = None
    """The smallest number that it may be; None for no bound."""
    most: float | None = None
    """The largest number that it may be; None for no bound."""
    decides_pixels: bool = True
    """Whether another value makes other pixels: then it is part of a job's fingerprint where it is not the default."""


@dataclass(frozen=True, slots=True)
class OptionHelp:
    """An option in words."""

    name: str
    """As ``--engine-option`` takes it."""
    values: str
    """What it may be: ``"a number, 1 or more"``, ``"fast|exact"``."""
    default: str
    """What it is where it is left out; empty for one that must be given."""
    help: str
    """What it does."""


@dataclass(frozen=True, slots=True)
class _Definition:
    """A field of an options class, taken apart."""

    field: Field[Any]
    type: Any
    """Without None: ``int``, ``float``, ``bool``, ``str`` or a ``Literal``."""
    may_be_none: bool
    option: Option

    @property
    def default(self) -> Any:
        return MISSING if self.field.default is MISSING else self.field.default


def read_options(kind: type, given: EngineOptions, engine: str) -> Any:
    """Return an instance of an engine's options.

    Args:
        kind: the options class.
        given: as the settings hold them.
        engine: the engine's name, for messages.

    Raises:
        SettingsError: an option that the engine does not have, a value that it cannot have, or one that is missing.
    """
    known = {each.field.name: each for each in _definitions(kind)}
    values = {}
    for name, text in given:
        if name not in known:
            raise SettingsError(_unknown(name, engine, list(known)))
        values[name] = _read(known[name], text, engine)
    for name, definition in known.items():
        if name not in values and definition.default is MISSING:
            raise SettingsError(
                f"--engine {engine} needs --engine-option {name}=...: {definition.option.help}"
            )
    return kind(**values)


def pixel_options(options: Any) -> EngineOptions:
    """Return the options that decide pixels and are not at their defaults, in order of their names."""
    changed = (
        (each.field.name, getattr(options, each.field.name))
        for each in _definitions(type(options))
        if each.option.decides_pixels and getattr(options, each.field.name) != each.default
    )
    return tuple(sorted((name, _in_words(value)) for name, value in changed))


def describe_options(kind: type) -> list[OptionHelp]:
    """Return the options of an options class in words, in their order."""
    return [
        OptionHelp(
            name=each.field.name,
            values=_values(each),
            default="" if each.default is MISSING else _in_words(each.default),
            help=each.option.help,
        )
        for each in _definitions(kind)
    ]


def _definitions(kind: type) -> list[_Definition]:
    hints = get_type_hints(kind, include_extras=True)
    found = []
    for item in fields(kind):
        hint, option = hints[item.name], Option("")
        if get_origin(hint) is Annotated:
            hint, *more = get_args(hint)
            option = next((each for each in more if isinstance(each, Option)), option)
        plain = [part for part in get_args(hint) if part is not NoneType] if _is_union(hint) else [hint]
        if len(plain) != 1:
            raise TypeError(f"the option {item.name} of {kind.__name__} may be of one type or None")
        found.append(
            _Definition(item, plain[0], len(plain) < len(get_args(hint)) and _is_union(hint), option)
        )
    return found


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)


def _read(definition: _Definition, text: str, engine: str) -> Any:
    if definition.may_be_none and text.strip().lower() == "auto":
        return None
    try:
        value = _convert(definition.type, text)
    except ValueError:
        value = None
    bounds = definition.option
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    too_small = is_number and bounds.least is not None and value < bounds.least
    too_large = is_number and bounds.most is not None and value > bounds.most
    if value is None or too_small or too_large:
        raise SettingsError(
            f"--engine-option {definition.field.name} of the engine {engine} must be {_values(definition)}, "
            f"not {text!r}"
        )
    return value


def _convert(kind: Any, text: str) -> Any:
    """Return a text as a type; ValueError where it is none of it."""
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise ValueError(text)
        return text
    if kind is bool:
        if text.strip().lower() not in _WORDS:
            raise ValueError(text)
        return _WORDS[text.strip().lower()]
    if kind is int:
        return int(text)
    if kind is float:
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(text)
        return number
    return text


def _values(definition: _Definition) -> str:
    kind, option = definition.type, definition.option
    auto = "auto, or " if definition.may_be_none else ""
    if get_origin(kind) is Literal:
        return auto + "|".join(get_args(kind))
    if kind is bool:
        return auto + "true|false"
    if kind not in (int, float):
        return auto + "a text"
    words = "a whole number" if kind is int else "a number"
    if option.least is not None and option.most is not None:
        return f"{auto}{words} from {option.least:g} to {option.most:g}"
    if option.least is not None:
        return f"{auto}{words}, {option.least:g} or more"
    return f"{auto}{words}" if option.most is None else f"{auto}{words}, {option.most:g} or less"


def _in_words(value: object) -> str:
    return "auto" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _unknown(name: str, engine: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    has = f"it has {', '.join(known)}" if known else "it has none"
    return f"the engine {engine} has no option {name!r}: {has}.{hint}"
