from __future__ import annotations

import pytest
import torch

from comic_upscale.engines.torch.host_memory import HostMemory


@pytest.mark.parametrize("pinned", [True, False])
def test_there_is_memory_whether_or_not_it_can_be_pinned(pinned: bool) -> None:
    # Without a GPU, torch can pin no memory: the very failure that the class is for.
    memory = HostMemory(pinned=pinned)
    made = memory.empty((2, 3), torch.uint8)
    assert (made.shape, made.dtype) == ((2, 3), torch.uint8)
    source = torch.arange(6, dtype=torch.uint8)
    assert torch.equal(memory.for_copy(source), source)
    assert memory.pinned == (pinned and torch.cuda.is_available())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, for which memory can be pinned")
def test_it_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    memory = HostMemory(pinned=True)
    for _ in range(3):
        memory.for_copy(torch.zeros(1))
        memory.empty((1,), torch.uint8)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
