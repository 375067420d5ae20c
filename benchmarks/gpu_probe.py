"""What `gpu.py` does not ask of a GPU: whether its pages are right, and where the time of one batch goes.

Usage: python -m benchmarks.gpu_probe [--device cuda] [--seconds 150] [--parts correct] [--json FILE]
       python -m benchmarks.gpu_probe --device cpu      (tries every part on a small scale)

* correct: pages of the project's own models against float32 on the CPU: RGB, gray, 16 bits, tiles, a batch, odd sizes,
  below, at and above the network's own factor. For each the PSNR in dB and the largest difference in levels.
* profile: the kernels of one batch, by network, with their milliseconds a page.
* convolutions: single ones by channels and size, in milliseconds and TFLOP/s, with cuDNN's heuristics and tuned.
* ways: compact networks by batch and by strips that fit into the L2 cache, eager and as a CUDA graph.

Each part stands alone, and the report is written after each.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu import CASES, OWN, RESULTS, SHIPPED, WAYS, WEIGHTS, random_network, save_weights
from benchmarks.machine import facts, write_report
from benchmarks.whole_run import SCALE
from comic_upscale.engines.base import Batch
from comic_upscale.engines.torch.engine import TorchEngine
from comic_upscale.imaging.pixels import SampleArray
from comic_upscale.models.network import Network, load_network
from comic_upscale.models.weights import resolve_weights

PAGE = Path(__file__).parents[1] / "examples" / "pages"
CHANNELS = ((64, 64), (32, 32), (64, 32), (192, 64), (3, 64), (64, 48), (32, 27))
"""Inputs and outputs of the convolutions in compact and RRDB networks."""
KERNELS = 22
"""How many kernels a profile lists."""


@dataclass(frozen=True, slots=True)
class Probe:
    """The device, and the sizes that are right for it."""

    device: torch.device
    folder: Path
    """For files of weights."""

    @property
    def is_cuda(self) -> bool:
        """Whether it is a GPU; a CPU only tries every part."""
        return self.device.type == "cuda"

    @property
    def page(self) -> tuple[int, int]:
        """Height and width of a page."""
        return (768, 512) if self.is_cuda else (96, 64)

    @property
    def half(self) -> torch.dtype:
        """The precision of the device."""
        return torch.float16 if self.is_cuda else torch.float32

    def network(self, name: str) -> Network:
        """Return one of the project's own networks, or one of `CASES` with random weights."""
        if name in SHIPPED:
            weights = resolve_weights(
                name, denoise=None, folders=[WEIGHTS], cache=self.folder, download=False
            )
        else:
            (case,) = (case for case in CASES if case.name == name)
            weights = save_weights(random_network(case), self.folder / f"{name}.safetensors")
        return load_network(weights, None)

    def milliseconds(self, work: Callable[[], object], repeats: int = 12) -> float:
        """Return the median of the device's time for a call, after three that do not count."""
        for _ in range(3):
            work()
        return statistics.median(self._once(work) for _ in range(repeats if self.is_cuda else 2))

    def _once(self, work: Callable[[], object]) -> float:
        if not self.is_cuda:
            start = time.perf_counter()
            work()
            return (time.perf_counter() - start) * 1e3
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        before.record()
        work()
        after.record()
        after.synchronize()
        return before.elapsed_time(after)


def main() -> None:
    """Measure all parts in their order."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument(
        "--parts", default="", help="beginnings of the parts' names, with commas; all without it"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    end = time.monotonic() + options.seconds
    report: dict[str, object] = {**facts(torch.get_num_threads()), "device": str(device)}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        report["device"] = properties.name
        report["l2_mib"] = round(properties.L2_cache_size / 2**20, 1)
    with tempfile.TemporaryDirectory() as folder:
        probe = Probe(device, Path(folder))
        parts: dict[str, Callable[[], object]] = {
            **{f"correct {name}": _correct_of(probe, name) for name in SHIPPED},
            **{f"profile {name}": _profile_of(probe, name) for name in (OWN, "compact-16", "rrdb-6")},
            "convolutions": lambda: convolutions(probe),
            **{f"ways {name}": _ways_of(probe, name) for name in (OWN, "compact-16")},
        }
        only = tuple(part for part in options.parts.split(",") if part)
        for name, part in parts.items():
            if only and not name.startswith(only):
                continue
            if time.monotonic() > end:
                report[name] = "left out"
                continue
            try:
                report[name] = part()
            except Exception as error:  # one failure must not cost a rented GPU's other figures
                report[name] = {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
            print(f"{name}: {str(report[name])[:1500]}", flush=True)
            write_report(report, options.json or RESULTS / f"gpu_probe-{device.type}.json")


def _correct_of(probe: Probe, name: str) -> Callable[[], object]:
    return lambda: correct(probe, name)


def correct(probe: Probe, name: str) -> dict[str, tuple[float, int]]:
    """PSNR in dB and the largest difference of a network's pages, to float32 on the CPU."""
    network = probe.network(name)
    # A GPU takes the mean of three colours for a gray page, so the reference does, too.
    with patch("comic_upscale.engines.torch.network_pass.can_become_gray", return_value=False):
        exact_engine = TorchEngine(network, device=torch.device("cpu"), precision=torch.float32)
        # The first gray page decides.
        exact_engine.upscale(Batch(np.zeros((1, 8, 8, 1), np.uint8), (16, 16)))
    found = {}
    for name, (pixels, target, tile) in _kinds_of_pages(probe).items():
        exact = exact_engine.upscale(Batch(pixels, target)).pixels
        every = probe.is_cuda and name in ("rgb", "tiles")
        precisions = (torch.float32, torch.float16, torch.bfloat16) if every else (probe.half,)
        for precision in precisions:
            engine = TorchEngine(network, device=probe.device, precision=precision, tile=tile)
            engine.upscale(Batch(pixels, target))
            # The second call has another batch size, and memory that was used before.
            ours = engine.upscale(Batch(pixels, target)).pixels
            found[f"{name} {engine.info.precision}"] = difference(ours, exact)
            engine.close()
    return found


def _kinds_of_pages(probe: Probe) -> dict[str, tuple[SampleArray, tuple[int, int], int | None]]:
    """Pages, their target size (width, height), and the tile."""
    height, width = (384, 320) if probe.is_cuda else (72, 64)
    with Image.open(sorted(PAGE.glob("0*.png"))[0]) as image:
        page = np.asarray(image.convert("RGB"))[100 : 100 + height, 60 : 60 + width]
    larger = (int(width * SCALE), int(height * SCALE))
    kinds: dict[str, tuple[SampleArray, tuple[int, int], int | None]] = {
        "rgb": (page[None], larger, None),
        "gray": (page[None, :, :, :1], larger, None),
        "16 bits": (page[None].astype(np.uint16) * 257, larger, None),
        "tiles": (page[None], larger, 128 if probe.is_cuda else 64),
        "batch of 3": (np.stack([page, page[::-1], page[:, ::-1]]), (width * 2, height * 2), None),
        "odd size": (page[None, : height - 7, : width - 5], (width * 2 - 3, height * 2 + 1), None),
        "native": (page[None], (width * 3, height * 3), None),
        "beyond native": (page[None], (width * 4, height * 4), None),
    }
    return {name: (np.ascontiguousarray(pixels), *rest) for name, (pixels, *rest) in kinds.items()}


def difference(ours: SampleArray, exact: SampleArray) -> tuple[float, int]:
    """PSNR in dB, and the largest difference in levels of the sample type."""
    top = np.iinfo(exact.dtype).max
    error = np.square(ours.astype(np.float64) - exact).mean()
    psnr = 10 * np.log10(top**2 / max(float(error), 1e-9))
    return round(float(psnr), 1), int(np.abs(ours.astype(np.int64) - exact).max())


def _profile_of(probe: Probe, name: str) -> Callable[[], object]:
    return lambda: kernels(probe, name)


def kernels(probe: Probe, name: str) -> dict[str, object]:
    """The kernels of one full batch, in milliseconds a page, beside the time from pixels to pixels."""
    engine = TorchEngine(probe.network(name), device=probe.device, precision=probe.half)
    height, width = probe.page
    rng = np.random.default_rng(0)
    pages = rng.integers(0, 256, (10 if probe.is_cuda else 1, height, width, 3), dtype=np.uint8)
    target = (int(width * SCALE), int(height * SCALE))
    engine.upscale(Batch(pages[:1], target))
    pages = pages[: engine.batch_limit(height, width)]
    batch, count = Batch(pages, target), len(pages)
    walls = []
    for _ in range(9 if probe.is_cuda else 1):
        start = time.perf_counter()
        engine.upscale(batch)
        walls.append(time.perf_counter() - start)
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if probe.is_cuda else [])
    with profile(activities=activities) as profiler:
        engine.upscale(batch)
    rows = []
    for event in profiler.key_averages():
        micros = event.self_device_time_total if probe.is_cuda else event.self_cpu_time_total
        if micros > 0 and (not probe.is_cuda or str(event.device_type).endswith("CUDA")):
            rows.append((event.key[:90], event.count, round(micros / 1e3 / count, 4)))
    rows.sort(key=lambda row: -row[2])
    engine.close()
    return {
        "batch": count,
        "ms_a_page_wall": round(min(walls) / count * 1e3, 3),
        "ms_a_page_kernels": round(sum(row[2] for row in rows), 3),
        "launches": sum(row[1] for row in rows),
        "kernels": rows[:KERNELS],
    }


def convolutions(probe: Probe) -> dict[str, list[float]]:
    """Milliseconds and TFLOP/s of single convolutions, channels last: by heuristics, then tuned by cuDNN."""
    height, width = probe.page
    sizes = ((4, height, width), (1, height, width), (1, height // 4, width))
    return {
        f"{inputs}->{outputs} {count}x{rows}x{columns}": [
            *_convolution(probe, inputs, outputs, (count, rows, columns), tuned=False),
            *_convolution(probe, inputs, outputs, (count, rows, columns), tuned=True),
        ]
        for (inputs, outputs), (count, rows, columns) in itertools.product(CHANNELS, sizes)
    }


def _convolution(
    probe: Probe, inputs: int, outputs: int, size: tuple[int, int, int], *, tuned: bool
) -> tuple[float, float]:
    place = {"device": probe.device, "dtype": probe.half}
    x = torch.randn(size[0], inputs, *size[1:], **place).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(outputs, inputs, 3, 3, **place).contiguous(memory_format=torch.channels_last)
    bias = torch.zeros(outputs, **place)
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, benchmark=tuned):
        spent = probe.milliseconds(lambda: torch.nn.functional.conv2d(x, weight, bias, padding=1))
    return round(spent, 4), round(2 * 9 * inputs * outputs * size[0] * size[1] * size[2] / spent / 1e9, 1)


def _ways_of(probe: Probe, name: str) -> Callable[[], object]:
    return lambda: ways(probe, name)


def ways(probe: Probe, name: str) -> dict[str, list[float]]:
    """Milliseconds for the pixels of a page: eager, and on a GPU as a graph. The halo of a strip counts as work."""
    module = probe.network(name).module.to(probe.device, probe.half)
    module = module.to(memory_format=torch.channels_last).eval()
    height, width = probe.page
    found = {}
    strips = ((10, height), (4, height), (1, height), (1, height // 2 + 36), (1, height // 4 + 36))
    for count, rows in strips:
        x = torch.rand(count, 3, rows, width, device=probe.device, dtype=probe.half)
        x = x.contiguous(memory_format=torch.channels_last)
        share = count * rows / height
        with torch.inference_mode():
            names = ("eager", "captured") if probe.is_cuda else ("eager",)
            spent = [probe.milliseconds(WAYS[name](module, x), 8) / share for name in names]
        found[f"{count}x{rows}"] = [round(one, 3) for one in spent]
    return found


if __name__ == "__main__":
    main()
