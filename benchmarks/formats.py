"""What a page weighs in each format: bytes of an output pixel.

Usage: python -m benchmarks.formats [--json FILE]

The descriptors of the formats contain the result. An estimate assumes it if nothing was measured. The first formats
were measured on other pages, so the figures of all others are scaled to these: those of lossless formats by the ratio
of PNG's bytes there and here, those of lossy formats by JPEG's. The seconds of a format are measured by
``host_work.py``.

Bytes are those of six whole pages, each of another series, at 2.5x by ``comic-compact-x3``, in gray and in colour.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.host_work import encodings
from benchmarks.machine import facts, write_report
from benchmarks.whole_run import REPOSITORY, SCALE
from comic_upscale.engines.upscaler import Upscaler
from comic_upscale.imaging.codecs import FORMATS, find_assumed
from comic_upscale.imaging.encode import encode
from comic_upscale.imaging.pixels import Pixels

RESULT = Path(__file__).parent / "results" / "formats-cpu.json"
FIRST = ("png", "webp", "webp-lossy", "jpeg")
"""The encodings that were measured before. The figures of the others are scaled to theirs."""
PAGES = (
    "bobby__Bobby-Make-Believe_1915__0.jpg",
    "climatefrogs__climate-frogs-webtoons-en-12.jpg",
    "haruko__01.jpg",
    "pageblanche__PageBlanche_Page_001.jpg",
    "pc__Pepper-and-Carrot_by-David-Revoy_E17P01_en.png",
    "sciencecomics__Science_Comics_(Ace)_no.1_194601_pg12.jpeg",
)
MODES = {"gray": "L", "colour": "RGB"}


def main() -> None:
    """Measure, print, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=RESULT)
    options = parser.parse_args()
    bytes_per_pixel = {kind: weigh(mode) for kind, mode in MODES.items()}
    report = {
        **facts(1),
        "measured": {"bytes_a_pixel": bytes_per_pixel},
        "assumed": assume(bytes_per_pixel),
    }
    print(json.dumps(report["assumed"], indent=2))
    write_report(report, options.json)


def weigh(mode: str) -> dict[str, float]:
    """Bytes of an output pixel in each encoding, the mean over the pages in one of Pillow's modes."""
    folder = Path(os.environ.get("COMIC_UPSCALE_COMICS") or REPOSITORY.parent / "shared" / "comics") / "dev"
    pages = []
    with Upscaler("comic-compact-x3", device="cpu", weights_folders=[REPOSITORY / "weights"]) as upscaler:
        for name in PAGES:
            with Image.open(folder / name) as image:
                larger = np.asarray(upscaler.upscale(image.convert("RGB").convert(mode), SCALE))
            pages.append(Pixels(larger.reshape(*larger.shape[:2], -1).copy()))
    return {
        name: round(
            statistics.fmean(
                len(encode(page, format=format, quality=quality)) / (page.width * page.height)
                for page in pages
            ),
            4,
        )
        for name, (format, quality) in encodings().items()
    }


def assume(bytes_per_pixel: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Scale the figures of all other encodings to the pages of the first ones."""
    known = {name: assumed for name in FIRST if (assumed := find_assumed(name)) is not None}
    found: dict[str, dict[str, float]] = {}
    for name, (format, quality) in encodings().items():
        if name in FIRST:
            continue
        like = "png" if FORMATS[format].is_lossless(quality) else "jpeg"
        found[name] = {
            f"{kind}_bytes": round(
                weights[name] / weights[like] * known[like].bytes_per_pixel(gray=kind == "gray"), 2
            )
            for kind, weights in bytes_per_pixel.items()
        }
    return found


if __name__ == "__main__":
    main()
