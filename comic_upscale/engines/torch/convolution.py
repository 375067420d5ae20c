"""A convolution of a chain on a CPU, with the activation after it: in one operation where oneDNN has one."""

from __future__ import annotations

import platform

import torch
from torch.nn import functional

_STEPS = {torch.float32: 1e-5, torch.bfloat16: 2**-6}
"""By precision, how far the operation may be from two operations, relative to the largest number. bfloat16 rounds two
operations twice, by half of 1/128 each."""


class Convolution(torch.nn.Module):
    """A 3x3 convolution over the full width, and its activation.

    A ReLU, or a leaky one with the same slope for all channels, is applied by oneDNN while it writes the result. As an
    operation of its own it takes half as long as the convolution on a processor with AMX. oneDNN cannot do that for
    a slope for each channel. It is only used where a test page shows that it is right.

    Args:
        convolution: channels-last, in the precision that it computes in.
        activation: ReLU, LeakyReLU or PReLU; None after the last layer.
    """

    def __init__(self, convolution: torch.nn.Conv2d, activation: torch.nn.Module | None) -> None:
        super().__init__()
        self._convolution = convolution
        self._activation = activation
        self._slope = None if activation is None else one_slope(activation)
        can_fuse = may_fuse() and convolution.weight.dtype in _STEPS
        if self._slope is not None and not (can_fuse and self._is_right()):
            self._slope = None

    @property
    def is_fused(self) -> bool:
        """Whether the activation is applied by the convolution."""
        return self._slope is not None

    def forward(self, x: torch.Tensor, rows_around: int) -> torch.Tensor:
        """Return N x C x (height + 2 * rows_around - 2) x width of N x C x height x width.

        Args:
            x: in the layer's precision, channels-last.
            rows_around: rows of zeros above and below.
        """
        if self._slope is not None:
            return self._fused(x, rows_around, self._slope)
        layer = self._convolution
        made = functional.conv2d(x, layer.weight, layer.bias, padding=(rows_around, 1))
        if self._activation is not None:
            made = self._activation(made)
        return made

    def _fused(self, x: torch.Tensor, rows_around: int, slope: float) -> torch.Tensor:
        layer = self._convolution
        made: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, layer.weight, layer.bias, (rows_around, 1), (1, 1), (1, 1), 1, "leaky_relu", [slope], ""
        )
        return made

    def _is_right(self) -> bool:
        """Return whether one operation gives what two give, for a small page with a number that is not finite."""
        assert self._slope is not None and self._activation is not None
        layer = self._convolution
        page = torch.linspace(-1, 1, layer.in_channels * 8 * 24).reshape(1, layer.in_channels, 8, 24)
        page[0, 0, 6, 20] = torch.nan
        page = page.to(layer.weight.dtype).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            expected = self._activation(functional.conv2d(page, layer.weight, layer.bias, padding=(2, 1)))
            try:
                made = self._fused(page, 2, self._slope)
            except (RuntimeError, AttributeError):
                # This build of torch has no oneDNN, or another form of the operation.
                return False
            if made.shape != expected.shape or made.dtype != expected.dtype:
                return False
            step = _STEPS[made.dtype] * float(expected.nan_to_num().abs().max())
            return torch.allclose(made, expected, rtol=0, atol=step, equal_nan=True)


def one_slope(activation: torch.nn.Module) -> float | None:
    """Return the slope of an activation below zero, if it is the same for all channels."""
    if isinstance(activation, torch.nn.ReLU):
        return 0.0
    if isinstance(activation, torch.nn.LeakyReLU):
        return float(activation.negative_slope)
    if isinstance(activation, torch.nn.PReLU):
        least, most = activation.weight.detach().aminmax()
        return float(least) if least == most else None
    return None


def may_fuse() -> bool:
    """Return whether torch has the operation for this processor."""
    # Elsewhere the operation exists, too, but may run without the kernels of the processor.
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return has_onednn and platform.machine().lower() in ("x86_64", "amd64")
