"""The command line: registers the commands, and turns errors into exit codes.

A command's module is imported when the command is used. Heavy imports (torch, the pipeline) happen inside the command,
when they are needed. So ``--help`` and ``status`` answer at once.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import signal
import sys
from collections import UserDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
import typer.core

from comic_upscale.console.plain_help import make_param_plain, make_plain
from comic_upscale.console.printable import printable_lines
from comic_upscale.console.streams import Escaping
from comic_upscale.errors import ComicUpscaleError
from comic_upscale.version import __version__


@dataclass(frozen=True, slots=True)
class Entry:
    """A command, not imported yet."""

    location: str
    """``module:name`` of a function, or of a Typer group of functions."""
    help: str
    epilog: str | None = None
    passes_arguments_on: bool = False
    """Whether it accepts arguments that are not among its options."""
    has_short_help: bool = False
    """Whether ``--help`` shows only the most used options."""


COMMANDS = {
    "run": Entry(
        "comic_upscale.commands.run:run",
        "Upscale every page of a folder, an image or a volume. Pages that are already done are skipped.",
        "Examples:\n\n"
        "  comic-upscale run --input pages/ --scale 2.5 --workers 4\n\n"
        "  comic-upscale run --input pages/ --model RealESRGAN_x4plus_anime_6B --device cuda\n\n"
        "  comic-upscale run --input cover.png --format webp --quality 90\n\n"
        "  comic-upscale run v01.cbz v02.cbz extras/ --output upscaled/\n\n"
        "Run the same command again to continue where it stopped.",
        has_short_help=True,
    ),
    "watch": Entry(
        "comic_upscale.commands.watch:watch",
        "Watch folders for ever, and upscale what is new or changed once it is completely there.",
        "Examples:\n\n"
        "  comic-upscale watch comics/ --output upscaled/\n\n"
        "  comic-upscale watch manga/ comics/ --output /mnt/nas/upscaled --settle 120\n\n"
        "  comic-upscale watch inbox/ --output upscaled/ --once\n\n"
        "Ctrl-C or SIGTERM ends it after the pages in progress.",
        has_short_help=True,
    ),
    "status": Entry(
        "comic_upscale.commands.status:status",
        "Show the progress of a job, from its ledger. Default: the job that you started last.",
        "Examples:\n\n"
        "  comic-upscale status\n\n"
        "  comic-upscale status --job pages-x2.5 --watch\n\n"
        "  comic-upscale status --ledger /data/ledger.sqlite3 --json",
    ),
    "pause": Entry(
        "comic_upscale.commands.pause:pause",
        "Pause a run that another process works on. Pages on a device are finished, and no other begins.",
        "Examples:\n\n  comic-upscale pause\n\n  comic-upscale pause pages-x2.5",
    ),
    "resume": Entry(
        "comic_upscale.commands.pause:resume",
        "Let a paused run continue.",
        "Examples:\n\n  comic-upscale resume\n\n  comic-upscale resume pages-x2.5",
    ),
    "prune": Entry(
        "comic_upscale.commands.prune:prune",
        "List the outputs whose sources are gone, and those of earlier settings beside new ones. --yes removes them.",
        "Examples:\n\n"
        "  comic-upscale prune --job pages-x2.5\n\n"
        "  comic-upscale prune --job pages-x2.5 --yes\n\n"
        "  comic-upscale prune --trash library/\n\n"
        "A file that was edited since it was written is never removed.",
    ),
    "restore": Entry(
        "comic_upscale.commands.restore:restore",
        "List the originals that `run --replace` replaced. --yes puts them back.",
        "Examples:\n\n  comic-upscale restore library/\n\n  comic-upscale restore library/ --yes",
    ),
    "export": Entry(
        "comic_upscale.commands.export:export",
        "Write the metadata of a training set: pages, sources, hashes, sizes, model and captions.",
        "Examples:\n\n"
        "  comic-upscale export --job dataset-x2.5\n\n"
        "  comic-upscale export --job dataset-x2.5 --format csv --output dataset.csv",
    ),
    "cost": Entry(
        "comic_upscale.commands.cost:cost",
        "Estimate the time and cost of a run, on this machine and on rented GPUs, before you pay anything.",
        "Examples:\n\n"
        "  comic-upscale cost --input pages/ --budget 0.15\n\n"
        "  comic-upscale cost --input pages/ --pilot 10 --price 0.20\n\n"
        "  comic-upscale cost --pages 10000 --gpu 'RTX 4090' --gpu T4 --link-mbps 200",
    ),
    "bench": Entry(
        "comic_upscale.commands.bench:bench",
        "Measure this machine: the network alone, and a complete run over generated pages of 512x768.",
        "Examples:\n\n"
        "  comic-upscale bench\n\n"
        "  comic-upscale bench --model RealESRGAN_x4plus_anime_6B --device cuda --json",
    ),
    "report": Entry(
        "comic_upscale.commands.report:report",
        "Write a report of a job: one HTML file with its figures, its failures, and its worst pages before and after."
        "\n\nThe file opens offline in any browser. While a job runs, its report covers the pages that are done.",
        "Examples:\n\n"
        "  comic-upscale report --job pages-x2.5 --open\n\n"
        "  comic-upscale report --job pages-x2.5 --sheet sheet.png",
    ),
    "evaluate": Entry(
        "comic_upscale.commands.evaluate:evaluate",
        "Measure quality: compare two folders, or find out which model restores your own pages best, and how fast.",
        "Examples:\n\n"
        "  comic-upscale evaluate --reference originals/ --candidate restored/\n\n"
        "  comic-upscale evaluate --input pages/ --models comic-fast,comic-best --output trial/",
    ),
    "try": Entry(
        "comic_upscale.commands.try_page:try_page",
        "Show one page as several models upscale it, in one picture, and say which is recommended.",
        "Examples:\n\n"
        "  comic-upscale try page.png\n\n"
        "  comic-upscale try 'book.cbz#3' --models comic-best,RealESRGAN_x4plus_anime_6B --output try.png",
    ),
    "doctor": Entry(
        "comic_upscale.commands.doctor:doctor",
        "Show what is installed, which GPU is used, what is slow on this machine, and what to do about it.",
        "Examples:\n\n  comic-upscale doctor\n\n  comic-upscale doctor --output /mnt/library --json",
    ),
    "watchdog": Entry(
        "comic_upscale.commands.watchdog:watchdog",
        "Watch this machine, and run a command once it is idle: stop, shut down or destroy it.\n\n"
        "This command runs scripts/idle_watchdog.sh and passes all options on. The script itself needs no Python.",
        "Example: comic-upscale watchdog --idle 300 --then 'vastai destroy instance 123'",
        passes_arguments_on=True,
    ),
    "models": Entry(
        "comic_upscale.commands.models:models",
        "List, download and check the known models, and find their files.",
    ),
    "engines": Entry(
        "comic_upscale.commands.engines:engines",
        "List the engines that can upscale pages, and show their options.",
    ),
    "devices": Entry(
        "comic_upscale.commands.devices:devices",
        "List the e-readers that --fit-device knows, with the pixels and grays of their screens.",
        "Examples:\n\n  comic-upscale devices\n\n  comic-upscale devices kobo --json",
    ),
    "profiles": Entry(
        "comic_upscale.commands.profiles:profiles",
        "List profiles, and show their options and rules. `run --profile NAME` uses one.",
    ),
    "remote": Entry(
        "comic_upscale.commands.remote:remote",
        "Use a remote machine: a rented GPU, or any Linux machine that you can reach by SSH.",
    ),
    "rent": Entry(
        "comic_upscale.commands.rent:rent",
        "Rent GPUs by the hour: offers ranked by the cost of your job, machines that end themselves, and their end.",
    ),
    "serve": Entry(
        "comic_upscale.commands.serve:serve",
        "Serve a REST interface: uploads become jobs, and a worker on this machine runs them.",
        "Examples:\n\n"
        "  comic-upscale serve --data /srv/comic-upscale\n\n"
        "  comic-upscale serve --host 0.0.0.0 --database postgresql://comics@db/comics\n\n"
        "It needs more packages: pip install '.[server]' in a clone",
    ),
    "server": Entry(
        "comic_upscale.commands.server:server",
        "Look after a server on its own machine: API keys, and the schema of its database.",
    ),
    "worker": Entry(
        "comic_upscale.commands.worker:worker",
        "Run the jobs of a server on this machine. `serve` starts such a worker by itself.",
    ),
}


def _load(name: str, entry: Entry) -> Any:
    """Import a command and build its Click command."""
    module, _, attribute = entry.location.partition(":")
    function = getattr(importlib.import_module(module), attribute)
    app = function
    if not isinstance(function, typer.Typer):
        app = typer.Typer(add_completion=False)
        # Help, too: what the command passes its options on to explains them.
        passes_on = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
        settings = passes_on if entry.passes_arguments_on else None
        if entry.has_short_help:
            from comic_upscale.commands.short_help import ShortHelpCommand

            app.command(name, cls=ShortHelpCommand)(function)
        else:
            app.command(name, context_settings=settings)(function)
    command = typer.main.get_command(app)
    make_plain(command)
    command.name, command.help, command.epilog = name, entry.help, entry.epilog
    return command


class _LazyCommands(UserDict[str, Any]):
    """Commands by name. Each is imported when it is first looked up; listing the names imports nothing."""

    def __getitem__(self, name: str) -> Any:
        command = self.data[name]
        if isinstance(command, Entry):
            command = self.data[name] = _load(name, command)
        return command


class Commands(typer.core.TyperGroup):
    """The commands, imported when needed. An error becomes one line on standard error and an exit code."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _LazyCommands(COMMANDS)

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options of the program itself."""
        params = super().get_params(ctx)
        for param in params:
            make_param_plain(param)
        return params

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return an entry for a list of commands; `resolve_command` returns the command itself."""
        entry = COMMANDS.get(cmd_name)
        return entry and typer.core.TyperCommand(
            cmd_name, help=entry.help, rich_markup_mode=self.rich_markup_mode
        )

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the arguments name, and the remaining arguments."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, self.commands[str(name)], rest

    def invoke(self, ctx: Any) -> Any:
        """Run the requested command."""
        try:
            return super().invoke(ctx)
        except ComicUpscaleError as error:
            if ctx.find_root().meta.get("json"):
                print(json.dumps({"event": "error", "message": str(error), "exit_code": error.exit_code}))  # noqa: T201
            else:
                _print_error(f"error: {error}")
            for note in getattr(error, "__notes__", ()):
                typer.echo(note, err=True)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt:
            raise typer.Exit(128 + signal.SIGINT) from None
        except Exception as error:
            # Words of the command line may be names of files, which a pattern of the shell put there.
            from comic_upscale.commands.usage_errors import in_plain_words

            message = in_plain_words(error) or getattr(error, "message", None)
            if hasattr(error, "format_message") and isinstance(message, str):
                error.message = printable_lines(message)  # type: ignore[attr-defined]
            raise


def _print_error(message: str) -> None:
    # Below `Escaping`, which would escape the colour.
    stream = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
    typer.secho(printable_lines(message), file=stream, fg=typer.colors.RED)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Upscale whole comic libraries with Real-ESRGAN: unattended, resumable, with exact output sizes.",
    epilog="Exit codes: 0 all done, 1 some pages failed, 2 usage, 3 input, 4 weights, 5 device, 6 ledger, "
    "7 output, 8 stopped by --max-cost, 9 remote machine, 130 interrupted (Ctrl-C), 143 terminated.",
)


def main() -> None:
    """Run the command line. `start.main` calls it."""
    # The name of a page may contain characters that the encoding of the terminal lacks, and control characters.
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
            setattr(sys, name, Escaping(stream))
    try:
        # On Windows, Click would expand every argument, also the quoted pattern of an option.
        app(_arguments(sys.argv[1:]), prog_name="comic-upscale", windows_expand_args=False)
    except KeyboardInterrupt:
        # The run had not installed its signal handlers yet: there is nothing to finish or report.
        sys.exit(128 + signal.SIGINT)


def _arguments(words: Sequence[str]) -> list[str]:
    """Return the words of the command line, on Windows with the home folder for a ``~`` at the beginning.

    Elsewhere, the shell puts it there.
    """
    if os.name != "nt":
        return list(words)
    return [os.path.expanduser(word) if word.startswith("~") else word for word in words]  # noqa: PTH111 - words


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
