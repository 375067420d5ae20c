"""The command ``comic-upscale cost``."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from annotated_types import Ge, Gt, Unit

from comic_upscale.commands.environment import own_prices, process_seconds, rates_folder, state_folder
from comic_upscale.commands.options import Given, takes
from comic_upscale.commands.run import job_settings
from comic_upscale.commands.selection import FromFile, Pages, with_pages
from comic_upscale.errors import SettingsError
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.options import Opt, check, definitions, pick

if TYPE_CHECKING:
    from comic_upscale.costs.quote import Quote
    from comic_upscale.costs.rates import Measured, Network
    from comic_upscale.costs.workload import Workload
    from comic_upscale.engines.base import Calls
    from comic_upscale.planning.preview import Preview

EXIT_OVER_BUDGET = 1


JOB = pick(
    JobSettings, "output", "selection", "profile", "size", "skip_larger_than", "model", "denoise", "weights_folders",
    "format", "quality", "backend", "engine_options", "device", "workers",
    help={
        "output": "Output folder of the planned `run`. Pages that are already done are not counted.",
        "model": "Model as for `run`. On a rented GPU, auto means comic-best.",
        "format": "Output format. It decides how many bytes are downloaded.",
        "backend": "Engine of the planned `run`. GPUs can be quoted for networks of the catalogue only.",
        "device": "Devices for --pilot: auto, cpu, cuda, cuda:1, xpu or mps; several as cuda:0,cuda:1.",
        "workers": "Threads of the rented machine and of --pilot. Default for a rented machine: those of its offer.",
    },
    # --engine-option keep_lettering=false does the same. A pair of long flags would squeeze the whole help.
    without=("keep_lettering",),
)  # fmt: skip
INPUT = pick(
    JobSettings,
    "input",
    help={"input": "Input of the planned `run`. Only the headers of its pages are read."},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostOptions:
    """The options that only this command has."""

    pages: Annotated[int | None, Ge(1), Opt("Number of pages, in place of an input.", metavar="N")] = None
    page_size: Annotated[str, Opt("Size of the pages, with --pages.", metavar="WxH")] = "512x768"
    gpu: Annotated[
        tuple[str, ...],
        Opt(
            "GPU to quote, for example 'RTX 4090'. May be repeated. Default: every GPU with a price, and this "
            "machine if `bench`, --pilot or an earlier run has measured it.",
            metavar="NAME",
        ),
    ] = ()
    price: Annotated[
        float | None, Ge(0), Unit("dollars"),
        Opt(
            "Price of an hour, in place of the listed prices. Traffic and storage keep their listed prices.",
            metavar="$/h",
        ),
    ] = None  # fmt: skip
    prices: Annotated[
        Path | None,
        Opt(
            "Your own price list, in the format of comic_upscale/costs/prices.toml. Its GPUs replace ours. Default: "
            "prices.toml in your configuration folder (on Linux ~/.config/comic-upscale), if it exists.",
            metavar="FILE",
        ),
    ] = None
    link_mbps: Annotated[
        float | None, Gt(0),
        Opt("Your connection in megabits per second. Default: a range from 20 to 500.", metavar="N"),
    ] = None  # fmt: skip
    pilot: Annotated[
        int | None, Ge(1),
        Opt("Upscale N pages on this machine, of all sizes, and quote it from the measurement.", metavar="N"),
    ] = None  # fmt: skip
    budget: Annotated[
        float | None, Ge(0), Unit("dollars"),
        Opt(
            "Budget in dollars. Exit code 1 means that no quote with a price is likely to stay within it.",
            metavar="$",
        ),
    ] = None  # fmt: skip
    verbose: Annotated[
        bool,
        Opt(
            "Print every offer with its parts and sources, as --gpu does for one GPU.",
            flags=("--verbose", "-v"),
        ),
    ] = False
    as_json: Annotated[bool, Opt("Print JSON.", flags=("--json",))] = False

    def __post_init__(self) -> None:
        """Check every value."""
        check(self)


@takes(source=INPUT, own=definitions(CostOptions), given=JOB)
def cost(named: Pages = None, *, from_file: FromFile = None, source: Given, own: Given, given: Given) -> None:
    """Estimate the time and cost of a run, on this machine and on rented GPUs, before you pay anything."""
    from comic_upscale.console.quote_text import quotes_as_json
    from comic_upscale.costs.prices import listed_offers
    from comic_upscale.estimates.quotes import Question, is_over_budget, quotes_for

    asked, requested = CostOptions(**own.values()), given.values()
    workers = requested.get("workers")
    if named or from_file or source.values():
        requested = with_pages({**source.values(), **requested}, named, from_file)
    input = requested.pop("input", None)
    _check_together(asked, input)
    settings = job_settings({"input": input or Path("pages"), **requested})
    network = other_network(settings)
    if network is not None and asked.gpu:
        raise SettingsError(
            f"GPUs cannot be quoted for --engine {settings.backend}: its speed on them is not known. Leave --gpu out"
        )
    workload, unchanged, calls, trial = count_work(settings, asked)
    quotes = (
        []
        if calls is not None
        else quotes_for(
            workload,
            Question(
                model=settings.model,
                gpus=asked.gpu,
                price=asked.price,
                link_mbps=asked.link_mbps,
                workers=workers,
                denoise=settings.denoise,
                precision=settings.precision,
                offers=() if network else tuple(listed_offers(asked.prices or own_prices())),
                measurements=known_measurements(None if network is None else settings),
                pilot=trial,
                network=network,
            ),
        )
    )
    over = None
    if asked.budget is not None:
        over = is_over_budget(quotes, asked.budget) if calls is None else calls.dollars > asked.budget
    if asked.as_json:
        typer.echo(quotes_as_json(workload, quotes, asked.budget, over, calls))
    else:
        whole = asked.verbose or bool(asked.gpu) or len(quotes) == 1
        _print_quotes(workload, unchanged, quotes, calls, asked.budget, whole=whole)
    if over:
        raise typer.Exit(EXIT_OVER_BUDGET)


def known_measurements(like: JobSettings | None = None) -> tuple[Measured, ...]:
    """Return the measurements in the user's folder and in the ledgers of this machine.

    Args:
        like: only those of runs with the same engine, with the same options and size; None for all.
    """
    from comic_upscale.estimates.history import from_ledgers, load_measurements, processor_name
    from comic_upscale.ledger.recent import known_ledgers

    ledgers = known_ledgers(state_folder())
    recorded = from_ledgers(ledgers, socket.gethostname(), processor_name(), like=like)
    # `bench` measures networks only.
    return (*(load_measurements(rates_folder()) if like is None else ()), *recorded)


def _print_quotes(
    workload: Workload, unchanged: int, quotes: Sequence[Quote], calls: Calls | None, budget: float | None,
    *, whole: bool,
) -> None:  # fmt: skip
    """Print quotes: each with its parts and sources, or one row for each GPU. Or print the price of billed calls."""
    from comic_upscale.console.quote_text import common_lines, quote_lines, summary_lines, workload_lines
    from comic_upscale.console.text import calls_text, page_count

    if not workload.pages:
        typer.echo(
            f"nothing to upscale: {page_count(unchanged)} done, skipped or refused (--dry-run lists them)"
        )
        return
    columns = min(max(shutil.get_terminal_size().columns, 60), 120)
    for line in workload_lines(workload, unchanged):
        typer.echo(line)
    if calls is not None:
        typer.echo(calls_text(calls))
        typer.echo("A call that fails after it was sent is billed again. The time of a call is not known.")
        return
    if not quotes:
        typer.echo(
            "The time of this engine is not known yet: measure some pages on this machine with --pilot 2."
        )
        return
    if not whole:
        for line in ("", *summary_lines(quotes, budget)):
            typer.echo(line)
        return
    for quote in quotes:
        typer.echo()
        for line in quote_lines(quote, budget, columns):
            typer.echo(line)
    for line in common_lines(quotes, columns):
        typer.echo(line)


def _check_together(asked: CostOptions, input: Path | None) -> None:
    """Check the options that depend on each other.

    Raises:
        SettingsError: they contradict each other.
    """
    if (input is None) == (asked.pages is None):
        raise SettingsError("give either the pages of the planned run, or --pages N for a number of pages")
    if asked.pilot is not None and input is None:
        raise SettingsError("--pilot needs pages: name them, or give --input")


def other_network(settings: JobSettings) -> Network | None:
    """Return what computes with an engine that uses no network of the catalogue; None with one that does.

    Raises:
        SettingsError, WeightsError: as a run would.
    """
    from comic_upscale.costs.rates import Network
    from comic_upscale.engines.registry import find_factory, identify

    if find_factory(settings.backend).uses_catalogue:
        return None
    name, identity = identify(settings)
    return Network(model=name, identity=identity, tflop_per_page=None)


def quote_of_plan(plan: Preview, settings: JobSettings) -> Quote | None:
    """Return what earlier runs on this machine say of a planned run with an engine of another kind.

    None if no such run is known.
    """
    from comic_upscale.estimates.quotes import Question, quotes_for
    from comic_upscale.estimates.workload import count_workload

    measurements = known_measurements(settings)
    question = Question(model=settings.model, measurements=measurements, network=other_network(settings))
    return next(iter(quotes_for(count_workload(plan, settings), question)), None)


def count_work(
    settings: JobSettings, asked: CostOptions
) -> tuple[Workload, int, Calls | None, Measured | None]:
    """Count the work of an input, or of an assumed number of pages, and run the pilot if requested.

    Returns:
        The work, the number of pages that need no work, the billed calls, and the measurement of the pilot.
    """
    from comic_upscale.console.text import page_count
    from comic_upscale.engines.registry import count_calls, find_factory
    from comic_upscale.estimates.assumed import AssumedPages, assume_pages, assumed_sizes
    from comic_upscale.estimates.workload import count_workload, run_pilot
    from comic_upscale.planning.preview import preview, sizes_through_engine
    from comic_upscale.settings.sizes import Bounds

    if asked.pages is not None:
        bounds = Bounds.parse(asked.page_size)
        imagined = AssumedPages(count=asked.pages, width=bounds.width, height=bounds.height)
        workload = assume_pages([imagined], settings)
        return workload, 0, count_calls(settings, assumed_sizes(imagined, settings)), None
    # Everything that a run imports before it reads its input is imported by now.
    started_in = process_seconds()
    plan = preview(settings)
    if plan.selection and not asked.as_json:
        typer.echo(f"selection: {plan.selection}", err=True)
    trial = None
    if asked.pilot is not None and find_factory(settings.backend).billing == "call":
        raise SettingsError(f"--pilot with --engine {settings.backend} would cost money: leave it out")
    if asked.pilot is not None:
        if not asked.as_json:
            typer.echo(f"upscaling {page_count(asked.pilot)} as a pilot...", err=True)
        trial = run_pilot(plan, settings, asked.pilot, started_in=started_in)
    workload = count_workload(plan, settings, trial)
    calls = count_calls(settings, sizes_through_engine(plan.pages, settings))
    return workload, len(plan.pages) - workload.pages, calls, trial
