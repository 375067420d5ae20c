"""What an exception from torch means: too much at once, or a device that is lost."""

from __future__ import annotations

import torch

_TOO_MUCH = (
    "not enough memory",  # the CPU allocator on Windows
    "can't allocate memory",  # the CPU allocator elsewhere
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "MPS backend out of memory",
    "INT_MAX",  # a tensor of 2^31 elements or more, which some kernels do not take
    "canUse32BitIndexMath",
)
"""Phrases by which a plain RuntimeError says that a smaller piece of work would pass."""

_PERHAPS_BROKEN = (
    "CUBLAS_STATUS_NOT_INITIALIZED",  # a handle is made at the first product, which may find the memory full
    "CUDNN_STATUS_NOT_INITIALIZED",
    "unable to find an engine",  # cuDNN, where none gets its workspace
    "No execution plans support the graph",
)
"""Phrases that mostly mean the same, but are also what a library says that does not fit the card."""

_LOST = (
    "CUDA error",
    "CUDA driver error",
    "CUBLAS_STATUS_",
    "CUDNN_STATUS_",
    "cuDNN error",
    "HIP error",
    "device-side assert",
    "UR_RESULT_ERROR",  # XPU
    "MPS backend",
)
"""Phrases by which a plain RuntimeError says that the device failed."""


def is_too_much(error: BaseException) -> bool:
    """Tell whether less work at once may pass: memory ran out, or an index did."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    phrases = (*_TOO_MUCH, *_PERHAPS_BROKEN)
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in phrases)


def is_perhaps_broken(error: BaseException) -> bool:
    """Tell whether an error that means too much at once is the device's own where the least is too much, too."""
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in _PERHAPS_BROKEN)


def is_lost_device(error: BaseException) -> bool:
    """Tell whether the device failed, so that no page can be done on it any more."""
    if is_too_much(error):
        return False
    # torch has a class of its own for this since 2.8.
    accelerator = getattr(torch, "AcceleratorError", None)
    if accelerator is not None and isinstance(error, accelerator):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in _LOST)
