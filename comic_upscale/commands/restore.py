"""The command ``comic-upscale restore``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def restore(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The input of `run --replace`.", show_default=False)
    ],
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Put the originals back, instead of only listing them.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Put the originals back that `run --replace` replaced."""
    from comic_upscale.console.printable import printable
    from comic_upscale.jobs.restore import restore as put_back
    from comic_upscale.settings.paths import absolute, path_text

    result = put_back(absolute(folder), change=yes)
    if as_json:
        typer.echo(
            json.dumps(
                {"restored": yes, "files": list(result.files), "kept": [list(each) for each in result.kept]}
            )
        )
    else:
        verb = "restored" if yes else "would restore"
        for name in result.files:
            typer.echo(printable(f"{verb}: {name}"))
        for name, reason in result.kept:
            typer.echo(printable(f"not restored: {name}: {reason}"))
        what = "1 original" if len(result.files) == 1 else f"{len(result.files):,} originals"
        rest = "" if yes or not result.files else "; nothing was changed: add --yes to restore"
        typer.echo(
            printable(f"{what} {'restored' if yes else 'can be restored'} in {path_text(folder)}{rest}")
        )
    raise typer.Exit(1 if result.kept else 0)
