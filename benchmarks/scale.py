"""Large jobs on this machine: what a ledger of many pages costs, and whether memory stays flat.

Usage: python benchmarks/scale.py [--ledger-pages 10000] [--memory-pages 1000] [--json FILE]

* ledger: a finished job of so many pages (tiny files; rows and outputs are real, the pixels were never
  computed). Then ``comic-upscale status``, and ``comic-upscale run`` with nothing left to do, as
  processes, from their start to their end.
* memory: so many small pages through the whole pipeline with a small random network, and the resident
  memory of the process after each hundred.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from comic_upscale.jobs.ledger import Ledger
from comic_upscale.jobs.plan import make_plan
from comic_upscale.jobs.progress import Event
from comic_upscale.jobs.records import PageDone
from comic_upscale.jobs.run import find_pages, run_job
from comic_upscale.models.weights import identify_weights
from comic_upscale.settings import JobSettings


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ledger-pages", type=int, default=10_000)
    parser.add_argument("--memory-pages", type=int, default=1_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        weights = random_network(Path(folder) / "small.safetensors")
        report = {
            "ledger": large_ledger(Path(folder), weights, options.ledger_pages),
            "memory": flat_memory(Path(folder), weights, options.memory_pages),
        }
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
    """Seconds for status and for a run with nothing to do, over a job of ``count`` pages."""
    source, output = folder / "many", folder / "many-out"
    for number in range(count):
        page = source / f"{number // 500:03d}" / f"{number:06d}.png"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_bytes(b"page %d" % number)
    settings = JobSettings(input=source, output=output, model=str(weights))
    start = time.perf_counter()
    pages = find_pages(settings).pages
    discovered = time.perf_counter() - start
    model, identity = identify_weights(settings.model, denoise=None)
    ledger = Ledger(settings.ledger_path)
    job = ledger.open_job(
        input=source,
        output=output,
        fingerprint=settings.fingerprint(identity),
        settings=settings.as_json(),
        model=model,
        model_sha256=identity,
    )
    start = time.perf_counter()
    plan = make_plan(ledger, job, pages, settings)
    planned = time.perf_counter() - start
    run = ledger.start_run(job, device="cpu", precision="fp32", versions={})
    for page in plan.todo:
        target = output / page.output
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"upscaled")
    ledger.claim(run, output, [(page.row_id, page.output) for page in plan.todo])
    ledger.record(
        PageDone(
            row_id=page.row_id,
            source=page.source,
            output=page.output,
            source_sha256="0" * 64,
            width=1,
            height=1,
            output_width=2,
            output_height=2,
            output_size=8,
            output_sha256="0" * 64,
            seconds={},
        )
        for page in plan.todo
    )
    ledger.end_run(run, "finished")
    ledger.close()
    program = [sys.executable, "-m", "comic_upscale"]
    nothing = [*program, "run", "--input", str(source), "--output", str(output), "--model", str(weights)]
    return {
        "pages": count,
        "discover_seconds": round(discovered, 3),
        "plan_a_new_job_seconds": round(planned, 3),
        "ledger_bytes": settings.ledger_path.stat().st_size,
        "status_seconds": timed([*program, "status", "--job", str(output), "--json"]),
        "help_seconds": timed([*program, "--help"]),
        "nothing_to_do_seconds": timed(nothing),
    }


def timed(command: list[str], times: int = 5) -> dict[str, float]:
    """Seconds that a command takes as a process; it must succeed."""
    environment = {**os.environ, "XDG_STATE_HOME": tempfile.gettempdir()}
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        seconds.append(time.perf_counter() - start)
    return {"median": round(statistics.median(seconds), 3), "max": round(max(seconds), 3)}


def flat_memory(folder: Path, weights: Path, count: int) -> dict[str, object]:
    """Resident megabytes after each tenth of ``count`` pages of four shapes."""
    source = folder / "small"
    source.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        size = (96 + 16 * (number % 4), 128, 3)
        Image.fromarray(random.integers(0, 256, size, dtype=np.uint8)).save(source / f"{number:05d}.png")
    process, resident, done = psutil.Process(), {}, 0
    peak = 0.0

    def note(event: Event) -> None:
        nonlocal done, peak
        if isinstance(event, PageDone):
            done += 1
            now = process.memory_info().rss / 1e6
            peak = max(peak, now)
            if done % max(count // 10, 1) == 0:
                resident[done] = round(now, 1)

    start = time.perf_counter()
    settings = JobSettings(input=source, output=folder / "small-out", model=str(weights), device="cpu")
    finished = run_job(settings, on_event=note)
    assert finished.done == count
    return {
        "pages": count,
        "seconds": round(time.perf_counter() - start, 1),
        "resident_megabytes_after_pages": resident,
        "last_over_first": round(resident[count] / next(iter(resident.values())), 3),
        "peak_megabytes": round(peak, 1),
    }


if __name__ == "__main__":
    main()
