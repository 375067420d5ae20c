"""The command ``comic-upscale prune``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from comic_upscale.commands.environment import state_folder
from comic_upscale.commands.recorded_job import JobFolder, LedgerOfFolder, find_job
from comic_upscale.errors import SettingsError


def prune(
    ctx: typer.Context,
    job: JobFolder = None,
    ledger: LedgerOfFolder = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Remove the files, instead of only listing them.")
    ] = False,
    trash: Annotated[
        Path | None,
        typer.Option(
            "--trash",
            metavar="FOLDER",
            help="List instead the originals that `run --replace` replaced in this folder; with --yes, remove them "
            "for good.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the outputs whose sources are gone, and those of earlier settings beside new ones. --yes removes them."""
    ctx.find_root().meta["json"] = as_json
    from comic_upscale.console.prune_text import prune_lines
    from comic_upscale.jobs.service import JobService

    if trash is not None:
        _prune_trash(trash, job, ledger, remove=yes, as_json=as_json)
        return
    path, folder = find_job(job, ledger)
    result = JobService(state_folder()).prune(path, remove=yes, folder=folder)
    if as_json:
        typer.echo(json.dumps(asdict(result)))
        return
    for line in prune_lines(result):
        typer.echo(line)


def _prune_trash(folder: Path, job: Path | None, ledger: Path | None, *, remove: bool, as_json: bool) -> None:
    """List or remove replaced originals.

    Raises:
        SettingsError: a job is named, too.
        ComicUpscaleError: as in `prune_trash`.
    """
    from comic_upscale.console.prune_text import trash_lines
    from comic_upscale.jobs.restore import prune_trash
    from comic_upscale.settings.paths import absolute

    if job is not None or ledger is not None:
        raise SettingsError("--trash names the input folder itself: leave out --job and --ledger")
    result = prune_trash(absolute(folder), remove=remove)
    if as_json:
        typer.echo(json.dumps(asdict(result)))
    else:
        for line in trash_lines(result):
            typer.echo(line)
    raise typer.Exit(1 if result.left else 0)
