"""Large jobs on this machine: what many pages cost beside their pixels, and whether rates and memory stay flat.

Usage: python -m benchmarks.scale [--rows 1000 10000 100000] [--memory-pages 1000 10000] [--twins 400] [--json FILE]

* rows: a job with this number of pages (tiny images; rows and files are real, the pixels were never computed). The
  processor seconds of discovery and planning, and pages a processor second of claiming and recording, sixteen in a
  transaction, at the first rows and at the last; what the disk adds for flushing each transaction is its own.
  Then ``status``, ``run --dry-run`` over a new job and over a finished one, and ``run`` with nothing left to do,
  as processes: seconds from start to end, processor seconds, and the most memory.
* memory: this number of small pages through the whole pipeline with a small random network, and the resident memory
  of the process after each tenth.
* twins: a job with this number of pages of which nine in ten are duplicates, beside one without duplicates.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil
from PIL import Image

from comic_upscale.execution.events import Event
from comic_upscale.jobs.run import run_job
from comic_upscale.ledger.records import PageDone
from comic_upscale.ledger.writer import Ledger
from comic_upscale.library.source_reader import SourceReader
from comic_upscale.models.weights import identify_weights
from comic_upscale.planning.discovery import find_pages
from comic_upscale.planning.output_checks import PlannedPage
from comic_upscale.planning.plan import make_plan
from comic_upscale.settings.job import JobSettings
from comic_upscale.storage.stores import open_stores

T = TypeVar("T")

AT_ONCE = 16
"""Pages that are claimed, and here recorded, in one transaction; a run does the same."""

SAMPLE = 30
"""Transactions at either end that are timed."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--memory-pages", type=int, nargs="*", default=[1_000])
    parser.add_argument("--twins", type=int, default=400)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = random_network(folder / "small.safetensors")
        report["rows"] = rows = []
        for count in options.rows:
            rows.append(large_ledger(folder / f"rows-{count}", weights, count))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        if options.twins:
            report["twins"] = with_and_without_twins(folder / "twins", weights, options.twins)
        report["memory"] = [
            flat_memory(folder / f"memory-{count}", weights, count) for count in options.memory_pages
        ]
    print(json.dumps(report, indent=2))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def random_network(path: Path) -> Path:
    """A compact network with random weights: the structure and the cost of a real one, no pictures."""
    import torch
    from safetensors.torch import save_file
    from spandrel.architectures.Compact import Compact

    torch.manual_seed(1)
    state = Compact(num_feat=16, num_conv=2, upscale=4).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


def large_ledger(folder: Path, weights: Path, count: int) -> dict[str, object]:
    """What a job of ``count`` pages costs beside its pixels, with its first page and its last."""
    settings = JobSettings(input=folder / "in", output=folder / "out", model=str(weights))
    write_pages(settings.input, count)
    program = [sys.executable, "-m", "comic_upscale"]
    command = [*program, "run", "--input", str(settings.input), "--output", str(settings.output)]
    command += ["--model", str(weights)]
    dry_new = timed([*command, "--dry-run"])
    pages, discovering = took(lambda: find_pages(settings).pages)
    model, identity = identify_weights(settings.model, denoise=None)
    ledger = Ledger(settings.ledger_path)
    job = ledger.open_job(
        input=settings.input,
        output=settings.output,
        fingerprint=settings.fingerprint(identity),
        settings=settings.as_json(),
        model=model,
        model_sha256=identity,
    )
    stores = open_stores(settings.input, settings.output)
    sources = SourceReader(stores.sources, (), settings.volume_rules)
    plan, planning = took(
        lambda: make_plan(ledger, job, pages, settings, sources=sources, outputs=stores.outputs)
    )
    run = ledger.start_run(job, device="cpu", precision="fp32", versions={})
    rates = work_off(ledger, run, plan.todo, settings.output)
    _, ending = took(lambda: ledger.end_run(run, "finished"))
    ledger.close()
    report: dict[str, object] = {
        "pages": count,
        "discover_processor_seconds": discovering,
        "plan_a_new_job_processor_seconds": planning,
        **rates,
        "end_run_processor_seconds": ending,
        "ledger_bytes_a_page": round(settings.ledger_path.stat().st_size / count),
        "help": timed([*program, "--help"]),
        "status": timed([*program, "status", "--job", str(settings.output), "--json"]),
        "nothing_to_do": timed(command),
        "dry_run_new": dry_new,
        "dry_run_done": timed([*command, "--dry-run"]),
    }
    shutil.rmtree(folder)
    return report


def write_pages(folder: Path, count: int) -> None:
    """Write this number of tiny images, five hundred in a folder. No two are equal; all have the same size in bytes."""
    buffer = io.BytesIO()
    Image.new("L", (8, 8), 255).save(buffer, "PNG")
    for number in range(count):
        page = folder / f"{number // 500:03d}" / f"{number:06d}.png"
        if number % 500 == 0:
            page.parent.mkdir(parents=True)
        page.write_bytes(buffer.getvalue() + b"%06d" % number)


def work_off(ledger: Ledger, run: int, todo: Sequence[PlannedPage], output: Path) -> dict[str, float]:
    """Claim and record every page, and tell the rates at both ends: pages a second."""
    for page in todo:
        target = output / page.output
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"upscaled")
    timed_pages = SAMPLE * AT_ONCE
    first, middle, last = todo[:timed_pages], todo[timed_pages:-timed_pages], todo[-timed_pages:]
    rates = {}
    for name, pages in (("first", first), ("middle", middle), ("last", last)):
        claiming, recording = [], []
        for batch in batches(pages, AT_ONCE):
            results = [done(page) for page in batch]
            start = time.process_time()
            ledger.claim(run, output, [(page.row_id, page.output) for page in batch])
            between = time.process_time()
            ledger.record(results)
            claiming.append((between - start) / len(batch))
            recording.append((time.process_time() - between) / len(batch))
        if name != "middle":
            rates[f"claim_{name}_a_processor_second"] = round(1 / statistics.median(claiming))
            rates[f"record_{name}_a_processor_second"] = round(1 / statistics.median(recording))
    return rates


def done(page: PlannedPage) -> PageDone:
    """What a run would record of a page."""
    return PageDone(
        row_id=page.row_id,
        source=page.source,
        output=page.output,
        source_sha256="0" * 64,
        width=8,
        height=8,
        output_width=20,
        output_height=20,
        output_size=8,
        output_sha256="0" * 64,
        seconds={"decode": 0.01, "upscale": 0.1, "encode": 0.01, "place": 0.01},
    )


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Return the items in groups of this size."""
    return (items[start : start + size] for start in range(0, len(items), size))


def took(function: Callable[[], T]) -> tuple[T, float]:
    """What a function returns, and the processor seconds that it took: other processes do not count."""
    start = time.process_time()
    result = function()
    return result, round(time.process_time() - start, 5)


_WATCH = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
seconds, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([code, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1e3]))
"""
"""Run by a small process of its own, since a child begins with the memory of who starts it."""


def timed(command: list[str], times: int = 1) -> dict[str, float]:
    """Seconds that a command takes as a process and the most memory it has, in MB; it must succeed."""
    environment = {**os.environ, "XDG_STATE_HOME": tempfile.gettempdir()}
    runs = []
    for _ in range(times):
        watch = [sys.executable, "-c", _WATCH, *command]
        said = subprocess.run(watch, check=True, capture_output=True, text=True, env=environment)
        runs.append(json.loads(said.stdout))
        if runs[-1][0] != 0:
            raise SystemExit(f"{' '.join(command)} ended with {runs[-1][0]}: {said.stderr}")
    return {
        "seconds": round(statistics.median(run[1] for run in runs), 3),
        "processor_seconds": round(min(run[2] for run in runs), 3),
        "peak_megabytes": round(max(run[3] for run in runs), 1),
    }


def with_and_without_twins(folder: Path, weights: Path, count: int) -> dict[str, object]:
    """Seconds and processor seconds of a job where nine pages in ten are the same as others, and of one without any."""
    report: dict[str, object] = {"pages": count}
    for name, distinct in (("all_differ", count), ("one_in_ten_differs", count // 10)):
        source = folder / name
        draw_pages(source, count, distinct)
        settings = JobSettings(input=source, output=folder / f"{name}-out", model=str(weights), device="cpu")
        before = time.process_time()
        finished = run_job(settings)
        report[name] = {
            "seconds": finished.seconds,
            "processor_seconds": round(time.process_time() - before, 2),
            "copied": finished.copied_now,
        }
    shutil.rmtree(folder)
    return report


def draw_pages(folder: Path, count: int, distinct: int) -> None:
    """Write small pages of noise in four shapes; those beyond ``distinct`` are the first ones again."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number:05d}.png"
        if number >= distinct:
            shutil.copy(folder / f"{number % distinct:05d}.png", path)
            continue
        size = (96 + 16 * (number % 4), 128, 3)
        Image.fromarray(random.integers(0, 256, size, dtype=np.uint8)).save(path)


def flat_memory(folder: Path, weights: Path, count: int) -> dict[str, object]:
    """Resident megabytes after each tenth of ``count`` pages of four shapes, and the rate in each tenth."""
    draw_pages(folder / "in", count, count)
    process, resident, rates = psutil.Process(), {}, []
    pages, peak, since = 0, 0.0, time.perf_counter()

    def note(event: Event) -> None:
        nonlocal pages, peak, since
        if isinstance(event, PageDone):
            pages += 1
            now = process.memory_info().rss / 1e6
            peak = max(peak, now)
            if pages % max(count // 10, 1) == 0:
                resident[pages] = round(now, 1)
                instant = time.perf_counter()
                rates.append(round(count // 10 / (instant - since), 1))
                since = instant

    settings = JobSettings(input=folder / "in", output=folder / "out", model=str(weights), device="cpu")
    finished = run_job(settings, on_event=note)
    assert finished.done == count
    shutil.rmtree(folder)
    return {
        "pages": count,
        "seconds": finished.seconds,
        "pages_a_second_in_each_tenth": rates,
        "resident_megabytes_after_pages": resident,
        "last_over_first": round(resident[count] / next(iter(resident.values())), 3),
        "peak_megabytes": round(peak, 1),
    }


if __name__ == "__main__":
    main()
