"""The command ``comic-upscale prune``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from comic_upscale.commands.environment import requested_ledger, state_folder


def prune(
    ctx: typer.Context,
    job: Annotated[
        Path | None, typer.Option("--job", metavar="DIR", help="The output folder of a job.")
    ] = None,
    ledger: Annotated[
        Path | None, typer.Option("--ledger", metavar="FILE", help="The ledger file of a job.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Remove the files, instead of only listing them.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the outputs whose sources are no longer in the input. --yes removes them."""
    ctx.find_root().meta["json"] = as_json
    from comic_upscale.console.prune_text import prune_lines
    from comic_upscale.jobs.service import JobService
    from comic_upscale.ledger.recent import choose_job

    path, folder = choose_job(job, requested_ledger(job, ledger), state_folder())
    result = JobService(state_folder()).prune(path, remove=yes, folder=folder)
    if as_json:
        typer.echo(json.dumps(asdict(result)))
        return
    for line in prune_lines(result):
        typer.echo(line)
