"""The command ``comic-upscale bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from comic_upscale.commands.environment import default_workers, rates_folder, weights_cache, weights_folders
from comic_upscale.commands.models import WeightsDir
from comic_upscale.errors import SettingsError


def bench(
    ctx: typer.Context,
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="NAME|FILE", help="As for `run`.")
    ] = "auto",
    denoise: Annotated[float | None, typer.Option(help="As for `run`.", metavar="0..1")] = None,
    weights_dir: WeightsDir = None,
    device: Annotated[str, typer.Option("--device", "-d", help="As for `run`.")] = "auto",
    precision: Annotated[str, typer.Option(help="As for `run`.")] = "auto",
    batch: Annotated[
        int | None, typer.Option(metavar="N", show_default="auto", help="Pages in one call of the network.")
    ] = None,
    tile: Annotated[int | None, typer.Option(metavar="N", show_default="auto", help="As for `run`.")] = None,
    scale: Annotated[float, typer.Option("--scale", "-s", help="As for `run`.")] = 2.5,
    format: Annotated[str, typer.Option("--format", "-f", help="As for `run`.")] = "png",
    quality: Annotated[int | None, typer.Option(metavar="N", help="As for `run`.")] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", "-w", help="As for `run`; left out: one for each core.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(metavar="N", help="About how long to measure; loading comes on top.")
    ] = 60.0,
    keep: Annotated[
        bool, typer.Option("--keep/--no-keep", help="Keep the rate in your data folder, for `cost`.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:  # fmt: skip
    """Measure this machine: the network alone, and a whole run over drawn pages of 512x768."""
    from comic_upscale.console.quote_text import bench_as_json, bench_lines
    from comic_upscale.estimates.bench import bench as measure
    from comic_upscale.estimates.history import keep as keep_rate
    from comic_upscale.settings.job import JobSettings
    from comic_upscale.settings.sizes import Scale

    ctx.find_root().meta["json"] = as_json
    if not 0 < seconds < float("inf"):
        raise SettingsError(f"--seconds must be above 0, not {seconds}")
    settings = JobSettings(
        # Neither is looked at: the pages are drawn into a temporary folder.
        input=Path("pages"),
        output=Path("pages-bench"),
        size=Scale(scale),
        model=model,
        denoise=denoise,
        device=device,
        precision=precision,
        batch=batch,
        tile=tile,
        format=cast(Any, format),
        quality=quality,
        workers=default_workers() if workers is None else workers,
        weights_folders=weights_folders(weights_dir),
        weights_cache=weights_cache(),
    )

    def tell(what: str) -> None:
        if not as_json:
            typer.echo(f"{what}...", err=True)

    result = measure(settings, seconds=seconds, tell=tell)
    kept = keep_rate(result.measured, rates_folder()) if keep else None
    if as_json:
        typer.echo(bench_as_json(result, None if kept is None else str(kept)))
        return
    for line in bench_lines(result):
        typer.echo(line)
    if kept is not None:
        typer.echo(f"kept in {kept}: `comic-upscale cost` quotes from it")
