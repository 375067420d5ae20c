"""A network of the package in strips on one core, in each precision: seconds, likeness to float32, and sizes of PNGs.

Usage: python -m benchmarks.precisions [--model comic-fast-x3] [--precisions fp32 int8] [--rounds 4] [--json FILE]

``ONEDNN_MAX_CPU_ISA=AVX512_CORE_VNNI`` hides AMX from oneDNN, and ``AVX2_VNNI`` AVX-512 as well. bfloat16 is then
emulated, and slow. The precisions take turns, and seconds are those of the processor, so other work disturbs little.
"""

from __future__ import annotations

import argparse
import io
import os
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.machine import facts, write_report
from comic_upscale.engines.base import Batch
from comic_upscale.engines.torch.device import PRECISIONS
from comic_upscale.engines.torch.engine import TorchEngine
from comic_upscale.engines.torch.strips import in_strips
from comic_upscale.evaluation.metrics import psnr, to_tensor
from comic_upscale.models.network import Network, load_network
from comic_upscale.models.weights import resolve_weights

PAGES = Path(__file__).parents[1] / "examples" / "pages"
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="comic-fast-x3")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "int8"])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--json", type=Path, default=RESULTS / "precisions-cpu.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    weights = resolve_weights(options.model, denoise=None, folders=[], cache=Path(), download=False)
    network = load_network(weights, None)
    pages = [np.asarray(Image.open(path).convert("RGB"))[None] for path in sorted(PAGES.glob("*.png"))]
    report = {
        **facts(1),
        "model": options.model,
        "instructions": os.environ.get("ONEDNN_MAX_CPU_ISA", "all"),
        "seconds_a_page_of_512x768": seconds(network, options.precisions, options.rounds),
        "pages": likeness(network, options.precisions, pages),
    }
    write_report(report, options.json)


def seconds(network: Network, precisions: list[str], rounds: int) -> dict[str, float]:
    """Return the processor's seconds of the network alone for a page, the quickest of some rounds."""
    page = torch.rand((1, 3, 768, 512), generator=torch.Generator().manual_seed(1))
    strips = {name: in_strips(network, PRECISIONS[name]) for name in precisions}
    taken: dict[str, list[float]] = {name: [] for name in precisions}
    with torch.inference_mode():
        # The first round prepares.
        for number in range(rounds + 1):
            for name, run in strips.items():
                began = time.process_time()
                run(page)
                if number:
                    taken[name].append(time.process_time() - began)
    return {name: round(min(each), 3) for name, each in taken.items()}


def likeness(
    network: Network, precisions: list[str], pages: list[np.ndarray]
) -> dict[str, dict[str, list[float]]]:
    """Return for each precision the PSNR to float32 at 2.5x in decibels and the bytes of a PNG, page by page."""
    exact = [_upscale(network, "fp32", page) for page in pages]
    found = {"fp32": {"png_bytes": [_png_bytes(page) for page in exact]}}
    for name in (name for name in precisions if name != "fp32"):
        outputs = [_upscale(network, name, page) for page in pages]
        found[name] = {
            "psnr_to_fp32": [_psnr(*pair) for pair in zip(outputs, exact, strict=True)],
            "png_bytes": [_png_bytes(output) for output in outputs],
        }
    return found


def _upscale(network: Network, precision: str, page: np.ndarray) -> np.ndarray:
    engine = TorchEngine(network, device=torch.device("cpu"), precision=PRECISIONS[precision])
    height, width = page.shape[1:3]
    return engine.upscale(Batch(page, (width * 5 // 2, height * 5 // 2))).pixels[0]


def _psnr(made: np.ndarray, truth: np.ndarray) -> float:
    return round(psnr(*(to_tensor(page, torch.device("cpu")) for page in (made, truth))), 1)


def _png_bytes(page: np.ndarray) -> int:
    packed = io.BytesIO()
    Image.fromarray(page).save(packed, "PNG", compress_level=6)
    return packed.tell()


if __name__ == "__main__":
    main()
