"""How fast a card works: as it was measured, else as computed from what others published for it."""

from __future__ import annotations

import datetime as dt
import functools
import statistics
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from comic_upscale.costs.ranges import Range, product_of_independent
from comic_upscale.costs.work import Work
from comic_upscale.errors import SettingsError

PAGE_PIXELS = 512 * 768
"""The page that a model's arithmetic is given for."""

_SAME_MACHINE = 0.1
"""How far two runs of the same work on the same machine may lie apart, as a share."""
_OTHER_MODEL = Range(0.67, 1.0, 1.5)
"""How far the ratio of two networks' arithmetic may miss that of their times on one machine."""
_OTHER_FORMAT = Range(0.67, 1.0, 1.5)
"""How far the ratio of two formats' assumed seconds may miss that of their times on one machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network, as far as its speed depends on it."""

    model: str
    """Name in the catalogue, or of the file."""
    tflop_per_page: float | None
    """Arithmetic for 512 x 768 pixels, in 10^12 operations; None where it is not known."""
    identity: str = ""
    """Hash of the weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Pages that this program did, and the time that they took."""

    hardware: str
    """The card, such as ``NVIDIA H200``, or processor and threads: ``AMD EPYC (2 threads)``."""
    model: str
    model_sha256: str
    precision: str
    origin: str
    """``bench``, ``pilot``, or the ledger that it was read from."""
    date: str
    """ISO 8601, the day."""
    pages: int
    network_pixels: int
    """Input pixels that went through the network."""
    output_pixels: int
    output_bytes: int
    format: str
    """As `Work.format`."""
    network_seconds: float
    """Busy time of the devices, all together."""
    host_seconds: float
    """Busy time of the workers, all together."""
    whole_seconds: float
    """By the clock, from the first page to the last record."""
    devices: int = 1
    workers: int = 1
    start_seconds: float = 0.0
    """Before the first page: reading the input, loading the network."""
    once_seconds: float | None = None
    """Of the whole, what a run has once, however many pages: the first page's reading and what it took longer than
    the others in the network, the last one's writing. None where that is not known."""
    doubt: float = _SAME_MACHINE
    """Standard error of the rate, as a share, where single pages say it."""
    bytes_doubt: float = _SAME_MACHINE
    """The same of the bytes that an output pixel has."""
    tflop_per_page: float | None = None
    """Of the network."""
    versions: dict[str, str] | None = None
    here: bool = True
    """Whether it was this machine, not one whose ledger came home."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What a machine needs for pixels, and where that is from."""

    fixed_seconds: Range
    """Once in a run: filling the pipeline and draining it."""
    seconds_per_pixel: Range
    """By the network, for an input pixel."""
    host_seconds_per_pixel: Range
    """By all workers together, for an output pixel."""
    basis: str
    """``measured`` or ``computed``."""
    source: str
    """In words."""

    def seconds(self, work: Work) -> Range:
        """How long the pages take: network and workers go side by side, so the slower of them counts."""
        network = self.seconds_per_pixel * work.network_pixels
        host = self.host_seconds_per_pixel * work.output_pixels
        return self.fixed_seconds + network.at_least(host) if work.pages else Range.exactly(0.0)


@functools.cache
def reference() -> dict[str, Any]:
    """The file of reference rates, as it is."""
    return tomllib.loads(files(__package__).joinpath("rates.toml").read_text(encoding="utf-8"))


def known_cards() -> list[str]:
    """The cards that a rate can be computed for."""
    return [str(card["name"]) for card in reference()["card"]]


def plain_name(name: str) -> str:
    """A card's name without what is said of every such card: ``NVIDIA GeForce RTX 4090`` is ``rtx 4090``."""
    words = [word for word in name.casefold().replace("-", " ").split() if word not in _SAID_OF_MANY]
    return " ".join(words)


_SAID_OF_MANY = frozenset(
    ("nvidia", "geforce", "tesla", "gpu", "pcie", "sxm", "sxm2", "sxm4", "sxm5", "hbm3")
)


def find_card(name: str) -> str | None:
    """The card of the reference that a name means: its memory may be said behind it; None for none."""
    wanted = plain_name(name).split()
    matches = [card for card in known_cards() if _begins(wanted, plain_name(card).split())]
    return max(matches, key=len, default=None)


def _begins(words: Sequence[str], with_these: Sequence[str]) -> bool:
    rest = words[len(with_these) :]
    return list(words[: len(with_these)]) == list(with_these) and all(word.endswith("gb") for word in rest)


def measured_rate(found: Measured, network: Network, *, encoding: float = 1.0) -> Rate:
    """The rate of a machine that was measured, also with another network or another format.

    What keeps it busiest, network or workers, goes with the pixels. The rest of the clock's time is a pipeline
    that fills and drains, once in a run, as far as that is known, and gaps between the pages, which go with them, too.
    Where it is not known it is likely all once and, at the most, all gaps.

    Args:
        found: measured.
        network: to be quoted.
        encoding: assumed worker time of an output pixel, over that of the format that was measured.

    Raises:
        SettingsError: it was another network, and the arithmetic of one of the two is not known.
    """
    devices_seconds = found.network_seconds / found.devices
    workers_seconds = found.host_seconds / found.workers
    busiest = max(devices_seconds, workers_seconds)
    whole = max(found.whole_seconds, busiest)
    once = whole - busiest if found.once_seconds is None else min(found.once_seconds, whole)
    # How much longer than busy a page takes; less than 1 where the first page's delay was busy, too.
    stretch, most = ((whole - once) / busiest, whole / busiest) if busiest else (1.0, 1.0)
    doubt = min(2 * found.doubt, 0.9)
    width = Range((1 - doubt) * min(stretch, 1.0), stretch, (1 + doubt) * most)
    # How the arithmetic differs widens the network's time alone.
    other = Range.exactly(1.0)
    source = f"measured on {found.hardware}, {found.origin} of {found.date}, {found.pages:,} pages"
    basis = "measured"
    if not _same_network(found, network):
        if not found.tflop_per_page or not network.tflop_per_page:
            raise SettingsError(
                f"how much work {network.model} has with a page is not known: quote from some with --pilot 10, or "
                "run `comic-upscale bench --model` with it"
            )
        other = _OTHER_MODEL * (network.tflop_per_page / found.tflop_per_page)
        source += f" with {found.model}, by the ratio of arithmetic"
        basis = "computed"
    host = width
    if encoding != 1.0:
        host = width * _OTHER_FORMAT * encoding
        source += f", written as {found.format}: workers by the ratio of the formats"
    return Rate(
        fixed_seconds=Range(0.0, once, max(once, whole - busiest))
        if found.network_pixels or found.output_pixels
        else Range(0, 0, 0),
        seconds_per_pixel=width * other * (devices_seconds / max(found.network_pixels, 1)),
        host_seconds_per_pixel=host * (workers_seconds / max(found.output_pixels, 1)),
        basis=basis,
        source=source,
    )


def _same_network(found: Measured, network: Network) -> bool:
    if network.identity and found.model_sha256:
        return network.identity == found.model_sha256
    return found.model == network.model


def computed_rate(card: str, network: Network, *, encode_seconds: Range, workers: int | None = None) -> Rate:
    """The rate of a card that was not measured: computed, from published ones or from its peak.

    Args:
        card: a name of the reference.
        network: of the catalogue.
        encode_seconds: as `Work.encode_seconds`.
        workers: threads of its machine; None for as many as such machines have.

    Raises:
        SettingsError: the arithmetic of the network is not known.
    """
    data = reference()
    if network.tflop_per_page is None:
        raise SettingsError(
            f"how much work {network.model} has with a page is not known, so that nothing can be computed for a "
            f"{card}: take a model of `comic-upscale models list`, or quote for this machine with --pilot 10"
        )
    tflops, source, factors = _tflops_of(card, _entry(network.model).get("kind", "rrdb"))
    factors.append(_range(data["torch_over_tensorrt"]))
    if _entry(network.model).get("narrow"):
        factors.append(_range(data["narrow"]))
    rate = product_of_independent([Range.exactly(tflops), *factors])
    seconds = rate.inverse() * (network.tflop_per_page / PAGE_PIXELS)
    threads = _range(data["workers"]) if workers is None else Range.exactly(float(workers))
    host = product_of_independent(
        [
            encode_seconds,
            _range(data["host"]["other_processor"]),
            threads.inverse(),
        ]
    )
    return Rate(
        fixed_seconds=Range.exactly(0.0),
        seconds_per_pixel=seconds,
        # Formats say seconds for a megapixel.
        host_seconds_per_pixel=host * 1e-6,
        basis="computed",
        source=source,
    )


def _tflops_of(card: str, kind: str) -> tuple[float, str, list[Range]]:
    """10^12 operations a second that a card is taken to get through, whence, and what makes it doubtful."""
    data = reference()
    published = [entry for entry in data["published"] if entry["card"] == card]
    for entry in sorted(published, key=lambda entry: entry["kind"] != kind):
        tflops = float(entry["per_second"] * entry["tflop"])
        source = f"computed from {entry['per_second']:g}/s of a {entry['source']}, {_day(entry)}"
        factors = [] if entry["kind"] == kind else [_range(data["other_kind"])]
        return tflops, source, factors
    peaks = {entry["name"]: float(entry["peak_tflops"]) for entry in data["card"]}
    shares = [
        entry["per_second"] * entry["tflop"] / peaks[entry["card"]]
        for entry in data["published"]
        if entry["kind"] == kind
    ]
    middle = statistics.median(shares)
    source = (
        f"computed from its peak of {peaks[card]:g} TFLOP/s, of which cards published for such networks get "
        f"{min(shares):.0%} to {max(shares):.0%}"
    )
    return peaks[card] * middle, source, [Range(min(shares) / middle, 1.0, max(shares) / middle)]


def _entry(model: str) -> dict[str, Any]:
    return next((entry for entry in reference()["network"] if entry["model"] == model), {})


def _range(entry: dict[str, Any], unit: str = "") -> Range:
    return Range(float(entry[f"low{unit}"]), float(entry[f"likely{unit}"]), float(entry[f"high{unit}"]))


def start_up() -> tuple[Range, str]:
    """Seconds before the first page on a rented machine, and where that is from."""
    entry = reference()["start_up"]
    return _range(entry, "_seconds"), str(entry["source"])


def link(mbps: float | None) -> tuple[Range, str]:
    """Seconds for a byte over the line, and where that is from.

    Args:
        mbps: 10^6 bits a second; None for what is assumed.
    """
    if mbps is not None:
        return Range.around(8 / (mbps * 1e6), 0.1), f"{mbps:g} Mbit/s, as you say"
    entry = reference()["link"]
    return (_range(entry, "_mbps") * 1e6).inverse() * 8, f"{entry['likely_mbps']} Mbit/s, {entry['source']}"


def _day(entry: dict[str, Any]) -> str:
    day = entry["date"]
    assert isinstance(day, dt.date)
    return day.isoformat()
