"""The seam for engines: whatever takes a batch of pixels and gives larger ones.

The pipeline knows this module and nothing behind it. The torch network is one engine, the official
program another, a fake one serves the tests; `registry.py` opens them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, TypeAlias

from comic_upscale.errors import PageError
from comic_upscale.imaging.pixels import NO_BORDERS, Borders, SampleArray

if TYPE_CHECKING:
    from comic_upscale.models.weights import ResolvedWeights

OnProgress: TypeAlias = Callable[[str, int, int], None]
"""Told of a download: the file's name, bytes done and bytes in all."""

Fidelity: TypeAlias = Literal["faithful", "generative"]
"""``faithful``: an engine keeps what is drawn; ``generative``: it may draw anew what was not there."""
Billing: TypeAlias = Literal["time", "call"]
"""``time``: an engine costs what its machine costs; ``call``: each call is billed on its own."""


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """What an engine computes on."""

    kind: str
    """``"cpu"``, ``"cuda"``, ``"xpu"``, ``"mps"``, or a word of the engine's own, without spaces."""
    index: int | None = None
    """Which of its kind; None where its kind is not numbered."""
    name: str = ""
    """What a person calls it: ``"NVIDIA H200"``, ``"2 threads"``; empty where nothing is known."""
    pages_at_once: int = 1
    """How many engines share it, at least 1."""

    @property
    def is_cpu(self) -> bool:
        """Whether the engine computes on the processor that also decodes and encodes."""
        return self.kind == "cpu"

    def __str__(self) -> str:
        """In words, for the header and the ledger: ``"cuda:0 (NVIDIA H200)"``, ``"cpu (2 threads)"``."""
        place = self.kind if self.index is None else f"{self.kind}:{self.index}"
        shared = f"{self.pages_at_once} pages at once" if self.pages_at_once > 1 else ""
        what = ", ".join(part for part in (self.name, shared) if part)
        return f"{place} ({what})" if what else place


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What must be known of an open engine; changes during a run only where an engine changes its precision."""

    name: str
    """The engine's name in the registry: ``"torch"``."""
    identity: str
    """What its pixels depend on, besides its options: for a network the hash of its weights, 64 hexadecimal digits."""
    device: DeviceInfo
    """What it computes on."""
    precision: str
    """``"fp32"``, ``"fp16"`` or ``"bf16"``: what it really computes in; empty where that is not known."""
    native_scale: int | None
    """The network's own factor; None where the engine makes any size by itself."""
    fidelity: Fidelity = "faithful"
    """Chooses the bounds of the gate."""
    deterministic: bool = False
    """Whether the same page gives the same bits on the same device in every run."""
    billing: Billing = "time"
    """What is paid for."""
    max_pixels: int | None = None
    """The most pixels (width x height) of a page that the engine takes; None for no bound."""
    warnings: tuple[str, ...] = ()
    """What the user should know before the first page, a sentence each."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Pages of one shape for one call of an engine."""

    pixels: SampleArray
    """uint8 or uint16, N x height x width x C; C is 3 (RGB) or 1 (gray)."""
    target_size: tuple[int, int]
    """(width, height) in pixels that every page of the batch shall have."""
    conservative: bool = False
    """By the most conservative path, however slow; set for pages that the quality gate rejected."""


@dataclass(frozen=True, slots=True, eq=False)
class Upscaled:
    """What an engine made of a batch."""

    pixels: SampleArray
    """The pages at their target size and in their own type: N x height x width x C."""
    borders: Borders = NO_BORDERS
    """Where tiles meet in any of the pages, for the gate to look at; none where all went through in one piece."""
    cost: float = 0.0
    """Dollars that the call was billed at; 0 where time is billed."""
    notes: tuple[str, ...] = ()
    """What a person should know of these pages, a sentence each."""


class Engine(Protocol):
    """Makes pages larger. Used from one thread at a time; may be created on another.

    An engine whose calls take long may have a method ``interrupt()``, which any thread may call to have a call that
    goes on end at once, by a `DeviceError`; the engine is then not used any more. `interrupt` calls it where it is.
    """

    @property
    def info(self) -> EngineInfo:
        """What is known of the engine now."""
        ...

    def batch_limit(self, height: int, width: int) -> int:
        """How many pages of this shape the engine takes at once now, at least 1.

        The answer may grow as the engine learns what a page costs, and shrinks after out-of-memory.
        """
        ...

    def upscale(self, batch: Batch) -> Upscaled:
        """Return the pages at their target size and in their own type, and where tiles meet in them.

        Page i of the result depends on page i of the batch alone.

        Raises:
            PageError: this batch cannot be done, others may (out of memory at the smallest tile,
                numbers that are not finite even in fp32).
            DeviceError: nothing can be done on this device any more.
        """
        ...

    def close(self) -> None:
        """Give the device's memory back. The engine is not used afterwards; closing it again does nothing."""
        ...


class Identity(NamedTuple):
    """What a job computes with, in short."""

    name: str
    """For people: the name of a model, a file or a program."""
    digest: str
    """64 hexadecimal digits, equal for two jobs exactly where the same thing computes; part of the fingerprint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """What a job wants to compute with, as it was asked for."""

    engine: str
    """The engine's name in the registry."""
    model: str
    """A name of the catalogue, or a path; ``"auto"`` where nothing was asked for."""
    denoise: float | None
    """0..1; None for no wish."""
    options: Any
    """An instance of the factory's ``options``."""
    weights_folders: tuple[Path, ...]
    """Searched for weights, in this order."""
    weights_cache: Path
    """Where downloads go to; searched last."""
    download: bool
    """Whether the network may be used."""
    weights: ResolvedWeights | None = None
    """The files to compute with; set by `EngineFactory.prepare`, None for an engine that has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineResources:
    """What an engine may take of the machine that it runs on."""

    device: str = "auto"
    """``"auto"``, ``"cpu"``, ``"cuda:1"``, or several with commas between."""
    precision: str = "auto"
    """``"auto"``, ``"fp32"``, ``"fp16"`` or ``"bf16"``."""
    batch: int | None = None
    """Pages in one call; None: as many as fit."""
    tile: int | None = None
    """The longest side in input pixels that goes through in one piece; None: as large as fits."""


class EngineFactory(Protocol):
    """Opens the engines of one kind. Importing its module must be light: no torch, no network.

    A class that inherits from this one needs ``name``, ``options``, `identify` and `open`; all else has a default.
    """

    name: ClassVar[str]
    """As ``--engine`` takes it."""
    summary: ClassVar[str] = ""
    """One line for ``engines list``."""
    options: ClassVar[type]
    """A frozen dataclass of the engine's own options, see `options.py`."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Packages, by the names that they are imported by, that must be installed for the engine."""
    install: ClassVar[str] = ""
    """The command that installs them."""
    uses_catalogue: ClassVar[bool] = False
    """Whether ``--model`` names a model of the catalogue, so that ``auto`` stands for one of them."""
    runs_remotely: ClassVar[bool] = False
    """Whether its settings and weights are all that a remote machine needs."""

    def identify(self, spec: EngineSpec) -> Identity:
        """Return what would compute, without fetching anything.

        Raises:
            SettingsError, WeightsError: there is no such thing, or it cannot do what the spec asks.
        """
        ...

    def prepare(self, spec: EngineSpec, on_progress: OnProgress | None = None) -> EngineSpec:
        """Put weights in place, or check a key; return the spec with what was found.

        Raises:
            SettingsError, WeightsError: as `identify`, or it cannot be had.
        """
        return spec

    def open(self, spec: EngineSpec, resources: EngineResources) -> list[Engine]:
        """Open the engines that together make the most of the resources, to be used at the same time.

        Args:
            spec: as `prepare` returned it.
            resources: what they may take.

        Raises:
            WeightsError: the file is nothing that can be computed with.
            DeviceError: a device is not there.
            SettingsError: the engine cannot do what is asked.
        """
        ...


def interrupt(engine: Engine) -> None:
    """Have an engine end at once what it does, where it can; from any thread."""
    method: Callable[[], None] | None = getattr(engine, "interrupt", None)
    if method is not None:
        method()


def check_batch_size(info: EngineInfo, batch: Batch) -> None:
    """Refuse pages of more pixels than an engine takes.

    Raises:
        PageError: ``"too-large"``.
    """
    height, width = batch.pixels.shape[1:3]
    if info.max_pixels is not None and height * width > info.max_pixels:
        raise PageError(
            "too-large",
            f"{width}x{height} pixels are more than the {info.max_pixels:,} that the engine {info.name} takes",
        )


def devices_in_words(engines: Sequence[Engine]) -> str:
    """Return the devices of engines in words, each once; engines that share one say so in its name."""
    return ", ".join(dict.fromkeys(str(engine.info.device) for engine in engines))
