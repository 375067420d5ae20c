"""A convolution of a chain on a CPU, with the activation after it: in one operation where oneDNN has one."""

from __future__ import annotations

import platform

import torch
from torch.nn import functional

_TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 2**-7}
"""By precision, how far a result may be from that in float32, relative to it. bfloat16 rounds by up to half of this,
and the two operations round twice."""
_FAINT = 2**-10
"""The same, relative to the largest number, for results that are almost 0."""


class Convolution(torch.nn.Module):
    """A 3x3 convolution over the full width, and its activation.

    A leaky ReLU with the same slope for all channels is applied by oneDNN while it writes the result. As an operation
    of its own it takes half as long as the convolution on a processor with AMX. oneDNN cannot do that for a slope for
    each channel, and a plain ReLU of oneDNN hides NaN, which the engine must see. It is only used where a test page
    shows that it is right.

    Args:
        convolution: channels-last, in the precision that it computes in.
        activation: ReLU, LeakyReLU or PReLU; None after the last layer.
    """

    outside = 0
    """What stands for 0 in the output."""

    def __init__(self, convolution: torch.nn.Conv2d, activation: torch.nn.Module | None) -> None:
        super().__init__()
        self._convolution = convolution
        self._activation = activation
        self._slope = None if activation is None else one_slope(activation)
        if self._slope is not None and not self._matches_reference():
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
        output = functional.conv2d(x, layer.weight, layer.bias, padding=(rows_around, 1))
        if self._activation is not None:
            output = self._activation(output)
        return output

    def _fused(self, x: torch.Tensor, rows_around: int, slope: float) -> torch.Tensor:
        layer = self._convolution
        output: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, layer.weight, layer.bias, (rows_around, 1), (1, 1), (1, 1), 1, "leaky_relu", [slope], ""
        )
        return output

    def _matches_reference(self) -> bool:
        """Return whether one operation gives what two give in float32, for a small page with a number that is NaN."""
        assert self._slope is not None and self._activation is not None
        layer = self._convolution
        tolerance = _TOLERANCES.get(layer.weight.dtype)
        if tolerance is None or not can_fuse():
            return False
        page = torch.linspace(-1, 1, layer.in_channels * 8 * 24).reshape(1, layer.in_channels, 8, 24)
        page[0, 0, 6, 20] = torch.nan
        page = page.to(layer.weight.dtype).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            weight, bias = (None if each is None else each.float() for each in (layer.weight, layer.bias))
            assert weight is not None
            expected = functional.leaky_relu(
                functional.conv2d(page.float(), weight, bias, padding=(2, 1)), self._slope
            )
            try:
                output = self._fused(page, 2, self._slope)
            except (RuntimeError, AttributeError):
                # This build of torch, or this processor, does not have the operation.
                return False
            if output.shape != expected.shape or output.dtype != page.dtype or expected.isinf().any():
                return False
            faint = _FAINT * float(expected.nan_to_num().abs().max())
            return torch.allclose(output.float(), expected, rtol=tolerance, atol=faint, equal_nan=True)


def one_slope(activation: torch.nn.Module) -> float | None:
    """Return the slope of an activation below zero, if it has one and the same for all channels."""
    slopes: torch.Tensor | None = None
    if isinstance(activation, torch.nn.LeakyReLU):
        slopes = torch.tensor(activation.negative_slope)
    elif isinstance(activation, torch.nn.PReLU):
        slopes = activation.weight.detach()
    if slopes is None:
        return None
    least, most = slopes.aminmax()
    return float(least) if least == most and least != 0 else None


def can_fuse() -> bool:
    """Return whether torch has the operation for this processor."""
    # Elsewhere the operation exists, too, but may run without the kernels of the processor.
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return has_onednn and platform.machine().lower() in ("x86_64", "amd64")
