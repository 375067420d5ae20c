"""The command ``comic-upscale prune``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from comic_upscale.commands.environment import state_folder
from comic_upscale.commands.recorded_job import JobFolder, LedgerOfFolder, find_job


def prune(
    ctx: typer.Context,
    job: JobFolder = None,
    ledger: LedgerOfFolder = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Remove the files, instead of only listing them.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the outputs whose sources are no longer in the input. --yes removes them."""
    ctx.find_root().meta["json"] = as_json
    from comic_upscale.console.prune_text import prune_lines
    from comic_upscale.jobs.service import JobService

    path, folder = find_job(job, ledger)
    result = JobService(state_folder()).prune(path, remove=yes, folder=folder)
    if as_json:
        typer.echo(json.dumps(asdict(result)))
        return
    for line in prune_lines(result):
        typer.echo(line)
