"""The version of a network for gray pages: the same arithmetic, with a third of the outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from comic_upscale.engines.torch import network_pass
from comic_upscale.engines.torch.gray_network import can_become_gray
from comic_upscale.engines.torch.network_pass import NetworkPass
from comic_upscale.engines.torch.strips import StripwiseCompact
from comic_upscale.models.architectures import Compact
from comic_upscale.models.catalogue import CATALOGUE
from comic_upscale.models.network import Network, load_network
from comic_upscale.models.weights import resolve_weights
from tests.engines.conftest import MakeNetwork

CPU = torch.device("cpu")


def random_compact(scale: int, act: str, **channels: int) -> Compact:
    torch.manual_seed(scale)
    network = Compact(num_feat=8, num_conv=3, upscale=scale, act_type=act, **channels).eval()
    # As a trained network: next to nothing is added to the enlarged page.
    with torch.no_grad():
        network.body[-1].weight *= 0.02
        network.body[-1].bias *= 0.02
    return network


def own_network(name: str) -> Network:
    return load_network(resolve_weights(name, denoise=None, folders=[], cache=Path(), download=False), None)


@pytest.mark.parametrize("act", ["relu", "prelu", "leakyrelu"])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_it_gives_the_mean_of_the_colours(scale: int, act: str) -> None:
    network = random_compact(scale, act)
    page = torch.rand(2, 1, 13, 17)
    with torch.inference_mode():
        expected = network(page.expand(-1, 3, -1, -1)).mean(1, keepdim=True)
        strips = StripwiseCompact.of(network, torch.float32)
        in_color = strips(page.expand(-1, 3, -1, -1))
        torch.testing.assert_close(strips.for_gray(network)(page), expected, atol=1e-6, rtol=1e-5)
        assert torch.equal(strips(page.expand(-1, 3, -1, -1)), in_color), "the other one does not change"


@pytest.mark.parametrize("channels", [{"num_in_ch": 1, "num_out_ch": 1}, {"num_in_ch": 1}, {"num_out_ch": 1}])
def test_only_a_network_from_rgb_to_rgb_has_one(channels: dict[str, int]) -> None:
    assert can_become_gray(random_compact(2, "relu"))
    assert not can_become_gray(random_compact(2, "relu", **channels))


def test_a_network_that_tints_white_has_none() -> None:
    network = random_compact(2, "relu")
    with torch.no_grad():
        network.body[-1].bias[:4] = 0.06
        network.body[-1].bias[4:] = -0.03
    assert not can_become_gray(network)


@pytest.mark.parametrize("name", [name for name, model in CATALOGUE.items() if model.weights.bundled])
def test_every_network_of_the_package_has_one(name: str) -> None:
    assert can_become_gray(own_network(name).module)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_gray_page_goes_through_it_in_strips(
    make_network: MakeNetwork, precision: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = make_network(random_compact(3, "prelu"), native_scale=3)
    windows = torch.randint(0, 256, (1, 40, 33, 1), dtype=torch.uint8)
    with torch.inference_mode():
        forward = NetworkPass(network, CPU, precision)
        assert forward._gray is not None
        native, finite = forward(windows)
        monkeypatch.setattr(network_pass, "can_become_gray", lambda _: False)
        without = NetworkPass(network, CPU, precision)
        assert without._gray is None
        expected, _ = without(windows)
    assert native.shape == expected.shape == (1, 1, 120, 99)
    assert finite.isfinite().all()
    # Where only some colours are cut at black and white, the mean differs.
    assert (native - expected).abs().max() < (3 / 255 if precision == torch.float32 else 0.02)
    assert (native - expected).abs().mean() < 1e-3


@pytest.mark.parametrize("samples", [torch.uint8, torch.uint16])
def test_equal_rows_and_16_bits_go_through_it(make_network: MakeNetwork, samples: torch.dtype) -> None:
    network = make_network(random_compact(2, "leakyrelu"), native_scale=2, receptive_radius=5)
    page = torch.zeros((1, 80, 20, 1), dtype=torch.int32)
    page[:, 60:] = torch.arange(20)[:, None] * 12
    unit = 1 if samples == torch.uint8 else 257
    forward = NetworkPass(network, CPU, torch.float32)
    with torch.inference_mode():
        native, _ = forward((page * unit).to(samples))
        whole = network.module((page / 255).permute(0, 3, 1, 2).expand(-1, 3, -1, -1)).clamp(0, 1)
    assert forward._gray is not None
    torch.testing.assert_close(native, whole.mean(1, keepdim=True), atol=3 / 255, rtol=0)


@pytest.mark.parametrize("where", ["first", "inner", "last"])
def test_an_output_that_is_not_finite_is_still_seen(where: str, make_network: MakeNetwork) -> None:
    module = random_compact(2, "leakyrelu")
    forward = NetworkPass(make_network(module, native_scale=2), CPU, torch.float32)
    assert forward._gray is not None
    layer = {"first": 0, "inner": 1, "last": -1}[where]
    with torch.inference_mode():
        assert forward(torch.zeros(1, 20, 20, 1, dtype=torch.uint8))[1].isfinite().all()
        forward._gray.layers[layer]._convolution.bias[0] = torch.nan  # type: ignore[union-attr, index]
        _, finite = forward(torch.zeros(1, 20, 20, 1, dtype=torch.uint8))
    assert not finite.isfinite().any()
