"""The command ``comic-upscale doctor``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

EXIT_NOTHING_RUNS = 5
MARKS = {"ok": " ", "slow": "!", "missing": "-", "fault": "x"}


def doctor(
    ctx: typer.Context,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="A folder for outputs. Its disk is measured with a file of 16 MB.",
        ),
    ] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what is installed, which GPU is used, what is slow, and what to do. Exit code 5 if nothing can run."""
    ctx.find_root().meta["json"] = as_json
    from comic_upscale.console.printable import printable
    from comic_upscale.estimates.machine import examine

    findings = examine(output)
    works = all(each.level != "fault" for each in findings)
    if as_json:
        typer.echo(json.dumps({"works": works, "findings": [asdict(each) for each in findings]}))
    else:
        width = max(len(each.topic) for each in findings)
        for each in findings:
            typer.echo(printable(f"{MARKS[each.level]} {each.topic:<{width}}  {each.value}"))
            if each.advice is not None:
                typer.echo(printable(f"  {'':<{width}}  {each.advice}"))
        slow = sum(each.level == "slow" for each in findings)
        end = (
            f"{slow} {'point makes' if slow == 1 else 'points make'} runs slow (!)."
            if slow
            else "Nothing is slow."
        )
        typer.echo(f"\n{'Pages can be upscaled.' if works else 'Nothing can be upscaled (x).'} {end}")
    if not works:
        raise typer.Exit(EXIT_NOTHING_RUNS)
