"""Our pixels against the official program's, and tiled against untiled, on real pages at the native x4.

Usage: python benchmarks/parity.py [--pages 5] [--seams FOLDER]

fp32 on the CPU. With --seams the four tiles around one corner are written at 400 %, tiled above
untiled, to be looked at.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from comic_upscale.engines.base import Batch
from comic_upscale.engines.realesrgan import RealESRGANEngine
from comic_upscale.engines.torch.engine import TorchEngine
from comic_upscale.models.network import load_network
from comic_upscale.models.weights import resolve_weights

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = (
    "haruko__01.jpg",
    "pc__Pepper-and-Carrot_by-David-Revoy_E17P01_en.png",
    "climatefrogs__climate-frogs-webtoons-en-3.png",
    "sciencecomics__Science_Comics_(Ace)_no.1_194601_pg12.jpeg",
    "poignant__the.elf-4.jpg",
)
TILE = 256


def main() -> None:
    """Measure and print one line of JSON a page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=len(PAGES))
    parser.add_argument("--seams", type=Path)
    options = parser.parse_args()
    folder = os.environ.get("COMIC_UPSCALE_WEIGHTS")
    folders = [Path(folder)] if folder else [REPOSITORY.parent / "shared" / "weights"]
    weights = resolve_weights(
        "realesr-animevideov3", denoise=None, folders=folders, cache=Path("weights"), download=False
    )
    network = load_network(weights, None)
    cpu = torch.device("cpu")
    whole, tiled = TorchEngine(network, device=cpu, tile=0), TorchEngine(network, device=cpu, tile=TILE)
    official = RealESRGANEngine(weights.path, device=cpu)
    comics = Path(os.environ.get("COMIC_UPSCALE_COMICS") or REPOSITORY.parent / "shared" / "comics") / "dev"
    for name in PAGES[: options.pages]:
        with Image.open(comics / name) as image:
            page = np.asarray(image.convert("RGB"))
        batch = Batch(page[np.newaxis], (page.shape[1] * 4, page.shape[0] * 4))
        ours = whole.upscale(batch).pixels[0]
        in_tiles = tiled.upscale(batch).pixels[0]
        print(
            json.dumps(
                {
                    "page": name,
                    "size": f"{page.shape[1]}x{page.shape[0]}",
                    "official": compare(ours, official.upscale(batch).pixels[0]),
                    "tiled": compare(in_tiles, ours),
                }
            ),
            flush=True,
        )
        if options.seams:
            write_seam(in_tiles, ours, options.seams / f"{Path(name).stem}.png")


def compare(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Largest difference in grey levels, and the share of samples that differ at all."""
    difference = np.abs(one.astype(np.int16) - other.astype(np.int16))
    return {"max": int(difference.max()), "differing_share": float(np.mean(difference > 0))}


def write_seam(tiled: np.ndarray, whole: np.ndarray, path: Path) -> None:
    """Write 160 x 100 pixels around the middle, where tiles meet, at 400 %: tiled above untiled."""
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = tiled.shape[0] // 2, tiled.shape[1] // 2
    part = (slice(y - 50, y + 50), slice(x - 80, x + 80))
    both = np.concatenate([tiled[part], whole[part]])
    Image.fromarray(both).resize((both.shape[1] * 4, both.shape[0] * 4), Image.Resampling.NEAREST).save(path)


if __name__ == "__main__":
    main()
