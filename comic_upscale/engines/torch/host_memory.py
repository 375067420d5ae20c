"""Memory of the host for copies from and to a device: pinned if possible, so that the host does not wait for them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from comic_upscale.engines.torch.device_errors import is_lost_device

log = logging.getLogger(__name__)


class HostMemory:
    """Allocates memory for copies.

    Pinned memory can be scarce where the device's is not: WSL2 and containers limit it. Smaller batches or tiles would
    not help then, so this class falls back to ordinary memory, and stays with it.

    Args:
        pinned: whether to try pinned memory.
    """

    def __init__(self, *, pinned: bool) -> None:
        self.pinned = pinned
        """Whether pinned memory is used."""

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return uninitialised memory for a result.

        Raises:
            RuntimeError: the device is lost, or there is no ordinary memory either.
        """
        if self.pinned:
            try:
                return torch.empty(shape, dtype=dtype, pin_memory=True)
            except RuntimeError as error:
                self._give_up(error)
        return torch.empty(shape, dtype=dtype)

    def for_copy(self, source: torch.Tensor) -> torch.Tensor:
        """Return the values in pinned memory if possible, and otherwise the tensor itself.

        Raises:
            RuntimeError: the device is lost.
        """
        if self.pinned:
            try:
                return source.pin_memory()
            except RuntimeError as error:
                self._give_up(error)
        return source

    def _give_up(self, error: RuntimeError) -> None:
        if is_lost_device(error):
            raise error
        self.pinned = False
        log.warning("copies to the GPU are slower from now on, because memory cannot be pinned: %s", error)
