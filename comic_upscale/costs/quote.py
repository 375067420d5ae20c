"""A quote: how long a job takes on a machine and what that costs, split into its parts."""

from __future__ import annotations

from dataclasses import dataclass

from comic_upscale.costs.prices import FREE, HOURS_A_MONTH, Offer
from comic_upscale.costs.ranges import Range, total
from comic_upscale.costs.rates import Rate, link, start_up
from comic_upscale.costs.work import Work

PARTS = ("start-up", "upload", "compute", "download", "storage")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a job: what it takes and what it costs."""

    seconds: Range
    dollars: Range | None
    """None where no price is known."""
    source: str
    """Where the figures are from, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """What a job would take on one machine."""

    hardware: str
    seller: str
    """Who rents it out; empty for the user's own machine."""
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
        """Whether it will likely cost more than so many dollars; no without a price."""
        return self.dollars is not None and self.dollars.likely > budget

    def may_be_over(self, budget: float) -> bool:
        """Whether it can cost more than so many dollars."""
        return self.dollars is not None and self.dollars.high > budget


def quote_rented(
    work: Work, rate: Rate, offer: Offer, *, hardware: str, model: str, link_mbps: float | None = None
) -> Quote:
    """Quote a job on a rented machine: there, up, through, and home again, one after the other.

    Args:
        work: what is to be done.
        rate: of the machine.
        offer: its price.
        hardware: its card.
        model: the network.
        link_mbps: 10^6 bits a second between here and there; None for what is assumed.
    """
    second = offer.hour * (1 / 3600)
    begin, begin_source = start_up()
    byte_seconds, line = link(link_mbps)
    up, down = byte_seconds * work.upload_bytes, byte_seconds * work.download_bytes
    compute = rate.seconds(work)
    kept_gb = (work.download_bytes + Range.exactly(work.upload_bytes)) * 1e-9
    if not work.pages:
        begin = FREE
    span = total([begin, up, compute, down])
    parts = {
        "start-up": Part(seconds=begin, dollars=begin * second, source=begin_source),
        "upload": Part(seconds=up, dollars=up * second, source=line),
        "compute": Part(seconds=compute, dollars=compute * second, source=rate.source),
        "download": Part(
            seconds=down,
            dollars=down * second + work.download_bytes * 1e-9 * offer.egress_gb,
            source=f"{line}; {work.download_basis}",
        ),
        "storage": Part(
            seconds=FREE,
            # Kept for the time that the machine is: it goes with it.
            dollars=kept_gb * offer.storage_gb_month * (span * (1 / 3600 / HOURS_A_MONTH)),
            source=offer.source,
        ),
    }
    return _quote(parts, work, rate, hardware, offer.seller, model, offer.hour, offer.source)


def quote_here(
    work: Work,
    rate: Rate,
    *,
    hardware: str,
    model: str,
    start_seconds: float = 0.0,
    hour: Range | None = None,
    price_source: str = "",
) -> Quote:
    """Quote a job on the machine that the pages are on: nothing is carried, and perhaps nothing is paid."""

    def part(seconds: Range, source: str) -> Part:
        return Part(
            seconds=seconds, dollars=None if hour is None else seconds * hour * (1 / 3600), source=source
        )

    begin = Range.around(start_seconds, 0.5) if work.pages else FREE
    nothing = "the pages are already on this machine"
    parts = {
        "start-up": part(begin, "starting, reading the input and loading the network, as measured"),
        "upload": part(FREE, nothing),
        "compute": part(rate.seconds(work), rate.source),
        "download": part(FREE, f"{nothing}; {work.download_basis}"),
        "storage": part(FREE, nothing),
    }
    return _quote(parts, work, rate, hardware, "", model, hour, price_source)


def _quote(
    parts: dict[str, Part],
    work: Work,
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
        pages=work.pages,
        hour=hour,
        price_source=price_source,
        basis=rate.basis,
        parts=parts,
        seconds=total(part.seconds for part in parts.values()),
        dollars=None if hour is None else total(dollars),
    )
