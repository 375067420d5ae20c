"""The names of the engines and where each is found. Nothing of them is imported here.

Another package adds an engine by an entry point of the group `GROUP`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from comic_upscale.errors import SettingsError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

BUILT_IN: Mapping[str, str] = MappingProxyType(
    {
        "torch": "comic_upscale.engines.torch.factory",
        "realesrgan": "comic_upscale.engines.realesrgan",
    }
)
"""The engines that come with the package: the module that holds each one's ``FACTORY``."""

GROUP = "comic_upscale.engines"
"""The group of entry points; each names an `EngineFactory`, as a class or an instance."""

EngineOptions: TypeAlias = tuple[tuple[str, str], ...]
"""Options of an engine's own as the user gave them: names and values, each name once, in order of the names."""


def entry_points(name: str | None = None) -> list[EntryPoint]:
    """Return the entry points of other packages' engines, or those of one name."""
    import importlib.metadata

    found = list(importlib.metadata.entry_points(group=GROUP))
    return found if name is None else [each for each in found if each.name == name]


def engine_names() -> tuple[str, ...]:
    """Return the names of all engines that are known here, those of the package first."""
    others = sorted({each.name for each in entry_points()} - BUILT_IN.keys())
    return (*BUILT_IN, *others)


def check_engine(name: str) -> None:
    """Accept the name of an engine.

    Raises:
        SettingsError: there is no such engine.
    """
    if name not in BUILT_IN and not entry_points(name):
        raise SettingsError(f"--engine must be one of {', '.join(engine_names())}, not {name!r}")


def as_engine_options(given: Mapping[str, object] | Iterable[tuple[str, object]]) -> EngineOptions:
    """Return options in their one form; an option that is given twice has its last value.

    Raises:
        SettingsError: they are no names with values.
    """
    try:
        pairs = dict(given)
    except (TypeError, ValueError):
        raise SettingsError(f"engine options are names with values, not {given!r}") from None
    return tuple(sorted((_plain_name(name), _plain_value(value)) for name, value in pairs.items()))


def parse_engine_options(texts: Iterable[str]) -> EngineOptions:
    """Read ``"threads=2"``, ``"provider=cpu"``.

    Raises:
        SettingsError: a text has no ``=``.
    """
    pairs = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise SettingsError(f"--engine-option takes NAME=VALUE, such as threads=2, not {text!r}")
        pairs.append((_plain_name(name), value))
    return as_engine_options(pairs)


def _plain_name(name: str) -> str:
    return str(name).strip().replace("-", "_")


def _plain_value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else "auto" if value is None else str(value)
