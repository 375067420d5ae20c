"""Hourly prices of GPUs: a dated list, preceded by the user's own."""

from __future__ import annotations

import datetime as dt
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from comic_upscale.costs.ranges import Range
from comic_upscale.costs.rates import plain_name
from comic_upscale.errors import SettingsError

HOURS_A_MONTH = 730
FREE = Range.exactly(0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """An offer of a rented GPU."""

    card: str
    seller: str
    hour: Range
    """Dollars an hour."""
    egress_gb: Range = FREE
    """Dollars per GB sent from the machine."""
    ingress_gb: Range = FREE
    """Dollars per GB sent to the machine."""
    storage_gb_month: Range = FREE
    """Dollars per GB stored for a month."""
    vcpus: int | None = None
    """Threads of the machine, if the offer guarantees them."""
    source: str = ""
    """The source of the price as text, with its date."""


def listed_offers(own: Path | None = None) -> list[Offer]:
    """Return the price list. The user's own file replaces all offers of the GPUs that it lists.

    Raises:
        SettingsError: the file cannot be read, or contains an invalid price.
    """
    ours = _read(files(__package__).joinpath("prices.toml").read_text(encoding="utf-8"), "prices.toml")
    if own is None:
        return ours
    try:
        mine = _read(own.read_text(encoding="utf-8"), str(own))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the prices in {own} cannot be read: {error}") from error
    named = {plain_name(offer.card) for offer in mine}
    return mine + [offer for offer in ours if plain_name(offer.card) not in named]


def offers_for(card: str, offers: Iterable[Offer]) -> list[Offer]:
    """Return the offers with a GPU."""
    return [offer for offer in offers if plain_name(offer.card) == plain_name(card)]


def _read(text: str, name: str) -> list[Offer]:
    try:
        return [_offer(entry) for entry in tomllib.loads(text).get("offer", [])]
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise SettingsError(
            f"{name} is not a price list: {error!r}. Each [[offer]] has card, hour = [least, most] and date"
        ) from error


def _offer(entry: dict[str, Any]) -> Offer:
    day = entry["date"]
    if not isinstance(day, dt.date):
        raise ValueError(f"date must be a day such as 2026-11-20, not {day!r}")
    vcpus = entry.get("vcpus")
    if vcpus is not None and not (isinstance(vcpus, int) and vcpus > 0):
        raise ValueError(f"vcpus must be a number of threads, not {vcpus!r}")
    return Offer(
        card=str(entry["card"]),
        seller=str(entry.get("seller", "your list")),
        hour=_ends(entry["hour"]),
        egress_gb=_ends(entry.get("egress_gb", (0, 0))),
        storage_gb_month=_ends(entry.get("storage_gb_month", (0, 0))),
        vcpus=vcpus,
        source=", ".join(filter(None, [str(entry.get("source", "")), f"seen {day.isoformat()}"])),
    )


def _ends(value: Any) -> Range:
    low, high = (value, value) if isinstance(value, int | float) else value
    return Range.between(float(low), float(high))
