"""Ways of writing an upscaled page of 1280x1920 as PNG, in colour and in gray: milliseconds and megabytes.

Usage: python -m benchmarks.encoding [--pages 6] [--json FILE]

Processor time of one thread, the best of three. The pages are those of ``whole_run.py`` brought to 2.5x by Lanczos.
"ours" is what a run does, also with the check that the file can be read; the others are what it was chosen from.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from PIL import Image

from benchmarks.machine import facts, write_report
from benchmarks.whole_run import SCALE, cut_pages
from comic_upscale.imaging.codecs.png import RUN_LENGTHS
from comic_upscale.imaging.encode import check_encoded, encode
from comic_upscale.imaging.pixels import Pixels, UInt8Array

RESULT = Path(__file__).parent / "results" / "encoding-cpu.json"
FILTERS = {"none": 8, "sub": 16, "up": 32, "average": 64, "Paeth": 128}
"""libpng's names for them."""


def main() -> None:
    """Measure, print a table, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=6)
    parser.add_argument("--json", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pages = [enlarged(path) for path in cut_pages(Path(folder) / "pages", options.pages)]
    report: dict[str, object] = {**facts(1), "pages": options.pages}
    for mode in ("RGB", "L"):
        samples = [np.asarray(page.convert(mode)) for page in pages]
        report[mode] = {name: measured(way, samples) for name, way in ways().items()}
        print(f"{mode}: milliseconds a page, megabytes a page")
        for name, figures in report[mode].items():  # type: ignore[attr-defined]
            print(f"  {name:34} {figures['ms']:6.1f} {figures['megabytes']:6.2f}")
    write_report(report, options.json)


def ways() -> dict[str, Callable[[UInt8Array], bytes]]:
    """The ways by name."""
    found: dict[str, Callable[[UInt8Array], bytes]] = {
        "ours": lambda samples: encode(as_page(samples), format="png"),
        "ours, with the check": checked,
        "Pillow, default": lambda samples: by_pillow(samples),
        "Pillow, level 1": lambda samples: by_pillow(samples, compress_level=1),
        "Pillow, level 1, run lengths": lambda samples: by_pillow(
            samples, compress_level=1, compress_type=RUN_LENGTHS
        ),
    }
    for name, number in FILTERS.items():
        found[f"libpng, level 1, run lengths, {name}"] = lambda samples, number=number: (
            imagecodecs.png_encode(samples, level=1, strategy=RUN_LENGTHS, filter=number)
        )
    found["libpng, level 1, run lengths, Paeth, read again"] = read_again
    found["libpng, level 1, Paeth"] = lambda samples: imagecodecs.png_encode(
        samples, level=1, strategy=0, filter=FILTERS["Paeth"]
    )
    return found


def measured(way: Callable[[UInt8Array], bytes], pages: list[UInt8Array]) -> dict[str, float]:
    """Mean milliseconds and megabytes over the pages."""
    times, sizes = [], []
    for samples in pages:
        best = float("inf")
        for _ in range(3):
            start = time.thread_time()
            data = way(samples)
            best = min(best, time.thread_time() - start)
        times.append(best)
        sizes.append(len(data))
    return {
        "ms": round(1000 * statistics.fmean(times), 1),
        "megabytes": round(statistics.fmean(sizes) / 1e6, 3),
    }


def checked(samples: UInt8Array) -> bytes:
    """Write a page, and prove that it can be read."""
    page = as_page(samples)
    data = encode(page, format="png")
    check_encoded(data, (page.width, page.height))
    return data


def read_again(samples: UInt8Array) -> bytes:
    """Write a page by libpng, and decode all of it."""
    data: bytes = imagecodecs.png_encode(samples, level=1, strategy=RUN_LENGTHS, filter=FILTERS["Paeth"])
    imagecodecs.png_decode(data)
    return data


def by_pillow(samples: UInt8Array, **options: Any) -> bytes:
    """Write a page as most programs do."""
    buffer = io.BytesIO()
    Image.fromarray(samples).save(buffer, "PNG", **options)
    return buffer.getvalue()


def as_page(samples: UInt8Array) -> Pixels:
    """Return samples as a page of one or three channels."""
    return Pixels(samples.reshape(*samples.shape[:2], -1))


def enlarged(path: Path) -> Image.Image:
    """Return a page at the size of its output."""
    with Image.open(path) as image:
        size = (round(image.width * SCALE), round(image.height * SCALE))
        return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
