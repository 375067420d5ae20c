"""The precision in which a CPU computes a network that goes in strips, where nobody asks for one.

With AMX, bfloat16 is about three times as fast as float32, and the fastest. With AVX512-BF16 alone, or on ARM, it
depends: measured on Intel processors whose AMX is hidden by a virtual machine, bfloat16 takes a third longer. With
VNNI, codes of 8 bits are more than twice as fast. So without AMX, a small page decides.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from comic_upscale.engines.torch.int8 import int8_fault
from comic_upscale.engines.torch.strips import in_strips
from comic_upscale.models.network import Network

LEAST_GAIN = 1.2
"""A less exact precision must be this many times as fast. At less, the noise of a busy machine would decide."""
_ROUNDS = 3
_TRIED = (48, 96)
"""(height, width) of the small page in pixels."""
_found: dict[tuple[str, Path | None], torch.dtype] = {}
"""What was found, by the network's identity and weights in 8 bits: a process computes all pages in one precision."""
_trying = threading.Lock()
"""Held while a network is tried: two at a time would disturb each other."""


def cpu_has_bfloat16() -> bool:
    """Return whether the CPU has instructions for bfloat16. Without them, torch emulates it slowly."""
    return any(has_it for name, has_it in _capabilities().items() if name.endswith("bf16"))


def fastest_precision(network: Network) -> torch.dtype:
    """Return the precision in which this CPU computes a network fastest. The first time, this may take seconds.

    Args:
        network: one that `strips.goes_in_strips` accepts.

    Returns:
        float32, bfloat16 if the network works in it, or int8 if there are weights and they work here.
    """
    if network.supports_bfloat16 and _capabilities().get("amx_bf16"):
        return torch.bfloat16
    known = (network.identity, network.int8_path)
    with _trying:
        if known not in _found or not network.identity:
            _found[known] = _try(network, list(_faster_precisions(network)))
        return _found[known]


def _faster_precisions(network: Network) -> Iterator[torch.dtype]:
    """Yield what may be faster than float32 here, the most exact first."""
    if network.supports_bfloat16 and cpu_has_bfloat16():
        yield torch.bfloat16
    if network.int8_path is not None and int8_fault(network) is None:
        yield torch.int8


def _try(network: Network, faster: list[torch.dtype]) -> torch.dtype:
    if not faster:
        return torch.float32
    precisions = [torch.float32, *faster]
    # In turns, so that other work on the machine slows all of them.
    rounds = [[seconds(network, precision) for precision in precisions] for _ in range(_ROUNDS)]
    quickest = dict(zip(precisions, map(min, zip(*rounds, strict=True)), strict=True))
    chosen = torch.float32
    for precision in faster:
        if quickest[chosen] >= LEAST_GAIN * quickest[precision]:
            chosen = precision
    return chosen


def seconds(network: Network, precision: torch.dtype) -> float:
    """Return the time of a small page in a precision. The first page, which prepares the network, does not count."""
    strips = in_strips(network, precision)
    page = torch.full((1, network.input_channels, *_TRIED), 0.5)
    with torch.inference_mode():
        strips(page)
        began = time.perf_counter()
        strips(page)
        return time.perf_counter() - began


def _capabilities() -> dict[str, object]:
    # Old releases of torch do not report the capabilities of the CPU.
    found: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return found
