"""A compact network for gray pages, made of one for RGB.

A gray page has three equal channels. So the first convolution can add its kernels for them, and the last convolution
can give the mean of its three colours: both are sums. The layers between stay as they are. The last layer then writes a
third of the numbers, which every later pass reads.
"""

from __future__ import annotations

import torch

from comic_upscale.models.architectures import Compact

_COLORS = 3
_MOST_APART, _MOST_APART_TOGETHER = 3 / 255, 1e-3
"""By how much the gray version may differ on the test page: at most, and as the root of the mean square (60 dB). The
networks of the package differ by 0.3 to 2.6 levels at most, and by 65 dB or more."""


@torch.inference_mode()
def can_become_gray(network: Compact) -> bool:
    """Return whether the gray version of a network from RGB to RGB gives the same pixels.

    The engine cuts colours at black and white, and then takes their mean. The gray version can only cut the mean. That
    is the same unless the network tints gray, and then cuts some of the colours. A test page shows it.
    """
    first, last = network.body[0], network.body[-1]
    if first.in_channels != _COLORS or last.out_channels != _COLORS * int(network.upscale) ** 2:
        return False
    colors = network(_test_page().expand(-1, _COLORS, -1, -1))
    apart = colors.clamp(0, 1).mean(1) - colors.mean(1).clamp(0, 1)
    return bool(apart.abs().max() <= _MOST_APART and apart.square().mean().sqrt() <= _MOST_APART_TOGETHER)


@torch.no_grad()
def make_gray_ends(network: Compact) -> tuple[torch.nn.Conv2d, torch.nn.Conv2d]:
    """Return the first and the last convolution of the gray version, in float32.

    Args:
        network: for which `can_become_gray` is true.
    """
    first, last = network.body[0], network.body[-1]
    # Pixel shuffle takes the channels of one colour after those of another.
    mean = (each.unflatten(0, (_COLORS, -1)).mean(0) for each in (last.weight, last.bias))
    return _convolution(first.weight.sum(1, keepdim=True), first.bias), _convolution(*mean)


def _convolution(weight: torch.Tensor, bias: torch.Tensor) -> torch.nn.Conv2d:
    features, channels, height, width = weight.shape
    layer = torch.nn.Conv2d(channels, features, (height, width), padding=(height // 2, width // 2))
    layer.weight.copy_(weight)
    assert layer.bias is not None
    layer.bias.copy_(bias)
    return layer


def _test_page() -> torch.Tensor:
    """Return 1 x 1 x 32 x 48 numbers: black and white lines and areas, and every gray between."""
    page = torch.linspace(0, 1, 48).expand(32, 48).clone()
    page[:8, :24], page[:8, 24:] = 1, 0
    page[2:6:3], page[20:23] = 0, 1
    page[26:, ::3] = 0
    return page[None, None]
