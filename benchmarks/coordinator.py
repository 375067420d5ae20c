"""What the one coordinator of a job can do: pages claimed and recorded a second, bytes a page, memory.

Usage: python -m benchmarks.coordinator [--pages 100000 1000000] [--memory-pages 200000] [--json FILE]

* ledger: a real ledger with this number of pages. Pages are claimed sixteen in a transaction and recorded in groups of
  up to 64, as a run does, at the end of the table, with the flush of each transaction; then its bytes a page.
* memory: the resident memory of a listing of objects, of the pages that discovery makes of it, and of a plan, for each
  page. What 10,000,000 pages need is this many times more.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from comic_upscale.ledger.records import PageDone
from comic_upscale.ledger.writer import Ledger
from comic_upscale.library.page import Page
from comic_upscale.planning.output_checks import PlannedPage
from comic_upscale.storage.buckets import Listed

CLAIMED, RECORDED = 16, 64
SAMPLE_PAGES = 8_000
MOST_PAGES = 10_000_000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--memory-pages", type=int, default=200_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report: dict[str, Any] = {"cores": os.cpu_count(), "ledger": []}
    with tempfile.TemporaryDirectory() as name:
        for count in options.pages:
            report["ledger"].append(measure_ledger(Path(name, f"{count}.sqlite3"), count))
            print(json.dumps(report["ledger"][-1]), file=sys.stderr, flush=True)
    report["memory"] = measure_memory(options.memory_pages)
    print(json.dumps(report, indent=2))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def source(number: int) -> str:
    """Return the name of a page in a large library."""
    return f"Series {number // 2000:04}/Volume {number // 200 % 10:02}/page {number % 200:03}.jpg"


def measure_ledger(path: Path, count: int) -> dict[str, Any]:
    """Fill a ledger, then claim and record pages at its end."""
    ledger = Ledger(path)
    output = Path("s3://comics/big")
    job = ledger.open_job(
        input=Path("s3://comics/pages"), output=output, fingerprint="f" * 32, settings="{}", model="m",
        model_sha256="0" * 64,
    )  # fmt: skip
    began = time.monotonic()
    for start in range(0, count, 10_000):
        pages = [
            Page(source(number), Path(source(number)), f"{source(number)[:-3]}png", 1_000_000, 1)
            for number in range(start, min(start + 10_000, count))
        ]
        ledger.add_pages(job, pages)
    added = time.monotonic() - began
    run = ledger.start_run(job, versions={})
    first = max(0, count - SAMPLE_PAGES)
    outputs = [(number + 1, f"{source(number)[:-3]}png") for number in range(first, count)]
    began = time.monotonic()
    for start in range(0, len(outputs), CLAIMED):
        ledger.claim(run, output, outputs[start : start + CLAIMED])
    claimed = time.monotonic() - began
    began = time.monotonic()
    for start in range(0, len(outputs), RECORDED):
        ledger.record([done_page(*each) for each in outputs[start : start + RECORDED]])
    recorded = time.monotonic() - began
    ledger.end_run(run, "finished")
    ledger.close()
    each = len(outputs)
    return {
        "pages": count,
        "added_per_second": round(count / added),
        "claimed_per_second": round(each / claimed),
        "recorded_per_second": round(each / recorded),
        "claimed_and_recorded_per_second": round(each / (claimed + recorded)),
        "bytes_per_pending_page": round(path.stat().st_size / count),
        "bytes_per_finished_page": finished_bytes(path.parent),
    }


def finished_bytes(folder: Path) -> int:
    """Return the bytes of a ledger for each of its pages, once all are done."""
    path, count = folder / "finished.sqlite3", 20_000
    path.unlink(missing_ok=True)
    ledger = Ledger(path)
    job = ledger.open_job(
        input=Path("s3://comics/pages"), output=Path("s3://comics/big"), fingerprint="f" * 32, settings="{}", model="m",
        model_sha256="0" * 64,
    )  # fmt: skip
    ledger.add_pages(
        job,
        [Page(source(n), Path(source(n)), f"{source(n)[:-3]}png", 1_000_000, 1) for n in range(count)],
    )
    ledger.record([done_page(n + 1, f"{source(n)[:-3]}png") for n in range(count)])
    ledger.close()
    size = path.stat().st_size
    path.unlink()
    return round(size / count)


def done_page(row_id: int, output: str) -> PageDone:
    """Return the record of a page as a run writes it."""
    digest = hashlib.sha256(output.encode()).hexdigest()
    stages = {"decode": 0.031, "upscale": 0.021, "encode": 0.152, "place": 0.044}
    scores = {"correlation": 0.9989, "residual": 1.734, "shift": 0.02, "blocks": 2.11}
    return PageDone(
        row_id=row_id, source_sha256=digest, width=1600, height=2400, output_width=4000, output_height=6000,
        seconds=stages, waited=stages, scores=scores, source=output, output=output, output_size=12_345_678,
        output_sha256=digest,
    )  # fmt: skip


def measure_memory(count: int) -> dict[str, Any]:
    """Return the bytes of memory for each page: of the listing, of discovery, of the plan."""
    process = psutil.Process()
    root = Path("s3://comics/pages")
    before = process.memory_info().rss
    listed: dict[str, dict[str, Listed | None]] = {}
    for number in range(count):
        folder, _, name = f"pages/{source(number)}".rpartition("/")
        found = Listed(f"{folder}/{name}", 1_000_000, 1, f'"{number:032x}"')
        listed.setdefault(folder, {})[name] = found
    after_listing = process.memory_info().rss
    pages = [
        Page(source(number), root / source(number), f"{source(number)[:-3]}png", 1_000_000, 1)
        for number in range(count)
    ]
    after_pages = process.memory_info().rss
    plan = {
        number: PlannedPage(number, page.source, page.path, page.output, size=page.size)
        for number, page in enumerate(pages)
    }
    after_plan = process.memory_info().rss
    assert len(plan) == len(pages) == count
    steps = {
        "listing": after_listing - before,
        "discovery": after_pages - after_listing,
        "plan": after_plan - after_pages,
    }
    total = sum(steps.values()) / count
    return {
        "pages": count,
        "bytes_per_page": {name: round(size / count) for name, size in steps.items()},
        "gigabytes_at_10_000_000": round(total * MOST_PAGES / 1e9, 1),
    }


if __name__ == "__main__":
    main()
