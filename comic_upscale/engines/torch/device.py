"""Which device a page is upscaled on, and in which precision."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from comic_upscale.engines.base import DeviceInfo
from comic_upscale.engines.torch.strips import goes_in_strips
from comic_upscale.errors import DeviceError, SettingsError
from comic_upscale.models.network import Network

PRECISIONS: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
"""The precisions by name."""

FAST_HALF = (7, 0)
"""CUDA capability from which float16 is faster than float32: Volta, the first with tensor cores."""
FAST_BFLOAT16 = (8, 0)
"""CUDA capability from which bfloat16 is computed in hardware: Ampere."""

_M_MMAP_THRESHOLD = -3
"""glibc's number for the size from which a buffer is the system's own, and goes back to it when it is freed."""
_SMALL_BUFFER, _LARGE_BUFFER = 4 << 20, 32 << 20
"""Bytes. The larger is what glibc comes to by itself once such buffers were freed."""

_NVIDIA = Path("/dev/nvidiactl")
"""There wherever NVIDIA's driver for Linux is loaded, in containers that were given a card, too."""
_FOR_CUDA_12 = (
    "pip install --force-reinstall torch torchvision --index-url https://download.pytorch.org/whl/cu128"
)
_KINDS = ("cuda", "xpu", "mps")
_NAME = re.compile(r"(?P<kind>cuda|xpu|mps|cpu)(?::(?P<index>\d+))?")


def choose_device(name: str) -> torch.device:
    """Return the device of that name, tried out.

    Args:
        name: ``"auto"`` (the first of CUDA, XPU, MPS and CPU that is there), ``"cpu"``, ``"cuda"``,
            ``"cuda:1"``, ``"xpu"``, ``"mps"``.

    Returns:
        The device, with its index where its kind is numbered.

    Raises:
        SettingsError: the name is none of these.
        DeviceError: the device is not there, or does not work.
    """
    if name == "auto":
        name = next((kind for kind in _KINDS if _count(kind)), "cpu")
    match = _NAME.fullmatch(name)
    if match is None:
        raise SettingsError(f"no device is called {name!r}: use auto, cpu, cuda, cuda:0, cuda:1, xpu or mps")
    kind, index = match["kind"], int(match["index"] or 0)
    if kind == "cpu":
        return torch.device("cpu")
    if index >= _count(kind):
        raise DeviceError(_absent(name, kind))
    device = torch.device(kind, index) if kind != "mps" else torch.device("mps")
    _try_out(device)
    return device


def parse_devices(names: str) -> list[torch.device]:
    """Return the devices of a list with commas, such as ``"cuda:0,cuda:1"``, in its order.

    Raises:
        SettingsError: the list is empty, or a device is named twice.
        DeviceError: one of them is not there, or does not work.
    """
    devices = [choose_device(name.strip()) for name in names.split(",") if name.strip()]
    if not devices:
        raise SettingsError("no device is named: use auto, cpu, cuda, or several as in cuda:0,cuda:1")
    for device in devices:
        if devices.count(device) > 1:
            raise SettingsError(f"{device} is named twice in {names!r}: name each device once")
    return devices


def all_accelerators(names: str) -> bool:
    """Tell whether every device of a list, as `parse_devices` reads it, is more than a CPU; errors as there."""
    return all(device.type != "cpu" for device in parse_devices(names))


def choose_precision(asked: str, device: torch.device, network: Network) -> torch.dtype:
    """Return the precision to compute in: what was asked for, or for ``"auto"`` the fastest that is right.

    Raises:
        SettingsError: the precision has another name, or the network does not work in it.
    """
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    return precision_for(
        asked,
        device.type,
        capability,
        quick_bfloat16=device.type == "cpu" and goes_in_strips(network.module) and cpu_has_bfloat16(),
        supports_half=network.supports_half,
        supports_bfloat16=network.supports_bfloat16,
    )


def cpu_has_bfloat16() -> bool:
    """Tell whether the CPU multiplies in bfloat16 by itself (AVX512-BF16 or AMX): twice as fast as float32.

    Without these instructions torch computes it too, slowly.
    """
    # Old releases of torch do not say what the CPU can.
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def precision_for(
    asked: str,
    kind: str,
    capability: tuple[int, int] | None,
    *,
    supports_half: bool,
    supports_bfloat16: bool,
    quick_bfloat16: bool = False,
) -> torch.dtype:
    """Decide ``choose_precision`` from facts alone.

    Args:
        asked: ``"auto"``, ``"fp32"``, ``"fp16"`` or ``"bf16"``.
        kind: the device's type, such as ``"cuda"``.
        capability: of a CUDA device; None for others.
        supports_half: whether the network works in float16.
        supports_bfloat16: whether the network works in bfloat16.
        quick_bfloat16: whether a CPU computes this network faster in bfloat16, and as well.

    Raises:
        SettingsError: the precision has another name, or the network does not work in it.
    """
    if asked == "auto":
        quick = kind == "xpu" or (capability is not None and capability >= FAST_HALF)
        if quick and supports_half:
            return torch.float16
        quick = quick_bfloat16 or kind == "xpu" or (capability is not None and capability >= FAST_BFLOAT16)
        return torch.bfloat16 if quick and supports_bfloat16 else torch.float32
    if asked not in PRECISIONS:
        raise SettingsError(f"no precision is called {asked!r}: use auto, fp32, fp16 or bf16")
    supported = {"fp32": True, "fp16": supports_half, "bf16": supports_bfloat16}
    if not supported[asked]:
        can = ", ".join(name for name, does in supported.items() if does)
        raise SettingsError(f"this network does not work in {asked}: use --precision auto, or one of {can}")
    return PRECISIONS[asked]


def precision_name(precision: torch.dtype) -> str:
    """Return ``"fp32"``, ``"fp16"`` or ``"bf16"``."""
    return next(name for name, dtype in PRECISIONS.items() if dtype == precision)


def device_info(device: torch.device, *, pages_at_once: int = 1) -> DeviceInfo:
    """Return what a device is, its name in words: ``"NVIDIA H200"``, ``"2 threads"``.

    Args:
        device: what to describe.
        pages_at_once: how many engines share it.
    """
    name = ""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif device.type == "xpu":
        name = torch.xpu.get_device_name(device)
    elif device.type == "mps":
        name = "Apple GPU"
    elif device.type == "cpu":
        threads = torch.get_num_threads()
        name = f"{threads} thread{'s' if threads != 1 else ''}"
    return DeviceInfo(device.type, device.index, name, pages_at_once)


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that a CUDA device can still give, this process's unused reserve included.

    None for any other device: how much a page costs is measured on CUDA alone.
    """
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def release_memory(device: torch.device) -> None:
    """Give memory that the device's allocator keeps in reserve back, so that other sizes can be had."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "xpu":
        torch.xpu.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


@contextmanager
def little_memory_kept() -> Iterator[None]:
    """Have the C library give buffers back as soon as they are freed, at the price of getting them anew.

    glibc keeps up to 640 MB between the windows of a page of 45 megapixels. RemoteOptions this does nothing.
    """
    library = _glibc()
    if library is None:
        yield
        return
    library.mallopt(_M_MMAP_THRESHOLD, _SMALL_BUFFER)
    try:
        yield
    finally:
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE_BUFFER)
        library.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(None)
        return library if library.mallopt and library.malloc_trim else None
    except (AttributeError, OSError, TypeError):
        return None


def forbid_tf32() -> None:
    """Make float32 mean float32 on CUDA, for this process and for good.

    By default cuDNN rounds the inputs of float32 convolutions to TF32's 10 bits of mantissa, as many
    as float16 has: "fp32" would be no more exact than "fp16", and so would the resampling be where
    matrix products were allowed it. The switch belongs to the process and the engines of several devices
    run on threads of their own, so it is set once and never back.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def unused_gpu() -> str | None:
    """Return, in words, that this machine has an NVIDIA card which torch cannot use, and what to do; else None.

    Then ``"auto"`` means the CPU, some forty times as slow, on a machine that is perhaps paid for its card.
    """
    has_card = _NVIDIA.exists() or (os.name == "nt" and shutil.which("nvidia-smi") is not None)
    if not has_card or _count("cuda"):
        return None
    return (
        f"there is an NVIDIA card, but torch {torch.__version__} does not see it, and the CPU works in its place. "
        f"{_way_out('cuda')} Where CUDA_VISIBLE_DEVICES hides it on purpose, say --device cpu."
    )


def _count(kind: str) -> int:
    """Return how many devices of a kind torch sees."""
    with warnings.catch_warnings():
        # With a driver that is missing or too old torch warns; ``_absent`` says it as part of the error.
        warnings.simplefilter("ignore")
        if kind == "cuda":
            return torch.cuda.device_count() if torch.cuda.is_available() else 0
        if kind == "xpu":
            return torch.xpu.device_count() if torch.xpu.is_available() else 0
        return int(torch.backends.mps.is_available())


def _absent(name: str, kind: str) -> str:
    """Say what is there in place of the device, and what to do."""
    there = [f"{other}:{index}" for other in _KINDS for index in range(_count(other))]
    seen = f"torch {torch.__version__} sees {', '.join([*there, 'cpu'])}"
    return f"{name} is not there: {seen}. {_way_out(kind)} Or use --device auto."


def _way_out(kind: str) -> str:
    if _count(kind):
        return f"Count them from {kind}:0."
    if kind == "cuda" and torch.version.cuda is None and torch.version.hip is None:
        return f"This torch was built without CUDA: put one with CUDA in its place, {_FOR_CUDA_12}."
    if kind == "cuda":
        return (
            "This torch was built with CUDA, so the driver or the card is what is missing: check that "
            "nvidia-smi lists the card (in Docker: start with --gpus all) and that the driver is new enough "
            f"for CUDA {torch.version.cuda} (580 for CUDA 13, 525 for CUDA 12). For an older driver: "
            f"{_FOR_CUDA_12}."
        )
    if kind == "xpu":
        return (
            "An Intel GPU needs its driver and a torch built for it: "
            "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/xpu."
        )
    return "MPS needs a Mac with an Apple chip and macOS 14 or newer."


def _try_out(device: torch.device) -> None:
    """Compute a little there: a card that torch has no kernels for is seen now, not at the first page."""
    try:
        # A product and a convolution, whose libraries begin here, while all of the memory is free.
        square = torch.ones(8, 8, device=device)
        torch.nn.functional.conv2d((square @ square)[None, None], square[None, None, :3, :3]).cpu()
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise DeviceError(
            f"{device} is there but does not work: {first}. Check nvidia-smi, and whether torch "
            f"{torch.__version__} still supports this card. Or use --device cpu."
        ) from error
