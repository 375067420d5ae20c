"""Help in two lengths: ``--help`` with the options that most people need, ``--help-all`` with all of them."""

from __future__ import annotations

import copy
import re
from typing import Annotated, Any

import typer
import typer.core

COMMON = frozenset(
    (
        "pages", "folders", "input", "output", "include", "exclude", "scale", "width", "height", "fit",
        "model", "device", "workers", "format", "quality", "archive_output", "retry_failed", "overwrite", "dry_run",
        "verbose", "quiet", "log", "on_volume_done", "on_job_done", "komga", "kavita", "settle", "once", "help",
        "help_all", "profile", "fit_device",
    )
)  # fmt: skip
"""Names of the options in the short help."""

_SENTENCE = re.compile(r"(?<=[a-z0-9)]\.)\s+")


class ShortHelpCommand(typer.core.TyperCommand):
    """A command whose ``--help`` shows the common options, each with its first sentence."""

    _is_short = False

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options; while the short help is written, only the common ones."""
        params = super().get_params(ctx)
        return [_shorten(param) for param in params if param.name in COMMON] if self._is_short else params

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the short help."""
        count = sum(not param.hidden for param in super().get_params(ctx) if hasattr(param, "hidden"))
        epilog = self.epilog
        self._is_short = True
        self.epilog = "\n\n".join(
            filter(None, (epilog, f"These are the most used options. --help-all shows all {count}."))
        )
        try:
            super().format_help(ctx, formatter)
        finally:
            self._is_short, self.epilog = False, epilog

    def format_all(self, ctx: Any, formatter: Any) -> None:
        """Write the help with all options."""
        super().format_help(ctx, formatter)


def _shorten(param: Any) -> Any:
    short = copy.copy(param)
    if short.help:
        short.help = _SENTENCE.split(short.help)[0]
    return short


def _show_all(ctx: typer.Context, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        command: Any = ctx.command
        formatter = ctx.make_formatter()
        command.format_all(ctx, formatter)
        text = formatter.getvalue().rstrip("\n")
        if text:
            typer.echo(text, color=ctx.color)
        raise typer.Exit


HelpAll = Annotated[
    bool,
    typer.Option(
        "--help-all", callback=_show_all, is_eager=True, expose_value=False,
        help="Show all options, with everything about them.",
    ),
]  # fmt: skip
"""The option that a command with `ShortHelpCommand` takes."""
