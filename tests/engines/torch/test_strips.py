"""The compact network in strips of rows: the same numbers as all at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from spandrel.architectures.Compact import Compact

from comic_upscale.engines.base import Batch
from comic_upscale.engines.torch import strips
from comic_upscale.engines.torch.engine import TorchEngine
from comic_upscale.engines.torch.strips import StripwiseCompact, goes_in_strips
from comic_upscale.models.network import load_network
from comic_upscale.models.weights import resolve_weights
from tests.conftest import REPOSITORY

_EXAMPLES = REPOSITORY / "examples" / "pages"


def _network(act_type: str = "prelu", upscale: int = 3, channels: int = 3) -> Compact:
    torch.manual_seed(5)
    return Compact(
        num_in_ch=channels,
        num_out_ch=channels,
        num_feat=16,
        num_conv=4,
        upscale=upscale,
        act_type=act_type,
    ).eval()


@given(
    height=st.integers(1, 70),
    width=st.integers(1, 30),
    count=st.integers(1, 2),
    strip=st.sampled_from([1, 60, 200, 10_000]),
)
@settings(max_examples=60, deadline=None)
def test_a_page_in_strips_of_any_height_is_the_page_at_once(
    height: int, width: int, count: int, strip: int
) -> None:
    network = _network()
    page = torch.rand(count, 3, height, width)
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(strips, "_STRIP_PIXELS", strip)
        made = StripwiseCompact.of(network, torch.float32)(page)
        torch.testing.assert_close(made, network(page), rtol=0, atol=2e-6)


@pytest.mark.parametrize("act_type", ["relu", "prelu", "leakyrelu"])
@pytest.mark.parametrize(("upscale", "channels"), [(2, 3), (4, 1)])
def test_every_kind_of_compact_network_goes(act_type: str, upscale: int, channels: int) -> None:
    network = _network(act_type, upscale, channels)
    page = torch.rand(1, channels, 40, 33)
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(strips, "_STRIP_PIXELS", 33 * 12)
        made = StripwiseCompact.of(network, torch.float32)(page)
        torch.testing.assert_close(made, network(page), rtol=0, atol=2e-6)


def test_the_network_that_was_given_stays_as_it_is() -> None:
    network = _network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    StripwiseCompact.of(network, torch.bfloat16)
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, before[name])


def test_bfloat16_gives_the_page_that_float32_gives() -> None:
    weights = resolve_weights("comic-compact-x3", denoise=None, folders=[], cache=Path(), download=False)
    network = load_network(weights, None)
    cpu = torch.device("cpu")
    plain, quick = (
        TorchEngine(network, device=cpu, precision=precision) for precision in (torch.float32, torch.bfloat16)
    )
    for path in sorted(_EXAMPLES.glob("*.png"))[:2]:
        with Image.open(path) as opened:
            page = np.asarray(opened.convert("RGB").crop((64, 64, 192, 160)))[None]
        batch = Batch(page, (320, 240))
        expected = plain.upscale(batch).pixels.astype(float)
        made = quick.upscale(batch).pixels
        error = np.square(made - expected).mean()
        assert 10 * np.log10(255**2 / max(error, 1e-9)) >= 50
        # Solid paper and ink stay what they are.
        solid = (expected == 255) | (expected == 0)
        assert solid.any() and np.abs(made - expected)[solid].mean() < 0.01


def test_nothing_but_chains_of_3x3_convolutions_goes_in_strips() -> None:
    assert goes_in_strips(_network())
    assert not goes_in_strips(torch.nn.Conv2d(3, 3, 3))
    pointwise = _network()
    pointwise.body[2] = torch.nn.Conv2d(16, 16, 1)
    assert not goes_in_strips(pointwise)
