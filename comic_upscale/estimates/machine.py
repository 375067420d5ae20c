"""What this machine offers: packages, GPU, precision, cores, memory, disk. What is slow, why, and what to do."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import psutil

from comic_upscale.errors import ComicUpscaleError
from comic_upscale.version import __version__

Level: TypeAlias = Literal["ok", "slow", "missing", "fault"]
"""``slow`` costs time, ``missing`` is something that some jobs need, and with a ``fault`` nothing can run."""

FEW_CORES_FOR_GPU = 4
"""Below this, decoding and encoding of pages holds up a GPU."""
LITTLE_MEMORY = 4 << 30
SLOW_DISK = 50e6
"""Bytes per second. A page of the outputs has some 10 MB."""
DISK_BYTES = 16 << 20
_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+).*;.*extra\s*==\s*[\"'](?P<extra>[^\"']+)[\"']")


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact about this machine."""

    topic: str
    """``torch``, ``gpu``, ``precision``, ``cores``, ``memory``, ``disk``, ``weights``, ``extra server``."""
    value: str
    """The fact."""
    level: Level = "ok"
    advice: str | None = None
    """What to do; None where nothing is needed."""


def examine(folder: Path) -> list[Finding]:
    """Return the findings about this machine.

    Args:
        folder: where outputs would be written; its disk is measured with a file of 16 MB.
    """
    found = [
        Finding("version", f"comic-upscale {__version__}, Python {platform.python_version()}, {_system()}")
    ]
    found += _torch()
    cores = (
        len(psutil.Process().cpu_affinity())
        if hasattr(psutil.Process, "cpu_affinity")
        else os.cpu_count() or 1
    )
    found.append(_cores(cores, gpu=any(each.topic == "gpu" and each.level == "ok" for each in found)))
    found.append(_memory(psutil.virtual_memory()))
    found.append(_disk(folder))
    found.append(_weights())
    found += _extras()
    return found


def _system() -> str:
    return f"{platform.system()} {platform.release()} {platform.machine()}"


def _torch() -> Iterator[Finding]:
    """Yield the findings about torch, the GPU and the precision."""
    try:
        import torch

        from comic_upscale.engines.torch.device import choose_device, device_info, unused_gpu
    except (ImportError, OSError) as error:
        yield Finding(
            "torch",
            f"cannot be imported: {error}",
            "fault",
            "Install comic-upscale again in a new environment.",
        )
        return
    build = (torch.version.cuda and f"CUDA {torch.version.cuda}") or (
        torch.version.hip and f"ROCm {torch.version.hip}"
    )
    yield Finding("torch", f"{torch.__version__}, built for {build or 'the CPU'}")
    if _NVIDIA_DRIVER.is_file():
        yield Finding("driver", _NVIDIA_DRIVER.read_text(errors="replace").splitlines()[0].strip())
    if (unused := unused_gpu()) is not None:
        yield Finding("gpu", "an NVIDIA GPU that torch does not see", "slow", unused)
    try:
        device = choose_device("auto")
    except ComicUpscaleError as error:
        yield Finding("gpu", "does not work", "slow", str(error))
        device = torch.device("cpu")
    if device.type == "cpu":
        if unused is None:
            yield Finding(
                "gpu", "none", "slow",
                "A run uses the CPU. A GPU is about forty times as fast: `comic-upscale cost` has prices to rent one.",
            )  # fmt: skip
    else:
        memory = f", {torch.cuda.mem_get_info(device)[1] / 2**30:.0f} GiB" if device.type == "cuda" else ""
        yield Finding("gpu", f"{device_info(device)}{memory}")
    yield from _precision(device.type)


def _precision(kind: str) -> Iterator[Finding]:
    import torch

    from comic_upscale.engines.torch.device import FAST_HALF

    if kind == "cuda":
        capability = torch.cuda.get_device_capability()
        if capability < FAST_HALF:
            yield Finding(
                "precision", "fp32", "slow", "This GPU has no fast half precision. One of 2018 or newer has."
            )
        else:
            yield Finding("precision", "fp16")
        # PyTorch for Windows comes without it, so nothing is missing there.
        if os.name != "nt" and importlib.util.find_spec("triton") is None:
            yield Finding(
                "triton",
                "not installed",
                "slow",
                "The fused kernels need it. Install torch's build for CUDA on Linux.",
            )
    elif kind == "cpu":
        yield _cpu_precision()
    else:
        yield Finding("precision", "fp16" if kind == "xpu" else "fp32")


def _cpu_precision() -> Finding:
    """Return the precision of the network that a run without a GPU uses. It may have to be tried, for a second."""
    from comic_upscale.engines.torch.cpu_precision import fastest_precision
    from comic_upscale.engines.torch.device import precision_name
    from comic_upscale.engines.torch.int8 import int8_fault
    from comic_upscale.models.default_model import CPU_DEFAULT
    from comic_upscale.models.network import load_network
    from comic_upscale.models.weights import resolve_weights

    name = f"{CPU_DEFAULT}-x3"
    try:
        weights = resolve_weights(name, denoise=None, folders=(), cache=Path(), download=False)
        network = load_network(weights, None)
        precision = precision_name(fastest_precision(network))
    except ComicUpscaleError as error:
        return Finding("precision", f"{name} does not load", "fault", str(error))
    if precision == "fp32":
        fault = int8_fault(network)
        why = "neither is faster than float32 here" if fault is None else f"8 bits: {fault}"
        return Finding(
            "precision", "fp32", "slow",
            f"This CPU computes {CPU_DEFAULT} in float32 ({why}). One with VNNI or AMX is about twice as fast.",
        )  # fmt: skip
    return Finding("precision", f"{precision} for {CPU_DEFAULT}")


def _cores(cores: int, *, gpu: bool) -> Finding:
    if gpu and cores < FEW_CORES_FOR_GPU:
        advice = "Pages are decoded and encoded by the CPU, which holds up the GPU. Choose a machine with more cores."
        return Finding("cores", str(cores), "slow", advice)
    if not gpu and cores < FEW_CORES_FOR_GPU:
        advice = "The network runs on these cores. More of them make a run faster."
        return Finding("cores", str(cores), "slow", advice)
    return Finding("cores", str(cores))


def _memory(memory: psutil._common.svmem) -> Finding:  # type: ignore[name-defined]
    value = f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} GiB available"
    if memory.available < LITTLE_MEMORY:
        return Finding(
            "memory", value, "slow", "Large pages are processed in smaller pieces. Close other programs."
        )
    return Finding("memory", value)


def _disk(folder: Path) -> Finding:
    """Measure how fast a file is written and flushed."""
    content = os.urandom(1 << 20)
    try:
        with tempfile.NamedTemporaryFile(prefix=".comic-upscale-", dir=folder) as file:
            start = time.perf_counter()
            for _ in range(DISK_BYTES // len(content)):
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
            rate = DISK_BYTES / (time.perf_counter() - start)
        free = psutil.disk_usage(str(folder)).free
    except OSError as error:
        reason = error.strerror or str(error)
        return Finding(
            "disk", f"{folder} cannot be written to: {reason}", "missing", "Choose another --output."
        )
    value = f"{rate / 1e6:,.0f} MB/s in {folder}, {free / 1e9:,.0f} GB free"
    if rate < SLOW_DISK:
        return Finding(
            "disk", value, "slow", "Write the outputs to a local disk, and move them to the share later."
        )
    return Finding("disk", value)


def _weights() -> Finding:
    from comic_upscale.models.catalogue import CATALOGUE
    from comic_upscale.models.weights import resolve_weights

    bundled = [model.name for model in CATALOGUE.values() if model.weights.bundled]
    for name in bundled:
        try:
            resolve_weights(name, denoise=None, folders=(), cache=Path(), download=False)
        except ComicUpscaleError as error:
            return Finding("weights", f"{name} is missing", "fault", str(error))
    return Finding(
        "weights",
        f"{len(bundled)} networks are part of the package; `comic-upscale models list` shows the others",
    )


def _extras() -> Iterator[Finding]:
    """Yield what is installed of each extra of the package."""
    try:
        requirements = importlib.metadata.requires("comic-upscale") or []
    except importlib.metadata.PackageNotFoundError:
        return
    extras: dict[str, list[str]] = {}
    for requirement in requirements:
        if (match := _REQUIREMENT.match(requirement)) is not None:
            extras.setdefault(match["extra"], []).append(match["name"])
    for extra, names in extras.items():
        missing = [name for name in names if not _is_installed(name)]
        if missing:
            advice = f"Only if you need it: pip install '.[{extra}]' in a clone"
            yield Finding(f"extra {extra}", f"without {', '.join(missing)}", "missing", advice)
        else:
            versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names[:3])
            yield Finding(f"extra {extra}", f"installed ({versions}{', ...' if len(names) > 3 else ''})")


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
