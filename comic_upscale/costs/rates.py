"""The speed of machines: measured, or computed from rates that others published."""

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
from comic_upscale.costs.workload import Workload
from comic_upscale.errors import SettingsError

PAGE_PIXELS = 512 * 768
"""The page for which a model's arithmetic is given."""

_SAME_MACHINE = 0.1
"""The relative difference between two runs of the same work on the same machine."""
_OTHER_MODEL = Range(0.67, 1.0, 1.5)
"""The error of the ratio of two networks' arithmetic as an estimate for the ratio of their times on one machine."""
_OTHER_FORMAT = Range(0.67, 1.0, 1.5)
"""The error of the ratio of two formats' assumed seconds as an estimate for the ratio of their times on one machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The properties of a network that decide its speed."""

    model: str
    """Name in the catalogue, or of the file."""
    tflop_per_page: float | None
    """Arithmetic for 512 x 768 pixels, in 10^12 operations; None where it is not known."""
    identity: str = ""
    """Hash of the weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A measurement: pages that were upscaled, and their times."""

    hardware: str
    """The GPU, such as ``NVIDIA H200``, or processor and threads: ``AMD EPYC (2 threads)``."""
    model: str
    model_sha256: str
    precision: str
    origin: str
    """``bench``, ``pilot``, or the ledger of the measurement."""
    date: str
    """ISO 8601, the day."""
    pages: int
    network_pixels: int
    """Input pixels that went through the network."""
    output_pixels: int
    output_bytes: int
    format: str
    """As `Workload.format`."""
    network_seconds: float
    """Busy time of all devices together."""
    host_seconds: float
    """Busy time of all workers together."""
    whole_seconds: float
    """Wall time from the first page to the last record."""
    devices: int = 1
    workers: int = 1
    start_seconds: float = 0.0
    """Wall time before the first page: reading the input, loading the network."""
    once_seconds: float | None = None
    """The part of the wall time that occurs once in a run with any number of pages: reading the first page, its extra
    time in the network, and writing the last page. None if unknown."""
    doubt: float = _SAME_MACHINE
    """Relative standard error of the rate, from single pages if known."""
    bytes_doubt: float = _SAME_MACHINE
    """Relative standard error of the bytes per output pixel."""
    tflop_per_page: float | None = None
    """Of the network."""
    versions: dict[str, str] | None = None
    here: bool = True
    """Whether it was measured on this machine, and not on a remote machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """The time that a machine needs per pixel, and the source of that figure."""

    fixed_seconds: Range
    """Time once in a run: filling and draining the pipeline."""
    seconds_per_pixel: Range
    """Time of the network per input pixel."""
    host_seconds_per_pixel: Range
    """Time of all workers together per output pixel."""
    basis: str
    """``measured`` or ``computed``."""
    source: str
    """The source of the rate, as text."""

    def seconds(self, workload: Workload) -> Range:
        """Return the time for the pages. Network and workers run in parallel, so the slower of them counts."""
        network = self.seconds_per_pixel * workload.network_pixels
        host = self.host_seconds_per_pixel * workload.output_pixels
        return self.fixed_seconds + network.at_least(host) if workload.pages else Range.exactly(0.0)


@functools.cache
def reference() -> dict[str, Any]:
    """Return the content of the file of reference rates."""
    return tomllib.loads(files(__package__).joinpath("rates.toml").read_text(encoding="utf-8"))


def known_cards() -> list[str]:
    """Return the GPUs for which a rate can be computed."""
    return [str(card["name"]) for card in reference()["card"]]


def plain_name(name: str) -> str:
    """Return the name of a GPU without the vendor and brand: ``rtx 4090`` for ``NVIDIA GeForce RTX 4090``."""
    words = [word for word in name.casefold().replace("-", " ").split() if word not in _SAID_OF_MANY]
    return " ".join(words)


_SAID_OF_MANY = frozenset(
    ("nvidia", "geforce", "tesla", "gpu", "pcie", "sxm", "sxm2", "sxm4", "sxm5", "hbm3")
)


def find_card(name: str) -> str | None:
    """Return the GPU of the reference with this name; None if there is none.

    The name may be followed by the memory of the GPU. A part of the name is enough if only one GPU has it: ``4090``.
    """
    wanted = plain_name(name).split()
    matches = [card for card in known_cards() if _begins(wanted, plain_name(card).split())]
    if matches:
        return max(matches, key=len)
    partly = [card for card in known_cards() if wanted and set(wanted) <= set(plain_name(card).split())]
    return partly[0] if len(partly) == 1 else None


def _begins(words: Sequence[str], with_these: Sequence[str]) -> bool:
    rest = words[len(with_these) :]
    return list(words[: len(with_these)]) == list(with_these) and all(word.endswith("gb") for word in rest)


def measured_rate(measured: Measured, network: Network, *, encoding: float = 1.0) -> Rate:
    """Return the rate of a measured machine, possibly for another network or format.

    The time of the bottleneck, network or workers, is proportional to the pixels. The rest of the wall time is
    filling and draining the pipeline, once in a run, and gaps between the pages, which are proportional too. If the
    split is unknown, the likely value takes all of it as once, the highest value all of it as gaps.

    Args:
        measured: the measurement.
        network: the network to estimate.
        encoding: assumed worker time of an output pixel, relative to that of the measured format.

    Raises:
        SettingsError: the measured network is another one, and the arithmetic of one of the two is unknown.
    """
    devices_seconds = measured.network_seconds / measured.devices
    workers_seconds = measured.host_seconds / measured.workers
    busiest = max(devices_seconds, workers_seconds)
    whole = max(measured.whole_seconds, busiest)
    once = whole - busiest if measured.once_seconds is None else min(measured.once_seconds, whole)
    # Wall time of a page relative to its busy time; below 1 if the first page's delay was busy time too.
    stretch, most = ((whole - once) / busiest, whole / busiest) if busiest else (1.0, 1.0)
    doubt = min(2 * measured.doubt, 0.9)
    width = Range((1 - doubt) * min(stretch, 1.0), stretch, (1 + doubt) * most)
    # The uncertainty of the arithmetic only affects the time of the network.
    other = Range.exactly(1.0)
    source = (
        f"measured on {measured.hardware}, {measured.origin} of {measured.date}, {measured.pages:,} pages"
    )
    basis = "measured"
    if not _same_network(measured, network):
        if not measured.tflop_per_page or not network.tflop_per_page:
            raise SettingsError(
                f"the speed of {network.model} is not known: estimate it from your pages with --pilot 10, or run "
                "`comic-upscale bench --model` with it"
            )
        other = _OTHER_MODEL * (network.tflop_per_page / measured.tflop_per_page)
        source += f" with {measured.model}, scaled by the ratio of arithmetic"
        basis = "computed"
    host = width
    if encoding != 1.0:
        host = width * _OTHER_FORMAT * encoding
        source += f", written as {measured.format}: workers scaled by the ratio of the formats"
    return Rate(
        fixed_seconds=Range(0.0, once, max(once, whole - busiest))
        if measured.network_pixels or measured.output_pixels
        else Range(0, 0, 0),
        seconds_per_pixel=width * other * (devices_seconds / max(measured.network_pixels, 1)),
        host_seconds_per_pixel=host * (workers_seconds / max(measured.output_pixels, 1)),
        basis=basis,
        source=source,
    )


def _same_network(measured: Measured, network: Network) -> bool:
    if network.identity and measured.model_sha256:
        return network.identity == measured.model_sha256
    return measured.model == network.model


def computed_rate(card: str, network: Network, *, encode_seconds: Range, workers: int | None = None) -> Rate:
    """Compute the rate of a GPU that was not measured, from published rates or from its peak.

    Args:
        card: a name in the reference.
        network: a network of the catalogue.
        encode_seconds: as `Workload.encode_seconds`.
        workers: threads of its machine; None for the usual number.

    Raises:
        SettingsError: the arithmetic of the network is not known.
    """
    data = reference()
    if network.tflop_per_page is None:
        raise SettingsError(
            f"the amount of work of {network.model} is not known, so nothing can be computed for {card}: use a model "
            "from `comic-upscale models list`, or estimate this machine with --pilot 10"
        )
    tflops, source, factors = _speed_of(card, network)
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
        # Formats give seconds per megapixel.
        host_seconds_per_pixel=host * 1e-6,
        basis="computed",
        source=source,
    )


def _speed_of(card: str, network: Network) -> tuple[float, str, list[Range]]:
    """Return the 10^12 operations a second of comic-upscale on a GPU, the source, and the factors of uncertainty."""
    data = reference()
    kind, narrow = _entry(network.model).get("kind", "rrdb"), _entry(network.model).get("narrow", False)
    for entry in data["measured"]:
        if (entry["card"], entry["kind"]) == (card, "narrow" if narrow else kind):
            source = f"computed from {entry['per_second']:g}/s, measured ({entry['source']}, {_day(entry)})"
            return float(entry["per_second"] * entry["tflop"]), source, [_range(data["other_machine"])]
    tflops, source, factors = _tflops_of(card, kind)
    factors.append(_range(data["torch_over_tensorrt"]))
    if narrow:
        factors.append(_range(data["narrow"]))
    return tflops, source, factors


def _tflops_of(card: str, kind: str) -> tuple[float, str, list[Range]]:
    """Return the assumed 10^12 operations a second of a GPU, the source, and the factors of uncertainty."""
    data = reference()
    published = [entry for entry in data["published"] if entry["card"] == card]
    for entry in sorted(published, key=lambda entry: entry["kind"] != kind):
        tflops = float(entry["per_second"] * entry["tflop"])
        source = f"computed from {entry['per_second']:g}/s ({entry['source']}, {_day(entry)})"
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
        f"computed from its peak of {peaks[card]:g} TFLOP/s, of which published GPUs reach {min(shares):.0%} to "
        f"{max(shares):.0%} with such networks"
    )
    return peaks[card] * middle, source, [Range(min(shares) / middle, 1.0, max(shares) / middle)]


def _entry(model: str) -> dict[str, Any]:
    return next((entry for entry in reference()["network"] if entry["model"] == model), {})


def _range(entry: dict[str, Any], unit: str = "") -> Range:
    return Range(float(entry[f"low{unit}"]), float(entry[f"likely{unit}"]), float(entry[f"high{unit}"]))


def start_up() -> tuple[Range, str]:
    """Return the seconds before the first page on a rented machine, and the source of that figure."""
    entry = reference()["start_up"]
    return _range(entry, "_seconds"), str(entry["source"])


def link(mbps: float | None) -> tuple[Range, str]:
    """Return the seconds that a byte takes over the connection, and the source of that figure.

    Args:
        mbps: 10^6 bits a second; None for the assumed speed.
    """
    if mbps is not None:
        return Range.around(8 / (mbps * 1e6), 0.1), f"{mbps:g} Mbit/s, your --link-mbps"
    entry = reference()["link"]
    return (_range(entry, "_mbps") * 1e6).inverse() * 8, f"{entry['likely_mbps']} Mbit/s, {entry['source']}"


def _day(entry: dict[str, Any]) -> str:
    day = entry["date"]
    assert isinstance(day, dt.date)
    return day.isoformat()
