"""The fused kernels on a GPU: are their pixels those of the plain layers, how fast are they, what do engines decide.

Usage, from the root of the checkout: ``python -m benchmarks.fused OUT.json [--device cuda] [--seconds 60]``. On a CPU
(``--device cpu`` with ``TRITON_INTERPRET=1``) it rehearses the same with tiny pages.

Each piece stands alone: it is printed and saved when it is done, and one that fails does not end the others.
"""

# ruff: noqa: B023
# Each function below runs before its loop goes on.
from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from benchmarks.gpu import CASES, SHIPPED, WEIGHTS, random_network, save_weights
from comic_upscale.engines.base import FinishPlan
from comic_upscale.engines.lanczos import Span
from comic_upscale.engines.pages import prepare
from comic_upscale.engines.torch import finishing
from comic_upscale.engines.torch.finishing import Finisher
from comic_upscale.engines.torch.finishing_proof import find_difference
from comic_upscale.engines.torch.fused import fuse
from comic_upscale.engines.torch.fused_resample import (
    Cell,
    resample_fused,
    resample_plainly,
    try_resampling,
)
from comic_upscale.engines.torch.host_memory import HostMemory
from comic_upscale.engines.torch.network_pass import NetworkPass
from comic_upscale.engines.torch.proof import draw_window, time_on_cuda
from comic_upscale.gate.measures import MeasurePlan
from comic_upscale.imaging.pixels import Pixels
from comic_upscale.models.network import Network, load_network
from comic_upscale.models.weights import resolve_weights

LAST = torch.channels_last
ROOT = Path(__file__).parents[1]
BATCHES = {**dict.fromkeys(SHIPPED, 10), "compact-16": 10, "rrdb-6": 5}
"""Pages in a batch, by network."""


class Bench:
    """Runs pieces within a time, and saves what they measure."""

    def __init__(self, out: Path, device: torch.device, seconds: float) -> None:
        self.device = device
        self.on_gpu = device.type == "cuda"
        self.page = (768, 512) if self.on_gpu else (12, 9)
        self.half = torch.float16
        self._out = out
        self._end = time.monotonic() + seconds
        self.report: dict[str, object] = {
            "device": torch.cuda.get_device_name(device) if self.on_gpu else "cpu",
            "torch": torch.__version__,
        }

    def piece(self, name: str, work: Callable[[], object], needs: float = 1.0) -> None:
        """Do one piece, if there is time, and print and save its result."""
        begun = time.monotonic()
        if begun + needs > self._end:
            result: object = "left out: no time"
        else:
            try:
                with torch.inference_mode():
                    result = work()
            except Exception as error:
                where = traceback.format_exc().splitlines()[-3:]
                result = {"failed": f"{type(error).__name__}: {str(error)[:300]}", "where": where}
        self.report[name] = result
        print(f"{name} ({time.monotonic() - begun:.1f} s): {json.dumps(result)}", flush=True)
        self._out.write_text(json.dumps(self.report, indent=1))
        if self.on_gpu:
            torch.cuda.empty_cache()

    def milliseconds(self, work: Callable[[], object], rounds: int = 10) -> float:
        """Return the median time of some work."""
        if not self.on_gpu:
            begun = time.perf_counter()
            work()
            return (time.perf_counter() - begun) * 1e3
        for _ in range(3):
            work()
        return round(statistics.median(time_on_cuda(work) for _ in range(rounds)), 4)

    def draw(self, n: int, channels: int, dtype: torch.dtype | None = None, scale: int = 1) -> torch.Tensor:
        """Return random numbers in the shape of a layer."""
        shape = (n, channels, self.page[0] * scale, self.page[1] * scale)
        drawn = torch.randn(shape, dtype=dtype or self.half, device=self.device)
        return drawn.contiguous(memory_format=LAST)


def main() -> None:
    """Measure everything in the order of its worth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    bench = Bench(options.out, torch.device(options.device), options.seconds)
    if bench.on_gpu:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    names = list(BATCHES) if bench.on_gpu else list(SHIPPED)
    networks: dict[str, Network] = {}
    for name in names:
        bench.piece(f"load {name}", lambda name=name: _load(name, networks))
    for name in networks:
        bench.piece(f"decision {name}", lambda name=name: _decide(bench, networks[name]))
        bench.piece(f"pixels {name}", lambda name=name: _pixels(bench, networks[name]))
        bench.piece(f"speed {name}", lambda name=name: _speed(bench, networks[name], BATCHES[name]))
    bench.piece("resampling", lambda: _resampling(bench))
    bench.piece("finishing", lambda: _finishing(bench))
    bench.piece("kernels", lambda: _kernels(bench), needs=3)
    bench.piece("convolutions", lambda: _convolutions(bench), needs=3)
    for name in networks if bench.on_gpu else ():
        bench.piece(f"profile {name}", lambda name=name: _profile(bench, networks[name], BATCHES[name]), 3)
    bench.piece("more than 2^31 elements", lambda: _large(bench), needs=3)


def _load(name: str, networks: dict[str, Network]) -> str:
    if name in SHIPPED:
        weights = resolve_weights(name, denoise=None, folders=[WEIGHTS], cache=ROOT, download=False)
        networks[name] = load_network(weights, None)
        return "real weights"
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        module = random_network(next(case for case in CASES if case.name == name))
        weights = save_weights(module, Path(folder) / "random.safetensors")
        networks[name] = load_network(weights, None)
    return "random weights"


def _plain(bench: Bench, network: Network, precision: torch.dtype) -> torch.nn.Module:
    module = copy.deepcopy(network.module).to(device=bench.device, dtype=precision)
    return module.to(memory_format=LAST).eval()


def _decide(bench: Bench, network: Network) -> dict[str, object]:
    """Open the network as an engine does, in two precisions."""
    found: dict[str, object] = {}
    for precision in (torch.float16, torch.float32):
        begun = time.monotonic()
        proof = NetworkPass(network, bench.device, precision).proof
        found[str(precision)] = [
            None if proof is None else [proof.is_fused, proof.reason],
            f"{time.monotonic() - begun:.2f} s",
        ]
    return found


def _pixels(bench: Bench, network: Network) -> dict[str, object]:
    """Compare both ways on a real page, and each with float32: the largest difference in levels, and decibels."""
    files = sorted((ROOT / "examples" / "pages").glob("0*.png"))
    rows, columns = (480, 352) if bench.on_gpu else bench.page
    if files:
        page = np.asarray(Image.open(files[0]).convert("RGB"))[100 : 100 + rows, 60 : 60 + columns].copy()
        x = (torch.from_numpy(page).permute(2, 0, 1)[None] / 255).to(bench.device)
    else:
        x = draw_window(rows, columns, 3).to(bench.device)
    exact = _levels(_plain(bench, network, torch.float32)(x.contiguous(memory_format=LAST)))
    found: dict[str, object] = {}
    for precision in (torch.float16, torch.float32, torch.bfloat16):
        plain = _plain(bench, network, precision)
        window = x.to(precision).contiguous(memory_format=LAST)
        expected, made = _levels(plain(window)), _levels(fuse(plain)(window))
        found[str(precision)] = {
            "fused to plain": _compare(made, expected),
            "plain to fp32": _compare(expected, exact),
            "fused to fp32": _compare(made, exact),
        }
    return found


def _levels(native: torch.Tensor) -> torch.Tensor:
    return native.float().clamp(0, 1) * 255


def _compare(first: torch.Tensor, second: torch.Tensor) -> list[float]:
    square = float((first - second).square().mean())
    decibels = 10 * math.log10(255**2 / square) if square > 0 else 999.0
    return [round(float((first - second).abs().max()), 3), round(decibels, 1)]


def _speed(bench: Bench, network: Network, batch: int) -> dict[str, object]:
    """Milliseconds a page of the network alone, and the peak of memory for a page."""
    n = batch if bench.on_gpu else 1
    found: dict[str, object] = {"batch": n}
    for precision in (torch.float16, torch.float32)[: 1 if n < 10 else 2]:
        plain = _plain(bench, network, precision)
        x = bench.draw(n, 3, precision).sigmoid_()
        for name, module in (("plain", plain), ("fused", fuse(plain))):
            if bench.on_gpu:
                torch.cuda.reset_peak_memory_stats(bench.device)
            took = bench.milliseconds(lambda module=module, x=x: module(x), 6) / n
            peak = torch.cuda.max_memory_allocated(bench.device) / n / 2**20 if bench.on_gpu else 0
            found[f"{name} {precision}"] = [round(took, 3), f"{peak:.0f} MiB a page"]
    return found


def _resampling(bench: Bench) -> dict[str, object]:
    """Milliseconds a page from native pixels to bytes at 2.5x, both ways, and what engines decide."""
    n = 4 if bench.on_gpu else 1
    decision = try_resampling(bench.device, resample_fused, time_on_cuda)[1] if bench.on_gpu else None
    found: dict[str, object] = {
        "decision": None if decision is None else [decision.is_fused, decision.reason]
    }
    for scale in (3, 4, 2):
        height, width = bench.page[0] * scale, bench.page[1] * scale
        rows, columns = bench.page[0] * 5 // 2, bench.page[1] * 5 // 2
        cell = Cell((height, width), (rows, columns), (0, 0), Span(0, rows), Span(0, columns))
        # As the kernel of the pixel shuffle writes it.
        native = bench.draw(n, 3, scale=scale).sigmoid_().contiguous()
        for name, way in (("plain", resample_plainly), ("fused", resample_fused)):
            took = bench.milliseconds(lambda way=way: way(native, cell, False))
            found[f"x{scale} {name}"] = round(took / n, 4)
    return found


def _finishing(bench: Bench) -> dict[str, object]:
    """What differs from the host, and the milliseconds a page of each step."""
    n = 10 if bench.on_gpu else 1
    # Cells and blocks need some pixels also in a rehearsal.
    height, width = bench.page if bench.on_gpu else (120, 90)
    drawn = (draw_window(height, width, 3)[0].permute(1, 2, 0) * 255).to(torch.uint8).numpy()
    sources = [replace(prepare(Pixels(drawn, lossless=index % 2 == 0)), faint=None) for index in range(n)]
    target = (height * 5 // 2, width * 5 // 2)
    larger = np.asarray(Image.fromarray(drawn).resize(target[::-1], Image.Resampling.LANCZOS)) // 8 * 8
    outputs = torch.from_numpy(np.stack([larger] * n)).to(bench.device)
    measures = MeasurePlan.of(drawn.shape, larger.shape, looks_for_texture=True)
    assert measures is not None and measures.bends is not None
    host = HostMemory(pinned=bench.on_gpu)
    plan = FinishPlan(measures, png_rows=True)

    def everything() -> None:
        Finisher(plan, sources, target, host, bench.device).finish(outputs.clone(), 0)

    def copies() -> None:
        for _ in range(2):
            host.empty(outputs.shape, outputs.dtype).copy_(outputs, non_blocking=True)

    lines = measures.bends.rows
    steps: dict[str, Callable[[], object]] = {
        "everything, with copies of the results": everything,
        "two copies of the pages to the host": copies,
        "shrink": lambda: finishing.shrink(outputs, measures),
        "second differences of rows": lambda: finishing.measure_bends(outputs[:, ::5, :, 1], lines),
        "PNG rows": lambda: finishing.filter_rows(outputs),
    }
    found: dict[str, object] = {"difference from the host": find_difference(bench.device)}
    return found | {name: round(bench.milliseconds(step) / n, 4) for name, step in steps.items()}


def _kernels(bench: Bench) -> dict[str, object]:
    """Milliseconds a page of each kernel, and the rate at which it moves memory in GB/s."""
    from comic_upscale.engines.torch import kernels

    n = 4 if bench.on_gpu else 1
    pixels = n * bench.page[0] * bench.page[1]
    weights = torch.rand(256, dtype=bench.half, device=bench.device)

    def measure(work: Callable[[], object], numbers: float) -> list[float]:
        took = bench.milliseconds(work)
        return [round(took / n, 4), round(numbers * pixels * 2 / took / 1e6)]

    found: dict[str, object] = {}
    for channels in (32, 64) if bench.on_gpu else (8,):
        values, near = bench.draw(n, channels), bench.draw(n, channels)
        w = weights[:channels]
        bias = w[:, None, None]
        found[f"activate {channels}"] = measure(lambda: kernels.activate(values, w, w), 2 * channels)
        found[f"bias and PReLU of torch {channels}"] = measure(
            lambda: functional.prelu(values + bias, w), 4 * channels
        )
        found[f"copy {channels}"] = measure(lambda: near.copy_(values), 2 * channels)
        found[f"enlarge {channels}"] = measure(lambda: kernels.enlarge(values, w, 2, slope=w), 5 * channels)
        found[f"nearest of torch {channels}"] = measure(
            lambda: functional.interpolate(values, scale_factor=2, mode="nearest"), 5 * channels
        )
    sizes = (64, *[32] * 4, 64) if bench.on_gpu else (4, *[2] * 4, 4)
    # What the input and the results of a dense block add to all the results after them.
    parts = [bench.draw(n, sum(sizes[index:])) for index in range(1, 6)]
    near = bench.draw(n, sizes[0])
    for index, channels in enumerate(sizes[1:-1], start=1):
        w = weights[:channels]
        found[f"join {index} of {channels}"] = measure(
            lambda: kernels.join(parts[:index], w, slope=w), (index + 1) * channels
        )
    w = weights[: sizes[-1]]
    found[f"join 5 of {sizes[-1]}"] = measure(
        lambda: kernels.join(parts, w, near=near, far=near, scale=0.2), 8 * sizes[-1]
    )
    previous, made = bench.draw(n, 160), bench.draw(n, 32)
    found["cat of torch 160"] = measure(lambda: torch.cat((previous, made), 1), 2 * 192)
    for factor, depth in ((3, 27), (3, 32), (4, 48), (4, 64)) if bench.on_gpu else ((2, 12),):
        made, base = bench.draw(n, depth), bench.draw(n, 3)
        found[f"shuffle x{factor} of {depth}"] = measure(
            lambda: kernels.shuffle(made, weights[:depth], 3, factor, base), depth + 3 + 3 * factor**2
        )
    return found


def _convolutions(bench: Bench) -> dict[str, object]:
    """Milliseconds a page of convolutions without bias: padded channels, and those of dense blocks split by input."""
    n = 4 if bench.on_gpu else 1
    pairs = [(3, 32), (8, 32), (16, 32), (3, 64), (8, 64), (32, 27), (32, 32), (64, 48), (64, 64)]
    pairs += [(64, 32), (96, 32), (128, 32), (160, 32), (192, 64)]
    # The convolution of a sum is the sum of convolutions: each input of a dense block for all later layers at once.
    pairs += [(64, 192), (32, 160), (32, 128), (32, 96), (32, 64)]
    found: dict[str, object] = {}
    for taken, made in pairs if bench.on_gpu else pairs[:1]:
        x = bench.draw(n, taken)
        w = torch.randn(made, taken, 3, 3, dtype=bench.half, device=bench.device)
        w = w.contiguous(memory_format=LAST)
        took = bench.milliseconds(lambda x=x, w=w: functional.conv2d(x, w, padding=1)) / n
        rate = 18 * taken * made * bench.page[0] * bench.page[1] / took / 1e9
        found[f"{taken}->{made}"] = [round(took, 4), f"{rate:.0f} TFLOP/s"]
    if bench.on_gpu:
        for made in (3, 8, 16, 32):
            x = bench.draw(1, 64, scale=4)
            w = torch.randn(made, 64, 3, 3, dtype=bench.half, device=bench.device)
            w = w.contiguous(memory_format=LAST)
            found[f"64->{made} at 4x"] = bench.milliseconds(
                lambda x=x, w=w: functional.conv2d(x, w, padding=1), 5
            )
        # The nine weights of three outputs as one product. A kernel could add up its planes, each read once.
        x = bench.draw(1, 64, scale=4).permute(0, 2, 3, 1).reshape(-1, 64)
        w = torch.randn(32, 64, dtype=bench.half, device=bench.device)
        found["64->27 at 4x by a product"] = bench.milliseconds(lambda: torch.mm(w, x.T), 5)
    return found


def _profile(bench: Bench, network: Network, batch: int) -> list[list[object]]:
    """The kernels that take longest in the fused network: name, calls, milliseconds a page."""
    module = fuse(_plain(bench, network, bench.half))
    x = bench.draw(batch, 3).sigmoid_()
    for _ in range(2):
        module(x)
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        module(x)
        torch.cuda.synchronize()
    events = sorted(profile.key_averages(), key=lambda event: -event.self_device_time_total)
    return [
        [event.key[:70], event.count, round(event.self_device_time_total / 1e3 / batch, 4)]
        for event in events[:9]
    ]


def _large(bench: Bench) -> str:
    """Compare the ends of a tensor beyond 2^31 elements, where 32-bit positions would wrap around."""
    from comic_upscale.engines.torch import kernels

    rows = 2**31 // (64 * 4096) + 8 if bench.on_gpu else 8
    columns = 4096 if bench.on_gpu else 8
    values = torch.empty((1, rows, columns, 64), dtype=bench.half, device=bench.device).permute(0, 3, 1, 2)
    values.fill_(-1)
    bias = torch.arange(64, device=bench.device).to(bench.half) / 8
    slope = torch.full_like(bias, 0.25)
    kernels.activate(values, bias, slope)
    expected = torch.where(bias > 1, bias - 1, (bias - 1) * slope)
    for row in (0, rows // 2, rows - 5, rows - 1):
        if not torch.equal(values[0, :, row, -1], expected):
            return f"WRONG in row {row} of {rows}"
    return f"right: {values.numel()} elements"


if __name__ == "__main__":
    main()
