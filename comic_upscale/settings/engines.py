"""The names of the engines, and the module of each. No engine is imported here.

Another package adds an engine with an entry point in the group `GROUP`.
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
        "onnx": "comic_upscale.engines.onnx",
        "command": "comic_upscale.engines.command",
        "flux": "comic_upscale.engines.diffusion.factory",
        "imagen": "comic_upscale.engines.imagen.factory",
    }
)
"""The engines of this package: for each name, the module with its ``FACTORY``."""

GROUP = "comic_upscale.engines"
"""The group of entry points; each names an `EngineFactory`, as a class or an instance."""

EngineOptions: TypeAlias = tuple[tuple[str, str], ...]
"""Engine-specific options as the user gave them: (name, value) pairs sorted by name, each name once."""


def entry_points(name: str | None = None) -> list[EntryPoint]:
    """Return the entry points of engines from other packages: all, or those with this name."""
    import importlib.metadata

    found = list(importlib.metadata.entry_points(group=GROUP))
    return found if name is None else [each for each in found if each.name == name]


def engine_names() -> tuple[str, ...]:
    """Return the names of all installed engines, those of this package first."""
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
    """Return engine options in canonical form. If a name is given twice, the last value counts.

    Raises:
        SettingsError: the argument is not a mapping or a list of pairs.
    """
    try:
        pairs = dict(given)
    except (TypeError, ValueError):
        raise SettingsError(f"engine options must be pairs of a name and a value, not {given!r}") from None
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
