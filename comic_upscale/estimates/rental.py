"""Offers of rented machines, ranked by what this job costs there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from comic_upscale.costs.prices import Offer
from comic_upscale.costs.quote import Quote
from comic_upscale.costs.ranges import Range
from comic_upscale.costs.rates import find_card, plain_name
from comic_upscale.costs.workload import Workload
from comic_upscale.errors import SettingsError
from comic_upscale.estimates.quotes import Question, quotes_for
from comic_upscale.provisioning.base import RentalOffer


@dataclass(frozen=True, slots=True)
class RankedOffer:
    """An offer, with the estimate of the job on it."""

    offer: RentalOffer
    quote: Quote | None
    """None if the speed of its GPU is unknown."""


def is_gpu(offer: RentalOffer, wanted: str) -> bool:
    """Return whether an offer has the GPU that the user named: ``4090``, ``RTX 4090``, ``A100``."""
    card = find_card(wanted)
    if card is not None:
        return find_card(offer.gpu) == card
    return set(plain_name(wanted).split()) <= set(plain_name(offer.gpu).split())


def rank_offers(workload: Workload, offers: Sequence[RentalOffer], question: Question) -> list[RankedOffer]:
    """Return offers by the likely cost of a job, the cheapest first; those with an unknown speed last, by their price.

    Start-up, traffic and the time of the job count, so a slow GPU at a low price may be the dearest.

    Args:
        workload: of the job.
        offers: of any providers.
        question: the model and the connection; its own offers and GPUs are not used.

    Raises:
        WeightsError: there is no such model.
    """
    cards = {offer.label: find_card(offer.gpu) for offer in offers}
    listed = tuple(_as_listed(offer, card) for offer in offers if (card := cards[offer.label]) is not None)
    quotes: dict[str, Quote] = {}
    if listed:
        asked = replace(
            question,
            offers=listed,
            gpus=tuple(dict.fromkeys(offer.card for offer in listed)),
            price=None,
            pilot=None,
        )
        try:
            quotes = {quote.seller: quote for quote in quotes_for(workload, asked)}
        except SettingsError:
            # The arithmetic of the user's own network is unknown: the price of an hour is all there is.
            quotes = {}
    ranked = [RankedOffer(offer, quotes.get(offer.label)) for offer in offers]
    return sorted(ranked, key=_order)


def _order(ranked: RankedOffer) -> tuple[bool, float, float]:
    dollars = None if ranked.quote is None else ranked.quote.dollars
    return dollars is None, 0.0 if dollars is None else dollars.likely, ranked.offer.hour


def _as_listed(offer: RentalOffer, card: str) -> Offer:
    return Offer(
        card=card,
        seller=offer.label,
        hour=Range.exactly(offer.hour),
        egress_gb=Range.exactly(offer.egress_gb),
        ingress_gb=Range.exactly(offer.ingress_gb),
        vcpus=offer.vcpus,
        source=f"offered by {offer.provider} now",
    )
