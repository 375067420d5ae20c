"""What a card can do, and what we make of it: ceilings, networks alone, files to files, memory that runs out.

Usage: python -m benchmarks.gpu [--device cuda] [--minutes 9] [--prices 0.30,2.50] [--json FILE]
       python -m benchmarks.gpu --device cpu --minutes 2      (tries every part on a small scale)

Weights are random: speed does not depend on them. The parts come in the order of their worth, and the
report is written after each; a part that would begin after the minutes are over is left out and named.

* ceilings: matrix products and copies, the measure for all that follows.
* networks: compact with 16 and 32 convolutions, RRDB with 6 and 23 blocks, and x2 with pixel-unshuffle, by
  batch, precision and memory format, eager, compiled, and captured as a CUDA graph; TensorRT where
  torch_tensorrt is installed.
* files: whole runs over pages of 512x768 to 2.5x, beside the engine alone over the same pages and the
  official loop; how busy the card was, sampled; what 10,000 pages cost at the prices given.
* engines: two and three engines on the card at the same time, in one stream and in a stream each: while one waits
  for its copies or stacks its pages, the others keep the card at work.
* memory: pages with the allocator capped, which must all come out.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import itertools
import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact
from spandrel.architectures.ESRGAN import ESRGAN

from benchmarks.arithmetic import flops
from benchmarks.machine import facts, write_report
from benchmarks.whole_run import HEIGHT, WIDTH, alone, cut_pages, official_loop, open_official, whole
from comic_upscale.errors import PageError
from comic_upscale.models.network import load_network
from comic_upscale.models.weights import ResolvedWeights, resolve_weights
from comic_upscale.pages.decode import decode
from comic_upscale.pages.page import Pixels, SampleArray
from comic_upscale.pages.size import target_size
from comic_upscale.upscaling.engine import Batch, Engine
from comic_upscale.upscaling.pages import prepare, upscale_pages
from comic_upscale.upscaling.torch_engine import TorchEngine, open_torch_engine, open_torch_engines

RESULTS = Path(__file__).parent / "results"
USER_JOB = 10_000
"""Pages of the job whose cost is told."""


@dataclass(frozen=True, slots=True)
class Case:
    """A network of the field by its structure."""

    name: str
    make: Callable[[], torch.nn.Module]


CASES = (
    Case("compact-16", lambda: Compact(num_feat=64, num_conv=16, upscale=4)),
    Case("compact-32", lambda: Compact(num_feat=64, num_conv=32, upscale=4)),
    Case("rrdb-6", lambda: ESRGAN(num_filters=64, num_blocks=6, scale=4, plus=False)),
    Case("rrdb-23", lambda: ESRGAN(num_filters=64, num_blocks=23, scale=4, plus=False)),
    Case("rrdb-23-x2", lambda: ESRGAN(in_nc=12, num_blocks=23, scale=4, shuffle_factor=2)),
)


class Bench:
    """One run of the benchmark: the device, the clock, and the report that grows.

    Args:
        device: where to run.
        minutes: after which no part begins any more.
        path: of the report.
    """

    def __init__(self, device: torch.device, minutes: float, path: Path) -> None:
        self.device, self.is_cuda = device, device.type == "cuda"
        self._end = time.monotonic() + 60 * minutes
        self._path = path
        threads = torch.get_num_threads()
        self.report: dict[str, object] = {**facts(threads), "device": _device_facts(device), "left_out": []}

    def part(self, name: str, measure: Callable[[], object]) -> None:
        """Measure one part and write the report; what fails is in it, and the rest goes on."""
        if time.monotonic() > self._end:
            left_out = self.report["left_out"]
            assert isinstance(left_out, list)
            left_out.append(name)
            return
        started = time.monotonic()
        try:
            found = measure()
        except Exception as error:  # one part's failure must not cost a rented card's other figures
            found = {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
        self.report[name] = found
        print(f"{name} ({time.monotonic() - started:.0f} s): {found}", flush=True)
        write_report(self.report, self._path)
        if self.is_cuda:
            torch.cuda.empty_cache()

    def seconds(self, work: Callable[[], object], repeats: int = 10) -> float:
        """Return the median seconds of one call, after two that do not count."""
        for _ in range(2):
            work()
        times = []
        for _ in range(repeats if self.is_cuda else 2):
            self._wait()
            start = time.perf_counter()
            work()
            self._wait()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def _wait(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize(self.device)


def main() -> None:
    """Measure all parts in their order."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--pages", type=int, default=400)
    parser.add_argument("--prices", default="0.30,2.50", help="dollars an hour, with commas")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    path = options.json or RESULTS / f"gpu-{device.type}.json"
    bench = Bench(device, options.minutes, path)
    prices = [float(price) for price in options.prices.split(",")]
    small = not bench.is_cuda
    with tempfile.TemporaryDirectory() as folder:
        pages = cut_pages(Path(folder) / "pages", 2 if small else options.pages)
        weights = {case.name: _random_weights(case, Path(folder)) for case in CASES}
        bench.part("ceilings", lambda: ceilings(bench))
        for case in CASES[:1] if small else (CASES[0], CASES[2], CASES[3], CASES[1], CASES[4]):
            bench.part(f"network {case.name}", lambda case=case: network_alone(bench, case, small))
        for name in ("compact-16",) if small else ("compact-16", "rrdb-6", "rrdb-23"):
            # The slow networks show their rate on fewer pages.
            count = len(pages) if name == "compact-16" else len(pages) // 4
            bench.part(
                f"files {name}",
                lambda name=name, count=count: files_to_files(bench, weights[name], pages[:count], prices),
            )
        for name in ("compact-16",) if small else ("compact-16", "rrdb-6"):
            bench.part(
                f"engines {name}",
                lambda name=name: side_by_side(bench, weights[name], pages[: len(pages) // 2]),
            )
        bench.part("memory", lambda: capped_memory(bench, weights["compact-16"]))


def ceilings(bench: Bench) -> dict[str, object]:
    """Matrix products in TFLOP/s by precision, and copies in GB/s."""
    side = 8192 if bench.is_cuda else 512
    found: dict[str, object] = {}
    for precision in (torch.float16, torch.bfloat16, torch.float32)[0 if bench.is_cuda else 2 :]:
        a, b = (torch.randn(side, side, device=bench.device, dtype=precision) for _ in range(2))
        seconds = bench.seconds(lambda a=a, b=b: a @ b)
        found[f"matmul {precision} TFLOP/s"] = round(2 * side**3 / seconds / 1e12, 3)
    size = 1 << (30 if bench.is_cuda else 26)
    here = torch.empty(size, dtype=torch.uint8, device=bench.device)
    other = torch.empty_like(here)
    found["copy on the device GB/s"] = round(2 * size / bench.seconds(lambda: other.copy_(here)) / 1e9, 1)
    if bench.is_cuda:
        pinned = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        to = bench.seconds(lambda: here.copy_(pinned, non_blocking=True))
        back = bench.seconds(lambda: pinned.copy_(here, non_blocking=True))
        found |= {
            "to the device GB/s": round(size / to / 1e9, 1),
            "from the device GB/s": round(size / back / 1e9, 1),
        }
    return found


def network_alone(bench: Bench, case: Case, small: bool) -> list[dict[str, object]]:
    """Milliseconds a page of 512x768 and TFLOP/s, by batch, precision, memory format and way of running."""
    rows: list[dict[str, object]] = []
    height, width = (96, 64) if small else (HEIGHT, WIDTH)
    # Compact networks leave a card idle unless many pages go at once; RRDB fills it with few.
    sizes = (1,) if small else ((1, 4, 16) if case.name.startswith("compact") else (1, 4))
    precisions = (torch.float16, torch.bfloat16) if bench.is_cuda else (torch.float32,)
    work = flops(case.make(), height, width)
    for precision, layout in itertools.product(precisions, (torch.channels_last, torch.contiguous_format)):
        if layout is torch.contiguous_format and precision is not precisions[0]:
            continue  # the format's worth shows in one precision
        module = case.make().to(bench.device, precision).to(memory_format=layout).eval()
        for batch in sizes:
            pages = torch.rand(batch, 3, height, width, device=bench.device, dtype=precision)
            pages = pages.contiguous(memory_format=layout)
            for way, run in ways(bench, module, pages, layout):
                row: dict[str, object] = {
                    "precision": str(precision).removeprefix("torch."),
                    "channels_last": layout is torch.channels_last,
                    "batch": batch,
                    "way": way,
                }
                try:
                    with torch.inference_mode():
                        started = time.perf_counter()
                        run()
                        row["first_call_s"] = round(time.perf_counter() - started, 2)
                        seconds = bench.seconds(run, repeats=5) / batch
                    row |= {"ms_a_page": round(seconds * 1e3, 3), "tflops": round(work / seconds / 1e12, 2)}
                except Exception as error:  # out of memory, or a compiler that is not there
                    row["failed"] = f"{type(error).__name__}: {error}".splitlines()[0][:160]
                rows.append(row)
    return rows


def ways(
    bench: Bench, module: torch.nn.Module, pages: torch.Tensor, layout: torch.memory_format
) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the ways of running a network on these pages, by name."""
    yield "eager", lambda: module(pages)
    if layout is torch.contiguous_format:
        return
    compiled = torch.compile(module, dynamic=False)
    yield "compiled", lambda: compiled(pages)
    if not bench.is_cuda:
        return
    yield "captured", _captured(module, pages)
    with contextlib.suppress(ImportError):
        import torch_tensorrt  # type: ignore[import-not-found]

        yield (
            "TensorRT",
            _later(
                lambda: torch_tensorrt.compile(
                    module, inputs=[pages], enabled_precisions={pages.dtype}, min_block_size=1
                ),
                pages,
            ),
        )


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


def _later(make: Callable[[], torch.nn.Module], pages: torch.Tensor) -> Callable[[], object]:
    """Return a module's run that makes the module at its first call."""
    made: list[torch.nn.Module] = []

    def run() -> object:
        if not made:
            made.append(make())
        return made[0](pages)

    return run


def files_to_files(
    bench: Bench, weights: ResolvedWeights, pages: list[Path], prices: list[float]
) -> dict[str, object]:
    """Pages a second of whole runs, the engine alone and the official loop; the card's use; dollars."""
    network = load_network(weights, None)
    engines = open_torch_engines(network, bench.device)
    engine = engines[0]
    decoded = [prepare(decode(path.read_bytes(), max_pixels=10**9)) for path in pages]
    for _ in range(2):  # the first pages tell what a batch may be
        alone(engines, decoded[: min(len(decoded), 64)])
    alone_s = alone(engines, decoded) / len(decoded)
    with _card_use(bench) as use:
        whole_s = whole(engines, pages, weights) / len(pages)
    found: dict[str, object] = {
        "pages": len(pages),
        "precision": engine.precision,
        "batch": engine.batch_limit(HEIGHT, WIDTH),
        "engine_alone_ms": round(alone_s * 1e3, 2),
        "whole_run_ms": round(whole_s * 1e3, 2),
        "whole_rate_over_alone": round(alone_s / whole_s, 3),
        "card_busy_percent": round(statistics.mean(use), 1) if use else None,
        f"dollars_for_{USER_JOB}_pages": {
            f"{price}/h": round(whole_s * USER_JOB / 3600 * price, 3) for price in prices
        },
    }
    official = open_official(weights, engine)
    if official is not None:
        some = pages[: max(1, min(20, len(pages) // 4))]
        official_loop(official, some[:1], some[0].parent)
        official_s = official_loop(official, some, some[0].parent) / len(some)
        found |= {
            "official_loop_ms": round(official_s * 1e3, 2),
            "whole_rate_over_official": round(official_s / whole_s, 2),
        }
    found["psnr_db_to_fp32"] = _distance_to_fp32(bench, weights, engine, decoded[0])
    return found


def side_by_side(bench: Bench, weights: ResolvedWeights, pages: list[Path]) -> list[dict[str, object]]:
    """Milliseconds a page, from pixels to pixels, of one engine and of several at once on the same card."""
    network = load_network(weights, None)
    decoded = [prepare(decode(path.read_bytes(), max_pixels=10**9)) for path in pages]
    rows: list[dict[str, object]] = []
    for count, streams in ((1, False), (2, False), (2, True), (3, True)):
        engines: list[Engine] = [open_torch_engine(network, str(bench.device)) for _ in range(count)]
        if streams and bench.is_cuda:
            engines = [InOwnStream(engine, bench.device) for engine in engines]
        row: dict[str, object] = {"engines": count, "a stream each": streams}
        rows.append(row)
        try:
            for engine in engines:  # the first pages of each tell it what a batch may be
                for _ in range(2):
                    alone([engine], decoded[:64])
            with _card_use(bench) as use:
                row["ms_a_page"] = round(alone(engines, decoded) / len(decoded) * 1e3, 3)
            row["card_busy_percent"] = round(statistics.mean(use), 1) if use else None
        except PageError as error:
            row["failed"] = str(error)
        for engine in engines:
            engine.close()
    return rows


class InOwnStream:
    """An engine whose work goes into a CUDA stream of its own, so that its copies pass the work of others."""

    def __init__(self, engine: Engine, device: torch.device) -> None:
        self.native_scale, self.device, self.precision = engine.native_scale, engine.device, engine.precision
        self.batch_limit, self.borders, self.close = engine.batch_limit, engine.borders, engine.close
        self._engine, self._stream = engine, torch.cuda.Stream(device)

    def upscale(self, batch: Batch) -> SampleArray:
        """Upscale in the stream; the current stream is a thread's own, so others are not touched."""
        with torch.cuda.stream(self._stream):
            return self._engine.upscale(batch)


def _distance_to_fp32(
    bench: Bench, weights: ResolvedWeights, engine: TorchEngine, page: Pixels
) -> float | None:
    plain = open_torch_engine(load_network(weights, None), str(bench.device), "fp32")
    size = target_size(WIDTH, HEIGHT, 2.5)
    ours, exact = (upscale_pages(each, [page], size)[0] for each in (engine, plain))
    if isinstance(ours, PageError) or isinstance(exact, PageError):
        return None
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
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        command += ["-i", visible.split(",")[0]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout is not None
        lines = watcher.stdout
        reader = threading.Thread(target=lambda: samples.extend(float(line) for line in lines), daemon=True)
        reader.start()
        try:
            yield samples
        finally:
            watcher.terminate()
            reader.join(timeout=5)


def capped_memory(bench: Bench, weights: ResolvedWeights) -> dict[str, object]:
    """Upscale pages of growing size with a capped allocator: each must come out, in tiles where it must."""
    if bench.is_cuda:
        whole_memory = torch.cuda.get_device_properties(bench.device).total_memory
        torch.cuda.set_per_process_memory_fraction(2 * 2**30 / whole_memory, bench.device)
    rng = np.random.default_rng(1)
    found: dict[str, object] = {}
    try:
        engine = open_torch_engine(load_network(weights, None), str(bench.device))
        for side in (256,) if not bench.is_cuda else (512, 1024, 2048, 4096):
            page = Pixels(color=rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
            start = time.perf_counter()
            result = upscale_pages(engine, [page], (side * 2, side * 2))[0]
            seconds = time.perf_counter() - start
            found[f"{side}x{side}"] = (
                str(result) if isinstance(result, PageError) else f"done in {seconds:.2f} s"
            )
        engine.close()
    finally:
        if bench.is_cuda:
            torch.cuda.set_per_process_memory_fraction(1.0, bench.device)
    return found


def _random_weights(case: Case, folder: Path) -> ResolvedWeights:
    torch.manual_seed(1)
    module = case.make()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(0.1)  # so that half precision does not overflow
    path = folder / f"{case.name}.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, path)
    return resolve_weights(str(path), denoise=None, folders=[], cache=folder, download=False)


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
