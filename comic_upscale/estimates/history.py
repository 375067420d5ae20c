"""The measurement history of this user: stored by ``bench``, and read from ledgers."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import re
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

from comic_upscale.costs.rates import Measured
from comic_upscale.engines.base import DeviceInfo
from comic_upscale.engines.registry import fingerprinted_options, identify
from comic_upscale.errors import ComicUpscaleError
from comic_upscale.imaging.codecs import FORMATS
from comic_upscale.ledger.queries import read_runs
from comic_upscale.ledger.records import PROCESSOR
from comic_upscale.ledger.values import recorded_settings
from comic_upscale.models.catalogue import CATALOGUE
from comic_upscale.settings.job import FormatName, JobSettings
from comic_upscale.settings.paths import path_text
from comic_upscale.storage.atomic import write_whole

LEAST_PAGES = 20
"""A run with fewer pages is dominated by its start and its end, and gives no rate."""
_LEAST_SLOW_PAGES = 2
"""The same for engines whose pages take minutes."""

_REMOTE = re.compile(r"(?P<host>[^ ]+): (?P<what>.+)")
"""The devices of a run on a remote machine in the ledger: ``gpu-box: NVIDIA GeForce RTX 4090``."""

_DEVICE = re.compile(r"(?P<kind>\w+)(?::(?P<index>\d{1,4}))?(?: \((?P<what>.+)\))?")
"""A local device in the ledger: ``cuda:0 (NVIDIA H200)``, ``cpu (2 threads, 2 pages at once)``, or without brackets."""
_SHARED = re.compile(r"(?:(?P<name>.+), )?(?P<pages>[1-9]\d{0,3}) pages at once")
_NEXT = re.compile(r", (?=\w+(?::\d+)? \()")


@dataclass(frozen=True, slots=True)
class RecordedDevices:
    """The devices of a run, as recorded in a ledger."""

    devices: tuple[DeviceInfo, ...]
    """At least one."""
    is_remote: bool
    """Whether it was a remote run."""


def parse_recorded_devices(text: str) -> RecordedDevices:
    """Parse the devices of a run from the text in a ledger: that of `DeviceInfo`, or that of a remote machine.

    A ledger contains only this text. This is the only function that parses it.
    """
    if (remote := _REMOTE.fullmatch(text)) is not None:
        names = remote["what"].split(", ")
        if names == [PROCESSOR]:
            return RecordedDevices((DeviceInfo("cpu"),), is_remote=True)
        return RecordedDevices(tuple(DeviceInfo("gpu", name=name) for name in names), is_remote=True)
    return RecordedDevices(tuple(_parse_device(each) for each in _NEXT.split(text)), is_remote=False)


def _parse_device(text: str) -> DeviceInfo:
    match = _DEVICE.fullmatch(text)
    if match is None:
        return DeviceInfo(text)
    index = None if match["index"] is None else int(match["index"])
    what = match["what"] or ""
    if (shared := _SHARED.fullmatch(what)) is not None:
        return DeviceInfo(match["kind"], index, shared["name"] or "", int(shared["pages"]))
    return DeviceInfo(match["kind"], index, what)


def hardware_name(devices: Sequence[DeviceInfo], processor: str) -> str:
    """Return the name of devices in a quote: their GPUs, or the processor with its threads.

    Args:
        devices: devices of a run, at least one.
        processor: processor of the machine.
    """
    names = [
        (f"{processor} ({each.name})" if each.name else processor) if each.is_cpu else each.name or each.kind
        for each in devices
    ]
    if len(names) > 1 and len(set(names)) == 1:
        return f"{len(names)} x {names[0]}"
    return ", ".join(names)


def processor_name() -> str:
    """Return the name of this machine's processor, as reported by the system."""
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


def save_measurement(measured: Measured, folder: Path) -> Path:
    """Store a measurement in the user's folder, replacing an older one of the same kind; return its path."""
    key = "\n".join((measured.hardware, measured.model_sha256, measured.precision, measured.format))
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    write_whole(json.dumps(asdict(measured), indent=2).encode(), path)
    return path


def load_measurements(folder: Path) -> list[Measured]:
    """Return the measurements in a folder, the newest first. Other files are ignored."""
    known = {field.name for field in fields(Measured)}
    measurements = []
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        with contextlib.suppress(OSError, ValueError, TypeError):
            values = json.loads(path.read_text(encoding="utf-8"))
            measurements.append(Measured(**{name: value for name, value in values.items() if name in known}))
    return sorted(measurements, key=lambda each: each.date, reverse=True)


def from_ledgers(
    ledgers: Iterable[Path], host: str, processor: str, *, like: JobSettings | None = None
) -> list[Measured]:
    """Return measurements from the runs in ledgers, the newest first. Unreadable ledgers are ignored.

    Args:
        ledgers: the files.
        host: name of this machine. The processors of other machines are unknown.
        processor: processor of this machine.
        like: only runs with the engine of this job, its options and its size, also short ones: a page may take minutes.
            None for all runs.
    """
    measurements = []
    wanted = None if like is None else _engine_key(like)
    least = LEAST_PAGES if like is None else _LEAST_SLOW_PAGES
    for ledger in ledgers:
        with contextlib.suppress(ComicUpscaleError, sqlite3.Error):
            for run in read_runs(ledger, least=least):
                if wanted is not None and _recorded_key(run) != wanted:
                    continue
                recorded = parse_recorded_devices(str(run["device"]))
                here = run["host"] == host and not recorded.is_remote
                if here or not recorded.devices[0].is_cpu:
                    measured = _measure_recorded_run(run, recorded.devices, ledger, processor)
                    if recorded.is_remote:
                        measured = _without_transfer(measured)
                    measurements.append(replace(measured, here=here))
    return sorted(measurements, key=lambda each: each.date, reverse=True)


def _engine_key(settings: JobSettings) -> tuple[object, ...]:
    """Return what decides the time of a page besides its pixels, with an engine of another kind."""
    return identify(settings).digest, fingerprinted_options(settings), str(settings.size), settings.tta


def _recorded_key(run: dict[str, Any]) -> tuple[object, ...] | None:
    """Return the same for a recorded run; None if its settings cannot be read any more."""
    try:
        settings = JobSettings.from_json(run["settings"])
        return run["model_sha256"], fingerprinted_options(settings), str(settings.size), settings.tta
    except (ComicUpscaleError, OSError):
        # Of another version, or with a file that is gone.
        return None


def _without_transfer(measured: Measured) -> Measured:
    """Return the measurement of a remote run without its transfers.

    Its pages were recorded when they were downloaded, so the wall time says nothing about the machine. The busy time of
    the bottleneck is used instead. The connection is estimated separately.
    """
    busiest = max(measured.network_seconds / measured.devices, measured.host_seconds / measured.workers)
    return replace(measured, whole_seconds=busiest)


def _without_other_pages(run: dict[str, Any], devices: int, workers: int) -> float:
    """Return the time of a run for the pages that went through the network, without copies and shrunk pages."""
    busiest = max(run["network_seconds"] / devices, run["host_seconds"] / workers)
    whole: float = run["whole_seconds"]
    own: float = max(whole - run["other_seconds"] / workers, busiest)
    return min(whole, own)


def _measure_recorded_run(
    run: dict[str, Any], recorded: Sequence[DeviceInfo], ledger: Path, processor: str
) -> Measured:
    settings = recorded_settings(run["settings"])
    devices, workers = count_places(recorded), settings.get("workers") or 1
    model = CATALOGUE.get(run["model"])
    return Measured(
        hardware=hardware_name(recorded, processor),
        model=run["model"],
        model_sha256=run["model_sha256"],
        precision=run["precision"],
        origin=f"ledger {path_text(ledger)}",
        date=str(run["started_at"])[:10],
        pages=run["pages"],
        network_pixels=run["network_pixels"] * (8 if settings.get("tta") is True else 1),
        output_pixels=run["output_pixels"],
        output_bytes=run["output_bytes"],
        format=encoding_of(settings.get("format") or "png", settings.get("quality")),
        network_seconds=run["network_seconds"],
        host_seconds=run["host_seconds"],
        whole_seconds=_without_other_pages(run, devices, workers),
        devices=devices,
        workers=workers,
        tflop_per_page=None if model is None else model.tflop_per_page,
        versions=json.loads(run["versions"]),
    )


def count_places(devices: Sequence[DeviceInfo]) -> int:
    """Return how many batches the devices of a run process at once: one each, or the number that share a processor."""
    return sum(each.pages_at_once for each in devices)


def in_precision(requested: str, measurements: Sequence[Measured]) -> list[Measured]:
    """Return the measurements in a requested precision; all of them for ``"auto"``."""
    return [each for each in measurements if requested in ("auto", each.precision)]


def best_for(model: str, identity: str, measurements: Sequence[Measured]) -> Measured | None:
    """Return the measurement to estimate from: of this network, or of another one with known arithmetic.

    Args:
        model: name of the network.
        identity: hash of its weights; empty if unknown.
        measurements: on one machine, the newest first.
    """
    same = [
        each
        for each in measurements
        if each.model_sha256 == identity or (not identity and each.model == model)
    ]
    # Few networks have weights in 8 bits, so their speed says nothing about others.
    others = (each for each in measurements if each.tflop_per_page and each.precision != "int8")
    return next(iter(same), None) or next(others, None)
