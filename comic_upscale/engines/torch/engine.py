"""The engine for PyTorch networks: whole pages if they fit, otherwise even tiles."""

from __future__ import annotations

import logging
import threading
from contextlib import nullcontext, suppress
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from comic_upscale.engines import reach
from comic_upscale.engines.base import Batch, EngineInfo, Upscaled
from comic_upscale.engines.limits import HUGE_PIXELS, LARGEST_TENSOR, Limits
from comic_upscale.engines.reach import IN_TILES, side_of_test_image, tiles_warning
from comic_upscale.engines.tiling import SMALLEST_TILE, Tile, borders_of, default_overlap
from comic_upscale.engines.torch.cores import SharedCores, all_threads
from comic_upscale.engines.torch.device import (
    choose_device,
    choose_precision,
    device_info,
    forbid_tf32,
    little_memory_kept,
    precision_name,
    release_memory,
)
from comic_upscale.engines.torch.device_check import UNTRIED, check_device
from comic_upscale.engines.torch.device_errors import (
    first_line,
    is_lost_device,
    is_perhaps_broken,
    is_too_much,
    translate_lost_device,
)
from comic_upscale.engines.torch.examination import Examination, examine
from comic_upscale.engines.torch.finishing import Finisher
from comic_upscale.engines.torch.finishing_proof import finishes_right
from comic_upscale.engines.torch.network_pass import NetworkPass
from comic_upscale.engines.torch.strips import goes_in_strips
from comic_upscale.engines.torch.windows import Stage, Started, WindowRunner
from comic_upscale.errors import DeviceError, PageError, SettingsError
from comic_upscale.imaging.pixels import NO_BORDERS, Borders, DeviceWork, SampleArray
from comic_upscale.models.network import Network

log = logging.getLogger(__name__)

NAME = "torch"
"""The engine's name in the registry."""

OVERFLOWS_BEFORE_FP32 = 4
"""When this many consecutive batches overflow in half precision, the engine changes to float32 for good."""
UNFINISHED_BEFORE_HOST = 4
"""If this many batches fit into memory only without finishing, the host finishes all pages from then on."""


def open_torch_engines(
    network: Network,
    device: torch.device,
    *,
    precision: str = "auto",
    batch: int | None = None,
    tile: int | None = None,
    overlap: int | None = None,
) -> list[TorchEngine]:
    """Return the engines that together use a device best. They are used at the same time.

    It is one engine, except for a network that runs in strips on a CPU: then it is one per core.

    Raises:
        SettingsError, DeviceError: as in `open_torch_engine`.
    """
    # Asked for every device: later, engines of a CPU or the search for faces may have changed what torch says.
    threads = all_threads()
    count = pages_at_once(network, device)
    # One engine alone takes all cores, too: its thread may have begun while other engines had a part.
    cores = SharedCores(threads, count) if device.type == "cpu" else None
    # Once: they share the pages, and must give the same bits.
    chosen = choose_precision(precision, device, network)
    engines = [
        TorchEngine(
            network,
            device=device,
            precision=chosen,
            batch=batch,
            tile=tile,
            overlap=overlap,
            cores=cores,
        )
        for _ in range(count)
    ]
    _check(engines[0], network)
    return engines


def pages_at_once(network: Network, device: torch.device) -> int:
    """Return how many pages a run upscales at the same time on a device: one, or one per core of a CPU."""
    if device.type != "cpu" or not goes_in_strips(network.module):
        return 1
    return SharedCores(all_threads()).pages_at_once


def open_torch_engine(
    network: Network,
    device_name: str = "auto",
    precision: str = "auto",
    batch: int | None = None,
    tile: int | None = None,
) -> TorchEngine:
    """Return a ``TorchEngine``, with the names of ``choose_device`` and ``choose_precision``.

    Raises:
        SettingsError: a name or number is not valid, or the network does not work in the precision.
        DeviceError: the device does not exist, does not work, or computes wrong.
    """
    device = choose_device(device_name)
    engine = TorchEngine(
        network, device=device, precision=choose_precision(precision, device, network), batch=batch, tile=tile
    )
    _check(engine, network)
    return engine


def _check(engine: TorchEngine, network: Network) -> None:
    """Let an engine show that its device computes right, where that is not known.

    Raises:
        DeviceError: it does not.
    """
    device = engine.info.device
    if device.kind in UNTRIED:
        on_cpu = TorchEngine(network, device=torch.device("cpu"))
        side = side_of_test_image(network.minimum, network.multiple_of)
        check_device(device, engine.upscale, on_cpu.upscale, side)


class TorchEngine:
    """An ``Engine`` for a torch network.

    A batch that does not fit into memory is processed in smaller pieces, and the engine remembers the limit. A page
    that overflows in half precision is processed again in float32.

    Args:
        network: the network; it is copied, so that several engines may share it.
        device: the device.
        precision: float32, float16 or bfloat16, or int8 for a network in strips that has such weights.
        batch: windows in a batch, at least 1; None for automatic.
        tile: the longest side of a window in pixels, at least 64; 0 to never cut a page; None for automatic.
        overlap: pixels of input around the cell of a tile; None for the network's default.
        cores: the CPU cores shared with other engines; None to use the threads that torch has.
        finishes: whether it finishes pages by the plan of a batch; None to do so on a GPU on which that works.

    Raises:
        SettingsError: a number is out of range, or the network's channels are not 3 to 3 or 1 to 1.
        DeviceError: the device cannot hold the network.
    """

    def __init__(
        self,
        network: Network,
        *,
        device: torch.device,
        precision: torch.dtype = torch.float32,
        batch: int | None = None,
        tile: int | None = None,
        overlap: int | None = None,
        cores: SharedCores | None = None,
        finishes: bool | None = None,
    ) -> None:
        _check_settings(network, batch, tile, overlap)
        if device.type == "cuda":
            forbid_tf32()
        self._device_info = device_info(device, pages_at_once=1 if cores is None else cores.pages_at_once)
        self._network = network
        self._device = device
        self._cores = cores
        self._windows = WindowRunner(network, device)
        self._dtype = precision
        self._batch = batch
        self._tile = tile
        self._overlap = default_overlap(network.receptive_radius) if overlap is None else overlap
        self._unfinished = 0
        """Batches that fitted into memory only without finishing."""
        self._overflows = 0
        """Consecutive batches in which every page needed float32."""
        self._lock = threading.Lock()
        """Held while work is put into the queue of the device."""
        self.batches_at_once = 2 if device.type == "cuda" else 1
        """As in `Engine`. A GPU computes one batch while the results of another are fetched."""
        self._stages: dict[torch.dtype, Stage] = {}
        self._examination: Examination | None = None
        """The examination of the network; None before the first page that would be cut into tiles."""
        try:
            self._stage(precision)
            if tile:
                self._examine()
            self._finishes = finishes_right(device) if finishes is None else finishes
        except (RuntimeError, MemoryError) as error:
            raise DeviceError(f"{self._device_info} cannot hold the network: {first_line(error)}") from error

    @property
    def info(self) -> EngineInfo:
        """The engine's current properties. Its precision changes if half precision is given up."""
        return EngineInfo(
            name=NAME,
            identity=self._network.identity,
            device=self._device_info,
            precision=precision_name(self._dtype),
            native_scale=self._network.native_scale,
            # On other devices, libraries choose kernels by free memory and by timing.
            deterministic=self._device_info.is_cpu,
            warnings=self._warnings(),
        )

    def batch_limit(self, height: int, width: int) -> int:
        """Return how many pages of this shape the engine currently accepts in one batch, at least 1.

        It is 1 on a CPU, before the memory of the first page is measured, and for pages with more tiles than a batch.
        """
        with translate_lost_device(self._device_info):
            stage = self._stage(self._dtype)
            # The target size moves windows only by a few pixels, so the native size represents all.
            scale = self._network.native_scale
            native = (height * scale, width * scale)
            tiles = self._windows.plan(stage, (height, width), native, self._overlap)
            return max(1, self._windows.at_once(stage, tiles, channels=3) // len(tiles))

    def upscale(self, batch: Batch) -> Upscaled:
        """Return the pages at their target size, in the sample type of the input, with the borders between tiles.

        Pages of 16 bits are computed in float32, because half precision only has 8 to 11 bits. The conservative path
        is float32 with twice the overlap.

        Raises:
            PageError: ``"out-of-memory"`` if not even the smallest tile fits, ``"not-finite"`` if the network's
                numbers are not finite even in float32.
            DeviceError: the device failed; the engine can no longer be used.
            ValueError: the batch does not have the form of ``Batch``.
        """
        pixels = _check_batch(batch)
        width, height = batch.target_size
        share = nullcontext() if self._cores is None else self._cores.share()
        is_huge = self._device.type == "cpu" and pixels[0, ..., 0].size > HUGE_PIXELS
        memory = little_memory_kept() if is_huge else nullcontext()
        with translate_lost_device(self._device_info), torch.inference_mode(), share, memory:
            return self._upscale(pixels, (height, width), batch)

    def close(self) -> None:
        """Release the device's memory. The engine is not used afterwards."""
        self._stages.clear()
        if self._cores is not None:
            self._cores.give_back()
        # A lost device has no memory to release, and its failure was already reported.
        with suppress(RuntimeError):
            release_memory(self._device)

    def _warnings(self) -> tuple[str, ...]:
        if self._tile and self._examination is not None and self._examination.sees_whole:
            return (tiles_warning("leave out --tile, and pages go whole where memory allows"),)
        return ()

    def _upscale(self, pixels: SampleArray, target: tuple[int, int], batch: Batch) -> Upscaled:
        precision = self._precision_for(pixels, conservative=batch.conservative)
        overlap = self._overlap_for(conservative=batch.conservative)
        made = self._run_with_fallback(precision, pixels, target, overlap, batch)
        result, finite, borders, work = made.pixels, made.finite, made.borders, list(made.work)
        in_tiles = borders != NO_BORDERS
        if precision == torch.float32:
            suspects = ~finite
        else:
            # Some GPUs return black pages instead of NaN when half precision overflows.
            suspects = ~finite | [
                made.is_black(index) and not _is_black(page) for index, page in enumerate(pixels)
            ]
        repaired = 0
        for index in np.flatnonzero(suspects):
            page = slice(int(index), int(index) + 1)
            if precision != torch.float32:
                again = self._run_with_fallback(torch.float32, pixels[page], target, overlap)
                if again.finite.all():
                    result[page] = again.pixels
                    repaired += not again.is_black(0)
                    if work:
                        work[index] = None
                    # Its tiles may be smaller. A border without a seam does no harm in the gate.
                    borders = borders.join(again.borders)
                    in_tiles |= again.borders != NO_BORDERS
                    continue
            raise PageError(
                "not-finite",
                "the network gives numbers that are not finite for this page, even in fp32: try other weights",
            )
        if precision != torch.float32:
            with self._lock:
                self._note_overflows(every_page=repaired == len(pixels))
        notes = (IN_TILES,) if in_tiles and self._sees_whole() else ()
        return Upscaled(result, borders, notes=notes, work=tuple(work))

    def _note_overflows(self, *, every_page: bool) -> None:
        """Give up half precision if batch after batch overflows. Some GPUs compute it wrong."""
        self._overflows = self._overflows + 1 if every_page else 0
        if self._overflows >= OVERFLOWS_BEFORE_FP32 and self._dtype != torch.float32:
            log.warning(
                "%s: %s overflows on every page, so the remaining pages are upscaled in fp32",
                self._device_info,
                precision_name(self._dtype),
            )
            self._dtype = torch.float32

    def _precision_for(self, pixels: SampleArray, *, conservative: bool) -> torch.dtype:
        return torch.float32 if conservative or pixels.dtype == np.uint16 else self._dtype

    def _overlap_for(self, *, conservative: bool) -> int:
        return self._overlap * (2 if conservative else 1)

    def _run_with_fallback(
        self,
        precision: torch.dtype,
        pixels: SampleArray,
        target: tuple[int, int],
        overlap: int,
        batch: Batch | None = None,
    ) -> _Made:
        """Run the pages, in smaller pieces whenever they do not fit into memory.

        Args:
            precision: of the network.
            pixels: the pages.
            target: height and width of the outputs.
            overlap: of tiles.
            batch: with the plan for finishing them; None to leave them raw.
        """
        # Outside of the lock, so that it is ready when the device is.
        try:
            staged = self._windows.stage_pages(pixels)
        except MemoryError as error:
            raise PageError(
                "out-of-memory", "The machine's memory was not enough: use fewer --workers"
            ) from error
        finisher, failure = (None, None) if batch is None else self._new_finisher(batch, target)
        with self._lock:
            started, tiles, finisher = self._start(
                precision, staged, pixels.shape[1:3], target, overlap, finisher, failure
            )
        return _Made.of(*started.wait(), borders_of(tiles), finisher)

    def _start(
        self,
        precision: torch.dtype,
        staged: torch.Tensor,
        size: tuple[int, ...],
        target: tuple[int, int],
        overlap: int,
        finisher: Finisher | None,
        suspected: _Failure | None,
    ) -> tuple[Started, list[Tile], Finisher | None]:
        """Put the work into the queue of the device; return what was started, with the finisher if it is used."""
        stage = self._stage(precision)
        retried = False
        wanted = finisher
        while True:
            tiles = self._windows.plan(stage, size, target, overlap)
            if len(tiles) > 1 and self._prefers_whole(stage):
                tiles = self._windows.plan(stage, size, target, overlap)
            count = min(self._windows.at_once(stage, tiles, staged.shape[3]), len(staged) * len(tiles))
            window = (tiles[0].rows.length, tiles[0].columns.length)
            used = wanted if len(tiles) == 1 else None
            try:
                started = self._windows.start(stage, staged, size, target, tiles, count, used)
                stage.limits.record_success(count, *window)
                if suspected is not None:
                    self._note_unfinished(suspected)
                return started, tiles, used
            except (RuntimeError, MemoryError) as error:
                if not is_too_much(error) and (used is None or is_lost_device(error)):
                    raise
                broken = first_line(error) if is_perhaps_broken(error) else None
                failure = _Failure(is_too_much(error), first_line(error))
            # Outside of ``except`` on purpose: inside, the error still references every tensor of the failed attempt.
            if used is not None:
                used.forget()
            release_memory(self._device)
            if used is not None:
                # The host finishes pages just as well, and smaller pieces may change them.
                wanted, suspected = None, failure
                continue
            # Without finishing it does not work either.
            wanted, suspected = finisher, None
            if not retried and stage.limits.has_worked(count, *window):
                # Another program may have used the memory for a moment.
                retried = True
                continue
            if not stage.limits.shrink(count, *window):
                if broken is not None:
                    raise DeviceError(
                        f"{self._device_info} failed even with the smallest tiles: {broken}. Check that the driver and "
                        "PyTorch support the GPU, or use --device cpu"
                    )
                advice = (
                    "allow pages to be cut into tiles"
                    if self._tile == 0
                    else "close other programs that use the device"
                )
                raise PageError(
                    "out-of-memory",
                    f"{self._device_info} has too little memory for {window[1]}x{window[0]} pixels: {advice}",
                )

    def _new_finisher(self, batch: Batch, target: tuple[int, int]) -> tuple[Finisher | None, _Failure | None]:
        """Return what finishes the pages of a batch on the device, None to leave them raw; and why that failed."""
        if batch.finish_plan is None or batch.conservative or not self._finishes:
            return None, None
        try:
            finisher = Finisher(batch.finish_plan, batch.sources, target, self._windows.host, self._device)
        except (RuntimeError, MemoryError) as error:
            if is_lost_device(error):
                raise
            return None, _Failure(is_too_much(error), first_line(error))
        return finisher, None

    def _note_unfinished(self, failure: _Failure) -> None:
        """Leave pages to the host from now on, or after some failures that may pass."""
        self._unfinished += 1
        if not failure.may_pass or self._unfinished >= UNFINISHED_BEFORE_HOST:
            self._finishes = False
            log.debug("%s leaves pages to the host to finish: %s", self._device_info, failure.said)

    def _sees_whole(self) -> bool:
        """Return whether the network is known to look at a whole page at once."""
        return self._examination is not None and self._examination.sees_whole

    def _prefers_whole(self, stage: Stage) -> bool:
        """Examine the network before its first tiles; return whether fewer pages are cut from now on."""
        if stage.is_examined:
            return False
        stage.is_examined = True
        self._examine()
        found = self._examination
        if found is None or not found.sees_whole:
            return False
        pixels = int(LARGEST_TENSOR / max(found.elements_per_pixel, 1.0))
        if self._device_info.is_cpu:
            # On a GPU, a page that does not fit raises an error, and smaller pieces follow. On a CPU, it may end the
            # process.
            room = reach.MEMORY_FOR_WHOLE * psutil.virtual_memory().available
            pixels = min(pixels, int(room / max(found.bytes_per_pixel, 1.0)))
        stage.limits.prefer_whole(pixels)
        return True

    def _examine(self) -> None:
        if self._examination is not None or self._network.is_local:
            return
        try:
            self._examination = examine(self._stage(self._dtype).forward, self._network)
        except (RuntimeError, MemoryError) as error:
            if not is_too_much(error):
                raise
            # Not even the test image fits. Then no page stays whole, and nothing is known of the network.
            self._examination = Examination(sees_whole=False, bytes_per_pixel=0, elements_per_pixel=0)

    def _stage(self, precision: torch.dtype) -> Stage:
        """Return the network in a precision. It is created at its first use, because float32 may never be needed."""
        if precision not in self._stages:
            forward = NetworkPass(self._network, self._device, precision)
            self._stages[precision] = Stage(
                forward,
                Limits(
                    "cpu in strips" if forward.in_strips else self._device.type,
                    batch=self._batch,
                    tile=self._tile,
                    measured=self._device.type == "cuda",
                    widest=0 if forward.in_strips else self._network.widest * forward.planes(3),
                ),
            )
        return self._stages[precision]


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why an attempt to finish pages failed."""

    may_pass: bool
    """Whether memory was short."""
    said: str


@dataclass(frozen=True, slots=True, eq=False)
class _Made:
    """Pages that went through the network."""

    pixels: SampleArray
    """At their target size."""
    finite: NDArray[np.bool_]
    """For each whether the network's numbers are finite."""
    borders: Borders
    """The borders between tiles."""
    work: tuple[DeviceWork | None, ...]
    """As in `Upscaled`."""
    black: frozenset[int]
    """The finished pages that were black before that."""

    @classmethod
    def of(
        cls, pixels: SampleArray, finite: NDArray[np.bool_], borders: Borders, finisher: Finisher | None
    ) -> _Made:
        if finisher is None:
            return cls(pixels, finite, borders, (), frozenset())
        return cls(pixels, finite, borders, finisher.work(), finisher.black_pages())

    def is_black(self, index: int) -> bool:
        """Return whether a page came out of the network black."""
        is_finished = bool(self.work) and self.work[index] is not None
        return index in self.black if is_finished else _is_black(self.pixels[index])


def _check_settings(network: Network, batch: int | None, tile: int | None, overlap: int | None) -> None:
    channels = (network.input_channels, network.output_channels)
    if channels not in ((3, 3), (1, 1)):
        raise SettingsError(
            f"this network turns {channels[0]} channels into {channels[1]}: use one for RGB or for gray pages"
        )
    if batch is not None and batch < 1:
        raise SettingsError(f"the batch must be 1 or more, or None for automatic, not {batch}")
    if tile is not None and tile != 0 and tile < SMALLEST_TILE:
        raise SettingsError(
            f"tiles of {tile} pixels are too small: use {SMALLEST_TILE} or more, or 0 for whole pages"
        )
    if overlap is not None and overlap < 0:
        raise SettingsError(f"the overlap must be 0 pixels or more, not {overlap}")


def _check_batch(batch: Batch) -> SampleArray:
    """Return the pixels of a batch, after checking that it has the form of ``Batch``."""
    pixels = batch.pixels
    if (
        pixels.dtype not in (np.uint8, np.uint16)
        or pixels.ndim != 4
        or pixels.shape[3] not in (1, 3)
        or 0 in pixels.shape
    ):
        raise ValueError(
            f"pixels are {pixels.dtype} {pixels.shape}, not uint8 or uint16 N x height x width x 3 or 1"
        )
    if min(batch.target_size) < 1:
        raise ValueError(f"the target size must be at least 1x1 pixels, not {batch.target_size}")
    return pixels


def _is_black(page: SampleArray) -> bool:
    # For nearly every page a few pixels suffice to rule it out. Checking all pixels takes milliseconds.
    return not page[::16, ::16].any() and not page.any()
