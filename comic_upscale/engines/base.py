"""The interface of engines: an engine takes a batch of pages and returns them enlarged.

The pipeline depends on this module alone. PyTorch networks are one engine, the official program is another, and the
tests use a fake one. `registry.py` opens them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, TypeAlias

from comic_upscale.costs.spending import Spending
from comic_upscale.errors import PageError
from comic_upscale.imaging.pixels import NO_BORDERS, Borders, DeviceWork, Pixels, SampleArray

if TYPE_CHECKING:
    from comic_upscale.gate.measures import MeasurePlan
    from comic_upscale.models.weights import ResolvedWeights
    from comic_upscale.storage.answers import AskingPage

OnProgress: TypeAlias = Callable[[str, int, int], None]
"""Called during a download with the file's name, the bytes done and the total bytes."""

Fidelity: TypeAlias = Literal["faithful", "generative"]
"""``faithful``: the engine keeps the drawing. ``generative``: it may draw details that the source does not have."""
Billing: TypeAlias = Literal["time", "call"]
"""``time``: the engine costs the price of its machine. ``call``: each call is billed."""


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """The device on which an engine computes."""

    kind: str
    """``"cpu"``, ``"cuda"``, ``"xpu"``, ``"mps"``, or another word that the engine defines, without spaces."""
    index: int | None = None
    """The number of the device among those of its kind; None for a kind without numbers."""
    name: str = ""
    """A name for people: ``"NVIDIA H200"``, ``"2 threads"``; empty if unknown."""
    pages_at_once: int = 1
    """The number of engines that share the device, at least 1."""

    @property
    def is_cpu(self) -> bool:
        """Whether the engine computes on the CPU, which also decodes and encodes."""
        return self.kind == "cpu"

    def __str__(self) -> str:
        """Return the text for the header and the ledger: ``"cuda:0 (NVIDIA H200)"``, ``"cpu (2 threads)"``."""
        place = self.kind if self.index is None else f"{self.kind}:{self.index}"
        shared = f"{self.pages_at_once} pages at once" if self.pages_at_once > 1 else ""
        what = ", ".join(part for part in (self.name, shared) if part)
        return f"{place} ({what})" if what else place


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """The properties of an open engine. They change during a run only if the engine changes its precision."""

    name: str
    """The engine's name in the registry: ``"torch"``."""
    identity: str
    """Identifies what computes the pixels, besides the options: for a network, the hash of its weights. 64 hexadecimal
    digits."""
    device: DeviceInfo
    """The device on which it computes."""
    precision: str
    """The precision that is actually used: ``"fp32"``, ``"fp16"``, ``"bf16"`` or ``"int8"``; empty if unknown."""
    native_scale: int | None
    """The network's own factor; None if the engine produces any size directly."""
    fidelity: Fidelity = "faithful"
    """Selects the bounds of the quality gate."""
    deterministic: bool = False
    """Whether the same page gives the same bits on the same device in every run.

    No run reads it. The conformance tests compare such engines to the bit, and others to one level.
    """
    billing: Billing = "time"
    """How the engine is billed."""
    max_pixels: int | None = None
    """The most pixels (width x height) of a page that the engine accepts; None for no limit."""
    warnings: tuple[str, ...] = ()
    """Warnings for the user before the first page, one sentence each."""


@dataclass(frozen=True, slots=True)
class FinishPlan:
    """What the host would do with pages after the network, for an engine that can do it on its device."""

    measures: MeasurePlan | None
    """What the quality gate measures; None without the gate. If only the host can measure it, there is no plan."""
    png_rows: bool
    """Whether to make the filtered rows of a PNG."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Pages of one shape for one call of an engine."""

    pixels: SampleArray
    """uint8 or uint16, N x height x width x C; C is 3 (RGB) or 1 (gray)."""
    target_size: tuple[int, int]
    """The requested (width, height) of every page of the batch, in pixels."""
    conservative: bool = False
    """Use the most conservative path, however slow; set for pages that the quality gate rejected."""
    finish_plan: FinishPlan | None = None
    """How to finish pages as well, if the engine can; None to return them raw."""
    sources: tuple[Pixels, ...] = ()
    """With a plan, the pages as `prepare` returned them."""


@dataclass(frozen=True, slots=True, eq=False)
class Upscaled:
    """The output of an engine for one batch."""

    pixels: SampleArray
    """The pages at their target size, in the sample type of the input: N x height x width x C."""
    borders: Borders = NO_BORDERS
    """The borders between tiles in any of the pages, which the gate examines; empty if all pages were whole."""
    cost: float = 0.0
    """Dollars billed for the call; 0 if time is billed."""
    notes: tuple[str, ...] = ()
    """Notes about these pages for the user, one sentence each."""
    answers: tuple[str, ...] = ()
    """The pages in `AnswerStore` whose answers the engine keeps. They are deleted once the pages are recorded."""
    work: tuple[DeviceWork | None, ...] = ()
    """What was done with each page by the plan of the batch; None for a page that is raw. Empty if all are."""


@dataclass(frozen=True, slots=True)
class EnginePart:
    """The part of its current call that an engine has done."""

    unit: str
    """What it counts, in the singular: ``"tile"``."""
    done: float
    """Units that are done, 0 to ``total``; a fraction if one of them takes steps that can be counted."""
    total: int
    """Units of the call, at least 1."""


OnPart: TypeAlias = Callable[[EnginePart], None]
"""Takes what an engine has done, on the thread of the engine."""


class Engine(Protocol):
    """Makes pages larger. Used from one thread at a time; may be created on another.

    An engine may have an attribute ``batches_at_once``: the number of threads that may call `upscale` at the same time.
    A device that works on its own can then compute one batch while the results of another are fetched.

    An engine with long calls may have a method ``interrupt()``. Any thread may call it, and the current call of the
    engine then ends at once with a `DeviceError`. The engine is not used afterwards. `interrupt` calls this method.

    An engine that is billed by call may have a method ``charge(spending)``, which `charge` calls before the first page.
    It records every call there before it makes it.

    An engine that keeps answers may have a method ``ask_for(page)``, which `ask_for` calls with the page of the job
    before each call of the engine.

    An engine whose calls take minutes may have a method ``follow(on_part)``, which `follow` calls. From then on it
    tells ``on_part`` what it has done of each call, or nobody if that is None.
    """

    @property
    def info(self) -> EngineInfo:
        """The engine's current properties."""
        ...

    def batch_limit(self, height: int, width: int) -> int:
        """Return how many pages of this shape the engine currently accepts in one batch, at least 1.

        The limit may grow as the engine measures the memory that a page needs. It shrinks after out-of-memory.
        """
        ...

    def upscale(self, batch: Batch) -> Upscaled:
        """Return the pages at their target size, in the sample type of the input, with the borders between tiles.

        Page i of the result depends only on page i of the batch.

        Raises:
            PageError: this batch failed, others may succeed (out of memory at the smallest tile, numbers that are
                not finite even in fp32).
            DeviceError: the device failed and can no longer be used.
            CeilingError: a call that is billed would exceed the cost ceiling of the job. The pages are not done.
        """
        ...

    def close(self) -> None:
        """Release the device's memory. The engine is not used afterwards; closing it again does nothing."""
        ...


class Identity(NamedTuple):
    """Identifies what computes the pixels of a job."""

    name: str
    """A name for people: of a model, a file or a program."""
    digest: str
    """64 hexadecimal digits; equal for two jobs exactly if the same thing computes. Part of the fingerprint."""


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls of a service that are billed."""

    count: int
    dollars: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """The engine, model and options that a job requests."""

    engine: str
    """The engine's name in the registry."""
    model: str
    """A name in the catalogue, or a path; ``"auto"`` if none was requested."""
    denoise: float | None
    """0..1; None if not specified."""
    options: Any
    """An instance of the factory's ``options``."""
    weights_folders: tuple[Path, ...]
    """Folders to search for weights, in this order."""
    weights_cache: Path
    """Folder for downloads; searched last."""
    download: bool
    """Whether weights may be downloaded."""
    answers: Path | None = None
    """Folder for `AnswerStore`, below the output folder; None if nothing may be kept."""
    weights: ResolvedWeights | None = None
    """The weights; set by `EngineFactory.prepare`, None for an engine without weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineResources:
    """The resources that an engine may use on its machine."""

    device: str = "auto"
    """``"auto"``, ``"cpu"``, ``"cuda:1"``, or several separated by commas."""
    precision: str = "auto"
    """``"auto"``, ``"fp32"``, ``"fp16"``, ``"bf16"`` or ``"int8"``."""
    batch: int | None = None
    """Pages in one call; None for as many as fit."""
    tile: int | None = None
    """The longest side in input pixels that is processed in one piece; None for as large as fits."""


class EngineFactory(Protocol):
    """Opens the engines of one kind. Its module must be cheap to import: no torch, no network access.

    A subclass must define ``name``, ``options``, `identify` and `open`. Everything else has a default.
    """

    name: ClassVar[str]
    """The name for ``--engine``."""
    summary: ClassVar[str] = ""
    """One line for ``engines list``."""
    options: ClassVar[type]
    """A frozen dataclass of the engine-specific options, see `options.py`."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Import names of the packages that the engine requires."""
    install: ClassVar[str] = ""
    """The command that installs these packages."""
    uses_catalogue: ClassVar[bool] = False
    """Whether ``--model`` names a model of the catalogue, so that ``auto`` stands for one of them."""
    billing: ClassVar[Billing] = "time"
    """How its engines are billed."""
    runs_remotely: ClassVar[bool] = False
    """Whether a remote machine can run the engine with the settings and the weights alone."""

    def identify(self, spec: EngineSpec) -> Identity:
        """Return the identity of what would compute, without downloading anything.

        Raises:
            SettingsError, WeightsError: it does not exist, or cannot do what the spec requests.
        """
        ...

    def prepare(self, spec: EngineSpec, on_progress: OnProgress | None = None) -> EngineSpec:
        """Find or download weights, or check a key; return the spec with the weights.

        Raises:
            SettingsError, WeightsError: as `identify`, or the weights cannot be obtained.
        """
        return spec

    def count_calls(self, spec: EngineSpec, size: tuple[int, int], target: tuple[int, int]) -> Calls:
        """Return the calls that a page will probably need; none for an engine that is billed by time.

        Args:
            spec: of the job.
            size: (width, height) of the page in pixels.
            target: (width, height) of its output.
        """
        return Calls(0, 0.0)

    def describe_loading(self, spec: EngineSpec, resources: EngineResources) -> str | None:
        """Return what is about to be loaded, such as a plan of the memory, for the user; None for nothing to say.

        Raises:
            DeviceError: it cannot be loaded.
        """
        return None

    def open(self, spec: EngineSpec, resources: EngineResources) -> list[Engine]:
        """Open the engines that together use the resources best. They are used at the same time.

        Args:
            spec: the result of `prepare`.
            resources: the resources that they may use.

        Raises:
            WeightsError: the engine cannot use the weights.
            DeviceError: a device does not exist.
            SettingsError: the engine cannot do what is requested.
        """
        ...


class OutputFilter(Protocol):
    """Changes a page after its engine. Used from one thread at a time."""

    def apply(self, page: Pixels, source: Pixels) -> Pixels:
        """Return the page, changed or not, with notes for the user.

        Args:
            page: the output of the engine.
            source: its input.
        """
        ...


def interrupt(engine: Engine) -> None:
    """Make an engine end its current call at once, if it can. May be called from any thread."""
    method: Callable[[], None] | None = getattr(engine, "interrupt", None)
    if method is not None:
        method()


def batches_at_once(engine: Engine) -> int:
    """Return how many calls of `upscale` an engine takes at the same time, at least 1."""
    count: int = getattr(engine, "batches_at_once", 1)
    return count


def charge(engine: Engine, spending: Spending | None) -> None:
    """Let an engine that is billed by call record its calls in a meter; None for a job without one."""
    method: Callable[[Spending | None], None] | None = getattr(engine, "charge", None)
    if method is not None:
        method(spending)


def follow(engine: Engine, on_part: OnPart | None) -> None:
    """Let an engine whose calls take minutes tell what it has done; None: tell nobody. On the engine's thread."""
    method: Callable[[OnPart | None], None] | None = getattr(engine, "follow", None)
    if method is not None:
        method(on_part)


def ask_for(engine: Engine, page: AskingPage | None) -> None:
    """Tell an engine that keeps answers whose page comes next; None if that is unknown. On the engine's thread."""
    method: Callable[[AskingPage | None], None] | None = getattr(engine, "ask_for", None)
    if method is not None:
        method(page)


class KeptOpen:
    """An engine that its user does not end: whoever opened it closes it later.

    It has no ``interrupt`` either: a run interrupts its engines whenever it closes them.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def info(self) -> EngineInfo:
        """The properties of the engine."""
        return self._engine.info

    @property
    def batches_at_once(self) -> int:
        """The number of calls that the engine takes at the same time."""
        return batches_at_once(self._engine)

    def batch_limit(self, height: int, width: int) -> int:
        """Return the limit of the engine."""
        return self._engine.batch_limit(height, width)

    def upscale(self, batch: Batch) -> Upscaled:
        """Upscale by the engine."""
        return self._engine.upscale(batch)

    def charge(self, spending: Spending | None) -> None:
        """Let the engine record its calls in this meter."""
        charge(self._engine, spending)

    def follow(self, on_part: OnPart | None) -> None:
        """Let the engine tell what it has done."""
        follow(self._engine, on_part)

    def ask_for(self, page: AskingPage | None) -> None:
        """Tell the engine whose page comes next."""
        ask_for(self._engine, page)

    def close(self) -> None:
        """Leave the engine open."""


def check_batch_size(info: EngineInfo, batch: Batch) -> None:
    """Refuse pages with more pixels than the engine accepts.

    Raises:
        PageError: ``"too-large"``.
    """
    height, width = batch.pixels.shape[1:3]
    if info.max_pixels is not None and height * width > info.max_pixels:
        raise PageError(
            "too-large",
            f"the page has {width}x{height} pixels, more than the {info.max_pixels:,} that the engine {info.name} "
            "accepts",
        )


def devices_in_words(engines: Sequence[Engine]) -> str:
    """Return the devices of engines as text, each device once. The text says if several engines share a device."""
    return ", ".join(dict.fromkeys(str(engine.info.device) for engine in engines))
