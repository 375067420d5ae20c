"""The options of the command line, derived from their definitions in ``settings/``.

A command names the sets of options that it takes, one for each parameter, and receives the options that the user gave::

    @takes(given=definitions(JobSettings))
    def run(given: Given) -> None:
        settings = job_settings(given.values())
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer

from comic_upscale.settings.options import Definition

Command = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Given:
    """The options of a set that the user gave. The others are absent: their owner applies the defaults."""

    options: tuple[Definition, ...]
    raw: Mapping[str, Any]
    """Values from the command line, by parameter name."""

    def values(self) -> dict[str, Any]:
        """Return the given options by name, with the values that their dataclass takes.

        Raises:
            SettingsError: an option cannot be parsed, or two contradict each other.
        """
        found: dict[str, Any] = {}
        for option in self.options:
            if option.parts:
                given = {part.name: self.raw[part.name] for part in option.parts if part.name in self.raw}
                if given and option.opt.join is not None:
                    found[option.name] = option.opt.join(given)
            elif option.name in self.raw:
                found[option.name] = _value(option, self.raw[option.name])
        return found

    def complete(self) -> dict[str, Any]:
        """Return all options by name: `values`, and the defaults of the others."""
        return {**{option.name: option.default for option in self.options}, **self.values()}


def takes(**sets: tuple[Definition, ...]) -> Callable[[Command], Command]:
    """Add sets of options to a command. Each set replaces the parameter of the same name.

    Args:
        sets: options by the name of the parameter, which is annotated as `Given`.
    """

    def decorate(function: Command) -> Command:
        parameters: list[inspect.Parameter] = []
        context = None
        for parameter in inspect.signature(function, eval_str=True).parameters.values():
            if parameter.name in sets:
                parameters += _parameters(sets[parameter.name])
            else:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            if parameter.annotation is typer.Context:
                context = parameter.name
        if context is None:
            parameters.append(_parameter_of("_context", typer.Context))

        @functools.wraps(function)
        def command(**arguments: Any) -> None:
            ctx = arguments[context or "_context"]
            ctx.find_root().meta["json"] = arguments.get("as_json", False)
            values = {name: arguments.pop(name) for options in sets.values() for name in _names(options)}
            given = {name: value for name, value in values.items() if _is_given(ctx, name)}
            if context is None:
                del arguments["_context"]
            function(**arguments, **{name: _select(options, given) for name, options in sets.items()})

        # Typer reads both.
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


def _is_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _select(options: tuple[Definition, ...], given: Mapping[str, Any]) -> Given:
    names = set(_names(options))
    return Given(options, {name: value for name, value in given.items() if name in names})


def _command_line_options(options: tuple[Definition, ...]) -> Iterator[Definition]:
    """Yield the options for the command line; an option with parts yields its parts instead."""
    for option in options:
        if option.parts:
            yield from option.parts
        elif option.opt.on_command_line:
            yield option


def _names(options: tuple[Definition, ...]) -> Iterator[str]:
    return (option.name for option in _command_line_options(options))


def _parameters(options: tuple[Definition, ...]) -> Iterator[inspect.Parameter]:
    for option in _command_line_options(options):
        default = inspect.Parameter.empty if option.is_required else _shown_default(option)
        yield _parameter_of(option.name, Annotated[_kind(option), _typer_option(option)], default)


def _parameter_of(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _kind(option: Definition) -> Any:
    """Return the type for Typer: a simple type, or ``str`` where the option parses its own text."""
    one = option.item_kind or option.kind
    kind = one if one in (bool, int, float, Path) and option.opt.parse is None else str
    if option.item_kind is not None:
        kind = list[kind]  # type: ignore[valid-type]
    return kind if option.is_required or kind is bool else kind | None


def _shown_default(option: Definition) -> Any:
    """Return the default where Typer can show it. It is only shown: a command receives just the given options."""
    simple = option.opt.default_text is None and isinstance(option.default, (bool, int, float, str))
    return option.default if simple else None


def _typer_option(option: Definition) -> Any:
    opt = option.opt
    bounds = None if any(char.isdigit() for char in opt.metavar or "") else option.range
    return typer.Option(
        *option.declarations,
        help=opt.help if bounds is None else f"{opt.help} {bounds.capitalize()}.",
        metavar=opt.metavar or "|".join(option.choice_texts) or None,
        show_default=opt.default_text or True,
        parser=_path if Path in (option.kind, option.item_kind) and opt.parse is None else None,
        autocompletion=_completion(option),
        rich_help_panel=opt.panel,
    )


def _completion(option: Definition) -> Callable[[str], list[str]] | None:
    """Return what a shell offers for an option; None if it has no values to offer."""
    suggest = SUGGESTIONS.get(option.name, lambda: option.choice_texts)
    if not option.choices and option.name not in SUGGESTIONS:
        return None

    def complete(incomplete: str) -> list[str]:
        return [text for text in suggest() if text.startswith(incomplete)]

    return complete


def _models() -> Iterable[str]:
    from comic_upscale.models.catalogue import CATALOGUE, FAMILIES
    from comic_upscale.settings.processing import AUTO_MODEL

    return (AUTO_MODEL, *FAMILIES, *CATALOGUE)


def _engines() -> Iterable[str]:
    from comic_upscale.settings.engines import engine_names

    return engine_names()


def _devices() -> Iterable[str]:
    from comic_upscale.settings.screens import read_devices

    return read_devices()


def _profiles() -> Iterable[str]:
    from comic_upscale.commands.profile_files import profile_names
    from comic_upscale.settings.profiles import NONE

    return (*profile_names(), NONE)


SUGGESTIONS: Mapping[str, Callable[[], Iterable[str]]] = MappingProxyType(
    {
        "model": _models,
        "backend": _engines,
        "fit_device": _devices,
        "profile": _profiles,
        "device": lambda: ("auto", "cpu", "cuda", "mps", "xpu"),
    }
)
"""The values that a shell offers for options that take others, too, by the names of the options."""


def _path(text: str | Path) -> Path:
    """Refuse an empty path: it comes from an unset shell variable and would mean the current folder."""
    if not str(text):
        raise typer.BadParameter("the path is empty")
    return Path(text)


def _value(option: Definition, raw: Any) -> Any:
    if option.opt.parse is not None:
        return option.opt.parse(raw)
    if option.choices:
        return option.choice(raw)
    return raw if option.item_kind is None else tuple(raw)
