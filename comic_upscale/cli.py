"""The command line: registers the commands, and turns errors into exit codes.

Everything heavy (torch, the pipeline) is imported inside the command that needs it, so that ``--help``
and ``status`` answer at once.
"""

from __future__ import annotations

import io
import json
import signal
import sys
from typing import Annotated, Any

import typer
import typer.core

from comic_upscale.commands.bench import bench
from comic_upscale.commands.cost import cost
from comic_upscale.commands.engines import engines
from comic_upscale.commands.evaluate import evaluate
from comic_upscale.commands.export import export
from comic_upscale.commands.models import models
from comic_upscale.commands.remote import remote
from comic_upscale.commands.report import report
from comic_upscale.commands.run import run
from comic_upscale.commands.status import status
from comic_upscale.commands.watchdog import watchdog
from comic_upscale.errors import ComicUpscaleError
from comic_upscale.version import __version__


class ErrorsAsExitCodes(typer.core.TyperGroup):
    """Turns the errors of the package into one line on standard error and their exit code."""

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
    cls=ErrorsAsExitCodes,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Upscale whole comic libraries with Real-ESRGAN: unattended, resumable, exact to the pixel.",
    epilog="Exit codes: 0 all done, 1 some pages failed, 2 usage, 3 input, 4 weights, 5 device, 6 ledger, "
    "7 output, 8 stopped by --max-cost, 9 another machine, 130 interrupted (Ctrl-C), 143 terminated.",
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


app.command(
    epilog="Examples:\n\n"
    "  comic-upscale run --input pages/ --scale 2.5 --workers 4\n\n"
    "  comic-upscale run --input pages/ --model RealESRGAN_x4plus_anime_6B --device cuda\n\n"
    "  comic-upscale run --input cover.png --format webp --quality 90\n\n"
    "  comic-upscale run --input volume.cbz --output upscaled/\n\n"
    "The same command again continues where the last one stopped."
)(run)
app.command(
    epilog="Examples:\n\n"
    "  comic-upscale status\n\n"
    "  comic-upscale status --job pages-x2.5 --watch\n\n"
    "  comic-upscale status --ledger /data/ledger.sqlite3 --json"
)(status)
app.command(
    epilog="Examples:\n\n"
    "  comic-upscale export --job dataset-x2.5\n\n"
    "  comic-upscale export --job dataset-x2.5 --format csv --output dataset.csv"
)(export)
app.command(
    epilog="Examples:\n\n"
    "  comic-upscale cost --input pages/ --budget 0.15\n\n"
    "  comic-upscale cost --input pages/ --pilot 10 --price 0.20\n\n"
    "  comic-upscale cost --pages 10000 --gpu 'RTX 4090' --gpu T4 --link-mbps 200"
)(cost)
app.command(
    epilog="Examples:\n\n"
    "  comic-upscale bench\n\n"
    "  comic-upscale bench --model RealESRGAN_x4plus_anime_6B --device cuda --json"
)(bench)
app.command(
    epilog="Examples:\n\n"
    "  comic-upscale report --job pages-x2.5 --open\n\n"
    "  comic-upscale report --job pages-x2.5 --sheet sheet.png"
)(report)
app.command(
    epilog="Examples:\n\n"
    "  comic-upscale evaluate --reference originals/ --candidate restored/\n\n"
    "  comic-upscale evaluate --input pages/ --models comic-compact-x3,realesr-animevideov3 --output trial/"
)(evaluate)
app.add_typer(models, name="models")
app.add_typer(engines, name="engines")
app.add_typer(remote, name="remote")
app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="Example: comic-upscale watchdog --idle 300 --then 'vastai destroy instance 123'",
)(watchdog)
