"""What a processor or a card can compute at most, and what a network asks of it."""

from __future__ import annotations

import time

import torch

_SIDES = (512, 1024, 2048)
_SECONDS = 0.3


def flops(module: torch.nn.Module, height: int, width: int) -> float:
    """Return the floating-point operations of one page: those of its convolutions, counted by torch."""
    from torch.utils.flop_counter import FlopCounterMode

    # Counted on a small page and scaled: convolutions cost by the pixel.
    side = 64
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module.eval()(torch.rand(1, 3, side, side))
    return float(counter.get_total_flops()) * height * width / side**2


def matmul_rate(precision: torch.dtype) -> float:
    """Return operations a second of matrix products on the processor: the best of several sizes."""
    return max(_rate(side, precision) for side in _SIDES)


def _rate(side: int, precision: torch.dtype) -> float:
    one, other = (torch.randn(side, side).to(precision) for _ in range(2))
    if precision == torch.int8:
        result = torch._int_mm(one, other)
        multiply = torch._int_mm
    else:
        result = one @ other
        multiply = torch.mm
    best = float("inf")
    until = time.perf_counter() + _SECONDS
    while time.perf_counter() < until:
        start = time.perf_counter()
        multiply(one, other, out=result)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best
