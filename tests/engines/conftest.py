"""Small real networks, and engines over them on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from spandrel.architectures.Compact import Compact

from comic_upscale.models.network import Network

MakeNetwork = Callable[..., Network]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread: with layers this small, its threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_network() -> MakeNetwork:
    """Wrap a module as a network of x4 for RGB that is known to work in every precision."""

    def make(module: torch.nn.Module, **known: object) -> Network:
        facts: dict[str, object] = {
            "native_scale": 4,
            "input_channels": 3,
            "output_channels": 3,
            "supports_half": True,
            "supports_bfloat16": True,
            "architecture": "test",
            "multiple_of": 1,
            "minimum": 0,
            "square": False,
            "receptive_radius": None,
            "is_local": True,
        }
        return Network(module=module.eval().requires_grad_(False), **{**facts, **known})  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def compact(make_network: MakeNetwork) -> Network:
    """A compact network of x4 with random weights whose output stays visible: its reach is 4 pixels."""
    torch.manual_seed(7)
    return make_network(Compact(num_feat=8, num_conv=2, upscale=4), receptive_radius=4)


@pytest.fixture(scope="session")
def gray_compact(make_network: MakeNetwork) -> Network:
    """The same for gray pages."""
    torch.manual_seed(8)
    module = Compact(num_in_ch=1, num_out_ch=1, num_feat=8, num_conv=2, upscale=4)
    return make_network(module, input_channels=1, output_channels=1, receptive_radius=4)
