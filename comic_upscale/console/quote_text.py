"""Quotes and measurements in words: plain lines of at most 80 columns, but for what is wrapped to the screen."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from comic_upscale.console.text import duration, megabytes, megapixels, money, printable, rate
from comic_upscale.costs.quote import PARTS, Quote
from comic_upscale.costs.ranges import Range
from comic_upscale.costs.work import Work

if TYPE_CHECKING:
    from comic_upscale.estimates.bench import BenchResult


def work_lines(work: Work, passed: int) -> list[str]:
    """What there is to do, for a person.

    Args:
        work: counted.
        passed: pages that nothing is to be done with.
    """
    rest = f", {passed:,} more need nothing" if passed else ""
    size = work.download_bytes
    return [
        f"{work.pages:,} pages{rest}: {megapixels(work.network_pixels)} megapixels in, "
        f"{megapixels(work.output_pixels)} out",
        f"up {megabytes(work.upload_bytes)}, down about {megabytes(round(size.likely))} "
        f"({megabytes(round(size.low))} to {megabytes(round(size.high))})",
    ]


def quote_lines(quote: Quote, budget: float | None, width: int) -> list[str]:
    """A quote, for a person: split into its parts, with its range and where each figure is from.

    Args:
        quote: made.
        budget: dollars; None where none was said.
        width: of the screen, columns.
    """
    seller = f", {quote.seller}" if quote.seller else ", this machine"
    hour = "" if quote.hour is None else f", {span(quote.hour, money)} an hour"
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
            lines.append(f"  likely within the budget of {money(budget)}, but not surely")
        else:
            lines.append(f"  within the budget of {money(budget)}")
    lines += _wrapped("  compute", quote.parts["compute"].source, width)
    if quote.price_source:
        lines += _wrapped("  price", quote.price_source, width)
    return [printable(line) for line in lines]


def common_lines(quotes: Sequence[Quote], width: int) -> list[str]:
    """Where the figures are from that all machines for rent share; nothing where there is none."""
    rented = [quote for quote in quotes if quote.seller]
    if not rented:
        return []
    parts = rented[0].parts
    lines = _wrapped("start-up", parts["start-up"].source, width)
    lines += _wrapped("upload, download", parts["download"].source, width)
    lines.append("storage: for as long as the machine is kept")
    return ["", *(printable(line) for line in lines)]


def _wrapped(label: str, text: str, width: int) -> list[str]:
    indent = len(label) - len(label.lstrip())
    return textwrap.wrap(
        f"{label.lstrip()}: {text}", width, initial_indent=" " * indent, subsequent_indent=" " * (indent + 2)
    )


def span(values: Range, say: Callable[[float], str]) -> str:
    """``low..high`` in the words of ``say``; one of them where both read alike."""
    low, high = say(values.low), say(values.high)
    return low if low == high else f"{low}..{high}"


def quotes_as_json(work: Work, quotes: Sequence[Quote], budget: float | None, over: bool | None) -> str:
    """Work and quotes as one line of JSON."""
    return json.dumps(
        {
            "work": dataclasses.asdict(work),
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
    """What a machine was measured at, for a person."""
    run = result.measured
    size = f"{result.page[0]}x{result.page[1]} to {result.target[0]}x{result.target[1]}"
    memory = f"{result.peak_memory_bytes / 1e9:.2f} GB"
    if result.peak_device_bytes is not None:
        memory += f", on the card {result.peak_device_bytes / 1e9:.2f} GB"
    lines = [
        # A line of its own: a processor's name has any length.
        run.hardware,
        f"{run.model}, {run.precision}",
        f"pages of {size}, {run.format}, batch {result.batch}, {run.workers} workers",
        "",
        f"{'':14}{'pages/s':>12}{'megapixels/s in':>18}",
        f"{'network alone':14}{result.alone_pages_per_second:>12.3g}{result.alone_megapixels_per_second:>18.3g}",
        f"{'whole run':14}{result.whole_pages_per_second:>12.3g}{result.whole_megapixels_per_second:>18.3g}",
        "",
        f"{'':14}{'seconds a page':>16}{'busy':>8}{'waited before':>16}",
    ]
    for name, stage in result.stages.items():
        waited = "" if stage.waited_a_page is None else f"{stage.waited_a_page:.3f} s"
        lines.append(f"{name:14}{stage.seconds_a_page:>16.3f}{stage.busy:>8.0%}{waited:>16}")
    lines += [
        "",
        f"{run.pages:,} pages in {duration(run.whole_seconds)}, {rate(result.whole_pages_per_second)}; the network "
        f"had no page for {result.network_idle:.0%} of it",
        f"peak memory {memory}; before the first page {duration(run.start_seconds)}",
    ]
    return [printable(line) for line in lines]


def bench_as_json(result: BenchResult, kept: str | None) -> str:
    """A measurement as one line of JSON.

    Args:
        result: measured.
        kept: the file that it was kept in; None where it was not.
    """
    return json.dumps({**dataclasses.asdict(result), "kept": kept})
