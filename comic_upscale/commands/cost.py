"""The command ``comic-upscale cost``."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from comic_upscale.commands.environment import own_prices, process_seconds, rates_folder, state_folder
from comic_upscale.commands.options import Given, takes
from comic_upscale.commands.run import job_settings
from comic_upscale.errors import SettingsError
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.options import pick

if TYPE_CHECKING:
    from comic_upscale.costs.quote import Quote
    from comic_upscale.costs.rates import Measured
    from comic_upscale.costs.workload import Workload

EXIT_OVER_BUDGET = 1


JOB = pick(
    JobSettings, "output", "size", "skip_larger_than", "model", "denoise", "weights_folders", "format", "quality",
    "device", "workers",
    help={
        "output": "Output folder of the planned `run`. Pages that are already done are not counted.",
        "model": "Model as for `run`. On a rented GPU, auto means RealESRGAN_x4plus_anime_6B.",
        "format": "Output format. It decides how many bytes are downloaded.",
        "device": "Devices for --pilot: auto, cpu, cuda, cuda:1, xpu or mps; several as cuda:0,cuda:1.",
        "workers": "Threads of the rented machine and of --pilot. Default for a rented machine: those of its offer.",
    },
)  # fmt: skip
INPUT = pick(
    JobSettings,
    "input",
    help={"input": "Input of the planned `run`. Only the headers of its pages are read."},
)


# Most lines of this function declare options that only this command has.
@takes(source=INPUT, given=JOB)
def cost(
    *,
    source: Given,
    pages: Annotated[
        int | None,
        typer.Option("--pages", metavar="N", help="Number of pages, in place of an input."),
    ] = None,
    page_size: Annotated[str, typer.Option(metavar="WxH", help="Size of the pages, with --pages.")] = "512x768",
    given: Given,
    gpu: Annotated[
        list[str] | None,
        typer.Option(
            "--gpu", metavar="NAME",
            help="GPU to quote, for example 'RTX 4090'. May be repeated. Default: every GPU with a price, and this "
            "machine if `bench`, --pilot or an earlier run has measured it.",
        ),
    ] = None,
    price: Annotated[
        float | None,
        typer.Option(
            metavar="$/h",
            help="Price of an hour, in place of the listed prices. Traffic and storage keep their listed prices.",
        ),
    ] = None,
    prices: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Your own price list, in the format of comic_upscale/costs/prices.toml. Its GPUs replace ours. "
            "Default: prices.toml in your configuration folder (on Linux ~/.config/comic-upscale), if it "
            "exists.",
        ),
    ] = None,
    link_mbps: Annotated[
        float | None,
        typer.Option(metavar="N", help="Your connection in megabits per second. Default: a range from 20 to 500."),
    ] = None,
    pilot: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Upscale N pages on this machine, of all sizes, and quote it from the measurement."
        ),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            metavar="$",
            help="Budget in dollars. Exit code 1 means that no quote with a price is likely to stay within it.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:  # fmt: skip
    """Estimate the time and cost of a run, on this machine and on rented GPUs, before you pay anything."""
    from comic_upscale.console.quote_text import quotes_as_json
    from comic_upscale.costs.prices import listed_offers
    from comic_upscale.estimates.quotes import Question, is_over_budget, quotes_for

    requested = given.values()
    input, workers = source.complete()["input"], requested.get("workers")
    _check_options(input, pages, pilot, price=price, budget=budget, link_mbps=link_mbps, workers=workers)
    settings = job_settings({"input": input or Path("pages"), **requested})
    workload, unchanged, trial = _count(settings, pages, page_size, pilot, quiet=as_json)
    quotes = quotes_for(
        workload,
        Question(
            model=settings.model,
            gpus=tuple(gpu or ()),
            price=price,
            link_mbps=link_mbps,
            workers=workers,
            denoise=settings.denoise,
            offers=tuple(listed_offers(prices or own_prices())),
            measurements=_known_measurements(),
            pilot=trial,
        ),
    )
    over = None if budget is None else is_over_budget(quotes, budget)
    if as_json:
        typer.echo(quotes_as_json(workload, quotes, budget, over))
    else:
        _print_quotes(workload, unchanged, quotes, budget)
    if over:
        raise typer.Exit(EXIT_OVER_BUDGET)


def _known_measurements() -> tuple[Measured, ...]:
    """Return the measurements in the user's folder and in the ledgers of this machine."""
    from comic_upscale.estimates.history import from_ledgers, load_measurements, processor_name
    from comic_upscale.ledger.recent import known_ledgers

    recorded = from_ledgers(known_ledgers(state_folder()), socket.gethostname(), processor_name())
    return (*load_measurements(rates_folder()), *recorded)


def _print_quotes(workload: Workload, unchanged: int, quotes: Sequence[Quote], budget: float | None) -> None:
    from comic_upscale.console.quote_text import common_lines, quote_lines, workload_lines
    from comic_upscale.console.text import page_count

    if not workload.pages:
        typer.echo(
            f"nothing to upscale: {page_count(unchanged)} done, skipped or refused (--dry-run lists them)"
        )
        return
    columns = min(max(shutil.get_terminal_size().columns, 60), 120)
    for line in workload_lines(workload, unchanged):
        typer.echo(line)
    for quote in quotes:
        typer.echo()
        for line in quote_lines(quote, budget, columns):
            typer.echo(line)
    for line in common_lines(quotes, columns):
        typer.echo(line)


def _check_options(
    input: Path | None, pages: int | None, pilot: int | None, *, workers: int | None, **amounts: float | None
) -> None:
    """Check the options that this command alone has.

    Raises:
        SettingsError: a value is out of its range, or two options contradict each other.
    """
    if (input is None) == (pages is None):
        raise SettingsError("give either --input PATH, or --pages N for a number of pages")
    if pages is not None and pages < 1:
        raise SettingsError(f"--pages must be at least 1, not {pages}")
    if pilot is not None and (pilot < 1 or input is None):
        raise SettingsError("--pilot must be at least 1, and needs an --input")
    if workers is not None and workers < 1:
        raise SettingsError(f"--workers must be at least 1, not {workers}")
    for name, amount in amounts.items():
        if amount is not None and not 0 <= amount < float("inf"):
            raise SettingsError(f"--{name.replace('_', '-')} must be a number of 0 or more, not {amount}")
    if amounts["link_mbps"] == 0:
        raise SettingsError("--link-mbps must be above 0")


def _count(
    settings: JobSettings, pages: int | None, page_size: str, pilot: int | None, *, quiet: bool
) -> tuple[Workload, int, Measured | None]:
    """Count the work of an input, or of an assumed number of pages, and run the pilot if requested.

    Returns:
        The work, the number of pages that need no work, and the measurement of the pilot.
    """
    from comic_upscale.console.text import page_count
    from comic_upscale.estimates.assumed import AssumedPages, assume_pages
    from comic_upscale.estimates.workload import count_workload, run_pilot
    from comic_upscale.planning.preview import preview
    from comic_upscale.settings.sizes import Bounds

    if pages is not None:
        bounds = Bounds.parse(page_size)
        imagined = AssumedPages(count=pages, width=bounds.width, height=bounds.height)
        return assume_pages([imagined], settings), 0, None
    # Everything that a run imports before it reads its input is imported by now.
    started_in = process_seconds()
    plan = preview(settings)
    trial = None
    if pilot is not None:
        if not quiet:
            typer.echo(f"upscaling {page_count(pilot)} as a pilot...", err=True)
        trial = run_pilot(plan, settings, pilot, started_in=started_in)
    workload = count_workload(plan, settings, trial)
    return workload, len(plan.pages) - workload.pages, trial
