"""A convolution and its activation in one operation: the same numbers, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from comic_upscale.engines.torch.convolution import Convolution, can_fuse
from comic_upscale.engines.torch.cpu_precision import cpu_has_bfloat16
from comic_upscale.engines.torch.strips import StripwiseCompact
from comic_upscale.models.network import load_network
from comic_upscale.models.weights import resolve_weights

needs_onednn = pytest.mark.skipif(not can_fuse(), reason="torch fuses nothing on this processor")


def _layer(
    activation: torch.nn.Module | None, precision: torch.dtype = torch.float32
) -> tuple[Convolution, Callable[[torch.Tensor], torch.Tensor]]:
    """Return the layer, and what does the same in two operations."""
    torch.manual_seed(4)
    convolution = torch.nn.Conv2d(16, 16, 3, padding=(2, 1))
    convolution = convolution.to(precision).to(memory_format=torch.channels_last)
    if activation is not None:
        activation = activation.to(precision)
    plain = convolution if activation is None else torch.nn.Sequential(convolution, activation)
    return Convolution(convolution, activation), plain


def _page(precision: torch.dtype, count: int = 1) -> torch.Tensor:
    page = torch.randn(count, 16, 21, 37, generator=torch.Generator().manual_seed(8))
    return page.to(precision).contiguous(memory_format=torch.channels_last)


@needs_onednn
@pytest.mark.parametrize(
    "activation", [torch.nn.LeakyReLU(0.1), torch.nn.PReLU(16, 0.2), torch.nn.PReLU(1, 0.3)]
)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_one_slope_is_applied_by_the_convolution(activation: torch.nn.Module, precision: torch.dtype) -> None:
    layer, plain = _layer(activation, precision)
    if precision == torch.bfloat16 and not cpu_has_bfloat16():
        pytest.skip("torch has no such operation in bfloat16 for this processor")
    assert layer.is_fused
    with torch.inference_mode():
        expected = plain(_page(precision, 2))
        made = layer(_page(precision, 2), rows_around=2)
    step = 0.0 if precision == torch.float32 else float(expected.abs().max()) / 64
    torch.testing.assert_close(made, expected, rtol=0, atol=step + 1e-6)


def test_a_slope_for_each_channel_is_an_operation_of_its_own() -> None:
    activation = torch.nn.PReLU(16)
    with torch.no_grad():
        activation.weight[3] = 0.5
    layer, plain = _layer(activation)
    assert not layer.is_fused
    with torch.inference_mode():
        torch.testing.assert_close(layer(_page(torch.float32), rows_around=2), plain(_page(torch.float32)))


@pytest.mark.parametrize("activation", [torch.nn.ReLU(), torch.nn.LeakyReLU(0.0), torch.nn.PReLU(16, 0.0)])
def test_what_would_hide_a_number_that_is_not_finite_is_an_operation_of_its_own(
    activation: torch.nn.Module,
) -> None:
    layer, plain = _layer(activation)
    assert not layer.is_fused
    with torch.inference_mode():
        torch.testing.assert_close(layer(_page(torch.float32), rows_around=2), plain(_page(torch.float32)))


def test_without_activation_there_is_nothing_to_apply() -> None:
    layer, plain = _layer(None)
    assert not layer.is_fused
    with torch.inference_mode():
        torch.testing.assert_close(layer(_page(torch.float32), rows_around=2), plain(_page(torch.float32)))


@needs_onednn
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fault", ["another slope", "no slope", "another bias", "hides NaN", "fails"])
def test_an_operation_that_is_wrong_is_not_used(
    monkeypatch: pytest.MonkeyPatch, fault: str, precision: torch.dtype
) -> None:
    right = Convolution._fused

    def wrong(self: Convolution, x: torch.Tensor, rows_around: int, slope: float) -> torch.Tensor:
        if fault == "fails":
            raise RuntimeError("could not create a primitive")
        if fault == "another slope":
            return right(self, x, rows_around, slope + 0.1)
        if fault == "no slope":
            return right(self, x, rows_around, 0.001)
        made = right(self, x, rows_around, slope)
        return made + 0.05 if fault == "another bias" else made.nan_to_num()

    monkeypatch.setattr(Convolution, "_fused", wrong)
    layer, plain = _layer(torch.nn.LeakyReLU(0.05), precision)
    assert not layer.is_fused
    with torch.inference_mode():
        torch.testing.assert_close(layer(_page(precision), rows_around=2), plain(_page(precision)))


@needs_onednn
@pytest.mark.parametrize("name", ["comic-fast-x2", "comic-fast-x3"])
def test_the_quick_network_of_the_package_is_fused_throughout(name: str) -> None:
    weights = resolve_weights(name, denoise=None, folders=[], cache=Path(), download=False)
    strips = StripwiseCompact.of(load_network(weights, None).module, torch.float32)
    fused = [isinstance(layer, Convolution) and layer.is_fused for layer in strips.layers]
    assert fused == [True] * (len(fused) - 1) + [False]
