"""The network while it trains: a chain of convolutions with a shortcut around each, two heads, and its plain form.

Every inner layer computes ``activate(convolution(x) + x)``. The shortcut makes a deep chain easy to train and costs
nothing afterwards: it is a kernel, too, so it is added to the layer's own (as in RepVGG, Ding et al. 2021). What
`plain` returns is therefore an ordinary compact network (SRVGGNetCompact), which every program can load.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch.nn import functional

_SLOPE = 0.25
"""Of PReLU where training begins, torch's own."""
_ONE_SLOPE = 0.2
"""Of the activation that all channels share, where libraries fuse LeakyReLU with a convolution."""
_KERNEL_NOISE = 0.02
"""Standard deviation of the inner kernels where training begins."""

Activate = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


def activate(
    made: torch.Tensor, bias: torch.Tensor, slope: torch.Tensor, shortcut: torch.Tensor | None
) -> torch.Tensor:
    """Add the bias and what a shortcut brings, and apply PReLU.

    Args:
        made: batch x channels x height x width.
        bias: one value a channel.
        slope: one value a channel, for what is below zero.
        shortcut: of the shape of ``made``.
    """
    made = made + bias.view(1, -1, 1, 1)
    if shortcut is not None:
        made = made + shortcut
    return torch.where(made > 0, made, made * slope.view(1, -1, 1, 1))


def activate_on_cpu(
    made: torch.Tensor, bias: torch.Tensor, slope: torch.Tensor, shortcut: torch.Tensor | None
) -> torch.Tensor:
    """Do what `activate` does, several times as fast on a CPU."""
    made = made + bias.view(1, -1, 1, 1)
    if shortcut is not None:
        made = made + shortcut
    if slope.requires_grad or bool((slope != slope[0]).any()):
        return functional.prelu(made, slope)
    return functional.leaky_relu(made, float(slope[0]))


class Chain(torch.nn.Module):
    """A compact network with shortcuts, and a head for each factor on the same trunk.

    Args:
        features: channels between the layers.
        convolutions: inner layers.
        factors: of the heads, whole numbers.
        one_slope: all channels share one slope that is not trained, so that it can become a LeakyReLU.
    """

    activate: Activate = staticmethod(activate)
    """Replaceable by a compiled one."""
    precision: torch.dtype = torch.float32
    """Of the convolutions while training; the weights, the sum with the input and validation have float32."""

    def __init__(self, features: int, convolutions: int, factors: Sequence[int], *, one_slope: bool) -> None:
        super().__init__()
        self.first = torch.nn.Parameter(torch.empty(features, 3, 3, 3))
        self.first_bias = torch.nn.Parameter(torch.zeros(features))
        self.inner = torch.nn.Parameter(torch.randn(convolutions, features, features, 3, 3) * _KERNEL_NOISE)
        self.bias = torch.nn.Parameter(torch.zeros(convolutions, features))
        self.slopes = torch.nn.Parameter(
            torch.full((convolutions + 1, features), _ONE_SLOPE if one_slope else _SLOPE),
            requires_grad=not one_slope,
        )
        self.heads = torch.nn.ModuleDict(
            {str(factor): torch.nn.Conv2d(features, 3 * factor**2, 3, padding=1) for factor in factors}
        )
        torch.nn.init.kaiming_normal_(self.first, a=_SLOPE)
        for head in self.heads.values():
            torch.nn.init.normal_(head.weight, std=0.01)
            torch.nn.init.zeros_(head.bias)

    def forward(self, small: torch.Tensor, factor: int) -> torch.Tensor:
        """Return the page enlarged by the factor of a head: float32, batch x 3 x height x width, 0..1 in."""
        # Compiled for the one size that training has; validation has many.
        act, kind = (self.activate, self.precision) if self.training else (activate, small.dtype)
        signal = functional.conv2d(small.to(kind), self.first.to(kind), padding=1)
        signal = act(signal, self.first_bias.to(kind), self.slopes[0].to(kind), None)
        for kernel, bias, slope in zip(
            self.inner.to(kind), self.bias.to(kind), self.slopes[1:].to(kind), strict=True
        ):
            kernel = kernel.contiguous(memory_format=torch.channels_last)
            # The shortcut beside the kernel, not within it: half precision has little room beside a 1.
            signal = act(functional.conv2d(signal, kernel, padding=1), bias, slope, signal)
        head = self.heads[str(factor)]
        detail = functional.conv2d(signal, head.weight.to(kind), head.bias.to(kind), padding=1)
        # The sum in float32: half precision has no room for 256 levels.
        return functional.pixel_shuffle(detail.float(), factor) + functional.interpolate(
            small, scale_factor=factor, mode="nearest"
        )

    @torch.no_grad()
    def plain(self, factor: int) -> dict[str, torch.Tensor]:
        """Return the weights of the ordinary compact network with the head of a factor, by the names of its layers."""
        head = self.heads[str(factor)]
        kernels = [self.first, *(self.inner + self._shortcut())]
        biases = [self.first_bias, *self.bias]
        weights: dict[str, torch.Tensor] = {}
        for number, (kernel, bias, slopes) in enumerate(zip(kernels, biases, self.slopes, strict=True)):
            weights[f"body.{2 * number}.weight"], weights[f"body.{2 * number}.bias"] = kernel, bias
            weights[f"body.{2 * number + 1}.weight"] = slopes
        last = 2 * len(kernels)
        weights[f"body.{last}.weight"], weights[f"body.{last}.bias"] = head.weight, head.bias
        return {name: value.detach().float().cpu().contiguous() for name, value in weights.items()}

    @torch.no_grad()
    def load_plain(self, weights: Mapping[int, Mapping[str, torch.Tensor]]) -> None:
        """Take over what `plain` returned for each factor.

        Raises:
            ValueError: the trunks differ, or the weights are not those of a network with these layers.
        """
        first, *others = weights.values()
        last = f"body.{2 * len(self.inner) + 2}."
        for name in (name for name in first if not name.startswith(last)):
            if not all(torch.equal(first[name], other[name]) for other in others):
                raise ValueError(f"the networks do not have the same {name}")
        numbers = range(2, 2 * len(self.inner) + 1, 2)
        _fill(self.first, first["body.0.weight"])
        _fill(self.first_bias, first["body.0.bias"])
        _fill(self.inner, torch.stack([first[f"body.{number}.weight"] for number in numbers]))
        self.inner -= self._shortcut()
        _fill(self.bias, torch.stack([first[f"body.{number}.bias"] for number in numbers]))
        _fill(self.slopes, torch.stack([first[f"body.{number + 1}.weight"] for number in (0, *numbers)]))
        for factor, of_factor in weights.items():
            head = self.heads[str(factor)]
            _fill(head.weight, of_factor[f"{last}weight"])
            _fill(head.bias, of_factor[f"{last}bias"])

    def _shortcut(self) -> torch.Tensor:
        features = self.inner.shape[1]
        kernel = torch.zeros_like(self.inner[0])
        kernel[range(features), range(features), 1, 1] = 1.0
        return kernel


def _fill(parameter: torch.Tensor, values: torch.Tensor) -> None:
    if parameter.shape != values.shape:
        raise ValueError(f"the network has {tuple(parameter.shape)}, the weights have {tuple(values.shape)}")
    parameter.copy_(values)
