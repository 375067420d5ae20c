"""The command ``comic-upscale evaluate``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from comic_upscale.commands.environment import weights_cache, weights_folders
from comic_upscale.commands.options import Given, takes
from comic_upscale.errors import SettingsError
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.options import pick

if TYPE_CHECKING:
    from collections.abc import Iterator

    from comic_upscale.evaluation.metrics import Metrics
    from comic_upscale.evaluation.pairs import Comparison
    from comic_upscale.evaluation.trial import Trial

EXIT_SOME_FAILED = 1
LOG_INTERVAL_SECONDS = 10.0
"""Time between two lines of progress where standard error is not a terminal."""
ONE_DEVICE = "auto, cpu, cuda, cuda:1, xpu or mps."


@takes(given=pick(JobSettings, "device", "weights_folders", "max_pixels", help={"device": ONE_DEVICE}))
def evaluate(
    *,
    reference: Annotated[
        Path | None, typer.Option("--reference", metavar="PATH", help="Originals: a folder, an image or a volume.")
    ] = None,
    candidate: Annotated[
        Path | None,
        typer.Option("--candidate", metavar="PATH", help="Images to compare with them, paired by name without suffix."),
    ] = None,
    allow_missing: Annotated[
        bool,
        typer.Option(
            "--allow-missing", help="Accept images without a partner: they are listed, but are not failures."
        ),
    ] = False,
    input: Annotated[
        Path | None,
        typer.Option("--input", "-i", metavar="PATH", help="Your own pages: shrunk, restored by each model, compared."),
    ] = None,
    scale: Annotated[
        float, typer.Option("--scale", "-s", help="With --input: the factor, above 1 and at most 8.")
    ] = 2.5,
    models: Annotated[
        str,
        typer.Option(
            "--models", "-m", metavar="NAME|FILE,...", help="With --input: models, separated by commas. Lanczos is "
            "always compared too.",
        ),
    ] = "comic-fast,comic-best",
    sample: Annotated[
        int, typer.Option("--sample", metavar="N", help="With --input: number of pages, evenly spread; 0 for all.")
    ] = 8,
    jpeg: Annotated[
        int,
        typer.Option("--jpeg", metavar="QUALITY", help="With --input: also test JPEGs of this quality; 0 for none."),
    ] = 75,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Also write JSON and CSV here, with --input a chart and a sheet."
        ),
    ] = None,
    given: Given,
    as_json: Annotated[bool, typer.Option("--json", help="Print only JSON.")] = False,
) -> None:  # fmt: skip
    """Measure quality: compare two folders, or find out which model restores your own pages best, and how fast."""
    values = given.complete()
    limit, device = values["max_pixels"], values["device"]
    if input is not None and reference is None and candidate is None:
        folders = weights_folders(*values["weights_folders"])
        trial = _try_models(
            input, limit, scale=scale, models=models, sample=sample, jpeg=jpeg, device=device, folders=folders
        )
        _show_trial(trial, output, as_json=as_json)
    elif reference is not None and candidate is not None and input is None:
        comparison = _compare(reference, candidate, limit, device)
        _show_comparison(comparison, output, as_json=as_json)
        if comparison.failed or not (comparison.is_whole or allow_missing):
            raise typer.Exit(EXIT_SOME_FAILED)
    else:
        raise SettingsError(
            "give either --reference DIR and --candidate DIR, to compare two folders, or --input DIR, to try "
            "models on your own pages"
        )


def open_metrics(device: str) -> Metrics:
    """Return the scores, computed on a device."""
    from comic_upscale.engines.torch.device import parse_devices
    from comic_upscale.evaluation.metrics import Metrics

    return Metrics(str(parse_devices(device)[0]))


def _compare(reference: Path, candidate: Path, limit: int, device: str) -> Comparison:
    from comic_upscale.evaluation.pairs import Pictures, compare_folders

    with (
        closing(Pictures(reference, max_pixels=limit)) as originals,
        closing(Pictures(candidate, max_pixels=limit)) as pictures,
        progress() as on_step,
    ):
        metrics = open_metrics(device)
        return compare_folders(
            originals, pictures, metrics, lambda done, total: on_step("comparing", done, total)
        )


def _try_models(
    input: Path,
    limit: int,
    *,
    scale: float,
    models: str,
    sample: int,
    jpeg: int,
    device: str,
    folders: tuple[Path, ...],
) -> Trial:
    from comic_upscale.evaluation.pairs import Pictures
    from comic_upscale.evaluation.trial import network_candidate, run_trial
    from comic_upscale.models.catalogue import in_family

    names = model_names(models)
    cache = weights_cache()
    candidates = [
        network_candidate(in_family(name, scale), device=device, folders=folders, cache=cache)
        for name in names
    ]
    with closing(Pictures(input, max_pixels=limit)) as pictures, progress() as on_step:
        return run_trial(
            pictures,
            candidates,
            open_metrics(device),
            scale=scale,
            quality=jpeg or None,
            sample=sample or None,
            on_turn=on_step,
        )


def model_names(models: str) -> list[str]:
    """Return the models of a list with commas, each once.

    Raises:
        SettingsError: there is none.
    """
    names = list(dict.fromkeys(name.strip() for name in models.split(",") if name.strip()))
    if not names:
        raise SettingsError("--models is empty: give one or more models, separated by commas")
    return names


def _show_comparison(comparison: Comparison, folder: Path | None, *, as_json: bool) -> None:
    from comic_upscale.console.printable import printable
    from comic_upscale.evaluation import tables
    from comic_upscale.storage.atomic import write_whole

    rows = tables.comparison_rows(comparison)
    written = tables.comparison_json(comparison)
    if folder is not None:
        write_whole(written.encode(), folder / "comparison.json")
        write_whole(tables.as_csv(rows + tables.missing_rows(comparison)).encode(), folder / "comparison.csv")
    if as_json:
        typer.echo(written, nl=False)
        return
    scored = [row for row in rows if row["error"] is None]
    if len(scored) > 1:
        scored.append({"name": "mean", **tables.comparison_means(comparison)})
    if scored:
        _print_table("name", scored, tables.SCORES)
    for pair in comparison.failed:
        typer.echo(printable(f"not compared: {pair.name}: {pair.reason} [{pair.kind}]"), err=True)
    for pair in comparison.scored:
        if pair.notes:
            typer.echo(printable(f"note: {pair.name}: {'; '.join(pair.notes)}"), err=True)
    for what, names in (
        ("without a candidate", comparison.only_reference),
        ("without an original", comparison.only_candidate),
        ("with a name that several images share", comparison.ambiguous),
    ):
        if names:
            more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
            typer.echo(printable(f"note: {len(names):,} {what}: {', '.join(names[:3])}{more}"), err=True)


def _show_trial(trial: Trial, folder: Path | None, *, as_json: bool) -> None:
    from comic_upscale.console.printable import printable
    from comic_upscale.console.text import page_count
    from comic_upscale.evaluation import tables
    from comic_upscale.evaluation.verdict import judge
    from comic_upscale.storage.atomic import write_whole

    rows = tables.trial_rows(trial)
    written = tables.trial_json(trial)
    if folder is not None:
        write_whole(written.encode(), folder / "evaluation.json")
        write_whole(tables.as_csv(rows).encode(), folder / "evaluation.csv")
        write_whole(tables.as_csv(tables.turn_rows(trial)).encode(), folder / "pages.csv")
        write_whole(tables.trial_chart(trial).encode(), folder / "chart.svg")
        write_whole(tables.trial_sheet(trial), folder / "sheet.png")
    if as_json:
        typer.echo(written, nl=False)
        return
    for track in dict.fromkeys(row["track"] for row in rows):
        typer.echo(f"\n{track}, x{trial.scale:g}, {page_count(len(trial.pages))}")
        columns = (*tables.SCORES, "white_kept", "black_kept", "seconds_a_page")
        _print_table("model", [row for row in rows if row["track"] == track], columns)
    for name, reason in trial.left_out.items():
        typer.echo(printable(f"left out: {name}: {reason}"), err=True)
    verdict = judge(trial)
    typer.echo(
        f"\nseconds are for a page of {trial.page_pixels / 1e6:.2g} megapixels, the mean of your pages, at "
        f"x{trial.scale:g}, scaled by the pixels restored here"
    )
    typer.echo(printable(f"recommended: {verdict.recommended}\n  {verdict.why}").replace("\\x0a", "\n"))
    if folder is not None:
        typer.echo(f"written to {folder}: evaluation.json, evaluation.csv, pages.csv, chart.svg, sheet.png")


def _print_table(first: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print a table. Columns without any value are left out."""
    from rich.table import Table
    from rich.text import Text

    from comic_upscale.console.printable import printable
    from comic_upscale.console.streams import make_console
    from comic_upscale.evaluation.tables import TITLES, shown

    table = Table(box=None, padding=(0, 1, 0, 0))
    # On a narrow terminal, a long name takes two lines, and is never cut.
    table.add_column(first, overflow="fold")
    filled = [column for column in columns if any(row[column] is not None for row in rows)]
    for column in filled:
        table.add_column(TITLES.get(column, column.replace("_", " ")), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(Text(printable(str(row[first]))), *(shown(column, row[column]) for column in filled))
    make_console().print(table)


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show progress on standard error: a bar on a terminal, and elsewhere a line at intervals."""
    from rich.progress import Progress

    from comic_upscale.console.printable import printable
    from comic_upscale.console.streams import make_console

    console = make_console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        last = time.monotonic()

        def on_step(what: str, done: int, total: int) -> None:
            nonlocal last
            bar.update(task, description=what, completed=done, total=total)
            if not console.is_terminal and time.monotonic() - last >= LOG_INTERVAL_SECONDS:
                last = time.monotonic()
                typer.echo(printable(f"{what}: {done:,} of {total:,}"), err=True)

        yield on_step
