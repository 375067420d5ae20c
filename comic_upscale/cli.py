"""The command line: registers the commands, and turns errors into exit codes.

A command is imported when it is asked for, and inside it what is heavy (torch, the pipeline) when it is needed, so that
``--help`` and ``status`` answer at once.
"""

from __future__ import annotations

import importlib
import io
import json
import signal
import sys
from collections import UserDict
from dataclasses import dataclass
from typing import Annotated, Any

import typer
import typer.core

from comic_upscale.errors import ComicUpscaleError
from comic_upscale.version import __version__


@dataclass(frozen=True, slots=True)
class Entry:
    """A command, not imported yet."""

    where: str
    """``module:name`` of a function, or of a Typer group of functions."""
    help: str
    epilog: str | None = None
    passes_arguments_on: bool = False
    """Whether it takes words that it has no option for."""


COMMANDS = {
    "run": Entry(
        "comic_upscale.commands.run:run",
        "Upscale every page of a folder, one image or one volume; pages that are done are skipped.",
        "Examples:\n\n"
        "  comic-upscale run --input pages/ --scale 2.5 --workers 4\n\n"
        "  comic-upscale run --input pages/ --model RealESRGAN_x4plus_anime_6B --device cuda\n\n"
        "  comic-upscale run --input cover.png --format webp --quality 90\n\n"
        "  comic-upscale run --input volume.cbz --output upscaled/\n\n"
        "The same command again continues where the last one stopped.",
    ),
    "status": Entry(
        "comic_upscale.commands.status:status",
        "Show how far a job is, from its ledger alone; without arguments, the job you started last.",
        "Examples:\n\n"
        "  comic-upscale status\n\n"
        "  comic-upscale status --job pages-x2.5 --watch\n\n"
        "  comic-upscale status --ledger /data/ledger.sqlite3 --json",
    ),
    "export": Entry(
        "comic_upscale.commands.export:export",
        "Write what a training set needs, from the ledger: pages, sources, hashes, sizes, model and captions.",
        "Examples:\n\n"
        "  comic-upscale export --job dataset-x2.5\n\n"
        "  comic-upscale export --job dataset-x2.5 --format csv --output dataset.csv",
    ),
    "cost": Entry(
        "comic_upscale.commands.cost:cost",
        "Estimate the time and cost of a run, on this machine and on GPUs for rent, before anything is paid.",
        "Examples:\n\n"
        "  comic-upscale cost --input pages/ --budget 0.15\n\n"
        "  comic-upscale cost --input pages/ --pilot 10 --price 0.20\n\n"
        "  comic-upscale cost --pages 10000 --gpu 'RTX 4090' --gpu T4 --link-mbps 200",
    ),
    "bench": Entry(
        "comic_upscale.commands.bench:bench",
        "Measure this machine: the network alone, and a whole run over drawn pages of 512x768.",
        "Examples:\n\n"
        "  comic-upscale bench\n\n"
        "  comic-upscale bench --model RealESRGAN_x4plus_anime_6B --device cuda --json",
    ),
    "report": Entry(
        "comic_upscale.commands.report:report",
        "Write a report of a job: one HTML file with its figures, its failures, and its worst pages before and after."
        "\n\nIt opens anywhere, without a network. While a job runs, its report covers the pages that are done.",
        "Examples:\n\n"
        "  comic-upscale report --job pages-x2.5 --open\n\n"
        "  comic-upscale report --job pages-x2.5 --sheet sheet.png",
    ),
    "evaluate": Entry(
        "comic_upscale.commands.evaluate:evaluate",
        "Measure quality: compare two folders, or find which model restores your own pages best, and how fast.",
        "Examples:\n\n"
        "  comic-upscale evaluate --reference originals/ --candidate restored/\n\n"
        "  comic-upscale evaluate --input pages/ --models comic-compact-x3,realesr-animevideov3 --output trial/",
    ),
    "watchdog": Entry(
        "comic_upscale.commands.watchdog:watchdog",
        "Watch this machine, and run a command once it is idle: stop, shut down, destroy.\n\n"
        "All options are those of scripts/idle_watchdog.sh, which this runs; `comic-upscale watchdog -- --help` shows "
        "them. The script itself needs no Python.",
        "Example: comic-upscale watchdog --idle 300 --then 'vastai destroy instance 123'",
        passes_arguments_on=True,
    ),
    "models": Entry(
        "comic_upscale.commands.models:models",
        "The models known by name: list, download and check them, and find their files.",
    ),
    "engines": Entry(
        "comic_upscale.commands.engines:engines",
        "What can upscale pages: list the engines, and show their options.",
    ),
    "remote": Entry(
        "comic_upscale.commands.remote:remote",
        "Use a remote machine: a rented GPU, or any Linux machine that SSH reaches.",
    ),
}


def _load(name: str, entry: Entry) -> Any:
    """Import a command and make it one of the command line."""
    module, _, attribute = entry.where.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    app = found
    if not isinstance(found, typer.Typer):
        app = typer.Typer(add_completion=False)
        passes_on = {"allow_extra_args": True, "ignore_unknown_options": True}
        app.command(name, context_settings=passes_on if entry.passes_arguments_on else None)(found)
    command = typer.main.get_command(app)
    command.name, command.help, command.epilog = name, entry.help, entry.epilog
    return command


class _Loaded(UserDict[str, Any]):
    """Commands by name, each imported when it is first looked up; their names alone import nothing."""

    def __getitem__(self, name: str) -> Any:
        found = self.data[name]
        if isinstance(found, Entry):
            found = self.data[name] = _load(name, found)
        return found


class Commands(typer.core.TyperGroup):
    """The commands, imported when needed; their errors become one line on standard error and an exit code."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Loaded(COMMANDS)

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands, in the order of their lines in the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return what stands in a list of commands; the command itself is `resolve_command`'s."""
        entry = COMMANDS.get(cmd_name)
        return entry and typer.core.TyperCommand(
            cmd_name, help=entry.help, rich_markup_mode=self.rich_markup_mode
        )

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that a line names, and the words that are left for it."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, self.commands[str(name)], rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except ComicUpscaleError as error:
            if ctx.find_root().meta.get("json"):
                print(json.dumps({"event": "error", "message": str(error), "exit_code": error.exit_code}))  # noqa: T201
            else:
                typer.secho(f"error: {error}", err=True, fg=typer.colors.RED)
            for note in getattr(error, "__notes__", ()):
                typer.echo(note, err=True)
            raise typer.Exit(error.exit_code) from error


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Upscale whole comic libraries with Real-ESRGAN: unattended, resumable, exact to the pixel.",
    epilog="Exit codes: 0 all done, 1 some pages failed, 2 usage, 3 input, 4 weights, 5 device, 6 ledger, "
    "7 output, 8 stopped by --max-cost, 9 remote machine, 130 interrupted (Ctrl-C), 143 terminated.",
)


def main() -> None:
    """Entry point of ``comic-upscale`` and of ``python -m comic_upscale``."""
    # A page's name may hold what the terminal's encoding does not.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="comic-upscale")
    except KeyboardInterrupt:
        # Before the run had begun to listen: nothing to finish, nothing to tell.
        sys.exit(128 + signal.SIGINT)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"comic-upscale {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass
