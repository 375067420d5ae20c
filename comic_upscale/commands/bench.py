"""The command ``comic-upscale bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from comic_upscale.commands.environment import rates_folder
from comic_upscale.commands.options import Given, takes
from comic_upscale.commands.run import job_settings
from comic_upscale.errors import OutputError, SettingsError
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.options import pick

JOB = pick(
    JobSettings, "model", "denoise", "weights_folders", "device", "precision", "batch", "tile", "size.scale", "format",
    "quality", "workers",
    help={"size.scale": "Output size divided by input size, 1 to 8."},
)  # fmt: skip


@takes(given=JOB)
def bench(
    *,
    given: Given,
    seconds: Annotated[
        float, typer.Option(metavar="N", help="Approximate duration of the measurement, without loading.")
    ] = 60.0,
    keep: Annotated[
        bool, typer.Option("--keep/--no-keep", help="Save the rate in your data folder, for `cost`.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:  # fmt: skip
    """Measure this machine: the network alone, and a complete run over generated pages of 512x768."""
    from comic_upscale.console.quote_text import bench_as_json, bench_lines
    from comic_upscale.estimates.bench import bench as measure
    from comic_upscale.estimates.history import save_measurement

    if not 0 < seconds < float("inf"):
        raise SettingsError(f"--seconds must be above 0, not {seconds}")
    # Neither folder is used: the pages are generated in a temporary folder.
    settings = job_settings(
        {"input": Path("pages"), "output": Path("pages-bench"), "profile": "none", **given.values()}
    )

    def on_step(what: str) -> None:
        if not as_json:
            typer.echo(f"{what}...", err=True)

    result = measure(settings, seconds=seconds, on_step=on_step)
    saved_to, problem = None, None
    try:
        saved_to = save_measurement(result.measured, rates_folder()) if keep else None
    except OutputError as error:
        # The minutes of measuring must not be lost.
        problem = error
    lines = (
        [bench_as_json(result, None if saved_to is None else str(saved_to))]
        if as_json
        else bench_lines(result)
    )
    for line in lines:
        typer.echo(line)
    if problem is not None:
        raise problem
    if saved_to is not None and not as_json:
        typer.echo(f"saved in {saved_to}; `comic-upscale cost` uses it")
