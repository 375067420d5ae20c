"""Quotes for one job on several machines: this one where it was measured, and cards for rent."""

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
from comic_upscale.costs.work import Work
from comic_upscale.errors import SettingsError
from comic_upscale.estimates.history import best_for
from comic_upscale.imaging.codecs import find_assumed
from comic_upscale.models.catalogue import CATALOGUE
from comic_upscale.models.default_model import CPU_DEFAULT, GPU_DEFAULT, is_auto
from comic_upscale.models.weights import identify_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What to quote, beside the work itself."""

    model: str
    """A name of the catalogue, a file, or ``auto``: on a card for rent the model that it takes on a GPU."""
    gpus: tuple[str, ...] = ()
    """Cards by name; none: every card with a price, and this machine where it was measured."""
    price: float | None = None
    """Dollars an hour in place of the listed ones; traffic and storage stay as they are listed."""
    link_mbps: float | None = None
    workers: int | None = None
    """Threads of a rented machine; None: as its offer says, else as assumed."""
    denoise: float | None = None
    offers: tuple[Offer, ...] = ()
    found: tuple[Measured, ...] = field(default=())
    """What was measured, the newest first."""
    pilot: Measured | None = None
    """Pages of this very input, done here a moment ago."""


def network_called(model: str, denoise: float | None = None) -> Network:
    """A network by its name or file, with its arithmetic where the catalogue knows it.

    Raises:
        WeightsError: there is no such model.
    """
    name, identity = identify_weights(model, denoise=denoise)
    entry = CATALOGUE.get(name)
    return Network(
        model=name, identity=identity, tflop_per_page=None if entry is None else entry.tflop_per_page
    )


def quotes_for(work: Work, question: Question) -> list[Quote]:
    """Quote a job: this machine first, then the cards, the cheapest offer of all first.

    Raises:
        SettingsError: a card is not known, or has no price; or nothing can be quoted at all.
    """
    here = _quote_here(work, question)
    cards = question.gpus or tuple(
        dict.fromkeys(offer.card for offer in question.offers if find_card(offer.card) is not None)
    )
    rented: list[Quote] = []
    # A file of the user's own has no known arithmetic: without a card named, this machine is all there is to say.
    if (
        question.gpus
        or here is None
        or network_called(_on_a_card(question.model), question.denoise).tflop_per_page
    ):
        for card in cards:
            rented += _quote_card(work, question, card)
    rented.sort(key=lambda quote: 0.0 if quote.dollars is None else quote.dollars.likely)
    return rented if here is None else [here, *rented]


def is_over_budget(quotes: Sequence[Quote], budget: float) -> bool:
    """Whether no machine that has a price will likely do it for so many dollars.

    Raises:
        SettingsError: none has a price.
    """
    priced = [quote for quote in quotes if quote.dollars is not None]
    if not priced:
        raise SettingsError("--budget needs to know what an hour costs: add --price, such as --price 0.20")
    return all(quote.is_over(budget) for quote in priced)


def _on_a_card(model: str) -> str:
    return GPU_DEFAULT if is_auto(model) else model


def _quote_here(work: Work, question: Question) -> Quote | None:
    """The quote for this machine; None where nothing was measured on it, or only cards are asked for."""
    found = question.pilot
    if found is None and not question.gpus:
        own = [each for each in question.found if each.here]
        found = _best_here(question, own)
    if found is None:
        return None
    model = found.model if is_auto(question.model) else question.model
    network = (
        Network(model=found.model, identity=found.model_sha256, tflop_per_page=found.tflop_per_page)
        if found is question.pilot
        else network_called(model, question.denoise)
    )
    return quote_here(
        work,
        measured_rate(found, network, encoding=_encoding_ratio(work, found)),
        hardware=found.hardware,
        model=network.model,
        start_seconds=found.start_seconds,
        hour=None if question.price is None else Range.exactly(question.price),
        price_source="as you say" if question.price is not None else "",
    )


def _best_here(question: Question, own: Sequence[Measured]) -> Measured | None:
    if not is_auto(question.model):
        network = network_called(question.model, question.denoise)
        found = best_for(network.model, network.identity, own)
        known = found is None or found.model_sha256 == network.identity or network.tflop_per_page
        return found if known else None
    # A network of the user's own says nothing of those that auto chooses among: its arithmetic is not known.
    catalogued = [each for each in own if each.model in CATALOGUE]
    choices = (each for each in catalogued if each.model in (GPU_DEFAULT, CPU_DEFAULT))
    return next(choices, None) or next(iter(catalogued), None)


def _quote_card(work: Work, question: Question, asked: str) -> list[Quote]:
    card = find_card(asked)
    network = network_called(_on_a_card(question.model), question.denoise)
    measured = best_for(network.model, network.identity, _on_card(card or asked, question.found))
    if card is None and measured is None:
        raise SettingsError(
            f"no card called {asked!r} is known, nor was one measured: known are {', '.join(known_cards())}. On that "
            "machine itself, `comic-upscale bench` measures it"
        )
    return [
        quote_rented(
            work,
            _rate(question, card, network, measured, work, offer.vcpus),
            offer,
            hardware=card or asked,
            model=network.model,
            link_mbps=question.link_mbps,
        )
        for offer in _offers(question, card or asked)
    ]


def _on_card(card: str, found: Iterable[Measured]) -> list[Measured]:
    """What was measured on a card, however its driver calls it."""
    return [each for each in found if find_card(each.hardware) == card or each.hardware == card]


def _rate(
    question: Question,
    card: str | None,
    network: Network,
    measured: Measured | None,
    work: Work,
    vcpus: int | None,
) -> Rate:
    if measured is not None:
        return measured_rate(measured, network, encoding=_encoding_ratio(work, measured))
    assert card is not None
    return computed_rate(card, network, encode_seconds=work.encode_seconds, workers=question.workers or vcpus)


def _encoding_ratio(work: Work, found: Measured) -> float:
    """Return the assumed worker time of an output pixel, over that of the format that was measured.

    1 for the same format, and for a measurement with ``--format auto``.
    """
    assumed = find_assumed(found.format)
    if found.format == work.format or assumed is None or not work.output_pixels:
        return 1.0
    return work.encode_seconds.likely / assumed.seconds.likely


def _offers(question: Question, card: str) -> list[Offer]:
    """The offers of a card, with the user's price of an hour where one was said.

    Raises:
        SettingsError: there is none.
    """
    offers = offers_for(card, question.offers)
    if question.price is not None:
        return _at_own_price(card, offers, Range.exactly(question.price))
    if not offers:
        raise SettingsError(
            f"no price of a {card} is listed: say one with --price, such as --price 0.20, or list it in a file of "
            "your own with --prices FILE"
        )
    return offers


def _at_own_price(card: str, offers: Iterable[Offer], hour: Range) -> list[Offer]:
    """The listed offers at the user's price of an hour: traffic and storage cost what they did.

    Those that differ in the hour alone are one by now. A card that nobody lists has that hour and nothing else.
    """
    own = {
        (offer.egress_gb, offer.storage_gb_month, offer.vcpus): replace(
            offer,
            seller=f"as {offer.seller}",
            hour=hour,
            source=f"an hour as you say; traffic and storage of {offer.seller}: {offer.source}",
        )
        for offer in reversed(list(offers))
    }
    unlisted = Offer(
        card=card,
        seller="your price",
        hour=hour,
        source="an hour as you say; traffic and storage are not counted: no offer of this card is listed",
    )
    return list(reversed(own.values())) or [unlisted]
