"""A compact network in whole numbers of 8 bits, for processors that multiply these several times as fast (VNNI).

The weights are a file of their own: those of the network, trained further with all roundings, until the pages were
those of the network again. Between the layers, a number is a *code*, 0 to 255. One code stands for 0, and the step from
one code to the next is the same everywhere. oneDNN multiplies and adds codes exactly, and rounds each sum to the code
of the next layer.

The activation works on codes, too. Below the code of 0 it takes 3/16 of the distance by shifts. The slope of the
networks is a fifth. The training makes up for the difference.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional

from comic_upscale.engines.torch.device_errors import first_line
from comic_upscale.errors import WeightsError
from comic_upscale.models.network import Network, read_state

LARGEST = 255
"""The largest code."""
_NOISE = 2 / LARGEST
"""What all roundings add up to in even areas is less."""
_EVEN = 2
"""Levels between the lightest and the darkest pixel of an even area. On a steeper gradient, the network adds about as
little as the noise, but smooths its steps with it."""
_TRIED = (2, 9, 40)
"""Pages, height and width of the test page."""
_MOST_SHARE = 0.001
"""The share of codes that may be next to the right one, since a sum may lie in the middle between two."""
_MOST_APART = 1e-4
"""By how much the numbers of the last layer may differ, relative to the largest one."""


_NO_OPERATION = "torch has no convolution in 8 bits here ({})"
_WRONG = "this processor computes it wrong"


_right: set[Path] = set()
"""Weights that this processor was seen to compute right."""


class UnusableInt8Error(Exception):
    """A network, processor or release of torch does not compute in codes. The message is a reason, not a sentence."""


@dataclass(frozen=True, slots=True)
class Codes:
    """The meaning of codes: a code stands for ``scale * (code - zero)``."""

    scale: float
    zero: int
    """0..128, a multiple of 16."""


_PIXELS = Codes(1 / LARGEST, 0)
"""The codes of the page."""


@dataclass(frozen=True, slots=True, eq=False)
class Int8Layer:
    """A convolution in codes."""

    weight: torch.Tensor
    """int8, out x in x 3 x 3."""
    scale: torch.Tensor
    """float32, out: a weight stands for its number times this."""
    bias: torch.Tensor
    """float32, out."""
    given: Codes
    """Of its input."""
    made: Codes | None
    """Of its output; None for the last layer, whose output is float32 and has no activation."""

    def averaged(self) -> Int8Layer:
        """Return the layer that gives the mean of three colours. Pixel shuffle takes one colour after the other."""
        weight = (self.weight * self.scale[:, None, None, None]).view(3, -1, *self.weight.shape[1:]).mean(0)
        scale = weight.abs().amax((1, 2, 3)).clamp(min=1e-9) / 127
        codes = (weight / scale[:, None, None, None]).round().to(torch.int8)
        return Int8Layer(codes, scale, self.bias.view(3, -1).mean(0), self.given, self.made)


class Int8Convolution(torch.nn.Module):
    """A 3x3 convolution in codes over the full width, and its activation.

    Args:
        layer: the layer.

    Raises:
        UnusableInt8Error: torch does not have the operation.
    """

    def __init__(self, layer: Int8Layer) -> None:
        super().__init__()
        self.layer = layer
        """As given."""
        self.outside = 0 if layer.made is None else layer.made.zero
        """What stands for 0 in the output."""
        self._no_shift = torch.zeros(len(layer.scale), dtype=torch.int64)
        try:
            self._packed = torch.ops.onednn.qconv_prepack(
                layer.weight, layer.scale, layer.given.scale, layer.given.zero, [1, 1], [1, 1], [1, 1], 1, None
            )  # fmt: skip
        except (AttributeError, TypeError, RuntimeError) as error:
            raise UnusableInt8Error(_NO_OPERATION.format(first_line(error))) from error

    def forward(self, x: torch.Tensor, rows_around: int) -> torch.Tensor:
        """Return N x C x (height + 2 * rows_around - 2) x width of N x C x height x width.

        Args:
            x: uint8, channels-last.
            rows_around: rows of zeros above and below.

        Returns:
            uint8, or float32 after the last layer; channels-last.
        """
        layer = self.layer
        scale, zero, kind = (1.0, 0, torch.float32)
        if layer.made is not None:
            scale, zero, kind = (layer.made.scale, layer.made.zero, torch.uint8)
        output: torch.Tensor = torch.ops.onednn.qconv2d_pointwise(
            x, layer.given.scale, layer.given.zero, self._packed, layer.scale, self._no_shift, layer.bias,
            [1, 1], [rows_around, 1], [1, 1], 1, scale, zero, kind, "none", [], "",
        )  # fmt: skip
        if layer.made is None:
            return output
        # A quarter of three quarters of the distance from the code of 0, both rounded down. This is `activate` without
        # signs: the code of 0 is a multiple of 16, and so are its parts whole.
        lower = output.bitwise_right_shift(2)
        torch.sub(output, lower, out=lower).bitwise_right_shift_(2).add_(zero - 3 * zero // 16)
        # From the code of 0 on, the code itself is larger.
        return torch.maximum(output, lower, out=output)


def open_int8(network: Network) -> list[Int8Convolution]:
    """Return the layers of a network in codes, after testing that this processor computes them right.

    Raises:
        UnusableInt8Error: there is no such version of the network, or it does not work here.
    """
    if network.int8_path is None:
        raise UnusableInt8Error("there are no weights in 8 bits for it")
    try:
        layers = _read(network.int8_path)
    except WeightsError as error:
        raise UnusableInt8Error(first_line(error)) from error
    convolutions = [Int8Convolution(layer) for layer in layers]
    if network.int8_path not in _right:
        reason = _find_fault(layers, convolutions)
        if reason is not None:
            raise UnusableInt8Error(reason)
        _right.add(network.int8_path)
    return convolutions


def int8_fault(network: Network) -> str | None:
    """Return why this machine does not compute a network in 8 bits; None if it does."""
    try:
        open_int8(network)
    except UnusableInt8Error as error:
        return str(error)
    return None


@functools.lru_cache(maxsize=8)
def _read(path: Path) -> tuple[Int8Layer, ...]:
    """Return the layers of a file."""
    state = read_state(path)
    count = sum(name.endswith(".weight") for name in state)
    layers, given = [], _PIXELS
    for index in range(count):
        weight, scale, bias = (state[f"{index}.{part}"] for part in ("weight", "weight_scale", "bias"))
        made = None
        if index < count - 1:
            made = Codes(float(state[f"{index}.scale"]), int(state[f"{index}.zero"]))
        layers.append(Int8Layer(weight, scale, bias, given, made))
        given = made or given
    return tuple(layers)


@torch.inference_mode()
def _find_fault(layers: Sequence[Int8Layer], convolutions: Sequence[Int8Convolution]) -> str | None:
    """Return what is wrong with the codes of a test page, layer by layer; None for nothing."""
    count, height, width = _TRIED
    codes = torch.arange(count * height * width * layers[0].weight.shape[1]) * 37 % (LARGEST + 1)
    given = codes.to(torch.uint8).view(count, -1, height, width).contiguous(memory_format=torch.channels_last)
    for layer, convolution in zip(layers, convolutions, strict=True):
        expected = compute_exactly(layer, given)
        try:
            made = convolution(given, rows_around=1)
        except (AttributeError, TypeError, RuntimeError) as error:
            return _NO_OPERATION.format(first_line(error))
        if made.shape != expected.shape:
            return _WRONG
        difference = (made.double() - expected).abs()
        if layer.made is None:
            right = bool(difference.max() <= _MOST_APART * expected.abs().max())
        else:
            right = bool(difference.max() <= 1 and (difference > 0).double().mean() <= _MOST_SHARE)
        if not right:
            return _WRONG
        given = made
    return None


def compute_exactly(layer: Int8Layer, codes: torch.Tensor) -> torch.Tensor:
    """Return what a layer makes of codes, in double precision.

    Args:
        layer: the layer.
        codes: uint8, N x C x height x width; beyond its edges are zeros.

    Returns:
        float64: codes, or numbers after the last layer.
    """
    numbers = (codes.double() - layer.given.zero) * layer.given.scale
    weight = layer.weight.double() * layer.scale.double()[:, None, None, None]
    sums = functional.conv2d(numbers, weight, layer.bias.double(), padding=1)
    if layer.made is None:
        return sums
    zero = layer.made.zero
    steps = (sums / layer.made.scale).round().clamp(-zero, LARGEST - zero)
    return activate(steps) + zero


def even_areas(codes: torch.Tensor) -> torch.Tensor:
    """Return where a page is even: N x 1 x height x width, whether the 3x3 pixels around differ by two levels at most.

    Args:
        codes: of the page; uint8, N x C x height x width.
    """
    lightest, darkest = codes, codes
    for axis in (2, 3):
        size = codes.shape[axis]
        lightest, darkest = lightest.clone(), darkest.clone()
        for pixels, of_both in ((lightest, torch.maximum), (darkest, torch.minimum)):
            before = pixels.clone()
            for shift in (1, -1):
                here = pixels.narrow(axis, max(shift, 0), size - 1)
                of_both(here, before.narrow(axis, max(-shift, 0), size - 1), out=here)
    return (lightest - darkest <= _EVEN).all(1, keepdim=True)


def without_noise(detail: torch.Tensor, even: torch.Tensor) -> torch.Tensor:
    """Remove the noise of the roundings from what the network adds to the enlarged page, in even areas.

    The eye does not see it there, but a PNG would have to store it.

    Args:
        detail: numbers of the last layer, 1 for white; N x C x height x width. They are changed, and returned.
        even: of `even_areas` for the same pixels.
    """
    pixels = detail.permute(0, 2, 3, 1)
    places = even[:, 0].nonzero(as_tuple=True)
    pixels[places] = functional.hardshrink(pixels[places], _NOISE)
    return detail


def activate(steps: torch.Tensor) -> torch.Tensor:
    """Return the activation of whole numbers, which count from the code of 0: whole numbers of the same type."""
    return torch.maximum(steps, ((steps - (steps / 4).floor()) / 4).floor())
