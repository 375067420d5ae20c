"""What a report costs: bytes, seconds to make, and seconds to open, for jobs of 60 and of 10,000 pages.

Usage: python -m benchmarks.report [--pages 60 10000] [--keep FOLDER] [--json FILE]

The pages are the drawn ones of `examples/`, 512 x 768 pixels, and their outputs are made of them by Lanczos at
2.5x, since what a network makes does not matter here. A job has them many times over, as links. Its ledger
is written through the ledger's own interface, times and seconds made up but for the files' own hashes,
sizes and scores of the gate. Made is from the start of the process to its end, wall time and
processor time (which a busy machine does not stretch); opened is until the browser's load event, in
Debian's chromium without a window, where that and selenium are installed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.machine import cores, facts, write_report
from benchmarks.validation import REPOSITORY
from comic_upscale.evaluation.trial import lanczos
from comic_upscale.execution.quality_gate import recorded_scores
from comic_upscale.gate.verdict import judge
from comic_upscale.ledger.records import PageDone, PageFailed
from comic_upscale.ledger.writer import Ledger
from comic_upscale.library.page import Page
from comic_upscale.settings.job import JobSettings

RESULT = REPOSITORY / "benchmarks" / "results" / "report-cpu.json"
SCALE = 2.5
FAILED_ONE_IN = 500
SECONDS_A_PAGE = {"decode": 0.02, "upscale": 1.4, "encode": 0.2, "place": 0.01}
"""About what two cores take; they only give the charts something to draw."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A page and its output, once."""

    source: Path
    output: Path
    size: tuple[int, int]
    scores: dict[str, float]
    """The gate's, as a run would have recorded them."""


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, nargs="+", default=[60, 10_000])
    parser.add_argument("--keep", type=Path, help="put the reports there, to be looked at")
    parser.add_argument("--json", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.keep) as folder:
        samples = make_samples(Path(folder))
        report: dict[str, object] = {
            **facts(cores()),
            "jobs": [measure(Path(folder), samples, count, options.keep) for count in options.pages],
        }
    print(report["jobs"])
    write_report(report, options.json)


def make_samples(folder: Path) -> list[Sample]:
    """Upscale the drawn pages by Lanczos."""
    samples = []
    for source in sorted((REPOSITORY / "examples" / "pages").glob("0*.png")):
        with Image.open(source) as image:
            output = folder / f"output-{source.name}"
            page = image.convert("RGB")
            larger = lanczos(page, SCALE)
            larger.save(output, compress_level=1)
            scores = recorded_scores(judge(np.asarray(page), np.asarray(larger)))
            samples.append(Sample(source, output, image.size, scores))
    return samples


def measure(folder: Path, samples: list[Sample], count: int, keep: Path | None) -> dict[str, object]:
    """Make a job with this number of pages, its report as a process, and open that."""
    output = make_job(folder, samples, count)
    target = output / "report.html"
    command = [sys.executable, "-m", "comic_upscale", "report", "--job", str(output)]
    before = os.times()
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=REPOSITORY)
    seconds = time.perf_counter() - start
    after = os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    if keep is not None:
        shutil.copy(target, keep / f"report-{count}.html")
    return {
        "pages": count,
        "bytes": target.stat().st_size,
        "made_seconds": round(seconds, 2),
        "made_processor_seconds": round(processor, 2),
        "opened_seconds": opened_seconds(target),
    }


def make_job(folder: Path, samples: list[Sample], count: int) -> Path:
    """Write a ledger and link the files of a job that is done."""
    settings = JobSettings(input=folder / f"in-{count}", output=folder / f"out-{count}", model="any.pth")
    settings.input.mkdir()
    settings.output.mkdir()
    ledger = Ledger(settings.ledger_path)
    job = ledger.open_job(
        input=settings.input, output=settings.output, fingerprint="f", settings=settings.as_json(),
        model="any.pth", model_sha256="0" * 64,
    )  # fmt: skip
    names = [f"{number // 500:03d}-{number:06d}.png" for number in range(count)]
    hashes = [hashlib.sha256(sample.source.read_bytes()).hexdigest() for sample in samples]
    for number, name in enumerate(names):
        sample = samples[number % len(samples)]
        if number < len(samples):
            shutil.copy(sample.source, settings.input / name)
        else:
            os.link(settings.input / names[number % len(samples)], settings.input / name)
        os.link(sample.output, settings.output / name)
    sizes = [sample.source.stat().st_size for sample in samples]
    pages = [
        Page(name, settings.input / name, name, sizes[number % len(samples)], 1)
        for number, name in enumerate(names)
    ]
    rows = ledger.add_pages(job, pages)
    run = ledger.start_run(job, device="cpu", precision="fp32", versions={})
    ledger.claim(run, settings.output, list(zip(rows, names, strict=True)))
    chance = random.Random(1)
    results: list[PageDone | PageFailed] = []
    for number, (row, name) in enumerate(zip(rows, names, strict=True)):
        sample = samples[number % len(samples)]
        if number % FAILED_ONE_IN == FAILED_ONE_IN - 1:
            results.append(
                PageFailed(row_id=row, source=name, kind="truncated", reason="The file is cut short.")
            )
            continue
        width, height = sample.size
        results.append(
            PageDone(
                row_id=row, source=name, output=name, source_sha256=hashes[number % len(samples)],
                width=width, height=height,
                output_width=round(SCALE * width), output_height=round(SCALE * height),
                output_size=sample.output.stat().st_size, output_sha256="0" * 64, scores=sample.scores,
                seconds={stage: value * chance.uniform(0.7, 1.6) for stage, value in SECONDS_A_PAGE.items()},
            )
        )  # fmt: skip
    ledger.record(results)
    ledger.end_run(run, "finished")
    ledger.close()
    _spread_over_time(settings.ledger_path)
    return settings.output


def _spread_over_time(ledger: Path) -> None:
    """Let pages have been finished one after another: the ledger itself knows but the moment of recording."""
    connection = sqlite3.connect(ledger)
    with connection:
        end = "(select max(rowid) from pages) * 1.5"
        ago = "(select ended_at from runs), '-' || ({end} - {at}) || ' seconds'"
        form = "strftime('%Y-%m-%dT%H:%M:%fZ', {})"
        connection.execute(
            f"update pages set finished_at = {form.format(ago.format(end=end, at='pages.id * 1.5'))}"
        )
        connection.execute(f"update runs set started_at = {form.format(ago.format(end=end, at='0'))}")
    connection.close()


def opened_seconds(path: Path) -> float | None:
    """Seconds until a browser has loaded a file; None where there is none."""
    chromium, driver_path = shutil.which("chromium"), shutil.which("chromedriver")
    try:
        from selenium import webdriver
    except ImportError:
        return None
    if chromium is None or driver_path is None:
        return None
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_path))
    try:
        seconds = []
        for _ in range(3):
            browser.get("about:blank")
            browser.get(path.as_uri())
            milliseconds = browser.execute_script(
                "var t = performance.getEntriesByType('navigation')[0]; return t.loadEventEnd - t.startTime;"
            )
            seconds.append(milliseconds / 1000)
        return round(statistics.median(seconds), 2)
    finally:
        browser.quit()


if __name__ == "__main__":
    main()
