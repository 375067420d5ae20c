"""A device on which nobody has tried the program shows before the first page that it computes right."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from comic_upscale.engines.base import Batch, DeviceInfo, Upscaled
from comic_upscale.engines.torch import engine as engine_module
from comic_upscale.engines.torch import resample
from comic_upscale.engines.torch.device_check import check_device
from comic_upscale.engines.torch.engine import TorchEngine, open_torch_engine, open_torch_engines
from comic_upscale.errors import DeviceError, PageError
from comic_upscale.models.network import Network

CPU = torch.device("cpu")
MPS = DeviceInfo("mps", name="Apple GPU")


def _right(network: Network) -> TorchEngine:
    return TorchEngine(network, device=CPU)


def test_a_device_that_is_right_within_half_precision_passes(compact: Network) -> None:
    bfloat16 = TorchEngine(compact, device=CPU, precision=torch.bfloat16)
    check_device(MPS, bfloat16.upscale, _right(compact).upscale, 64)


@pytest.mark.parametrize("channels", [3, 1])
def test_a_device_that_loses_a_part_is_refused(compact: Network, channels: int) -> None:
    engine = _right(compact)

    def upscale(batch: Batch) -> Upscaled:
        made = engine.upscale(batch)
        pixels = made.pixels.copy()
        if pixels.shape[3] == channels:
            # As where a block of the resampling keeps what was in the memory before.
            pixels[:, :, 100:] = 0
        return replace(made, pixels=pixels)

    with pytest.raises(DeviceError, match=r"mps \(Apple GPU\) computes a test page wrong .*--device cpu"):
        check_device(MPS, upscale, engine.upscale, 64)


@pytest.mark.parametrize(
    "error",
    [PageError("failed", "out of memory"), NotImplementedError("no such operation"), TypeError("uint16")],
)
def test_a_device_that_cannot_compute_is_refused(compact: Network, error: Exception) -> None:
    def upscale(_batch: Batch) -> Upscaled:
        raise error

    with pytest.raises(DeviceError, match="cannot compute a test page"):
        check_device(MPS, upscale, _right(compact).upscale, 64)


def test_engines_on_untried_devices_are_checked(compact: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    # As if nobody had tried the CPU.
    monkeypatch.setattr(engine_module, "UNTRIED", ("cpu",))
    assert open_torch_engines(compact, CPU)
    assert open_torch_engine(compact, "cpu")

    right = resample._horizontal
    calls = []

    def lose(*arguments: object) -> torch.Tensor:
        calls.append(arguments)
        made = right(*arguments)  # type: ignore[arg-type]
        # Only on the device, which computes first.
        return torch.zeros_like(made) if len(calls) % 2 else made

    monkeypatch.setattr(resample, "_horizontal", lose)
    for opened in (lambda: open_torch_engines(compact, CPU), lambda: open_torch_engine(compact, "cpu")):
        calls.clear()
        with pytest.raises(DeviceError, match="computes a test page wrong"):
            opened()


def test_tried_devices_lose_no_time(compact: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(engine_module, "check_device", fail)
    assert open_torch_engines(compact, CPU)
    assert open_torch_engine(compact, "cpu")
