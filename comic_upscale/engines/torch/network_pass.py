"""One network on one device in one precision: takes windows of samples and returns native pixels as floats."""

from __future__ import annotations

import copy
from functools import cached_property

import torch

from comic_upscale.engines.torch.fold import find_fold
from comic_upscale.engines.torch.gray_network import can_become_gray
from comic_upscale.engines.torch.proof import Proof, choose_way
from comic_upscale.engines.torch.strips import StripwiseCompact, goes_in_strips, in_strips
from comic_upscale.models.network import Network


def white(samples: torch.dtype) -> int:
    """Return the largest sample of a type: 255 for uint8, 65535 for uint16, also where int32 holds it."""
    return 255 if samples == torch.uint8 else 65535


class NetworkPass:
    """Runs its own copy of a network, so that several devices and precisions can share the loaded one.

    Args:
        network: the loaded network; it is not changed.
        device: the device.
        precision: float32, float16, bfloat16, or int8 for a network in strips on a CPU.
    """

    def __init__(self, network: Network, device: torch.device, precision: torch.dtype) -> None:
        self.in_strips = device.type == "cpu" and goes_in_strips(network.module)
        """Whether the network runs a few rows at a time, which needs little memory for windows of any size."""
        self.device = device
        """The device."""
        self.proof: Proof | None = None
        """Whether the network runs with fused kernels, and why; None on devices without such kernels."""
        self._channels = network.input_channels
        self._scale = network.native_scale
        # On a GPU, the same shape for all pages of a batch is worth more.
        self._reach = network.receptive_radius if self.in_strips else None
        self._loaded = network.module
        if self.in_strips:
            self._module: torch.nn.Module = in_strips(network, precision)
            self._precision = torch.float32
            return
        # Tensor cores and oneDNN compute in channels-last format. Other formats are converted at every layer.
        module = copy.deepcopy(network.module).to(device=device, dtype=precision)
        self._module = module.to(memory_format=torch.channels_last).eval()
        self._precision = precision
        if device.type == "cuda":
            self._module, self.proof = choose_way(network, self._module, device, precision)

    @cached_property
    def _gray(self) -> torch.nn.Module | None:
        """The version of the network for gray pages, made when the first one comes; None if there is none."""
        if not isinstance(self._module, StripwiseCompact) or not can_become_gray(self._loaded):
            return None
        return self._module.for_gray(self._loaded)

    def planes(self, channels: int) -> int:
        """Return how many times a window with this many channels goes through the network."""
        return channels if self._channels == 1 else 1

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        """Return the raw output of the network: N x C x height*scale x width*scale.

        Args:
            x: N x C x height x width on the device, 0..1, with the network's number of channels; or one channel, if the
                network has a version for gray pages.
        """
        x = x.to(self._precision).contiguous(memory_format=torch.channels_last)
        gray = self._gray if x.shape[1] == 1 else None
        native: torch.Tensor = (self._module if gray is None else gray)(x)
        return native

    def __call__(self, windows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the windows through the network; equal rows are computed only once.

        Gray windows go through an RGB network as three equal channels, and the mean is returned, or through its version
        for gray pages. RGB windows go through a gray network channel by channel.

        Args:
            windows: uint8, uint16 or uint16 in int32, N x height x width x C on the device, C 3 or 1.

        Returns:
            The native pixels, N x C x height*scale x width*scale in the precision or float32, 0..1; and float32, N:
            a number for each window that is finite if all outputs of the network for it are finite.
        """
        fold = None if self._reach is None else find_fold(windows, self._reach)
        if fold is None:
            return self._run(windows)
        native, finite = self._run(fold.apply(windows))
        return fold.restore(native, self._scale), finite

    def raw(self, windows: torch.Tensor) -> tuple[torch.Tensor, bool]:
        """Run the windows through the network, and leave the rest to `clip` or to a fused kernel.

        Args:
            windows: as in `__call__`.

        Returns:
            The native pixels, N x C x height*scale x width*scale, not clipped; and whether the mean of the channels is
            the page, which is gray.
        """
        n, height, width, channels = windows.shape
        # The samples are already in channels-last order, so moving the axes copies nothing.
        x = windows.permute(0, 3, 1, 2).to(self._precision).div_(white(windows.dtype))
        becomes_color = channels == 1 and self._channels == 3 and self._gray is None
        if becomes_color:
            x = x.expand(-1, 3, -1, -1)
        elif channels == 3 and self._channels == 1:
            x = x.reshape(n * 3, 1, height, width)
        native = self.compute(x)
        if channels == 3 and self._channels == 1:
            native = native.reshape(n, 3, *native.shape[2:])
        return native, becomes_color

    def _run(self, windows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return clip(*self.raw(windows))


def clip(native: torch.Tensor, mixes: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Clip native pixels to 0..1, in place.

    Args:
        native: N x C x height x width.
        mixes: whether the mean of the channels is the page, which is gray.

    Returns:
        The pixels, and float32, N: a number for each window that is finite if all its numbers are finite.
    """
    # A sum shows any NaN or infinity and reads the pixels once. Clamping would hide infinity.
    finite = native.sum(dim=(1, 2, 3), dtype=torch.float32)
    native = native.clamp_(0, 1)
    return (native.mean(dim=1, keepdim=True) if mixes else native), finite
