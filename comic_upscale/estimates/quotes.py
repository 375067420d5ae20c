"""Quotes for one job on several machines: this one, if it was measured, and rented GPUs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from comic_upscale.costs.prices import Offer, offers_for
from comic_upscale.costs.quote import Quote, quote_here, quote_rented
from comic_upscale.costs.ranges import Range
from comic_upscale.costs.rates import (
    Measured,
    Network,
    Rate,
    computed_rate,
    find_card,
    known_cards,
    measured_rate,
)
from comic_upscale.costs.workload import Workload
from comic_upscale.errors import SettingsError, WeightsError
from comic_upscale.estimates.history import best_for, in_precision
from comic_upscale.imaging.codecs import find_assumed
from comic_upscale.models.catalogue import CATALOGUE
from comic_upscale.models.default_model import DEFAULTS, default_model, is_auto
from comic_upscale.models.weights import identify_weights

PRICE_OPTIONS = "--price, such as --price 0.20, or a price list with --prices FILE"
"""The end of a message about a missing price. The server has a field of the request in its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The parameters of quotes, besides the work itself."""

    model: str
    """A name in the catalogue, a file, or ``auto``, which on a rented GPU means the default for GPUs."""
    gpus: tuple[str, ...] = ()
    """GPUs by name; empty for every GPU with a price, and this machine if it was measured."""
    price: float | None = None
    """Dollars per hour instead of the listed price. Traffic and storage keep their listed prices."""
    link_mbps: float | None = None
    workers: int | None = None
    """Threads of a rented machine; None for those of its offer, or the assumed number."""
    denoise: float | None = None
    offers: tuple[Offer, ...] = ()
    precision: str = "auto"
    """That of the job; measurements in another one do not count. ``auto`` is what was measured last."""
    measurements: tuple[Measured, ...] = field(default=())
    """Measurements, the newest first."""
    pilot: Measured | None = None
    """The measurement of a pilot with pages of this input on this machine."""
    network: Network | None = None
    """What computes with an engine that uses no network of the catalogue. Only this machine is quoted then."""


def find_network(model: str, denoise: float | None = None) -> Network:
    """Return a network by its name or file, with its arithmetic if the catalogue knows it.

    Raises:
        WeightsError: there is no such model.
    """
    name, identity = identify_weights(model, denoise=denoise)
    entry = CATALOGUE.get(name)
    return Network(
        model=name, identity=identity, tflop_per_page=None if entry is None else entry.tflop_per_page
    )


def quotes_for(workload: Workload, question: Question) -> list[Quote]:
    """Return the quotes for a job: this machine first, then GPUs, the cheapest offer first.

    Raises:
        SettingsError: a GPU is unknown or has no price, or nothing can be estimated.
    """
    here = _quote_here(workload, question)
    if question.network is not None:
        return [] if here is None else [here]
    cards = question.gpus or tuple(
        dict.fromkeys(offer.card for offer in question.offers if find_card(offer.card) is not None)
    )
    rented: list[Quote] = []
    # The arithmetic of the user's own file is unknown. Without --gpu, only this machine can be estimated.
    if (
        question.gpus
        or here is None
        or find_network(_on_a_card(question.model), question.denoise).tflop_per_page
    ):
        for card in cards:
            rented += _quote_card(workload, question, card)
    rented.sort(key=lambda quote: 0.0 if quote.dollars is None else quote.dollars.likely)
    return rented if here is None else [here, *rented]


def is_over_budget(quotes: Sequence[Quote], budget: float) -> bool:
    """Return whether the likely cost on every machine with a price is above the budget in dollars.

    Raises:
        SettingsError: no machine has a price.
    """
    priced = [quote for quote in quotes if quote.dollars is not None]
    if not priced:
        raise SettingsError("--budget needs the price of an hour: add --price, such as --price 0.20")
    return all(quote.is_over(budget) for quote in priced)


def _tflop_of(model: str) -> float | None:
    try:
        return find_network(model).tflop_per_page
    except WeightsError:
        # It is not here yet, or in a folder that the run is given.
        return None


def _on_a_card(model: str) -> str:
    return default_model(accelerator=True, factor=None) if is_auto(model) else model


def _quote_here(workload: Workload, question: Question) -> Quote | None:
    """Return the quote for this machine; None if it was not measured, or only GPUs are requested."""
    measured = question.pilot
    if measured is None and question.network is not None:
        measured = next((each for each in question.measurements if each.here), None)
    elif measured is None and not question.gpus:
        own = [each for each in question.measurements if each.here]
        measured = _best_here(question, in_precision(question.precision, own))
    if measured is None:
        return None
    model, denoise = question.model, question.denoise
    if is_auto(model):
        model = measured.model
        # Only those that auto stands for have a strength for certain. It changes no arithmetic.
        denoise = denoise if model in DEFAULTS else None
    network = question.network or (
        Network(model=measured.model, identity=measured.model_sha256, tflop_per_page=measured.tflop_per_page)
        if measured is question.pilot
        else find_network(model, denoise)
    )
    return quote_here(
        # A pilot has gone through the networks of all rules.
        workload if measured is question.pilot else workload.through(_tflop_of, network.tflop_per_page),
        measured_rate(measured, network, encoding=_encoding_ratio(workload, measured)),
        hardware=measured.hardware,
        model=network.model,
        start_seconds=measured.start_seconds,
        hour=None if question.price is None else Range.exactly(question.price),
        price_source="your --price" if question.price is not None else "",
    )


def _best_here(question: Question, own: Sequence[Measured]) -> Measured | None:
    if not is_auto(question.model):
        network = find_network(question.model, question.denoise)
        measured = best_for(network.model, network.identity, own)
        known = measured is None or measured.model_sha256 == network.identity or network.tflop_per_page
        return measured if known else None
    # A measurement with the user's own network says nothing about auto's defaults, as its arithmetic is unknown.
    catalogued = [each for each in own if each.model in CATALOGUE]
    choices = (each for each in catalogued if each.model in DEFAULTS)
    return next(choices, None) or next(iter(catalogued), None)


def _quote_card(workload: Workload, question: Question, requested: str) -> list[Quote]:
    card = find_card(requested)
    network = find_network(_on_a_card(question.model), question.denoise)
    on_it = _select_card(card or requested, question.measurements)
    measured = best_for(network.model, network.identity, in_precision(question.precision, on_it))
    if card is None and measured is None:
        raise SettingsError(
            f"there is no GPU {requested!r} in the price and rate lists, and none was measured: use one of "
            f"{', '.join(known_cards())}, or run `comic-upscale bench` on a machine with that GPU"
        )
    return [
        quote_rented(
            workload.through(_tflop_of, network.tflop_per_page),
            _rate(question, card, network, measured, workload, offer.vcpus),
            offer,
            hardware=card or requested,
            model=network.model,
            link_mbps=question.link_mbps,
        )
        for offer in _offers(question, card or requested)
    ]


def _select_card(card: str, measurements: Iterable[Measured]) -> list[Measured]:
    """Return the measurements on a GPU, under any name that its driver gives it."""
    return [each for each in measurements if find_card(each.hardware) == card or each.hardware == card]


def _rate(
    question: Question,
    card: str | None,
    network: Network,
    measured: Measured | None,
    workload: Workload,
    vcpus: int | None,
) -> Rate:
    if measured is not None:
        return measured_rate(measured, network, encoding=_encoding_ratio(workload, measured))
    assert card is not None
    return computed_rate(
        card, network, encode_seconds=workload.encode_seconds, workers=question.workers or vcpus
    )


def _encoding_ratio(workload: Workload, measured: Measured) -> float:
    """Return the assumed worker time of an output pixel, over that of the format that was measured.

    1 for the same format, and for a measurement with ``--format auto``.
    """
    assumed = find_assumed(measured.format)
    if measured.format == workload.format or assumed is None or not workload.output_pixels:
        return 1.0
    return workload.encode_seconds.likely / assumed.seconds.likely


def _offers(question: Question, card: str) -> list[Offer]:
    """Return the offers with a GPU, with the user's price of an hour if one was given.

    Raises:
        SettingsError: there is no price.
    """
    offers = offers_for(card, question.offers)
    if question.price is not None:
        return _replace_price(card, offers, Range.exactly(question.price))
    if not offers:
        raise SettingsError(f"no price is listed for {card}: add {PRICE_OPTIONS}")
    return offers


def _replace_price(card: str, offers: Iterable[Offer], hour: Range) -> list[Offer]:
    """Return the listed offers with the user's price of an hour. Traffic and storage keep their prices.

    Offers that differed only by the price of an hour become one. A GPU without an offer only has the price of an hour.
    """
    own = {
        (offer.egress_gb, offer.storage_gb_month, offer.vcpus): replace(
            offer,
            seller=f"as {offer.seller}",
            hour=hour,
            source=f"your --price; traffic and storage of {offer.seller}: {offer.source}",
        )
        for offer in reversed(list(offers))
    }
    unlisted = Offer(
        card=card,
        seller="your price",
        hour=hour,
        source="your --price; traffic and storage are not counted, as no offer with this GPU is listed",
    )
    return list(reversed(own.values())) or [unlisted]
