"""The options of the command line, derived from their definitions in ``settings/``.

A command says which sets of options it takes, each under the name of a parameter, and is handed what the user gave::

    @takes(given=definitions(JobSettings))
    def run(given: Given) -> None:
        settings = job_settings(given.values())
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from comic_upscale.settings.options import Definition

Command = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Given:
    """What the user gave of a set of options: nothing of the others, so that defaults stay those of who has them."""

    options: tuple[Definition, ...]
    words: Mapping[str, Any]
    """As the command line has them, by the names of its parameters."""

    def values(self) -> dict[str, Any]:
        """What the options are, by their names, as their dataclass takes them.

        Raises:
            SettingsError: one cannot be read, or two contradict each other.
        """
        found: dict[str, Any] = {}
        for option in self.options:
            if option.parts:
                said = {part.name: self.words[part.name] for part in option.parts if part.name in self.words}
                if said and option.opt.join is not None:
                    found[option.name] = option.opt.join(said)
            elif option.name in self.words:
                found[option.name] = _value(option, self.words[option.name])
        return found

    def complete(self) -> dict[str, Any]:
        """As `values`, with their defaults for the options that were not given."""
        return {**{option.name: option.default for option in self.options}, **self.values()}


def takes(**sets: tuple[Definition, ...]) -> Callable[[Command], Command]:
    """Give a command options that are defined elsewhere: in the place of each named parameter, those of a set.

    Args:
        sets: by the names of the parameters, which are annotated as `Given`.
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
        def command(**words: Any) -> None:
            ctx = words[context or "_context"]
            ctx.find_root().meta["json"] = words.get("as_json", False)
            given = {name: words.pop(name) for options in sets.values() for name in _names(options)}
            said = {name: word for name, word in given.items() if _is_given(ctx, name)}
            if context is None:
                del words["_context"]
            function(**words, **{name: _of_set(options, said) for name, options in sets.items()})

        # Both, since Typer asks for both.
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


def _is_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _of_set(options: tuple[Definition, ...], said: Mapping[str, Any]) -> Given:
    names = set(_names(options))
    return Given(options, {name: word for name, word in said.items() if name in names})


def _on_command_line(options: tuple[Definition, ...]) -> Iterator[Definition]:
    """The options that a command line has for these: of one that has parts, the parts."""
    for option in options:
        if option.parts:
            yield from option.parts
        elif option.opt.on_command_line:
            yield option


def _names(options: tuple[Definition, ...]) -> Iterator[str]:
    return (option.name for option in _on_command_line(options))


def _parameters(options: tuple[Definition, ...]) -> Iterator[inspect.Parameter]:
    for option in _on_command_line(options):
        default = inspect.Parameter.empty if option.is_required else _shown_default(option)
        yield _parameter_of(option.name, Annotated[_kind(option), _typer_option(option)], default)


def _parameter_of(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _kind(option: Definition) -> Any:
    """What Typer reads: simple types, which stay words where an option reads its own."""
    if (option.kind in (bool, int, float, Path) and option.opt.parse is None) or get_origin(
        option.kind
    ) is list:
        kind = option.kind
    else:
        kind = Path if _is_several_paths(option) else str
    return kind if option.is_required or kind is bool else kind | None


def _shown_default(option: Definition) -> Any:
    """The default, where Typer shows it as it is; it is never handed on, since only what was given is."""
    simple = option.opt.default_text is None and isinstance(option.default, (bool, int, float, str))
    return option.default if simple else None


def _typer_option(option: Definition) -> Any:
    opt = option.opt
    flags = opt.flags or (option.flag,)
    if option.kind is bool and option.default is True and not any("/" in flag for flag in flags):
        flags = (f"{option.flag}/{option.flag.replace('--', '--no-', 1)}", *flags[1:])
    within = None if any(char.isdigit() for char in opt.metavar or "") else option.range
    return typer.Option(
        *flags,
        help=opt.help if within is None else f"{opt.help} {within.capitalize()}.",
        metavar=opt.metavar or "|".join(option.choices) or None,
        show_default=opt.default_text or True,
        parser=_path if option.kind is Path or _is_several_paths(option) else None,
        autocompletion=_completion(option.choices) if option.choices else None,
        rich_help_panel=opt.panel,
    )


def _completion(choices: tuple[str, ...]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return complete


def _is_several_paths(option: Definition) -> bool:
    return get_origin(option.kind) is tuple and get_args(option.kind)[0] is Path


def _path(text: str | Path) -> Path:
    """An empty path is a shell variable that was not set, not the folder one happens to be in."""
    if not str(text):
        raise typer.BadParameter("the path is empty")
    return Path(text)


def _value(option: Definition, word: Any) -> Any:
    if option.opt.parse is not None:
        return option.opt.parse(word)
    return (word,) if _is_several_paths(option) else word
