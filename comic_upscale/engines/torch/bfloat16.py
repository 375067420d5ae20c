"""Whether a CPU computes a network that goes in strips faster in bfloat16 than in float32.

Processors with AMX do, about three times as fast. With AVX512-BF16 alone, or on ARM, it depends: measured on Intel
processors whose AMX is hidden by a virtual machine, bfloat16 takes a third longer. So there, a small page decides.
"""

from __future__ import annotations

import threading
import time

import torch

from comic_upscale.engines.torch.strips import StripwiseCompact
from comic_upscale.models.network import Network

LEAST_GAIN = 1.2
"""bfloat16 must be this many times as fast. At less, the noise of a busy machine would decide."""
_ROUNDS = 3
_TRIED = (48, 96)
"""(height, width) of the small page in pixels."""
_found: dict[str, bool] = {}
"""What was found, by the identity of the network: a process computes all pages in one precision."""
_trying = threading.Lock()
"""Held while a network is tried: two at a time would disturb each other."""


def cpu_has_bfloat16() -> bool:
    """Return whether the CPU has instructions for bfloat16. Without them, torch emulates it slowly."""
    return any(has_it for name, has_it in _capabilities().items() if name.endswith("bf16"))


def bfloat16_is_quick(network: Network) -> bool:
    """Return whether the CPU computes a network faster in bfloat16. The first time, this may take seconds.

    Args:
        network: one that `strips.goes_in_strips` accepts.
    """
    if not cpu_has_bfloat16():
        return False
    if _capabilities().get("amx_bf16"):
        return True
    with _trying:
        if network.identity not in _found or not network.identity:
            _found[network.identity] = _wins(network)
        return _found[network.identity]


def _wins(network: Network) -> bool:
    # Alternately, so that other work on the machine slows both.
    rounds = [(seconds(network, torch.float32), seconds(network, torch.bfloat16)) for _ in range(_ROUNDS)]
    quickest_float32 = min(float32 for float32, _ in rounds)
    quickest_bfloat16 = min(bfloat16 for _, bfloat16 in rounds)
    return quickest_float32 >= LEAST_GAIN * quickest_bfloat16


def seconds(network: Network, precision: torch.dtype) -> float:
    """Return the time of a small page in a precision. The first page, which prepares the network, does not count."""
    strips = StripwiseCompact.of(network.module, precision)
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
