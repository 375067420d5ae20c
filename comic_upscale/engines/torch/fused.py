"""Compact and RRDB networks with one kernel after every convolution, for CUDA.

The layers are those of spandrel's modules, with the same weights. Convolutions run without their bias. The kernel that
follows adds it, together with the activation, residual, pixel shuffle or the parts of a dense block (`kernels`).

::

    Compact       conv, [bias + PReLU], conv, [bias + PReLU], ... conv, [bias + pixel shuffle + enlarged page]
    dense block   conv, [bias + leaky], conv, [join + bias + leaky], ... conv, [join + bias, * 0.2, + x]

The convolutions of a dense block read its input and every earlier result. The convolution of a concatenation is the sum
of the convolutions of its parts. So each part goes through one convolution, with the weights that all later
convolutions have for it, and a kernel joins what the parts add to the next result. Nothing is concatenated, and the
convolutions have more outputs, for which tensor cores are quicker. On an H200, the five convolutions of a block of 64 +
4 * 32 channels took 0.49 ms a page so, and 0.62 ms with concatenated inputs. The kernels between them move 896 numbers
a pixel; concatenating kernels moved 1,344. The parts need more memory, about 900 channels of the page in place of 600.
Most networks need more than that for their last convolutions, at two or four times the size of the page.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch.nn import functional

from comic_upscale.engines.torch.device import current_on
from comic_upscale.models.architectures import ESRGAN, Compact

_DENSE_SCALE = 0.2
"""The factor of the residuals of RRDB networks."""
_INPUT_MULTIPLE, _OUTPUT_MULTIPLE = 8, 32
"""Tensor cores need these multiples of channels. cuDNN would pad other numbers of channels in passes of its own."""


class NotFusableError(Exception):
    """The network has layers for which there is no kernel."""


@dataclass(frozen=True, slots=True, eq=False)
class _Convolution:
    """A convolution of 3x3 without its bias, and what the kernel after it needs."""

    weight: torch.Tensor
    """out x in x 3 x 3, channels-last; perhaps with zeros for more channels than the network has."""
    bias: torch.Tensor
    """out."""
    slope: torch.Tensor | None = None
    """out: the factors of the activation for numbers below 0; None without an activation."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return the convolution, channels-last."""
        return _convolve(x, self.weight)

    @property
    def activation(self) -> torch.Tensor:
        """The slope of a convolution that has an activation."""
        assert self.slope is not None
        return self.slope


def fuse(network: torch.nn.Module) -> torch.nn.Module:
    """Return a module that computes the same as a network, with fused kernels.

    Args:
        network: on its device, in its precision, channels-last; the result shares its weights, except those of dense
            blocks.

    Raises:
        NotFusableError: the network is not a compact or an RRDB network of the usual layers.
        ImportError: Triton is not installed.
    """
    if isinstance(network, Compact):
        return FusedCompact(network)
    if isinstance(network, ESRGAN):
        fused: torch.nn.Module = copy.copy(network)
        # The module's own dictionary, because that of a copy is the dictionary of the original.
        fused._modules = dict(network._modules)
        fused.model = FusedRrdb(network.model)
        return fused
    raise NotFusableError(f"there are no fused kernels for {type(network).__name__}")


def _convolve(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return functional.conv2d(x, weight, padding=1).contiguous(memory_format=torch.channels_last)


class FusedCompact(torch.nn.Module):
    """A compact network (SRVGGNetCompact) with fused kernels.

    Args:
        network: the network from spandrel, on its device, in its precision, channels-last.

    Raises:
        NotFusableError: a layer is not one of those of compact networks.
    """

    def __init__(self, network: Compact) -> None:
        super().__init__()
        layers = list(_read_convolutions(network.body))
        if len(layers) < 2 or layers[-1].slope is not None or any(each.slope is None for each in layers[:-1]):
            raise NotFusableError("its activations are not between its convolutions")
        self._channels = int(network.num_out_ch)
        self._scale = int(network.upscale)
        self._first = _pad_inputs(layers[0])
        self._inner = layers[1:-1]
        self._last = _pad_outputs(layers[-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return N x C x height*scale x width*scale of N x C x height x width, in its precision."""
        from comic_upscale.engines.torch import kernels

        x = x.contiguous(memory_format=torch.channels_last)
        with current_on(x.device):
            signal = _pad_page(x, self._first)
            for convolution in (self._first, *self._inner):
                signal = convolution(signal)
                kernels.activate(signal, convolution.bias, convolution.activation)
            made = self._last(signal)
            return kernels.shuffle(made, self._last.bias, self._channels, self._scale, x)


class FusedRrdb(torch.nn.Module):
    """The layers of an RRDB network (ESRGAN) with fused kernels.

    Args:
        layers: ``model`` of the network from spandrel, on its device, in its precision, channels-last.

    Raises:
        NotFusableError: a layer is not one of those of the usual RRDB networks.
    """

    def __init__(self, layers: torch.nn.Sequential) -> None:
        super().__init__()
        first, shortcut, *rest = layers
        trunk = list(getattr(shortcut, "sub", ()))
        if not trunk:
            raise NotFusableError("it has no shortcut around its blocks")
        self._first = _pad_inputs(_read_one([first]))
        if self._first.slope is not None:
            raise NotFusableError("there is an activation after its first convolution")
        self._unchanged = torch.ones_like(self._first.bias)
        """The slope that changes nothing."""
        self._blocks = [_read_block(block) for block in trunk[:-1]]
        self._trunk_end = _read_one(trunk[-1:])
        if self._trunk_end.slope is not None:
            raise NotFusableError("there is an activation after its blocks")
        self._factors: list[int] = []
        """The enlargement before each convolution of ``_ends``; 1 for none."""
        ends: list[_Convolution] = []
        while rest:
            factor = 1
            if isinstance(rest[0], torch.nn.Upsample):
                factor = _read_factor(rest[0])
                del rest[0]
            taken = 2 if len(rest) > 1 and not isinstance(rest[1], torch.nn.Conv2d | torch.nn.Upsample) else 1
            ends.append(_read_one(rest[:taken]))
            self._factors.append(factor)
            del rest[:taken]
        if len(ends) < 2 or ends[-1].slope is not None or any(each.slope is None for each in ends[:-1]):
            raise NotFusableError("its activations are not between its last convolutions")
        self._channels = len(ends[-1].bias)
        self._ends = [*ends[:-1], _pad_outputs(ends[-1])]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the enlarged page, contiguous, in its precision."""
        from comic_upscale.engines.torch import kernels

        x = x.contiguous(memory_format=torch.channels_last)
        with current_on(x.device):
            start = self._first(_pad_page(x, self._first))
            kernels.activate(start, self._first.bias, self._unchanged)
            signal = start
            for block in self._blocks:
                signal = _run_block(block, signal)
            made = self._trunk_end(signal)
            signal = kernels.enlarge(made, self._trunk_end.bias, self._factors[0], near=start)
            del start, made
            # Each kernel also enlarges for the convolution that follows.
            for convolution, factor in zip(self._ends[:-1], self._factors[1:], strict=True):
                signal = convolution(signal)
                if factor == 1:
                    kernels.activate(signal, convolution.bias, convolution.activation)
                else:
                    signal = kernels.enlarge(signal, convolution.bias, factor, slope=convolution.activation)
            last = self._ends[-1]
            return kernels.shuffle(last(signal), last.bias, self._channels, 1)


@dataclass(frozen=True, slots=True, eq=False)
class _DenseBlock:
    """The convolutions of a dense block, sorted by what they read instead of by what they make."""

    weights: tuple[torch.Tensor, ...]
    """For the input of the block and each result but the last: the weights that all convolutions after it have for it,
    with the outputs of the next one first."""
    biases: tuple[torch.Tensor, ...]
    """Of each convolution."""
    slopes: tuple[torch.Tensor, ...]
    """Of each convolution but the last."""

    @classmethod
    def of(cls, convolutions: Sequence[_Convolution]) -> _DenseBlock:
        """Sort the weights of convolutions that read ``[input, result, result, ...]``."""
        # Each convolution reads what the one before it read, and its result.
        ends = [convolution.weight.shape[1] for convolution in convolutions]
        grows = [len(convolution.bias) for convolution in convolutions[:-1]]
        if [end - start for start, end in pairwise(ends)] != grows:
            raise NotFusableError("its dense blocks do not read all that came before")
        weights = []
        for index, (start, end) in enumerate(pairwise([0, *ends])):
            later = torch.cat([convolution.weight[:, start:end] for convolution in convolutions[index:]])
            weights.append(later.contiguous(memory_format=torch.channels_last))
        biases = tuple(convolution.bias for convolution in convolutions)
        return cls(tuple(weights), biases, tuple(convolution.activation for convolution in convolutions[:-1]))

    def __call__(self, x: torch.Tensor, far: torch.Tensor | None) -> torch.Tensor:
        """Return ``block(x) * 0.2 + x``, and with ``far`` that ``* 0.2 + far``."""
        from comic_upscale.engines.torch import kernels

        parts = [_convolve(x, self.weights[0])]
        for weight, bias, slope in zip(self.weights[1:], self.biases[:-1], self.slopes, strict=True):
            # A part begins with what belongs to the next result, and ends with what belongs to the last one.
            parts.append(_convolve(kernels.join(parts, bias, slope=slope), weight))
        return kernels.join(parts, self.biases[-1], near=x, far=far, scale=_DENSE_SCALE)


def _run_block(block: Sequence[_DenseBlock], x: torch.Tensor) -> torch.Tensor:
    """Run one RRDB: several dense blocks, and a residual around all of them."""
    signal = x
    for dense in block[:-1]:
        signal = dense(signal, None)
    return block[-1](signal, x)


def _read_convolutions(layers: Sequence[torch.nn.Module]) -> Iterator[_Convolution]:
    """Return the convolutions of a chain, each with the activation that follows it."""
    for index, layer in enumerate(layers):
        if isinstance(layer, torch.nn.Conv2d):
            after = layers[index + 1] if index + 1 < len(layers) else None
            yield _read_one(
                [layer] if after is None or isinstance(after, torch.nn.Conv2d) else [layer, after]
            )
        elif index == 0 or not isinstance(layers[index - 1], torch.nn.Conv2d):
            raise NotFusableError(f"it has an unexpected {type(layer).__name__}")


def _read_block(block: torch.nn.Module) -> list[_DenseBlock]:
    """Return the dense blocks of an RRDB."""
    dense: list[_DenseBlock] = []
    for name in ("RDB1", "RDB2", "RDB3"):
        part = getattr(block, name, None)
        if part is None or getattr(part, "conv1x1", None) is not None:
            raise NotFusableError("its blocks are not the usual dense blocks")
        convolutions = [_read_one(list(getattr(part, f"conv{number}"))) for number in range(1, 6)]
        if convolutions[-1].slope is not None or any(each.slope is None for each in convolutions[:-1]):
            raise NotFusableError("the activations of its dense blocks are not the usual ones")
        dense.append(_DenseBlock.of(convolutions))
    return dense


def _read_one(layers: Sequence[torch.nn.Module]) -> _Convolution:
    """Return a convolution with its activation, if there is one.

    Raises:
        NotFusableError: they are not a 3x3 convolution with a bias, and a ReLU, LeakyReLU or PReLU.
    """
    layer, *after = [part for each in layers for part in _flatten(each)]
    if (
        not isinstance(layer, torch.nn.Conv2d)
        or layer.bias is None
        or len(after) > 1
        or (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        != ((3, 3), (1, 1), (1, 1), (1, 1))
        or layer.groups != 1
        or layer.padding_mode != "zeros"
    ):
        raise NotFusableError("one of its convolutions is not 3x3 with a bias")
    slope = _read_slope(after[0], layer.bias) if after else None
    return _Convolution(layer.weight.detach(), layer.bias.detach(), slope)


def _flatten(layer: torch.nn.Module) -> Iterator[torch.nn.Module]:
    if isinstance(layer, torch.nn.Sequential):
        for part in layer:
            yield from _flatten(part)
    else:
        yield layer


def _read_slope(activation: torch.nn.Module, like: torch.Tensor) -> torch.Tensor:
    """Return the factor of each channel for numbers below 0."""
    if isinstance(activation, torch.nn.PReLU):
        return activation.weight.detach().expand_as(like).contiguous()
    if isinstance(activation, torch.nn.LeakyReLU):
        return torch.full_like(like, activation.negative_slope, requires_grad=False)
    if isinstance(activation, torch.nn.ReLU):
        return torch.zeros_like(like, requires_grad=False)
    raise NotFusableError(f"its activation is a {type(activation).__name__}")


def _read_factor(layer: torch.nn.Upsample) -> int:
    factor = layer.scale_factor
    if layer.mode != "nearest" or not isinstance(factor, int | float) or factor != int(factor):
        raise NotFusableError("its enlargement is not to nearest neighbours by a whole factor")
    return int(factor)


def _pad_inputs(layer: _Convolution) -> _Convolution:
    """Return the convolution for pages with more channels, which are zero."""
    missing = -layer.weight.shape[1] % _INPUT_MULTIPLE
    if not missing or layer.weight.dtype == torch.float32:
        return layer
    weight = functional.pad(layer.weight, (0, 0, 0, 0, 0, missing))
    return _Convolution(weight.contiguous(memory_format=torch.channels_last), layer.bias, layer.slope)


def _pad_outputs(layer: _Convolution) -> _Convolution:
    """Return the convolution with more outputs, which no kernel reads."""
    outputs = layer.weight.shape[0]
    missing = -outputs % (_OUTPUT_MULTIPLE if outputs > _INPUT_MULTIPLE else _INPUT_MULTIPLE)
    if not missing or layer.weight.dtype == torch.float32:
        return layer
    weight = functional.pad(layer.weight, (0, 0, 0, 0, 0, 0, 0, missing))
    bias = functional.pad(layer.bias, (0, missing))
    return _Convolution(weight.contiguous(memory_format=torch.channels_last), bias)


def _pad_page(x: torch.Tensor, first: _Convolution) -> torch.Tensor:
    """Return the page with the channels of the first convolution, channels-last."""
    n, channels, height, width = x.shape
    wanted = first.weight.shape[1]
    if wanted == channels:
        return x
    padded = torch.zeros((n, height, width, wanted), dtype=x.dtype, device=x.device).permute(0, 3, 1, 2)
    padded[:, :channels] = x
    return padded
