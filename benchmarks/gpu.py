"""What a card can do, and what we make of it: ceilings, files to files, memory that runs out, networks alone.

Usage: python -m benchmarks.gpu [--device cuda] [--minutes 9] [--prices 0.30,2.50] [--parts files,memory] [--json FILE]
       python -m benchmarks.gpu --device cpu --minutes 3      (tries every part on a small scale)

Weights are random: speed does not depend on them. The parts come in the order of their worth, and the report is
written after each piece of one. After the minutes, counted from the start of Python, nothing begins any more; what
is known to take long (a compiler) does not begin where less is left. What was left out is named.

* ceilings: matrix products and copies, the measure for all that follows.
* files: whole runs over pages of 512x768 to 2.5x with as many workers as ``run`` takes by itself, beside the engine
  alone over the same pages and the official loop; how busy the card was, sampled; what 10,000 pages cost at the prices
  given. The project's own model runs with the gate, as users run it. Random weights run without it: it would find
  what they draw suspect, and have pages done again. So the host's work for judging a page (``host_work.py``) is not in
  their figures.
* sizes: the engine alone over pages of one size, in batches and page by page, and over pages whose sizes all differ, at
  their first sight and at their second. Pages of different sizes share no batch.
* engines: two and three engines on the card at the same time, in one stream and in a stream each: while one waits
  for its copies or stacks its pages, the others keep the card at work.
* memory: pages with the allocator capped, which must all come out.
* network: compact with 16 and 32 convolutions, RRDB with 6 and 23 blocks, and x2 with pixel-unshuffle, by batch,
  precision and memory format, eager and captured as a CUDA graph.
* compiled: the same networks in one precision and batch, by torch.compile, and by TensorRT where torch_tensorrt is
  installed.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import datetime as dt
import functools
import gc
import importlib.util
import itertools
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact
from spandrel.architectures.ESRGAN import ESRGAN

from benchmarks.arithmetic import flops
from benchmarks.machine import facts, write_report
from benchmarks.whole_run import HEIGHT, SCALE, WIDTH, alone, cut_pages, official_loop, open_official, whole
from comic_upscale.commands.environment import default_workers, process_seconds
from comic_upscale.engines.base import Batch, Engine, FinishPlan, Upscaled
from comic_upscale.engines.pages import prepare, upscale_pages
from comic_upscale.engines.torch.device import choose_device, release_memory
from comic_upscale.engines.torch.engine import open_torch_engine, open_torch_engines
from comic_upscale.errors import PageError
from comic_upscale.gate.measures import MeasurePlan
from comic_upscale.imaging.decode import decode
from comic_upscale.imaging.pixels import Pixels
from comic_upscale.imaging.target_size import target_size
from comic_upscale.models.network import Network, load_network
from comic_upscale.models.weights import ResolvedWeights, resolve_weights

RESULTS = Path(__file__).parent / "results"
WEIGHTS = Path(__file__).parents[1] / "weights"
USER_JOB = 10_000
"""Pages of the job whose cost is told."""
ROUND_SECONDS = 10.0
"""So much of the engine's time a round over pages takes at most: fewer pages for a slow network or card."""
MEMORY_CAP = 2 << 30
"""Bytes that the allocator is capped to."""


@dataclass(frozen=True, slots=True)
class Case:
    """A network of the field by its structure."""

    name: str
    make: Callable[[], torch.nn.Module]
    compile_seconds: float
    """What a compiler may take for it, by guess: less is not begun with."""


CASES = (
    Case("compact-16", lambda: Compact(num_feat=64, num_conv=16, upscale=4), 40),
    Case("rrdb-6", lambda: ESRGAN(num_filters=64, num_blocks=6, scale=4, plus=False), 60),
    Case("rrdb-23", lambda: ESRGAN(num_filters=64, num_blocks=23, scale=4, plus=False), 120),
    Case("compact-32", lambda: Compact(num_feat=64, num_conv=32, upscale=4), 60),
    Case("rrdb-23-x2", lambda: ESRGAN(in_nc=12, num_blocks=23, scale=4, shuffle_factor=2), 120),
)
"""In the order of their worth."""
OWN = "comic-compact-x3"
SHIPPED = (OWN, "comic-best-x3", "comic-fast-x3")
"""The project's own models: their weights are real, so their runs have the gate, as users' have."""
WITH_FILES = ("compact-16", *SHIPPED, "rrdb-6", "rrdb-23")
SIDE_BY_SIDE = ("compact-16", OWN, "rrdb-6")


@dataclass(frozen=True, slots=True)
class Piece:
    """One measurement of a part."""

    name: str
    measure: Callable[[], dict[str, object]]
    seconds: float = 0
    """What it may take: it does not begin where less is left."""


@dataclass(frozen=True, slots=True)
class Pages:
    """Pages of 512 x 768, each as a file and decoded."""

    files: list[Path]
    decoded: list[Pixels]

    def first(self, count: int) -> Pages:
        """Return this number of them."""
        return Pages(self.files[:count], self.decoded[:count])


class Bench:
    """One run of the benchmark: the device, the clock, and the report that grows.

    Args:
        device: where to run.
        seconds: from now, after which nothing begins any more.
        path: of the report.
        only: beginnings of the names of the parts to measure; none for all.
    """

    def __init__(self, device: torch.device, seconds: float, path: Path, only: tuple[str, ...] = ()) -> None:
        self.device, self.is_cuda = device, device.type == "cuda"
        self._only = only
        self._end = time.monotonic() + seconds
        self._path = path
        self.left_out: list[str] = []
        """Names of parts, and of pieces with their part's."""
        self.report: dict[str, object] = {
            **facts(torch.get_num_threads()),
            "device": _device_facts(device),
            "left_out": self.left_out,
        }

    def part(self, name: str, pieces: Iterable[Piece]) -> None:
        """Measure the pieces of one part, and write the report after each.

        What fails is told in the report, and the rest goes on: it must not cost a rented card's other figures.

        Args:
            name: of the part.
            pieces: as they come; what they stand on is made when they are asked for, and not where the part is
                left out.
        """
        if self._only and not name.startswith(self._only):
            return
        if not self._lasts(0):
            self.left_out.append(name)
            self._write()
            return
        found: dict[str, object] = {}
        self.report[name] = found
        try:
            for piece in pieces:
                if self._lasts(piece.seconds):
                    self._measure(name, piece, found)
                else:
                    self.left_out.append(f"{name}: {piece.name}")
        except Exception as error:  # what the pieces stand on
            found["failed"] = _in_a_line(error)
            print(f"{name}: {found['failed']}", flush=True)
        self._write()
        gc.collect()
        with contextlib.suppress(RuntimeError):  # of a card that an earlier piece has lost
            release_memory(self.device)

    def seconds(self, work: Callable[[], object], repeats: int = 10) -> float:
        """Return the median seconds of one call, after two that do not count."""
        for _ in range(2):
            work()
        return statistics.median(self.once(work) for _ in range(repeats if self.is_cuda else 2))

    def once(self, work: Callable[[], object]) -> float:
        """Return the seconds of one call, from an idle device to an idle device."""
        self._wait()
        start = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - start

    def _measure(self, part: str, piece: Piece, found: dict[str, object]) -> None:
        started = time.monotonic()
        try:
            figures = piece.measure()
        except Exception as error:  # out of memory, a compiler that is not there, an error in what we measure
            figures = {"failed": _in_a_line(error)}
        found[piece.name] = figures
        print(f"{part}: {piece.name} ({time.monotonic() - started:.0f} s): {figures}", flush=True)
        self._write()

    def _lasts(self, seconds: float) -> bool:
        return time.monotonic() + seconds < self._end

    def _wait(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    def _write(self) -> None:
        write_report(self.report, self._path)


def main() -> None:
    """Measure all parts in their order."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--pages", type=int, default=400)
    parser.add_argument("--prices", default="0.30,2.50", help="dollars an hour, with commas")
    parser.add_argument(
        "--parts", default="", help="beginnings of the parts' names, with commas; all without it"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    prices = [float(price) for price in options.prices.split(",")]
    device = choose_device(options.device)
    if device.type == "cuda":
        # Streams and graphs belong to the current card.
        torch.cuda.set_device(device)
    # Importing torch is paid for, too. Where the system tells a wrong start, it shall not cost all the minutes.
    spent = min(process_seconds(), 60.0)
    path = options.json or RESULTS / f"gpu-{device.type}.json"
    only = tuple(part for part in options.parts.split(",") if part)
    bench = Bench(device, 60 * options.minutes - spent, path, only)
    small = not bench.is_cuda
    cases = CASES[:1] if small else CASES
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        pages = read(cut_pages(folder / "pages", 2 if small else options.pages))
        networks = {case.name: random_network(case) for case in cases}
        weights = {
            name: save_weights(network, folder / f"{name}.safetensors") for name, network in networks.items()
        }
        for name in SHIPPED:
            weights[name] = resolve_weights(
                name, denoise=None, folders=[WEIGHTS], cache=folder, download=False
            )
        bench.part("ceilings", ceilings(bench))
        for name in (name for name in WITH_FILES if name in weights):
            bench.part(
                f"files {name}", files_to_files(bench, weights[name], pages, prices, gate=name in SHIPPED)
            )
        for name in SHIPPED:
            bench.part(f"sizes {name}", by_sizes(bench, weights[name], pages))
        for name in (name for name in SIDE_BY_SIDE if name in weights):
            bench.part(f"engines {name}", side_by_side(bench, weights[name], pages))
        bench.part("memory", capped_memory(bench, weights["compact-16"]))
        for case in cases:
            bench.part(f"network {case.name}", network_alone(bench, case, networks[case.name]))
        for case in cases:
            bench.part(f"compiled {case.name}", network_compiled(bench, case, networks[case.name]))


def read(files: list[Path]) -> Pages:
    """Decode pages, on all cores."""
    with ThreadPoolExecutor() as pool:
        return Pages(
            files, list(pool.map(lambda path: prepare(decode(path.read_bytes(), max_pixels=10**9)), files))
        )


def ceilings(bench: Bench) -> Iterator[Piece]:
    """Matrix products in TFLOP/s by precision, and copies in GB/s."""
    for precision in (torch.float16, torch.bfloat16, torch.float32)[0 if bench.is_cuda else 2 :]:
        yield Piece(f"matmul {_short(precision)}", functools.partial(_products, bench, precision))
    yield Piece("copies", functools.partial(_copies, bench))


def _products(bench: Bench, precision: torch.dtype) -> dict[str, object]:
    side = 8192 if bench.is_cuda else 512
    a, b = (torch.randn(side, side, device=bench.device, dtype=precision) for _ in range(2))
    return {"tflops": round(2 * side**3 / bench.seconds(lambda: a @ b) / 1e12, 3)}


def _copies(bench: Bench) -> dict[str, object]:
    size = 1 << (30 if bench.is_cuda else 26)
    here = torch.empty(size, dtype=torch.uint8, device=bench.device)
    other = torch.empty_like(here)
    # Read and written.
    rates = {"on the device": 2 * size / bench.seconds(lambda: other.copy_(here))}
    if bench.is_cuda:
        pinned = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        rates["to the device"] = size / bench.seconds(lambda: here.copy_(pinned, non_blocking=True))
        rates["from the device"] = size / bench.seconds(lambda: pinned.copy_(here, non_blocking=True))
    return {f"{name} GB/s": round(rate / 1e9, 1) for name, rate in rates.items()}


def files_to_files(
    bench: Bench, weights: ResolvedWeights, pages: Pages, prices: list[float], *, gate: bool
) -> Iterator[Piece]:
    """Milliseconds a page of the engine alone, whole runs and the official loop; the card's use; dollars.

    Args:
        bench: where and how to measure.
        weights: the network.
        pages: what it upscales.
        prices: dollars an hour.
        gate: whether every page is held against its source. Of random weights it would find all pages suspect.
    """
    network = load_network(weights, None)
    engines = open_torch_engines(network, bench.device)
    spent: dict[str, float] = {}

    def by_itself() -> dict[str, object]:
        spent["alone"] = alone(engines, some.decoded) / len(some.files)
        return {
            "pages": len(some.files),
            "precision": engines[0].info.precision,
            "batch": engines[0].batch_limit(HEIGHT, WIDTH),
            "ms_a_page": round(spent["alone"] * 1e3, 2),
        }

    def whole_run() -> dict[str, object]:
        workers = default_workers()
        with _card_use(bench) as use:
            seconds = whole(engines, some.files, weights, workers=workers, gate=gate)
        spent["whole"] = seconds / len(some.files)
        return {
            "pages": len(some.files),
            "workers": workers,
            "gate": gate,
            "ms_a_page": round(spent["whole"] * 1e3, 2),
            "rate_over_alone": _ratio(spent.get("alone"), spent["whole"]),
            "card_busy_percent": _mean(use),
            f"dollars_for_{USER_JOB}_pages": {
                f"{price}/h": round(spent["whole"] * USER_JOB / 3600 * price, 3) for price in prices
            },
        }

    def official() -> dict[str, object]:
        program = open_official(weights, engines[0])
        if program is None:  # why has been printed
            return {"absent": True}
        few = some.files[: max(1, min(20, len(some.files) // 4))]
        official_loop(program, few[:1], few[0].parent)
        seconds = official_loop(program, few, few[0].parent) / len(few)
        return {
            "pages": len(few),
            "ms_a_page": round(seconds * 1e3, 2),
            "whole_rate_over_official": _ratio(seconds, spent.get("whole")),
        }

    try:
        some = pages.first(_in_a_round(engines, pages))
        yield Piece("engine alone", by_itself)
        yield Piece("whole run", whole_run)
        yield Piece("official loop", official)
        yield Piece(
            "distance to fp32",
            lambda: {"psnr_db": _distance_to_fp32(bench, network, engines[0], some.decoded[0])},
        )
    finally:
        for engine in engines:
            engine.close()


def by_sizes(bench: Bench, weights: ResolvedWeights, pages: Pages) -> Iterator[Piece]:
    """Milliseconds a page, from pixels to finished pixels, for pages of one size and for pages of different sizes."""
    engine = open_torch_engine(load_network(weights, None), str(bench.device))
    try:
        some = pages.first(min(len(pages.files), 40)).decoded
        uneven = [_cropped(page, index) for index, page in enumerate(some)]
        # It learns what a batch may be.
        _page_by_page(engine, some[:1])
        limit = engine.batch_limit(HEIGHT, WIDTH)
        batches = [some[first : first + limit] for first in range(0, len(some), limit)]
        yield Piece(f"one size, batches of {limit}", lambda: _one_after_another(engine, batches))
        yield Piece("one size, page by page", lambda: _page_by_page(engine, some))
        yield Piece("different sizes, new ones", lambda: _page_by_page(engine, uneven))
        yield Piece("different sizes, known ones", lambda: _page_by_page(engine, uneven))
    finally:
        engine.close()


def _cropped(page: Pixels, index: int) -> Pixels:
    """Return a page that is a little smaller than any of another index."""
    return prepare(Pixels(np.ascontiguousarray(page.color[index:, : WIDTH - index % 8])))


def _page_by_page(engine: Engine, pages: list[Pixels]) -> dict[str, object]:
    return _one_after_another(engine, [[page] for page in pages])


def _one_after_another(engine: Engine, batches: list[list[Pixels]]) -> dict[str, object]:
    begun = time.perf_counter()
    for batch in batches:
        height, width, channels = batch[0].color.shape
        target = target_size(width, height, SCALE)
        measures = MeasurePlan.of(
            batch[0].color.shape, (target[1], target[0], channels), looks_for_texture=False
        )
        for result in upscale_pages(engine, batch, target, finish_plan=FinishPlan(measures, png_rows=True)):
            if isinstance(result, PageError):
                raise result
    return {"ms_a_page": round((time.perf_counter() - begun) * 1e3 / sum(map(len, batches)), 3)}


def side_by_side(bench: Bench, weights: ResolvedWeights, pages: Pages) -> Iterator[Piece]:
    """Milliseconds a page, from pixels to pixels, of one engine and of several at once on the same card."""
    network = load_network(weights, None)
    for count, streams in ((1, False), (2, False), (2, True), (3, True)):
        where = "a stream each" if streams else "one stream"
        yield Piece(
            f"{count} in {where}", functools.partial(_at_once, bench, network, pages, count, streams=streams)
        )


def _at_once(bench: Bench, network: Network, pages: Pages, count: int, *, streams: bool) -> dict[str, object]:
    opened = [open_torch_engine(network, str(bench.device)) for _ in range(count)]
    try:
        engines: list[Engine] = [*opened]
        if streams and bench.is_cuda:
            engines = [InOwnStream(engine, bench.device) for engine in opened]
        # The first pages of each tell it what a batch may be.
        some = pages.first(min(_in_a_round([engine], pages) for engine in engines))
        with _card_use(bench) as use:
            seconds = alone(engines, some.decoded) / len(some.decoded)
        return {
            "engines": count,
            "a stream each": streams,
            "pages": len(some.decoded),
            "ms_a_page": round(seconds * 1e3, 3),
            "card_busy_percent": _mean(use),
        }
    finally:
        for engine in opened:
            engine.close()


def _in_a_round(engines: Sequence[Engine], pages: Pages) -> int:
    """Let engines find out what a batch may be, and return how many pages they do in `ROUND_SECONDS`, at most all.

    Raises:
        PageError: a page could not be done.
    """
    alone(engines, pages.decoded[: len(engines)])
    few = pages.decoded[: 2 * len(engines) * engines[0].batch_limit(HEIGHT, WIDTH)]
    # The first batch of a size makes room for it, and is slow.
    each = min(alone(engines, few) for _ in range(2)) / len(few)
    return max(1, min(len(pages.decoded), int(ROUND_SECONDS / each)))


class InOwnStream:
    """An engine whose work goes into a CUDA stream of its own, so that its copies pass the work of others."""

    def __init__(self, engine: Engine, device: torch.device) -> None:
        self.info, self.batch_limit, self.close = engine.info, engine.batch_limit, engine.close
        self._engine, self._stream = engine, torch.cuda.Stream(device)

    def upscale(self, batch: Batch) -> Upscaled:
        """Upscale in the stream; the current stream is a thread's own, so others are not touched."""
        with torch.cuda.stream(self._stream):
            return self._engine.upscale(batch)


def _distance_to_fp32(bench: Bench, network: Network, engine: Engine, page: Pixels) -> float:
    """Return the PSNR in dB between an engine's page and float32's, of random weights: far too low means a fault.

    Raises:
        PageError: a page could not be done.
    """
    plain = open_torch_engine(network, str(bench.device), "fp32")
    try:
        ours, exact = (
            upscale_pages(each, [page], target_size(WIDTH, HEIGHT, SCALE))[0] for each in (engine, plain)
        )
    finally:
        plain.close()
    if isinstance(ours, PageError):
        raise ours
    if isinstance(exact, PageError):
        raise exact
    error = np.square(ours.color.astype(np.float64) - exact.color).mean()
    return round(float(10 * np.log10(255**2 / max(error, 1e-9))), 1)


@contextlib.contextmanager
def _card_use(bench: Bench) -> Iterator[list[float]]:
    """Give a list that fills with the card's use in percent, five times a second, while the block runs."""
    samples: list[float] = []
    if not bench.is_cuda or shutil.which("nvidia-smi") is None:
        yield samples
        return
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
    command += ["-i", name_for_nvidia_smi(bench.device.index or 0)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout is not None
        lines = watcher.stdout

        def listen() -> None:
            for line in lines:
                with contextlib.suppress(ValueError):  # "[N/A]", as for a part of a card
                    samples.append(float(line))

        reader = threading.Thread(target=listen, daemon=True)
        reader.start()
        try:
            yield samples
        finally:
            watcher.terminate()
            reader.join(timeout=5)


def name_for_nvidia_smi(index: int) -> str:
    """Return what nvidia-smi calls a card that torch counts: it counts those that are hidden from torch, too."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[index].strip() if visible else str(index)


def _mean(samples: list[float]) -> float | None:
    return round(statistics.fmean(samples), 1) if samples else None


def _ratio(one: float | None, other: float | None) -> float | None:
    return round(one / other, 3) if one is not None and other is not None else None


def capped_memory(bench: Bench, weights: ResolvedWeights) -> Iterator[Piece]:
    """Upscale pages of growing size with a capped allocator: each must come out, in tiles where it must."""
    if bench.is_cuda:
        all_memory = torch.cuda.get_device_properties(bench.device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, MEMORY_CAP / all_memory), bench.device)
    try:
        engine = open_torch_engine(load_network(weights, None), str(bench.device))
        # What does not fit is done in smaller pieces; the engine remembers from page to page.
        for side in (512, 1024, 2048, 4096) if bench.is_cuda else (256,):
            yield Piece(f"{side}x{side}", functools.partial(_doubled, engine, side))
        engine.close()
    finally:
        if bench.is_cuda:
            torch.cuda.set_per_process_memory_fraction(1.0, bench.device)


def _doubled(engine: Engine, side: int) -> dict[str, object]:
    """Upscale a square page to twice its size.

    Raises:
        PageError: it did not come out.
    """
    rng = np.random.default_rng(side)
    page = Pixels(color=rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
    start = time.perf_counter()
    result = upscale_pages(engine, [page], (side * 2, side * 2))[0]
    if isinstance(result, PageError):
        raise result
    return {"seconds": round(time.perf_counter() - start, 2)}


def network_alone(bench: Bench, case: Case, module: torch.nn.Module) -> Iterator[Piece]:
    """Milliseconds a page of 512x768 and TFLOP/s, by batch, precision, memory format and way of running."""
    work = flops(module, *_page_size(bench))
    precisions = (torch.float16, torch.bfloat16) if bench.is_cuda else (torch.float32,)
    for precision, layout in itertools.product(precisions, (torch.channels_last, torch.contiguous_format)):
        contiguous = layout is torch.contiguous_format
        if contiguous and precision is not precisions[0]:
            continue  # the format's worth shows in one precision
        for batch in _batches(bench, case):
            for way in ("eager", "captured") if bench.is_cuda and not contiguous else ("eager",):
                setup = Setup(way, precision, layout, batch)
                yield Piece(str(setup), functools.partial(timed, bench, module, setup, work))


def network_compiled(bench: Bench, case: Case, module: torch.nn.Module) -> Iterator[Piece]:
    """The same by compilers, in the first precision and the largest batch, channels last: each takes its time."""
    work = flops(module, *_page_size(bench))
    precision = torch.float16 if bench.is_cuda else torch.float32
    has_tensorrt = bench.is_cuda and importlib.util.find_spec("torch_tensorrt") is not None
    for way in ("compiled", "TensorRT") if has_tensorrt else ("compiled",):
        setup = Setup(way, precision, torch.channels_last, _batches(bench, case)[-1])
        yield Piece(
            str(setup), functools.partial(timed, bench, module, setup, work), seconds=case.compile_seconds
        )


@dataclass(frozen=True, slots=True)
class Setup:
    """How a network is run."""

    way: str
    """One of `WAYS`."""
    precision: torch.dtype
    layout: torch.memory_format
    batch: int
    """Pages at once."""

    def __str__(self) -> str:
        layout = "channels last" if self.layout is torch.channels_last else "contiguous"
        return f"{_short(self.precision)}, {layout}, batch {self.batch}, {self.way}"


def timed(bench: Bench, module: torch.nn.Module, setup: Setup, work: float) -> dict[str, object]:
    """Seconds of a network's first call, which compiles or captures, and figures of the later ones.

    Args:
        bench: where and how to measure.
        module: is copied.
        setup: how to run it.
        work: floating-point operations of one page.
    """
    placed = copy.deepcopy(module).to(bench.device, setup.precision).to(memory_format=setup.layout).eval()
    height, width = _page_size(bench)
    pages = torch.rand(setup.batch, 3, height, width, device=bench.device, dtype=setup.precision)
    run = WAYS[setup.way](placed, pages.contiguous(memory_format=setup.layout))
    with torch.inference_mode():
        first = bench.once(run)
        seconds = bench.seconds(run, repeats=5) / setup.batch
    return {
        "precision": _short(setup.precision),
        "channels_last": setup.layout is torch.channels_last,
        "batch": setup.batch,
        "way": setup.way,
        "first_call_s": round(first, 2),
        "ms_a_page": round(seconds * 1e3, 3),
        "tflops": round(work / seconds / 1e12, 2),
    }


def _eager(module: torch.nn.Module, pages: torch.Tensor) -> Callable[[], object]:
    return lambda: module(pages)


def _captured(module: torch.nn.Module, pages: torch.Tensor) -> Callable[[], object]:
    """Return the network as a CUDA graph, captured at its first call."""
    graphs: list[torch.cuda.CUDAGraph] = []

    def run() -> None:
        if not graphs:
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(3):
                    module(pages)
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                module(pages)
            graphs.append(graph)
        graphs[0].replay()

    return run


def _compiled(module: torch.nn.Module, pages: torch.Tensor) -> Callable[[], object]:
    """Return the network as torch.compile makes it at its first call."""
    # All sizes of a class share one ``forward``, which is compiled but a few times and then left as it is.
    torch.compiler.reset()
    compiled = torch.compile(module, dynamic=False)
    return lambda: compiled(pages)


def _by_tensorrt(module: torch.nn.Module, pages: torch.Tensor) -> Callable[[], object]:
    """Return the network as TensorRT makes it at its first call."""
    made: list[torch.nn.Module] = []

    def run() -> object:
        if not made:
            import torch_tensorrt  # type: ignore[import-not-found]

            # It traces the network, which tensors of the inference mode are not made for.
            with torch.inference_mode(False), torch.no_grad():
                made.append(
                    torch_tensorrt.compile(
                        module, inputs=[pages], enabled_precisions={pages.dtype}, min_block_size=1
                    )
                )
        return made[0](pages)

    return run


WAYS = {"eager": _eager, "captured": _captured, "compiled": _compiled, "TensorRT": _by_tensorrt}
"""What makes a call out of a network and the pages that it shall run on."""


def _page_size(bench: Bench) -> tuple[int, int]:
    """Height and width of the pages for a network alone."""
    return (HEIGHT, WIDTH) if bench.is_cuda else (96, 64)


def _batches(bench: Bench, case: Case) -> tuple[int, ...]:
    """Pages at once, ascending. Compact networks leave a card idle unless many go at once; RRDB fills it with few."""
    if not bench.is_cuda:
        return (1,)
    return (1, 4, 16) if case.name.startswith("compact") else (1, 4)


def random_network(case: Case) -> torch.nn.Module:
    """Return a network with random weights whose pictures are neither black nor flat, without gradients.

    Numbers keep their size from layer to layer: vanishing ones would cost a card less current than real ones do.
    A compact network adds its input, so it makes that a little rough; others draw around middle gray. Black pages would
    be taken for an overflow, and be done again in float32.
    """
    torch.manual_seed(1)
    module = case.make().eval().requires_grad_(False)
    # The last that is defined makes the pixels, in both architectures.
    convolutions = [part for part in module.modules() if isinstance(part, torch.nn.Conv2d)]
    for convolution in convolutions:
        torch.nn.init.kaiming_normal_(convolution.weight, a=0.2)
        torch.nn.init.zeros_(convolution.bias)
    last = convolutions[-1]
    seen: list[torch.Tensor] = []
    with last.register_forward_hook(lambda _part, _given, made: seen.append(made)):
        module(torch.rand(1, 3, 32, 32))
    around, spread = (0.0, 0.005) if isinstance(module, Compact) else (0.5, 0.05)
    last.weight.mul_(spread / seen[0].std())
    torch.nn.init.constant_(last.bias, around)
    return module


def save_weights(module: torch.nn.Module, path: Path) -> ResolvedWeights:
    """Write a network's weights to a ``.safetensors`` file, under names that the official program knows, too."""
    save_file(
        {official_name(name): tensor.contiguous() for name, tensor in module.state_dict().items()}, path
    )
    return resolve_weights(str(path), denoise=None, folders=[], cache=path.parent, download=False)


_OFFICIAL = {
    "model.0": "conv_first",
    "model.3": "conv_up1",
    "model.6": "conv_up2",
    "model.8": "conv_hr",
    "model.10": "conv_last",
}
_IN_BLOCK = re.compile(r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0")


def official_name(name: str) -> str:
    """Return what the official program calls a tensor of an RRDB network; those of compact ones have one name."""
    layer, _, kind = name.rpartition(".")
    if match := _IN_BLOCK.fullmatch(layer):
        return f"body.{match[1]}.rdb{match[2]}.conv{match[3]}.{kind}"
    if layer.startswith("model.1.sub."):  # after the blocks, under the next number
        return f"conv_body.{kind}"
    return f"{_OFFICIAL.get(layer, layer)}.{kind}"


def _short(precision: torch.dtype) -> str:
    """Return a type's name without the package's: ``"float16"``."""
    return str(precision).removeprefix("torch.")


def _in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _device_facts(device: torch.device) -> dict[str, object]:
    if device.type != "cuda":
        return {"name": "cpu: a trial of the script, no figures of a card"}
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
        "time": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }


if __name__ == "__main__":
    main()
