"""A quote: the estimated time and cost of a job on a machine, by parts."""

from __future__ import annotations

from dataclasses import dataclass

from comic_upscale.costs.prices import FREE, HOURS_A_MONTH, Offer
from comic_upscale.costs.ranges import Range, total
from comic_upscale.costs.rates import Rate, link, start_up
from comic_upscale.costs.workload import Workload

PARTS = ("start-up", "upload", "compute", "download", "storage")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The time and cost of one part of a job."""

    seconds: Range
    dollars: Range | None
    """None if no price is known."""
    source: str
    """The source of the figures, as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """The estimated time and cost of a job on one machine."""

    hardware: str
    seller: str
    """The seller; empty for the user's own machine."""
    model: str
    pages: int
    hour: Range | None
    """Dollars an hour."""
    price_source: str
    basis: str
    """``measured`` or ``computed``: of the compute part."""
    parts: dict[str, Part]
    """By the names of `PARTS`."""
    seconds: Range
    """The sum of the parts'."""
    dollars: Range | None
    """The sum of the parts'; None where no price is known."""

    def is_over(self, budget: float) -> bool:
        """Return whether the likely cost is above the budget in dollars; False without a price."""
        return self.dollars is not None and self.dollars.likely > budget

    def may_be_over(self, budget: float) -> bool:
        """Return whether the highest cost is above the budget in dollars."""
        return self.dollars is not None and self.dollars.high > budget


def quote_rented(
    workload: Workload, rate: Rate, offer: Offer, *, hardware: str, model: str, link_mbps: float | None = None
) -> Quote:
    """Estimate a job on a rented machine: start-up, upload, compute and download, one after the other.

    Args:
        workload: of the job.
        rate: rate of the machine.
        offer: its price.
        hardware: its GPU.
        model: the network.
        link_mbps: speed of the connection in 10^6 bits a second; None for the assumed speed.
    """
    second = offer.hour * (1 / 3600)
    begin, begin_source = start_up()
    byte_seconds, line = link(link_mbps)
    up, down = byte_seconds * workload.upload_bytes, byte_seconds * workload.download_bytes
    compute = rate.seconds(workload)
    stored_gb = (workload.download_bytes + Range.exactly(workload.upload_bytes)) * 1e-9
    if not workload.pages:
        begin = FREE
    span = total([begin, up, compute, down])
    parts = {
        "start-up": Part(seconds=begin, dollars=begin * second, source=begin_source),
        "upload": Part(
            seconds=up,
            dollars=up * second + offer.ingress_gb * (workload.upload_bytes * 1e-9),
            source=line,
        ),
        "compute": Part(seconds=compute, dollars=compute * second, source=rate.source),
        "download": Part(
            seconds=down,
            dollars=down * second + workload.download_bytes * 1e-9 * offer.egress_gb,
            source=f"{line}; {workload.download_basis}",
        ),
        "storage": Part(
            seconds=FREE,
            # Storage is paid for as long as the machine exists.
            dollars=stored_gb * offer.storage_gb_month * (span * (1 / 3600 / HOURS_A_MONTH)),
            source=offer.source,
        ),
    }
    return _quote(parts, workload, rate, hardware, offer.seller, model, offer.hour, offer.source)


def quote_here(
    workload: Workload,
    rate: Rate,
    *,
    hardware: str,
    model: str,
    start_seconds: float = 0.0,
    hour: Range | None = None,
    price_source: str = "",
) -> Quote:
    """Estimate a job on the machine that has the pages: there are no transfers, and perhaps no price."""

    def part(seconds: Range, source: str) -> Part:
        return Part(
            seconds=seconds, dollars=None if hour is None else seconds * hour * (1 / 3600), source=source
        )

    begin = Range.around(start_seconds, 0.5) if workload.pages else FREE
    nothing = "the pages are already on this machine"
    parts = {
        "start-up": part(begin, "starting, reading the input and loading the network, as measured"),
        "upload": part(FREE, nothing),
        "compute": part(rate.seconds(workload), rate.source),
        "download": part(FREE, f"{nothing}; {workload.download_basis}"),
        "storage": part(FREE, nothing),
    }
    return _quote(parts, workload, rate, hardware, "", model, hour, price_source)


def _quote(
    parts: dict[str, Part],
    workload: Workload,
    rate: Rate,
    hardware: str,
    seller: str,
    model: str,
    hour: Range | None,
    price_source: str,
) -> Quote:
    dollars = [part.dollars for part in parts.values() if part.dollars is not None]
    return Quote(
        hardware=hardware,
        seller=seller,
        model=model,
        pages=workload.pages,
        hour=hour,
        price_source=price_source,
        basis=rate.basis,
        parts=parts,
        seconds=total(part.seconds for part in parts.values()),
        dollars=None if hour is None else total(dollars),
    )
