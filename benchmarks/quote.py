"""A quote against the truth: from a pilot of some pages, then the whole run.

Usage: python benchmarks/quote.py [--pages 60] [--pilot 10] [--model comic-compact-x3] [--crops] [--json FILE]

The pages are the real ones of ``shared/comics/dev``, at their own sizes but shrunk to at most ``--longest`` pixels a
side, so that they differ as a library's do; with ``--crops`` all are 512 x 768. The quote is `cost --pilot`'s own
code; the truth is the clock around a run of all pages, loading included, as a user waits for it.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from PIL import Image

from benchmarks.machine import facts, write_report
from benchmarks.whole_run import REPOSITORY, cut_pages, weights_folders
from comic_upscale.jobs.preview import preview
from comic_upscale.jobs.quotes import Question, quotes_for
from comic_upscale.jobs.quoting import count_work, run_pilot
from comic_upscale.jobs.run import run_job
from comic_upscale.settings import JobSettings

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
            weights_folders=tuple(weights_folders()),
        )
        report = {**facts(0), **compare(settings, options.pilot, options.price)}
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
    plan = preview(settings)
    found = run_pilot(plan, settings, pilot)
    work = count_work(plan, settings, found)
    (quote,) = quotes_for(work, Question(model=settings.model, pilot=found, price=price))
    assert quote.dollars is not None
    start = time.perf_counter()
    finished = run_job(settings)
    seconds = time.perf_counter() - start
    size = sum(path.stat().st_size for path in settings.output.glob("*.png"))
    error = quote.seconds.likely / seconds - 1
    return {
        "pages": finished.done,
        "pilot_pages": found.pages,
        "megapixels_in": round(work.network_pixels / 1e6, 2),
        "model": found.model,
        "device": found.hardware,
        "precision": found.precision,
        "workers": settings.workers,
        "quoted_seconds": {
            "low": round(quote.seconds.low, 2),
            "likely": round(quote.seconds.likely, 2),
            "high": round(quote.seconds.high, 2),
        },
        "true_seconds": round(seconds, 2),
        "quoted_dollars": round(quote.dollars.likely, 6),
        "true_dollars": round(seconds * price / 3600, 6),
        "error": round(error, 4),
        "within_range": quote.seconds.low <= seconds <= quote.seconds.high,
        "within_promise": abs(error) <= WITHIN,
        "quoted_bytes": round(work.download_bytes.likely),
        "true_bytes": size,
        "bytes_error": round(work.download_bytes.likely / size - 1, 4),
    }


if __name__ == "__main__":
    main()
