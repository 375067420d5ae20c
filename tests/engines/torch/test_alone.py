"""The memory of a batch counts only if no other engine used the device meanwhile."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from comic_upscale.engines.base import Batch
from comic_upscale.engines.torch import windows
from comic_upscale.engines.torch.alone import OCCUPANCY, Occupancy
from comic_upscale.engines.torch.engine import TorchEngine
from comic_upscale.models.network import Network

CPU, OTHER = torch.device("cpu"), torch.device("cuda", 1)


def test_a_batch_alone_on_its_device() -> None:
    occupancy = Occupancy()
    with occupancy.batch_on(CPU) as first, occupancy.batch_on(OTHER) as elsewhere:
        assert first() and elsewhere()
    with occupancy.batch_on(CPU) as again:
        assert again()


def test_batches_that_overlap_are_not_alone() -> None:
    occupancy = Occupancy()
    with occupancy.batch_on(CPU) as first:
        with occupancy.batch_on(CPU) as second:
            assert not first() and not second()
        assert not first()


@pytest.mark.parametrize("is_alone", [True, False])
def test_only_a_peak_of_this_engine_is_learnt(
    compact: Network, monkeypatch: pytest.MonkeyPatch, *, is_alone: bool
) -> None:
    monkeypatch.setattr(windows, "_start_measuring", lambda _device: 100)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _device: 1100)
    engine = TorchEngine(compact, device=CPU)
    limits = engine._stage(torch.float32).limits
    monkeypatch.setattr(limits, "wants", lambda _pixels: True)
    learnt: list[int] = []
    monkeypatch.setattr(limits, "learn", lambda _pixels, peak: learnt.append(peak))
    page = Batch(np.zeros((1, 24, 32, 3), np.uint8), (64, 48))
    if is_alone:
        engine.upscale(page)
    else:
        with OCCUPANCY.batch_on(CPU):
            engine.upscale(page)
    assert learnt == ([1000] if is_alone else [])
