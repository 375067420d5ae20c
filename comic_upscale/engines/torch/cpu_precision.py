"""The precision that ``auto`` chooses on a CPU for a network that runs in strips.

With AMX, bfloat16 is about three times as fast as float32, and nothing is faster. With AVX512-BF16 alone, or on ARM, it
depends: measured on Intel processors whose AMX is hidden by a virtual machine, bfloat16 takes a third longer. With
VNNI, codes of 8 bits are more than twice as fast. So without AMX, a small page decides.
"""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from comic_upscale.engines.torch.cores import all_threads
from comic_upscale.engines.torch.int8 import int8_fault
from comic_upscale.engines.torch.strips import in_strips
from comic_upscale.models.network import Network

_LEAST_GAIN = 1.2
"""A less exact precision must be this many times as fast. At less, the noise of a busy machine would decide."""
_HOPELESS = 2
"""What takes this many times as long as float32 in the first round is not tried again."""
_ROUNDS = 3
_TRIED = (48, 96)
"""(height, width) of the small page in pixels."""
_X86 = ("x86_64", "amd64")
_found: dict[tuple[str, Path | None], torch.dtype] = {}
"""What was found, by the network's identity and weights in 8 bits: a process computes all pages in one precision."""
_trying = threading.Lock()
"""Held while a network is tried: two at a time would disturb each other."""


def cpu_has_bfloat16() -> bool:
    """Return whether the CPU has instructions for bfloat16. Without them, torch emulates it slowly."""
    return any(has_it for name, has_it in _capabilities().items() if name.endswith("bf16"))


def fastest_precision(network: Network) -> torch.dtype:
    """Return the precision in which this CPU computes a network fastest. The first time, this may take a second.

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
            faster = list(_faster_precisions(network))
            _found[known] = choose(measure(network, faster)) if faster else torch.float32
        return _found[known]


def _faster_precisions(network: Network) -> Iterator[torch.dtype]:
    """Yield what may be faster than float32 here, the most exact first."""
    if network.supports_bfloat16 and cpu_has_bfloat16():
        yield torch.bfloat16
    # On ARM, oneDNN has no fast convolution of 8 bits. It would take seconds to see that.
    if platform.machine().lower() in _X86 and int8_fault(network) is None:
        yield torch.int8


def choose(seconds: Mapping[torch.dtype, float]) -> torch.dtype:
    """Return the precision to compute in.

    Args:
        seconds: of the small page by precision: float32, then the others, the most exact first.
    """
    chosen = torch.float32
    for precision, taken in seconds.items():
        if seconds[chosen] >= _LEAST_GAIN * taken:
            chosen = precision
    return chosen


@torch.inference_mode()
def measure(network: Network, faster: Sequence[torch.dtype]) -> dict[torch.dtype, float]:
    """Return the seconds of a small page on one thread, as pages run: float32 and then the other precisions."""
    page = torch.full((1, network.input_channels, *_TRIED), 0.5)
    quickest: dict[torch.dtype, float] = {}
    with _one_thread():
        runs = {precision: in_strips(network, precision) for precision in (torch.float32, *faster)}
        for run in runs.values():
            # The first page prepares a network.
            run(page)
        # In turns, so that other work on the machine slows all of them.
        for _ in range(_ROUNDS):
            for precision, run in runs.items():
                began = time.perf_counter()
                run(page)
                taken = time.perf_counter() - began
                quickest[precision] = min(taken, quickest.get(precision, taken))
            slowest = _HOPELESS * quickest[torch.float32]
            runs = {precision: run for precision, run in runs.items() if quickest[precision] <= slowest}
    return quickest


@contextmanager
def _one_thread() -> Iterator[None]:
    # Asked first, so that it does not take the one for all there are.
    all_threads()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _capabilities() -> dict[str, object]:
    # Old releases of torch do not report the capabilities of the CPU.
    found: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return found
