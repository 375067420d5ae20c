"""Whole runs on a GPU by threads and by worker processes: milliseconds a page, and the cores' time.

Usage: python -m benchmarks.workers [--device cuda] [--pages 800] [--workers 12,16] [--json FILE]

The pages are those of ``whole_run.py``, the model is the project's own, and the gate is on. Threads and processes take
turns. At last, the command itself runs over the pages.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.gpu import OWN, RESULTS, WEIGHTS, read
from benchmarks.machine import facts, write_report
from benchmarks.whole_run import SCALE, alone, cut_pages, whole
from comic_upscale.engines.torch.engine import TorchEngine, open_torch_engine
from comic_upscale.execution.local import executor
from comic_upscale.models.network import load_network
from comic_upscale.models.weights import ResolvedWeights, resolve_weights


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--pages", type=int, default=800)
    parser.add_argument("--workers", default="12,16")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = cut_pages(Path(folder) / "pages", options.pages)
        weights = resolve_weights(OWN, denoise=None, folders=[WEIGHTS], cache=Path(folder), download=False)
        engine = open_torch_engine(load_network(weights, None), options.device)
        decoded = read(files).decoded
        alone([engine], decoded)
        report: dict[str, object] = {
            **facts(1),
            "device": str(engine.info.device),
            "pages": len(files),
            "engine_alone_ms": round(alone([engine], decoded) / len(files) * 1e3, 3),
        }
        for workers in map(int, options.workers.split(",")):
            for processes in (False, True):
                name = f"{workers} {'processes' if processes else 'threads'}"
                report[name] = one_run(engine, files, weights, workers, processes=processes)
                print(name, report[name], flush=True)
        engine.close()
        report["command"] = by_command(files[0].parent, Path(folder) / "out")
    print(json.dumps(report, indent=2))
    write_report(report, options.json or RESULTS / f"workers-{options.device}.json")


def one_run(
    engine: TorchEngine, files: list[Path], weights: ResolvedWeights, workers: int, *, processes: bool
) -> dict[str, float]:
    """Milliseconds of a run and of the cores, for each page."""
    executor.feeds_fast_device = lambda *_: processes
    before = _core_seconds()
    seconds = whole([engine], files, weights, workers=workers)
    after = _core_seconds()
    spent = {"wall": seconds, "own_cores": after[0] - before[0], "process_cores": after[1] - before[1]}
    return {f"{name}_ms": round(value / len(files) * 1e3, 2) for name, value in spent.items()}


def _core_seconds() -> tuple[float, float]:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime, children.ru_utime + children.ru_stime


def by_command(pages: Path, output: Path) -> dict[str, object]:
    """Seconds of the command from its start to its end, and its last lines."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "comic_upscale", "run", "--input", str(pages), "--output", str(output)]
    command += ["--scale", str(SCALE), "--model", OWN]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "said": [line for line in lines if "in this run" in line],
    }


if __name__ == "__main__":
    main()
