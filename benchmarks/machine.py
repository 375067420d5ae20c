"""What a measurement was made on, and writing it down."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

PACKAGES = ("comic-upscale", "torch", "spandrel", "pillow", "numpy", "ncnn", "piq", "rapidfuzz")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def facts(threads: int) -> dict[str, object]:
    """Return hardware, versions and date for a report."""
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "hardware": {
            "processor": _processor(),
            "cores": cores(),
            "threads": threads,
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "system": platform.system(),
        },
        "versions": {
            "python": platform.python_version(),
            **{name: found for name in PACKAGES if (found := _version(name))},
        },
    }


def write_report(report: dict[str, object], path: Path) -> None:
    """Write a report as JSON, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _processor() -> str:
    """The processor's name where Linux tells it."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
