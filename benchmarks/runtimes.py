"""Files to files with the same weights on the CPU: our run against the official loop and other runtimes.

Usage: python -m benchmarks.runtimes [--pages 8] [--rounds 2] [--model NAME] [--json FILE]

Every candidate reads the same PNG pages of 512x768, upscales them by the network's own factor, brings
them to 2.5x by Lanczos and writes PNG of 1280x1920. The other runtimes get the loop that a script would
have: read, run, resize, write, one page after the other, with all cores for the network. Machines are
noisy, so the candidates take turns round after round, and what counts are ratios. Loading and compiling
are left out of all of them. How far the pages of each lie from ours in float32 is part of the report.

Needs: pip install onnx onnxruntime openvino ncnn, and the extra "realesrgan"; what is absent is left out.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.machine import cores, facts, write_report
from benchmarks.peers import NcnnNetwork, PeerNetwork
from benchmarks.validation import AbsentError
from benchmarks.whole_run import SCALE, alone, cut_pages, official_loop, open_official, weights_folders, whole
from comic_upscale.engines.base import Batch, Engine
from comic_upscale.engines.pages import prepare
from comic_upscale.engines.torch.engine import TorchEngine, open_torch_engines
from comic_upscale.engines.torch.int8 import int8_fault
from comic_upscale.imaging.decode import decode
from comic_upscale.imaging.target_size import target_size
from comic_upscale.models.network import Network, load_network
from comic_upscale.models.weights import ResolvedWeights, resolve_weights

RESULTS = Path(__file__).parent / "results"
OURS, OURS_FP32, OFFICIAL = "comic-upscale run", "comic-upscale run, fp32", "official loop (RealESRGANer)"
OURS_INT8 = "comic-upscale run, int8"

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""1 x 3 x height x width in 0..1 to the native size, not clamped."""
Loop = Callable[[list[Path]], float]
"""Does the pages, file to file; returns the seconds."""


def main() -> None:
    """Measure, print, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--model", default="realesr-animevideov3")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    threads = cores()
    torch.set_num_threads(threads)
    weights = resolve_weights(
        options.model, denoise=None, folders=weights_folders(), cache=Path("weights"), download=False
    )
    network = load_network(weights, None)
    with tempfile.TemporaryDirectory() as folder:
        pages = cut_pages(Path(folder) / "pages", options.pages)
        precisions = ("auto", "fp32") if int8_fault(network) else ("auto", "fp32", "int8")
        engines = {
            name: open_torch_engines(network, torch.device("cpu"), precision=name) for name in precisions
        }
        loops, runs = gather(network, weights, engines, threads)
        decoded = [prepare(decode(path.read_bytes(), max_pixels=10**9)) for path in pages]
        networks = {f"network alone, {name}": side_by_side for name, side_by_side in engines.items()}
        for loop in loops.values():
            loop(pages[:1])  # the first page prepares what is to be prepared
        seconds: dict[str, list[float]] = {name: [] for name in (*loops, *networks)}
        share = options.pages // options.rounds
        for number in range(options.rounds):
            part = slice(number * share, (number + 1) * share)
            for name, loop in loops.items():
                seconds[name].append(loop(pages[part]) / share)
            for name, side_by_side in networks.items():
                seconds[name].append(alone(side_by_side, decoded[part]) / share)
            print(", ".join(f"{name} {values[-1]:.2f} s" for name, values in seconds.items()), flush=True)
        distances = {name: distance(run, engines["fp32"][0], pages[0]) for name, run in runs.items()}
    report = {
        **facts(threads),
        "model": weights.model_name,
        "page": f"512x768 x{SCALE}, PNG, {options.pages} pages",
        "our_precision": engines["auto"][0].info.precision,
        "seconds_a_page": {
            name: {"median": round(statistics.median(values), 3), "rounds": [round(v, 3) for v in values]}
            for name, values in seconds.items()
        },
        "our_rate_over_theirs": ratios(seconds),
        "psnr_db_to_ours_in_fp32": distances,
    }
    write_report(report, options.json or RESULTS / f"runtimes-{weights.model_name}-cpu.json")
    print(table(report))


def gather(
    network: Network, weights: ResolvedWeights, engines: dict[str, list[TorchEngine]], threads: int
) -> tuple[dict[str, Loop], dict[str, Run]]:
    """Return what takes part, by name: loops over files, and the bare runs of the other runtimes."""
    loops: dict[str, Loop] = {
        OURS: lambda pages: whole(engines["auto"], pages, weights),
        OURS_FP32: lambda pages: whole(engines["fp32"], pages, weights),
    }
    if "int8" in engines:
        loops[OURS_INT8] = lambda pages: whole(engines["int8"], pages, weights)
    official = open_official(weights, engines["fp32"][0])
    if official is not None:
        loops[OFFICIAL] = lambda pages: official_loop(official, pages, pages[0].parent)
    runs: dict[str, Run] = {}
    for name, opener in (
        ("ONNX Runtime", open_onnxruntime),
        ("OpenVINO, fp32", lambda net, count: open_openvino(net, count, "f32")),
        ("OpenVINO, as it chooses", lambda net, count: open_openvino(net, count, None)),
        ("ncnn", lambda net, count: open_ncnn(weights.model_name, count)),
    ):
        try:
            runs[name] = opener(network, threads)
        except (ImportError, AbsentError) as error:
            print(f"without {name}: {error}")
            continue
        loops[name] = lambda pages, run=runs[name]: plain_loop(run, pages)  # type: ignore[misc]
    return loops, runs


def open_onnxruntime(network: Network, threads: int) -> Run:
    """ONNX Runtime's CPU provider in float32, over the network as torch exports it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        exported(network).getvalue(), options, providers=["CPUExecutionProvider"]
    )
    return lambda pixels: session.run(None, {"pixels": pixels})[0]


def open_openvino(network: Network, threads: int, precision: str | None) -> Run:
    """OpenVINO's CPU plugin, in a precision or in the one that it chooses for this CPU."""
    import openvino

    core = openvino.Core()
    settings: dict[str, object] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    if precision:
        settings["INFERENCE_PRECISION_HINT"] = precision
    model = core.compile_model(core.read_model(exported(network).getvalue(), b""), "CPU", settings)
    return lambda pixels: model(pixels)[0].copy()


def open_ncnn(model_name: str, threads: int) -> Run:
    """Ncnn's CPU path over the same weights as ncnn ships them: animevideov3 at x4 alone is there."""
    if model_name != "realesr-animevideov3":
        raise AbsentError(f"there is no file of {model_name} for it")
    facts = PeerNetwork(model_name, "", model_name + "-x4", 4, False, "data", "output", border=0, multiple=1)
    opened = NcnnNetwork(facts, weights_folders()[0] / "peers", threads)

    def run(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        levels = np.rint(pixels[0].transpose(1, 2, 0) * 255).astype(np.uint8)
        native = np.asarray(opened.upscale(Image.fromarray(levels)), np.float32) / 255
        return native.transpose(2, 0, 1)[None]

    return run


def exported(network: Network) -> io.BytesIO:
    """Return the network as ONNX, for pages of any size."""
    file = io.BytesIO()
    axes = {0: "n", 2: "height", 3: "width"}
    torch.onnx.export(
        network.module,
        (torch.rand(1, 3, 64, 64),),
        file,
        input_names=["pixels"],
        output_names=["native"],
        dynamic_axes={"pixels": axes, "native": axes},
        dynamo=False,
    )
    return file


def plain_loop(run: Run, pages: list[Path]) -> float:
    """Seconds for what a script around a runtime does: read, run, resize, write."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        for page in pages:
            larger(run, page).save(Path(folder) / page.name, compress_level=1)
        return time.perf_counter() - start


def larger(run: Run, page: Path) -> Image.Image:
    """Return a page at the size asked for."""
    with Image.open(page) as image:
        pixels = np.asarray(image.convert("RGB"), np.float32).transpose(2, 0, 1)[None] / 255
        size = target_size(image.width, image.height, SCALE)
    native = np.clip(run(np.ascontiguousarray(pixels))[0] * 255, 0, 255).round().astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(native.transpose(1, 2, 0))).resize(
        size, Image.Resampling.LANCZOS
    )


def distance(run: Run, engine: Engine, page: Path) -> float:
    """PSNR in dB of a runtime's page to ours in float32: that they did the same work."""
    with Image.open(page) as image:
        pixels = np.asarray(image.convert("RGB"))[None]
        size = target_size(image.width, image.height, SCALE)
    ours = engine.upscale(Batch(pixels, size)).pixels[0].astype(np.float64)
    error = np.square(np.asarray(larger(run, page), np.float64) - ours).mean()
    return round(float(10 * np.log10(255**2 / max(error, 1e-9))), 1)


def ratios(seconds: dict[str, list[float]]) -> dict[str, float]:
    """How many times as many pages our run does in the same time: the median of the rounds."""
    return {
        name: round(statistics.median(t / o for t, o in zip(values, seconds[OURS], strict=True)), 2)
        for name, values in seconds.items()
        if name != OURS
    }


def table(report: dict[str, object]) -> str:
    """The report as Markdown."""
    seconds, ratio, psnr = (
        report[key] for key in ("seconds_a_page", "our_rate_over_theirs", "psnr_db_to_ours_in_fp32")
    )
    assert isinstance(seconds, dict)
    assert isinstance(ratio, dict)
    assert isinstance(psnr, dict)
    lines = ["| | seconds a page | our rate over it | PSNR to ours |", "|---|---:|---:|---:|"]
    lines += [
        f"| {name} | {values['median']:.2f} | {ratio.get(name, 1):.2f} | {psnr.get(name, '')} |"
        for name, values in seconds.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
