"""Quotes and measurements as text: plain lines of at most 80 columns, or wrapped to the screen."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from comic_upscale.console.printable import printable
from comic_upscale.console.text import duration, megabytes, megapixels, money, page_count, rate
from comic_upscale.costs.quote import PARTS, Quote
from comic_upscale.costs.ranges import Range
from comic_upscale.costs.workload import Workload

if TYPE_CHECKING:
    from comic_upscale.engines.base import Calls
    from comic_upscale.estimates.bench import BenchResult


def workload_lines(workload: Workload, unchanged: int) -> list[str]:
    """Return the amount of work as text.

    Args:
        workload: of the pages.
        unchanged: number of pages that need no work, or cannot be done.
    """
    rest = f" to upscale, {unchanged:,} more are not upscaled" if unchanged else ""
    size = workload.download_bytes
    return [
        f"{page_count(workload.pages)}{rest}: {megapixels(workload.network_pixels)} megapixels in, "
        f"{megapixels(workload.output_pixels)} out",
        f"upload {megabytes(workload.upload_bytes)}, download about {megabytes(round(size.likely))} "
        f"({megabytes(round(size.low))} to {megabytes(round(size.high))})",
    ]


def quote_lines(quote: Quote, budget: float | None, width: int) -> list[str]:
    """Return a quote as text: its parts, its range and the sources of its figures.

    Args:
        quote: of one machine.
        budget: dollars; None without a budget.
        width: columns of the screen.
    """
    seller = f", {quote.seller}" if quote.seller else ", this machine"
    hour = "" if quote.hour is None else f", {span(quote.hour, money)} per hour"
    lines = [f"{quote.hardware}{seller}{hour}: {quote.model}"]
    lines.append(f"{'':7}" + "".join(f"{name:>9}" for name in PARTS) + f"{'total':>9} {'from .. to':>17}")
    times = [quote.parts[name].seconds for name in PARTS]
    lines.append(
        f"{'time':7}"
        + "".join(f"{_time(each.likely):>9}" for each in times)
        + f"{_time(quote.seconds.likely):>9} {span(quote.seconds, _time):>17}"
    )
    if quote.dollars is not None:
        dollars = [quote.parts[name].dollars or Range.exactly(0.0) for name in PARTS]
        lines.append(
            f"{'dollars':7}"
            + "".join(f"{_dollars(each.likely):>9}" for each in dollars)
            + f"{_dollars(quote.dollars.likely):>9} {span(quote.dollars, _dollars):>17}"
        )
    if budget is not None and quote.dollars is not None:
        if quote.is_over(budget):
            lines.append(f"  over the budget of {money(budget)}")
        elif quote.may_be_over(budget):
            lines.append(f"  likely within the budget of {money(budget)}, but not certain")
        else:
            lines.append(f"  within the budget of {money(budget)}")
    lines += _wrap("  compute", quote.parts["compute"].source, width)
    if quote.price_source:
        lines += _wrap("  price", quote.price_source, width)
    return [printable(line) for line in lines]


def summary_lines(quotes: Sequence[Quote], budget: float | None) -> list[str]:
    """Return a row for each GPU, with its cheapest offer, and a recommendation.

    Args:
        quotes: of all machines, this one first, then the cheapest first.
        budget: dollars; None without a budget.
    """
    rows: dict[str, Quote] = {}
    for quote in quotes:
        rows.setdefault(quote.hardware, quote)
    lines = [f"{'':20} {'time':>9} {'dollars':>8} {'from .. to':>14}  seller"]
    for name, quote in rows.items():
        likely, around = "-", "-"
        if quote.dollars is not None:
            likely, around = _dollars(quote.dollars.likely), span(quote.dollars, _dollars)
        seller = quote.seller or "this machine"
        lines.append(f"{name:20.20} {_time(quote.seconds.likely):>9} {likely:>8} {around:>14}  {seller:.24}")
    lines += ["", *_recommendation(list(rows.values()))]
    lines += _link_lines(quotes)
    over = [name for name, quote in rows.items() if budget is not None and quote.is_over(budget)]
    if over and budget is not None:
        lines += textwrap.wrap(f"over the budget of {money(budget)}: {', '.join(over)}", 80)
    lines += ["-v shows each offer with its parts and sources, --gpu NAME those of one GPU"]
    return [printable(line) for line in lines]


def _link_lines(quotes: Sequence[Quote]) -> list[str]:
    """Return the speed of the connection to rented machines, which often decides the time; empty without any."""
    rented = next((quote for quote in quotes if quote.seller), None)
    return [] if rented is None else textwrap.wrap(f"connection:  {rented.parts['upload'].source}", 80)


def _recommendation(quotes: Sequence[Quote]) -> list[str]:
    """Return the cheapest machine, the fastest if another one saves time, and how to measure this one if it is not."""
    known = [(cost, quote) for quote in quotes if (cost := _cost(quote)) is not None]
    if not known:
        return ["no machine here has a price: add --price"]
    _, cheapest = min(known, key=lambda each: (each[0], each[1].seconds.likely))
    _, fastest = min(known, key=lambda each: (each[1].seconds.likely, each[0]))
    # What reads as the same time saves none.
    saves_time = _time(fastest.seconds.likely) != _time(cheapest.seconds.likely)
    lines = [f"recommended: {_in_short(cheapest)}, the cheapest{'' if saves_time else ' and the fastest'}"]
    if saves_time:
        lines.append(f"fastest:     {_in_short(fastest)}")
    return lines if any(not quote.seller for quote in quotes) else [*lines, *_MEASURE]


_MEASURE = (
    "This machine is not measured: run `comic-upscale bench`, which takes a minute,",
    "or add --pilot 10 to upscale ten of your pages here.",
)


def _cost(quote: Quote) -> float | None:
    """Return the likely dollars. The user's own machine costs nothing without a price; None for another one."""
    if quote.dollars is not None:
        return quote.dollars.likely
    return None if quote.seller else 0.0


def _in_short(quote: Quote) -> str:
    name = f"{quote.hardware} at {quote.seller}" if quote.seller else f"this machine, {quote.hardware}"
    price = "no rent" if quote.dollars is None else money(quote.dollars.likely)
    return f"{name}: {price} in {_time(quote.seconds.likely)}"


def common_lines(quotes: Sequence[Quote], width: int) -> list[str]:
    """Return the sources of the figures that all rented machines share; empty without rented machines."""
    rented = [quote for quote in quotes if quote.seller]
    if not rented:
        return []
    parts = rented[0].parts
    lines = _wrap("start-up", parts["start-up"].source, width)
    lines += _wrap("upload, download", parts["download"].source, width)
    lines.append("storage: billed for as long as the machine is kept")
    return ["", *(printable(line) for line in lines)]


def _wrap(label: str, text: str, width: int) -> list[str]:
    indent = len(label) - len(label.lstrip())
    return textwrap.wrap(
        f"{label.lstrip()}: {text}", width, initial_indent=" " * indent, subsequent_indent=" " * (indent + 2)
    )


def span(values: Range, format: Callable[[float], str]) -> str:
    """Return ``low..high``, each formatted by ``format``, or one of them where both read the same."""
    low, high = format(values.low), format(values.high)
    return low if low == high else f"{low}..{high}"


def planned_time(quote: Quote | None) -> str:
    """Return the time of a planned run on this machine; None if no earlier run tells."""
    if quote is None:
        return "time: not known before the first pages; `comic-upscale cost --pilot 2` measures some"
    source = quote.parts["compute"].source
    return printable(f"time: about {_time(quote.seconds.likely)} ({span(quote.seconds, _time)}), {source}")


def quotes_as_json(
    workload: Workload, quotes: Sequence[Quote], budget: float | None, over: bool | None, calls: Calls | None
) -> str:
    """Return work and quotes as one line of JSON."""
    return json.dumps(
        {
            "work": dataclasses.asdict(workload),
            "calls": None if calls is None else dataclasses.asdict(calls),
            "quotes": [dataclasses.asdict(quote) for quote in quotes],
            "budget": budget,
            "over_budget": over,
        }
    )


def _time(seconds: float) -> str:
    return duration(seconds) if seconds else "-"


def _dollars(amount: float) -> str:
    return money(amount).replace("$", "") if amount else "-"


def bench_lines(result: BenchResult) -> list[str]:
    """Return the measurements of a machine as text."""
    run = result.measured
    size = f"{result.page[0]}x{result.page[1]} to {result.target[0]}x{result.target[1]}"
    memory = f"{result.peak_memory_bytes / 1e9:.2f} GB"
    if result.peak_device_bytes is not None:
        memory += f", on the GPU {result.peak_device_bytes / 1e9:.2f} GB"
    lines = [
        # On its own line: the name of a processor may be long.
        run.hardware,
        f"{run.model}, {run.precision}",
        f"pages of {size}, {run.format}, batch {result.batch}, {run.workers} workers",
        "",
        f"{'':14}{'pages/s':>12}{'megapixels/s in':>18}",
        f"{'network alone':14}{result.alone_pages_per_second:>12.3g}{result.alone_megapixels_per_second:>18.3g}",
        f"{'whole run':14}{result.whole_pages_per_second:>12.3g}{result.whole_megapixels_per_second:>18.3g}",
        "",
        f"{'':14}{'seconds/page':>16}{'busy':>8}{'waited before':>16}",
    ]
    for name, stage in result.stages.items():
        waited = "" if stage.waited_a_page is None else f"{stage.waited_a_page:.3f} s"
        lines.append(f"{name:14}{stage.seconds_a_page:>16.3f}{stage.busy:>8.0%}{waited:>16}")
    lines += [
        "",
        f"{page_count(run.pages)} in {duration(run.whole_seconds)}, {rate(result.whole_pages_per_second)}; the network "
        f"was idle for {result.network_idle:.0%} of the time",
        f"peak memory {memory}; start-up before the first page {duration(run.start_seconds)}",
    ]
    return [printable(line) for line in lines]


def bench_as_json(result: BenchResult, saved_to: str | None) -> str:
    """Return a measurement as one line of JSON.

    Args:
        result: the measurement.
        saved_to: the file with the rate; None if it was not saved.
    """
    return json.dumps({**dataclasses.asdict(result), "kept": saved_to})
