"""Classify exceptions from torch: the work was too large, or the device is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from comic_upscale.errors import DeviceError

_TOO_MUCH = (
    "not enough memory",  # the CPU allocator on Windows
    "can't allocate memory",  # the CPU allocator elsewhere
    "CUDA error: out of memory",
    "Triton Error [CUDA]: out of memory",  # a kernel is loaded at its first use, when the memory may be full
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "MPS backend out of memory",
    "INT_MAX",  # a tensor of 2^31 elements or more, which some kernels do not take
    "canUse32BitIndexMath",
)
"""Phrases in a plain RuntimeError that mean that a smaller piece of work may succeed."""

_PERHAPS_BROKEN = (
    "CUBLAS_STATUS_NOT_INITIALIZED",  # a handle is created at the first product, when the memory may be full
    "CUDNN_STATUS_NOT_INITIALIZED",
    "unable to find an engine",  # cuDNN, if no engine gets its workspace
    "No execution plans support the graph",
)
"""Phrases that mostly mean the same, but also occur if a library does not support the GPU."""

_LOST = (
    "CUDA error",
    "CUDA driver error",
    "Triton Error",
    "CUBLAS_STATUS_",
    "CUDNN_STATUS_",
    "cuDNN error",
    "HIP error",
    "device-side assert",
    "UR_RESULT_ERROR",  # XPU
    "MPS backend",
)
"""Phrases in a plain RuntimeError that mean that the device failed."""


def is_too_much(error: BaseException) -> bool:
    """Return whether a smaller piece of work may succeed: memory or an index range was exceeded."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    phrases = (*_TOO_MUCH, *_PERHAPS_BROKEN)
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in phrases)


def is_perhaps_broken(error: BaseException) -> bool:
    """Return whether a "too much" error may mean a broken device, namely if it occurs with the smallest work too."""
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in _PERHAPS_BROKEN)


def is_lost_device(error: BaseException) -> bool:
    """Return whether the device failed and can no longer be used."""
    if is_too_much(error):
        return False
    # torch has had a class for this since 2.8.
    accelerator = getattr(torch, "AcceleratorError", None)
    if accelerator is not None and isinstance(error, accelerator):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in _LOST)


@contextmanager
def translate_lost_device(device: object) -> Iterator[None]:
    """Turn an error that means a lost device into one with words for the user.

    Args:
        device: as the user knows it.

    Raises:
        DeviceError: the device failed inside the block.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_lost_device(error):
            raise
        raise DeviceError(
            f"{device} failed: {first_line(error)}. Run the same command again; finished pages are "
            "kept. If it fails again, check the GPU (nvidia-smi) and its driver"
        ) from error


def refuse_full_memory(error: BaseException, path: object) -> None:
    """Tell an error that means full memory apart from one that a damaged file causes.

    Args:
        error: that was raised while the file was loaded.
        path: of the file or its folder.

    Raises:
        DeviceError: the memory ran out.
    """
    if is_too_much(error):
        raise DeviceError(
            f"the memory ran out while {path} was loaded: close other programs, or use a smaller file of these weights"
        ) from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error of torch; its further lines are advice to programmers."""
    return (str(error).splitlines() or [type(error).__name__])[0]
