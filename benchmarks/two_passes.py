"""Above the network's own factor: resampling the rest, against a second pass of the network.

Usage: python benchmarks/two_passes.py --pages FOLDER [--model NAME] [--json FILE]

Crops of real pages are made smaller by each factor (area, then the network sees them), made larger again
both ways, and compared with the crop. HaarPSI follows what people see; PSNR is in dB over all channels.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean

import numpy as np
import piq
import torch
from PIL import Image

from comic_upscale.engines.base import Batch
from comic_upscale.engines.torch.engine import open_torch_engine
from comic_upscale.models.network import load_network
from comic_upscale.models.weights import resolve_weights

SIDE = 480
LONGEST = 3000
# In native scales: 1 is the network alone, 4 for a network of x4 is a page 16 times as large.
STEPS = (1.5, 2.0, 4.0)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=Path, required=True)
    parser.add_argument("--model", default="comic-compact-x3")
    parser.add_argument("--weights-dir", type=Path, default=Path("weights"))
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--pictures", type=Path, help="write the crops side by side into this folder")
    options = parser.parse_args()
    weights = resolve_weights(
        options.model, denoise=None, folders=[options.weights_dir], cache=Path(), download=False
    )
    network = load_network(weights, None)
    engine = open_torch_engine(network, "cpu")
    native = network.native_scale
    paths = sorted(options.pages.iterdir())
    crops = [crop for crop in map(centre_crop, paths[:: max(1, len(paths) // (2 * options.count))]) if crop]
    crops = crops[: options.count]
    report = []
    for step in STEPS:
        factor = native * step
        rows = []
        for number, crop in enumerate(crops):
            side = round(SIDE / factor)
            small = np.asarray(crop.resize((side, side), Image.Resampling.BOX))[np.newaxis]
            once = engine.upscale(Batch(small, (SIDE, SIDE))).pixels
            middle = engine.upscale(Batch(small, (side * native, side * native))).pixels
            twice = engine.upscale(Batch(middle, (SIDE, SIDE))).pixels
            rows.append([*compare(crop, once[0]), *compare(crop, twice[0])])
            if options.pictures:
                options.pictures.mkdir(parents=True, exist_ok=True)
                row = np.hstack([once[0], twice[0], np.asarray(crop)])
                Image.fromarray(row).save(options.pictures / f"{step:g}-{number}.png")
        once_psnr, once_haar, twice_psnr, twice_haar = (
            round(mean(column), 4) for column in zip(*rows, strict=True)
        )
        report.append(
            {
                "factor": factor,
                "in_native_scales": step,
                "once": {"psnr": once_psnr, "haarpsi": once_haar},
                "twice": {"psnr": twice_psnr, "haarpsi": twice_haar},
                "crops_where_twice_has_the_better_haarpsi": sum(row[3] > row[1] for row in rows),
            }
        )
        print(json.dumps(report[-1]), flush=True)
    if options.json:
        result = {"model": options.model, "crops": len(crops), "side": SIDE, "factors": report}
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def centre_crop(path: Path) -> Image.Image | None:
    """The middle of a page that is large enough and not huge, RGB; None for what is no such page."""
    try:
        with Image.open(path) as image:
            if min(image.size) < SIDE or max(image.size) > LONGEST:
                return None
            canvas = Image.new("RGB", image.size, "white")
            canvas.paste(image.convert("RGB"), mask=image.getchannel("A") if image.mode == "RGBA" else None)
    except OSError:
        return None
    left, top = (canvas.width - SIDE) // 2, (canvas.height - SIDE) // 2
    return canvas.crop((left, top, left + SIDE, top + SIDE))


def compare(crop: Image.Image, other: np.ndarray) -> tuple[float, float]:
    """PSNR in dB and HaarPSI, 0 to 1, of a picture beside the crop that it should be."""
    one, two = (
        torch.from_numpy(np.asarray(picture)).permute(2, 0, 1)[None].float() / 255
        for picture in (crop, other)
    )
    return float(piq.psnr(one, two)), float(piq.haarpsi(one, two))


if __name__ == "__main__":
    main()
