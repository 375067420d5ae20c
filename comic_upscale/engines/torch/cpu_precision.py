"""In which precision a CPU computes a network that goes in strips fastest.

Processors with AMX compute in bfloat16 about three times as fast as in float32. With AVX512-BF16 alone, or on ARM, it
depends: measured on Intel processors whose AMX is hidden by a virtual machine, bfloat16 takes a third longer.
Processors with VNNI multiply numbers of 8 bits about four times as fast. So without AMX, a small page decides.
"""

from __future__ import annotations

import logging
import time

import torch

from comic_upscale.engines.torch.int8 import UnusableInt8Error, open_int8
from comic_upscale.engines.torch.strips import in_strips
from comic_upscale.models.network import Network

log = logging.getLogger(__name__)

LEAST_GAIN = 1.2
"""A less exact precision must be this many times as fast. At less, the noise of a busy machine would decide."""
_ROUNDS = 3
_TRIED = (48, 96)
"""(height, width) of the small page in pixels."""
_found: dict[str, torch.dtype] = {}
"""What was found, by the identity of the network: a process computes all pages in one precision."""


def cpu_has_bfloat16() -> bool:
    """Return whether the CPU has instructions for bfloat16. Without them, torch emulates it slowly."""
    return any(has_it for name, has_it in _capabilities().items() if name.endswith("bf16"))


def cpu_has_int8() -> bool:
    """Return whether the CPU has instructions for sums of products of 8 bits. Without them, oneDNN is no faster."""
    return any(has_it for name, has_it in _capabilities().items() if name.endswith("_vnni"))


def int8_fault(network: Network) -> str | None:
    """Return why this machine does not compute a network in 8 bits; None if it does.

    Raises:
        WeightsError: its weights in 8 bits are missing or damaged.
    """
    try:
        open_int8(network)
    except UnusableInt8Error as error:
        return str(error)
    return None


def quickest_precision(network: Network) -> torch.dtype:
    """Return the precision in which the CPU computes a network fastest: float32, bfloat16 or int8.

    The first time, this may take seconds.

    Args:
        network: one that `strips.goes_in_strips` accepts.
    """
    if network.supports_bfloat16 and _capabilities().get("amx_bf16"):
        return torch.bfloat16
    if network.identity not in _found or not network.identity:
        _found[network.identity] = _try(network)
    return _found[network.identity]


def _try(network: Network) -> torch.dtype:
    # From exact to less exact.
    precisions = [torch.float32]
    if network.supports_bfloat16 and cpu_has_bfloat16():
        precisions.append(torch.bfloat16)
    if network.int8_path is not None and cpu_has_int8():
        fault = int8_fault(network)
        if fault is None:
            precisions.append(torch.int8)
        else:
            log.debug("no page in int8: %s", fault)
    if len(precisions) == 1:
        return torch.float32
    # Alternately, so that other work on the machine slows all.
    rounds = [[seconds(network, precision) for precision in precisions] for _ in range(_ROUNDS)]
    chosen, least = torch.float32, min(taken[0] for taken in rounds)
    for index, precision in enumerate(precisions):
        quickest = min(taken[index] for taken in rounds)
        if least >= LEAST_GAIN * quickest:
            chosen, least = precision, quickest
    return chosen


def seconds(network: Network, precision: torch.dtype) -> float:
    """Return the time of a small page in a precision. The first page, which prepares the network, does not count."""
    strips = in_strips(network, precision).eval()
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
