"""Options from environment variables. The caller passes the variables in: no module here reads them itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from comic_upscale.errors import SettingsError
from comic_upscale.settings.options import Definition, Options, definitions, value_from_text

PREFIX = "COMIC_UPSCALE_"
_MOST_BYTES = 64 << 10
"""A secret is no longer than this. A larger file is the wrong one."""


def variables_of(definition: Definition) -> tuple[str, ...]:
    """Return the names of the variables that set an option; the first one that is set counts."""
    return (PREFIX + definition.name.upper(), *definition.opt.environment)


def values_from_environment(options: type[Options], environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the options that environment variables set, by name. An empty variable counts as not set.

    Args:
        options: a dataclass of options.
        environment: the variables.

    Raises:
        SettingsError: a value is not allowed, or the file of a secret cannot be read. The message names the variable,
            and never shows the value of a secret.
    """
    values: dict[str, Any] = {}
    for definition in definitions(options):
        for variable, text in _texts(definition, environment):
            values[definition.name] = _value(definition, variable, text)
            break
    return values


def _texts(definition: Definition, environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for variable in variables_of(definition):
        if environment.get(variable):
            yield variable, environment[variable]
        elif definition.opt.secret and environment.get(f"{variable}_FILE"):
            yield f"{variable}_FILE", _read(f"{variable}_FILE", Path(environment[f"{variable}_FILE"]))


def _read(variable: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        text = content.decode().strip()
    except OSError as error:
        raise SettingsError(f"{variable}: {path} cannot be read: {error.strerror or error}") from None
    except ValueError:
        raise SettingsError(f"{variable}: {path} is not a text file") from None
    if not text or len(content) > _MOST_BYTES:
        raise SettingsError(f"{variable}: {path} is empty or too large for a secret")
    return text


def _value(definition: Definition, variable: str, text: str) -> Any:
    try:
        value = value_from_text(definition, text)
        problem = definition.problem(value)
    except SettingsError as error:
        if definition.opt.secret:
            raise SettingsError(f"{variable} has a value that is not allowed") from None
        raise SettingsError(str(error).replace(definition.flag, variable)) from None
    if problem is not None:
        shown = "" if definition.opt.secret else f", not {text!r}{definition.similar(text)}"
        raise SettingsError(f"{variable} {problem}{shown}")
    return value
