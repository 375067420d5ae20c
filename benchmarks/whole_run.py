"""Files to files on this machine: the whole run against the network alone and against the official loop.

Usage: python benchmarks/whole_run.py [--pages 20] [--rounds 4] [--model NAME|FILE] [--precision P] [--json FILE]

Machines are noisy, so the three are timed in turn, round after round, in one process, over the same
pages, and the figures that count are the ratios. Loading a network is left out of all three.

* alone: ``TorchEngine.upscale`` over pixels that are decoded already, one call a page or batch, by as many engines
  at once as a run has.
* whole: ``run_job`` from its first page to its last, reading, checking, writing, flushing, recording.
* ceiling: matrix products in the engine's precision on the processor, and the network's share of that rate.
* official: the loop of ``inference_realesrgan.py``: ``cv2.imread``, ``RealESRGANer.enhance``,
  ``cv2.imwrite``, with the same weights, the same precision and the same target size.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from benchmarks.arithmetic import flops, matmul_rate
from comic_upscale.engines.base import Engine
from comic_upscale.engines.pages import prepare, upscale_pages
from comic_upscale.engines.torch.device import PRECISIONS, choose_device
from comic_upscale.engines.torch.engine import open_torch_engines
from comic_upscale.errors import ComicUpscaleError, PageError
from comic_upscale.execution.events import Event, JobStarted
from comic_upscale.imaging.decode import decode
from comic_upscale.imaging.pixels import Pixels
from comic_upscale.imaging.target_size import target_size
from comic_upscale.jobs.begin import versions
from comic_upscale.jobs.run import run_job
from comic_upscale.models.network import load_network
from comic_upscale.models.weights import ResolvedWeights, resolve_weights
from comic_upscale.settings.job import JobSettings

REPOSITORY = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT, SCALE = 512, 768, 2.5


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--model", default="realesr-animevideov3")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    weights = resolve_weights(
        options.model, denoise=None, folders=weights_folders(), cache=Path("weights"), download=False
    )
    engines = open_torch_engines(
        load_network(weights, None), choose_device(options.device), precision=options.precision
    )
    official = open_official(weights, engines[0])
    with tempfile.TemporaryDirectory() as folder:
        pages = cut_pages(Path(folder) / "pages", options.pages)
        seconds, rates = measure(pages, options.rounds, engines, official, weights)
    report = summarise(seconds, options.pages, engines[0], weights)
    if rates:
        report["arithmetic"] = arithmetic(seconds["alone"], rates, weights)
    print(json.dumps(report, indent=2))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def weights_folders() -> list[Path]:
    """Where weights may be on this machine."""
    named = os.environ.get("COMIC_UPSCALE_WEIGHTS")
    return [Path(named)] if named else [REPOSITORY.parent / "shared" / "weights", REPOSITORY / "weights"]


def cut_pages(folder: Path, count: int) -> list[Path]:
    """Write this number of PNG pages of 512 x 768, cut from real pages where they are, else from the examples."""
    folder.mkdir(parents=True)
    comics = Path(os.environ.get("COMIC_UPSCALE_COMICS") or REPOSITORY.parent / "shared" / "comics") / "dev"
    sources = sorted(comics.glob("*")) or sorted((REPOSITORY / "examples" / "pages").glob("*.png"))
    usable = [source for source in sources if _is_usable(source)]
    if not usable:
        raise SystemExit(f"no page of at least {WIDTH}x{HEIGHT} in {comics} or examples/")
    with ThreadPoolExecutor() as pool:
        # Each is decoded once, however many pages come of it.
        originals = list(pool.map(_decoded, usable[:count]))
        return list(
            pool.map(lambda number: _cut(originals[number % len(usable)], folder, number), range(count))
        )


def _is_usable(source: Path) -> bool:
    """Tell by the header whether a page is large enough, and not far larger."""
    with Image.open(source) as image:
        return WIDTH <= image.width <= 1600 and image.height >= HEIGHT


def _decoded(source: Path) -> Image.Image:
    with Image.open(source) as image:
        return image.convert("RGB")


def _cut(original: Image.Image, folder: Path, number: int) -> Path:
    left = (original.width - WIDTH) // 2
    top = (37 * number) % (original.height - HEIGHT + 1)
    path = folder / f"{number:03d}.png"
    # No two files are the same, since the second would be a copy of the first one's output.
    note = PngInfo()
    note.add_text("page", str(number))
    original.crop((left, top, left + WIDTH, top + HEIGHT)).save(path, pnginfo=note)
    return path


def measure(
    pages: list[Path], rounds: int, engines: Sequence[Engine], official: object, weights: ResolvedWeights
) -> tuple[dict[str, list[float]], list[float]]:
    """Seconds a page of each of the three, and of a processor its operations a second, once for each round."""
    decoded = [prepare(decode(path.read_bytes(), max_pixels=10**9)) for path in pages]
    alone(engines, decoded[:1] * len(engines))  # the first call of a network prepares it
    if official is not None:
        official_loop(official, pages[:1], pages[0].parent)
    seconds: dict[str, list[float]] = {"alone": [], "whole": [], "official": []}
    rates: list[float] = []
    share = len(pages) // rounds
    for number in range(rounds):
        part = slice(number * share, (number + 1) * share)
        seconds["alone"].append(alone(engines, decoded[part]) / share)
        seconds["whole"].append(whole(engines, pages[part], weights) / share)
        if official is not None:
            seconds["official"].append(official_loop(official, pages[part], pages[0].parent) / share)
        if engines[0].info.device.is_cpu:
            rates.append(matmul_rate(PRECISIONS[engines[0].info.precision]))
        print(f"round {number + 1}: " + ", ".join(f"{k} {v[-1]:.3f} s" for k, v in seconds.items() if v))
    return seconds, rates


def arithmetic(alone: list[float], rates: list[float], weights: ResolvedWeights) -> dict[str, float]:
    """What the network asks of the processor for a page, and its share of the matrix products' rate."""
    asked = flops(load_network(weights, None).module, HEIGHT, WIDTH)
    shares = [asked / seconds / rate for seconds, rate in zip(alone, rates, strict=True)]
    return {
        "gflop_a_page": round(asked / 1e9, 1),
        "matmul_gflop_a_second": round(statistics.median(rates) / 1e9, 1),
        "network_alone_share": round(statistics.median(shares), 3),
    }


def alone(engines: Sequence[Engine], pages: list[Pixels]) -> float:
    """Seconds for the network and the resampling, from pixels to pixels.

    Raises:
        PageError: a page could not be done; the seconds would say nothing.
    """
    limit = engines[0].batch_limit(HEIGHT, WIDTH)
    batches = deque(pages[first : first + limit] for first in range(0, len(pages), limit))

    def work(engine: Engine) -> None:
        with suppress(IndexError):
            while True:
                for result in upscale_pages(engine, batches.popleft(), target_size(WIDTH, HEIGHT, SCALE)):
                    if isinstance(result, PageError):
                        raise result

    start = time.perf_counter()
    with ThreadPoolExecutor(len(engines)) as pool:
        list(pool.map(work, engines))
    return time.perf_counter() - start


def whole(
    engines: Sequence[Engine],
    pages: list[Path],
    weights: ResolvedWeights,
    *,
    workers: int = 2,
    gate: bool = True,
) -> float:
    """Seconds for a run over a folder of these pages, from its header to its end.

    Args:
        engines: what upscales; they stay open.
        pages: files, which are copied before the clock begins.
        weights: of the engines.
        workers: threads that decode and encode.
        gate: whether every page is held against its source; suspect ones are done again, which takes its time.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in"
        source.mkdir()
        for page in pages:
            shutil.copy(page, source)
        settings = JobSettings(
            input=source,
            output=Path(folder) / "out",
            scale=SCALE,
            model=str(weights.path),
            workers=workers,
            gate=gate,
        )
        started = 0.0

        def note(event: Event) -> None:
            nonlocal started
            if isinstance(event, JobStarted):
                started = time.perf_counter()

        finished = run_job(
            settings, on_event=note, open_engines=lambda *_: [_Kept(engine) for engine in engines]
        )
        assert finished.done == len(pages)
        return time.perf_counter() - started


class _Kept:
    """The same engine for every run: not closed with the run."""

    def __init__(self, engine: Engine) -> None:
        self.info, self.batch_limit, self.upscale = engine.info, engine.batch_limit, engine.upscale

    def close(self) -> None:
        """Stay open."""


def open_official(weights: ResolvedWeights, engine: Engine) -> object:
    """The official program over the same weights, or None where it is not installed or does not take them."""
    from comic_upscale.engines.realesrgan import RealESRGANEngine

    try:
        kind, index = engine.info.device.kind, engine.info.device.index
        device = choose_device(kind if index is None else f"{kind}:{index}")
        return RealESRGANEngine(weights.path, device=device, half=engine.info.precision == "fp16")._program
    except ComicUpscaleError as error:
        print(f"without the official program: {error}")
        return None


def official_loop(program: object, pages: list[Path], folder: Path) -> float:
    """Seconds for the loop of the official script: read, enhance, write."""
    import cv2

    start = time.perf_counter()
    for page in pages:
        image = cv2.imread(str(page), cv2.IMREAD_UNCHANGED)
        output, _ = program.enhance(image, outscale=SCALE)  # type: ignore[attr-defined]
        cv2.imwrite(str(folder / f"official-{page.name}.out.png"), output)
    return time.perf_counter() - start


def summarise(
    seconds: dict[str, list[float]], pages: int, engine: Engine, weights: ResolvedWeights
) -> dict[str, object]:
    """The figures with what they were measured on."""
    median = {name: statistics.median(values) for name, values in seconds.items() if values}
    ratio = {
        "whole_rate_over_alone": [a / w for a, w in zip(seconds["alone"], seconds["whole"], strict=True)],
        "whole_rate_over_official": [
            o / w for o, w in zip(seconds["official"], seconds["whole"], strict=False)
        ],
    }
    return {
        "pages": pages,
        "page": f"{WIDTH}x{HEIGHT} to {target_size(WIDTH, HEIGHT, SCALE)}, PNG",
        "model": weights.model_name,
        "device": str(engine.info.device),
        "precision": engine.info.precision,
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": {**versions(), "numpy": np.__version__},
        "seconds_a_page": {name: round(value, 3) for name, value in median.items()},
        "ratios": {
            name: {"median": round(statistics.median(values), 3), "rounds": [round(v, 3) for v in values]}
            for name, values in ratio.items()
            if values
        },
    }


if __name__ == "__main__":
    main()
