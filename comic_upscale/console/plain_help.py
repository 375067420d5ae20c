"""Help without what newer versions of Typer add to it."""

from __future__ import annotations

from typing import Any


def make_plain(command: Any) -> None:
    """Leave out of the help of a command what newer versions of Typer add to it.

    They write the types of flags and arguments, and put brackets around arguments whose names have some.

    Args:
        command: a command or a group of Typer.
    """
    for param in command.params:
        make_param_plain(param)
    find_help_option = command.get_help_option

    def get_help_option(ctx: Any) -> Any:
        option = find_help_option(ctx)
        if option is not None:
            make_param_plain(option)
        return option

    command.get_help_option = get_help_option
    for each in getattr(command, "commands", {}).values():
        make_plain(each)


def make_param_plain(param: Any) -> None:
    """Do the same for a parameter of a command."""
    if getattr(param, "is_flag", False) and param.metavar is None:
        param.metavar = ""
    elif hasattr(param, "display_type_rich") and param.param_type_name == "argument":
        param.metavar = param.metavar and param.metavar.strip("[].")
        param.display_type_rich = lambda **_: None
