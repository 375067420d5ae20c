"""What this user's own runs say about speed: kept from ``bench``, and read from ledgers."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, cast

from comic_upscale.costs.rates import Measured
from comic_upscale.errors import ComicUpscaleError
from comic_upscale.imaging.codecs import FORMATS
from comic_upscale.ledger.queries import read_runs
from comic_upscale.ledger.records import PROCESSOR
from comic_upscale.models.catalogue import CATALOGUE
from comic_upscale.settings.job import FormatName
from comic_upscale.settings.paths import path_text

LEAST_PAGES = 20
"""A run of fewer pages says more about its beginning and its end than about a rate."""

_FAR = re.compile(r"(?P<place>[^ ]+): (?P<what>.+)")
"""How a run that another machine did calls its device: ``gpu-box: NVIDIA GeForce RTX 4090``."""

_SHARED = re.compile(r", (?P<places>\d+) pages at once")
"""How a processor tells that several engines share it: ``cpu (2 threads, 2 pages at once)``."""

_IN_BRACKETS = re.compile(r"\w+(?::\d+)? \((?P<what>.+)\)")


def hardware_name(device: str, processor: str) -> str:
    """What a device is called in a quote: its card, or the processor with its threads.

    Args:
        device: as an engine says it: ``"cuda:0 (NVIDIA H200)"``, ``"cpu (2 threads)"``, or several with commas;
            or as a run elsewhere does: ``"gpu-box: NVIDIA H200"``.
        processor: of the machine.
    """
    if (far := _FAR.fullmatch(device)) is not None:
        cards = far["what"].split(", ")
        return f"{len(cards)} x {cards[0]}" if len(set(cards)) < len(cards) else far["what"]
    names = []
    for each in re.split(r", (?=\w+(?::\d+)? \()", _SHARED.sub("", device)):
        match = _IN_BRACKETS.fullmatch(each)
        what = each if match is None else match["what"]
        names.append(f"{processor} ({what})" if each.startswith("cpu") else what)
    first = names[0] if names else device
    return (
        first if len(names) < 2 else f"{len(names)} x {first}" if len(set(names)) == 1 else ", ".join(names)
    )


def processor_name() -> str:
    """This machine's processor, as far as the system tells it."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def encoding_of(format: str, quality: int | None) -> str:
    """Name what a run writes its pages as: ``png``, ``webp-lossy``; ``auto`` if each page keeps its format.

    Args:
        format: from its settings, perhaps of another version.
        quality: from its settings.
    """
    known = FORMATS.get(cast(FormatName, format))
    return format if known is None else known.encoding(quality)


def keep(found: Measured, folder: Path) -> Path:
    """Keep a measurement in the user's folder, in the place of an older one of the same; return where."""
    key = "\n".join((found.hardware, found.model_sha256, found.precision, found.format))
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        json.dump(asdict(found), file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    return path


def kept(folder: Path) -> list[Measured]:
    """The measurements of a folder, the newest first; files that are none are passed over."""
    known = {field.name for field in fields(Measured)}
    found = []
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        with contextlib.suppress(OSError, ValueError, TypeError):
            values = json.loads(path.read_text(encoding="utf-8"))
            found.append(Measured(**{name: value for name, value in values.items() if name in known}))
    return sorted(found, key=lambda each: each.date, reverse=True)


def from_ledgers(ledgers: Iterable[Path], host: str, processor: str) -> list[Measured]:
    """What the runs of some ledgers say, the newest first; ledgers that cannot be read are passed over.

    Args:
        ledgers: the files.
        host: this machine's name: of another machine's processor nothing is known.
        processor: this machine's.
    """
    found = []
    for ledger in ledgers:
        with contextlib.suppress(ComicUpscaleError, sqlite3.Error):
            for run in read_runs(ledger, least=LEAST_PAGES):
                device = str(run["device"])
                far = _FAR.fullmatch(device) is not None
                here = run["host"] == host and not far
                if here or not (device.startswith("cpu") or device.endswith(f": {PROCESSOR}")):
                    measured = _measured(run, ledger, processor)
                    found.append(replace(_without_the_line(measured) if far else measured, here=here))
    return sorted(found, key=lambda each: each.date, reverse=True)


def _without_the_line(found: Measured) -> Measured:
    """A run elsewhere: its pages were recorded as they came home, which says nothing of the machine.

    What kept it busiest stands for the whole; the line is quoted on its own.
    """
    busiest = max(found.network_seconds / found.devices, found.host_seconds / found.workers)
    return replace(found, whole_seconds=busiest)


def _without_other_pages(run: dict[str, Any], devices: int, workers: int) -> float:
    """How long a run would have taken for the pages of its network alone, without copies and pages that only shrank."""
    busiest = max(run["network_seconds"] / devices, run["host_seconds"] / workers)
    whole: float = run["whole_seconds"]
    own: float = max(whole - run["other_seconds"] / workers, busiest)
    return min(whole, own)


def _measured(run: dict[str, Any], ledger: Path, processor: str) -> Measured:
    settings = json.loads(run["settings"])
    devices, workers = count_places(run["device"]), settings.get("workers", 1)
    model = CATALOGUE.get(run["model"])
    return Measured(
        hardware=hardware_name(run["device"], processor),
        model=run["model"],
        model_sha256=run["model_sha256"],
        precision=run["precision"],
        origin=f"ledger {path_text(ledger)}",
        date=str(run["started_at"])[:10],
        pages=run["pages"],
        network_pixels=run["network_pixels"],
        output_pixels=run["output_pixels"],
        output_bytes=run["output_bytes"],
        format=encoding_of(settings.get("format", "png"), settings.get("quality")),
        network_seconds=run["network_seconds"],
        host_seconds=run["host_seconds"],
        whole_seconds=_without_other_pages(run, devices, workers),
        devices=devices,
        workers=workers,
        tflop_per_page=None if model is None else model.tflop_per_page,
        versions=json.loads(run["versions"]),
    )


def count_places(device: str) -> int:
    """How many batches the devices of a run take at the same time: one each, and as many as share a processor."""
    if (far := _FAR.fullmatch(device)) is not None:
        return len(far["what"].split(", "))
    if (shared := _SHARED.search(device)) is not None:
        return int(shared["places"])
    return len(re.findall(r"(?:^|, )\w+(?::\d+)? \(|^\w+$", device)) or 1


def best_for(model: str, identity: str, found: Sequence[Measured]) -> Measured | None:
    """The measurement to quote from: of this network, else of another one whose arithmetic is known.

    Args:
        model: name of the network.
        identity: hash of its weights; empty where not known.
        found: on one machine, the newest first.
    """
    same = [each for each in found if each.model_sha256 == identity or (not identity and each.model == model)]
    return next(iter(same or [each for each in found if each.tflop_per_page]), None)
