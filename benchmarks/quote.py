"""A quote against the truth: from a pilot of some pages, then the whole run.

Usage: python benchmarks/quote.py [--pages 60] [--pilot 10] [--model comic-compact-x3] [--crops] [--json FILE]

The pages are the real ones of ``shared/comics/dev``, at their own sizes but shrunk to at most ``--longest`` pixels a
side, so that they differ as a library's do; with ``--crops`` all are 512 x 768. The quote is what ``comic-upscale cost
--pilot`` prints; the truth is the clock around ``comic-upscale run`` over all pages, starting and loading included, as
a user waits for it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

from benchmarks.machine import facts, write_report
from benchmarks.whole_run import REPOSITORY, cut_pages, weights_folders
from comic_upscale.ledger.status import read_status
from comic_upscale.settings.job import JobSettings

WITHIN = 0.15
"""What a quote promises: to be off by no more than this share."""


def main() -> None:
    """Quote, run, compare, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=60)
    parser.add_argument("--pilot", type=int, default=10)
    parser.add_argument("--model", default="comic-compact-x3")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--longest", type=int, default=1000)
    parser.add_argument("--crops", action="store_true")
    parser.add_argument("--price", type=float, default=0.20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "pages"
        if options.crops:
            cut_pages(source, options.pages)
        else:
            gather(source, options.pages, options.longest)
        settings = JobSettings(
            input=source,
            output=Path(folder) / "out",
            model=options.model,
            device=options.device,
            workers=options.workers,
        )
        report = {**facts(torch.get_num_threads()), **compare(settings, options.pilot, options.price)}
    print(json.dumps(report, indent=2))
    if options.json:
        write_report(report, options.json)
    if not report["within_promise"]:
        raise SystemExit(f"the quote is off by more than {WITHIN:.0%}")


def gather(folder: Path, count: int, longest: int) -> None:
    """Copy real pages, the larger ones shrunk, in the order of their names."""
    comics = Path(os.environ.get("COMIC_UPSCALE_COMICS") or REPOSITORY.parent / "shared" / "comics") / "dev"
    sources = [path for path in sorted(comics.glob("*")) if path.suffix.lower() in (".png", ".jpg", ".gif")]
    if not sources:
        raise SystemExit(f"no real pages in {comics}: set COMIC_UPSCALE_COMICS, or take --crops")
    folder.mkdir(parents=True)
    for number in range(count):
        with Image.open(sources[number % len(sources)]) as image:
            page = image.convert("RGB")
        page.thumbnail((longest, longest))
        page.save(folder / f"{number:03d}.png")


def compare(settings: JobSettings, pilot: int, price: float) -> dict[str, object]:
    """The quote from a pilot, the run, and how far the one missed the other."""
    what = ["--input", settings.input, "--output", settings.output, "--model", settings.model]
    what += ["--device", settings.device, "--workers", settings.workers]
    told = json.loads(command("cost", *what, "--pilot", pilot, "--price", price, "--json"))
    quote, work = told["quotes"][0], told["work"]
    start = time.perf_counter()
    command("run", "--quiet", *what)
    seconds = time.perf_counter() - start
    status = read_status(settings.ledger_path)
    size = sum(path.stat().st_size for path in settings.output.glob("*.png"))
    quoted, weighed = quote["seconds"], work["download_bytes"]
    error = quoted["likely"] / seconds - 1
    return {
        "pages": status.done,
        "pilot_pages": pilot,
        "megapixels_in": round(work["network_pixels"] / 1e6, 2),
        "model": quote["model"],
        "device": quote["hardware"],
        "precision": status.precision,
        "workers": settings.workers,
        "quoted_seconds": {name: round(value, 2) for name, value in quoted.items()},
        "true_seconds": round(seconds, 2),
        "quoted_dollars": round(quote["dollars"]["likely"], 6),
        "true_dollars": round(seconds * price / 3600, 6),
        "error": round(error, 4),
        "within_range": quoted["low"] <= seconds <= quoted["high"],
        "within_promise": abs(error) <= WITHIN,
        "quoted_bytes": {name: round(value) for name, value in weighed.items()},
        "true_bytes": size,
        "bytes_error": round(weighed["likely"] / size - 1, 4),
        "bytes_within_range": weighed["low"] <= size <= weighed["high"],
    }


def command(*arguments: object) -> str:
    """Run ``comic-upscale`` as a user would, without the measurements that this user has; return what it prints."""
    with tempfile.TemporaryDirectory() as empty:
        names = ("STATE", "DATA", "CONFIG")
        own = {**os.environ, **{f"XDG_{name}_HOME": empty for name in names}}
        own["COMIC_UPSCALE_WEIGHTS"] = str(weights_folders()[0])
        words = [sys.executable, "-m", "comic_upscale", *map(str, arguments)]
        return subprocess.run(words, env=own, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
