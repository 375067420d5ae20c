"""Selection of the device and its precision."""

from __future__ import annotations

import ctypes
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path

import torch

from comic_upscale.engines.base import DeviceInfo
from comic_upscale.engines.torch.cores import all_threads
from comic_upscale.engines.torch.cpu_precision import fastest_precision
from comic_upscale.engines.torch.int8 import int8_fault
from comic_upscale.engines.torch.strips import goes_in_strips
from comic_upscale.errors import DeviceError, SettingsError
from comic_upscale.models.network import Network
from comic_upscale.settings.resources import DEVICE_NAME, check_device_name

PRECISIONS: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "int8": torch.int8,
}
"""The precisions by name."""

FAST_HALF = (7, 0)
"""CUDA capability from which float16 is faster than float32: Volta, the first with tensor cores."""
FAST_BFLOAT16 = (8, 0)
"""CUDA capability from which bfloat16 is computed in hardware: Ampere."""

_M_MMAP_THRESHOLD = -3
"""glibc's parameter for the size above which a buffer is allocated with mmap and returned to the system when freed."""
_SMALL_BUFFER, _LARGE_BUFFER = 4 << 20, 32 << 20
"""Bytes. The larger is the value that glibc chooses itself after such buffers were freed."""

_NVIDIA = Path("/dev/nvidiactl")
"""Exists if NVIDIA's driver for Linux is loaded, also in containers with access to a GPU."""
_FOR_CUDA_12 = (
    "pip install --force-reinstall torch torchvision --index-url https://download.pytorch.org/whl/cu128"
)
_KINDS = ("cuda", "xpu", "mps")


def choose_device(name: str) -> torch.device:
    """Return the device with this name, after testing it.

    Args:
        name: ``"auto"`` (the first of CUDA, XPU, MPS and CPU that exists), ``"cpu"``, ``"cuda"``, ``"cuda:1"``,
            ``"xpu"``, ``"mps"``.

    Returns:
        The device, with its index if its kind is numbered.

    Raises:
        SettingsError: the name is not one of these.
        DeviceError: the device does not exist or does not work.
    """
    if name == "auto":
        name = next((kind for kind in _KINDS if _count(kind)), "cpu")
    check_device_name(name)
    match = DEVICE_NAME.fullmatch(name)
    assert match is not None
    kind, index = match["kind"], int(match["index"] or 0)
    if kind == "cpu":
        return torch.device("cpu")
    if index >= _count(kind):
        raise DeviceError(_missing_device(name, kind))
    device = torch.device(kind, index) if kind != "mps" else torch.device("mps")
    _try_out(device)
    return device


def parse_devices(names: str) -> list[torch.device]:
    """Return the devices of a comma-separated list, such as ``"cuda:0,cuda:1"``, in its order.

    Raises:
        SettingsError: the list is empty, or contains a device twice.
        DeviceError: a device does not exist or does not work.
    """
    devices = [choose_device(name.strip()) for name in names.split(",") if name.strip()]
    if not devices:
        raise SettingsError("--device is empty: use auto, cpu, cuda, or several such as cuda:0,cuda:1")
    for device in devices:
        if devices.count(device) > 1:
            raise SettingsError(f"{names!r} contains {device} twice: give each device once")
    return devices


def all_accelerators(names: str) -> bool:
    """Return whether no device in a list is a CPU; list and errors as in `parse_devices`."""
    return all(device.type != "cpu" for device in parse_devices(names))


def choose_precision(requested: str, device: torch.device, network: Network) -> torch.dtype:
    """Return the precision: the requested one, or for ``"auto"`` the fastest that gives correct results.

    Raises:
        SettingsError: there is no such precision, or the network does not work in it.
    """
    strips = device.type == "cpu" and goes_in_strips(network.module)
    if requested == "int8":
        fault = int8_fault(network) if strips else "only comic-fast on a CPU does"
        if fault is not None:
            raise SettingsError(f"this network does not work in int8 here: {fault}. Use --precision auto")
    if requested == "auto" and strips:
        return fastest_precision(network)
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    return precision_for(
        requested,
        device.type,
        capability,
        supports_half=network.supports_half,
        supports_bfloat16=network.supports_bfloat16,
    )


def precision_for(
    requested: str,
    kind: str,
    capability: tuple[int, int] | None,
    *,
    supports_half: bool,
    supports_bfloat16: bool,
) -> torch.dtype:
    """Decide the result of ``choose_precision`` from plain values, except for int8 and what goes in strips.

    Args:
        requested: ``"auto"``, or a name in `PRECISIONS`.
        kind: the device's type, such as ``"cuda"``.
        capability: capability of a CUDA device; None for others.
        supports_half: whether the network works in float16.
        supports_bfloat16: whether the network works in bfloat16.

    Raises:
        SettingsError: there is no such precision, or the network does not work in it.
    """
    if requested == "auto":
        quick = kind == "xpu" or (capability is not None and capability >= FAST_HALF)
        if quick and supports_half:
            return torch.float16
        quick = kind == "xpu" or (capability is not None and capability >= FAST_BFLOAT16)
        return torch.bfloat16 if quick and supports_bfloat16 else torch.float32
    if requested not in PRECISIONS:
        raise SettingsError(f"there is no precision {requested!r}: use auto, {', '.join(PRECISIONS)}")
    supported = {"fp16": supports_half, "bf16": supports_bfloat16}
    if not supported.get(requested, True):
        can = ", ".join(name for name in ("fp32", "fp16", "bf16") if supported.get(name, True))
        raise SettingsError(
            f"this network does not work in {requested}: use --precision auto, or one of {can}"
        )
    return PRECISIONS[requested]


def precision_name(precision: torch.dtype) -> str:
    """Return the name of a precision in `PRECISIONS`."""
    return next(name for name, dtype in PRECISIONS.items() if dtype == precision)


def device_info(device: torch.device, *, pages_at_once: int = 1) -> DeviceInfo:
    """Return the description of a device, with a name for people: ``"NVIDIA H200"``, ``"2 threads"``.

    Args:
        device: the device.
        pages_at_once: the number of engines that share it.
    """
    name = ""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif device.type == "xpu":
        name = torch.xpu.get_device_name(device)
    elif device.type == "mps":
        name = "Apple GPU"
    elif device.type == "cpu":
        threads = all_threads()
        name = f"{threads} thread{'s' if threads != 1 else ''}"
    return DeviceInfo(device.type, device.index, name, pages_at_once)


def free_memory(device: torch.device) -> int | None:
    """Return the free bytes of a CUDA device, including this process's unused reserve.

    None for any other device, because the memory of a page is measured only on CUDA.
    """
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def current_on(device: torch.device) -> AbstractContextManager[object]:
    """Make a GPU the current one: Triton and CUDA's events use that, whichever device the tensors are on."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def stream_of(device: torch.device) -> int:
    """Return the number of the current stream of a device, 0 for one without streams.

    It belongs in the key of each cache of tensors: memory that one stream gives up must not be in use by another.
    """
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def release_memory(device: torch.device) -> None:
    """Release the reserve of the device's allocator, so that buffers of other sizes can be allocated."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "xpu":
        torch.xpu.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


@contextmanager
def little_memory_kept() -> Iterator[None]:
    """Make the C library return buffers to the system as soon as they are freed. New buffers then cost more.

    glibc keeps up to 640 MB between the windows of a page of 45 megapixels. With other C libraries this does nothing.
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


def return_free_memory() -> None:
    """Return the memory that the C library keeps for new buffers to the system. With others than glibc, do nothing."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(None)
        return library if library.mallopt and library.malloc_trim else None
    except (AttributeError, OSError, TypeError):
        return None


def forbid_tf32() -> None:
    """Compute float32 in full precision on CUDA, for the rest of this process.

    By default, cuDNN rounds the inputs of float32 convolutions to TF32, with 10 bits of mantissa as in float16. Then
    "fp32" would be no more exact than "fp16". With TF32 in matrix products, the same would apply to the resampling.
    The switch is global to the process, and the engines of several devices run in several threads. So it is set once
    and never reset.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def unused_gpu() -> str | None:
    """Return a warning if this machine has an NVIDIA GPU that torch cannot use, with what to do; otherwise None.

    In that case ``"auto"`` means the CPU, about forty times slower, on a machine perhaps rented for its GPU.
    """
    has_gpu = _NVIDIA.exists() or (os.name == "nt" and shutil.which("nvidia-smi") is not None)
    if not has_gpu or _count("cuda"):
        return None
    return (
        f"this machine has an NVIDIA GPU, but torch {torch.__version__} does not see it, so the CPU is used. "
        f"{_advice('cuda')} If CUDA_VISIBLE_DEVICES hides the GPU on purpose, use --device cpu."
    )


def _count(kind: str) -> int:
    """Return the number of devices of a kind that torch sees."""
    with warnings.catch_warnings():
        # torch warns if the driver is missing or too old. The error from ``_missing_device`` covers that.
        warnings.simplefilter("ignore")
        if kind == "cuda":
            return torch.cuda.device_count() if torch.cuda.is_available() else 0
        if kind == "xpu":
            return torch.xpu.device_count() if torch.xpu.is_available() else 0
        return int(torch.backends.mps.is_available())


def _missing_device(name: str, kind: str) -> str:
    """Return the message for a device that does not exist: the devices that do, and what to do."""
    existing = [f"{other}:{index}" for other in _KINDS for index in range(_count(other))]
    seen = f"torch {torch.__version__} sees {', '.join([*existing, 'cpu'])}"
    return f"there is no device {name}: {seen}. {_advice(kind)} Or use --device auto."


def _advice(kind: str) -> str:
    if _count(kind):
        return f"Numbers start at {kind}:0."
    if kind == "cuda" and torch.version.cuda is None and torch.version.hip is None:
        return f"This torch was built without CUDA. Install one with CUDA: {_FOR_CUDA_12}."
    if kind == "cuda":
        return (
            "This torch was built with CUDA, so the driver or the GPU is missing. Check that nvidia-smi lists the "
            "GPU (in Docker: start with --gpus all) and that the driver is new enough "
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
    """Test the device with a small computation. This finds a GPU without kernels in torch before the first page."""
    try:
        # A product and a convolution initialise their libraries while all of the memory is free.
        square = torch.ones(8, 8, device=device)
        torch.nn.functional.conv2d((square @ square)[None, None], square[None, None, :3, :3]).cpu()
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise DeviceError(
            f"{device} exists but does not work: {first}. Check nvidia-smi, and whether torch "
            f"{torch.__version__} still supports this GPU. Or use --device cpu"
        ) from error
