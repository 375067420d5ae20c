"""Resample the output of a network and round it to 8 bits in two kernels, where they prove themselves.

The plain way (`resample.py`) consists of matrix products in float32 and of some ten passes over the numbers. Beside a
small network with fused kernels, that takes about as long as the network.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from comic_upscale.engines.lanczos import Span, input_span, tap_weights
from comic_upscale.engines.torch.device import current_on, release_memory, stream_of
from comic_upscale.engines.torch.network_pass import clip, white
from comic_upscale.engines.torch.proof import (
    Proof,
    Timer,
    draw_window,
    missing_parts,
    time_both,
    time_on_cuda,
)
from comic_upscale.engines.torch.resample import resample

log = logging.getLogger(__name__)

_NATIVE = (513, 387)
"""Height and width of the test window."""
_FACTORS = ((3, 2.5), (4, 2.5), (2, 2.0))
"""Networks and sizes with which the kernels are tried."""
_MOST_LEVELS, _MOST_SHARE, _MOST_MEAN = 1, 0.02, 0.01
"""How far the two ways may differ, since they add the same numbers in another order: levels of a sample, the share of
samples, and levels as a mean."""


class Cell(NamedTuple):
    """What to resample to what; the arguments of `resample`."""

    source_size: tuple[int, int]
    target_size: tuple[int, int]
    origin: tuple[int, int]
    rows: Span
    columns: Span


Way = Callable[[torch.Tensor, Cell, bool], tuple[torch.Tensor, torch.Tensor]]
"""Takes N x C x H x W, not clipped; the cell; and whether the mean of the channels is wanted. Returns uint8,
N x rows x columns x C, and float32, N: a number that is finite if all numbers of a window are."""


def resample_plainly(
    native: torch.Tensor, cell: Cell, mixes: bool, samples: torch.dtype = torch.uint8
) -> tuple[torch.Tensor, torch.Tensor]:
    """Resample by PyTorch's operations, to 8 bits or to 16. ``native`` is changed."""
    native, finite = clip(native, mixes)
    made = resample(native, **cell._asdict())
    made = made.clamp_(0, 1).mul_(white(samples)).round_().to(samples)
    return made.permute(0, 2, 3, 1).contiguous(), finite


def resample_fused(native: torch.Tensor, cell: Cell, mixes: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Do the same in two kernels."""
    # Imported here, so that Triton is imported only where it is used.
    from comic_upscale.engines.torch.kernels import resample_to_bytes

    down, across = tables_of(cell, native.device)
    with current_on(native.device):
        return resample_to_bytes(native, across, down, mixes=mixes)


def tables_of(
    cell: Cell, device: torch.device
) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Return the first input of each output, and the weights from there on, of the rows and of the columns.

    The inputs count from the beginning of the window. Tables are cached for each stream of a GPU, see `stream_of`.
    """
    stream = stream_of(device)
    rows, columns = (
        _table(source, target, outputs, origin, device, stream)
        for source, target, origin, outputs in zip(
            cell.source_size, cell.target_size, cell.origin, (cell.rows, cell.columns), strict=True
        )
    )
    return rows, columns


@functools.lru_cache(maxsize=128)
def _table(
    source: int, target: int, outputs: Span, origin: int, device: torch.device, _stream: int
) -> tuple[torch.Tensor, torch.Tensor]:
    first, weights = tap_weights(source, target, outputs)
    # inference_mode(False), because the tables outlive the call that created them.
    with torch.inference_mode(False):
        return (
            torch.from_numpy((first - origin).astype(np.int32)).to(device),
            torch.from_numpy(np.ascontiguousarray(weights.T)).to(device),
        )


@functools.lru_cache(maxsize=64)
def choose_resampling(device: torch.device) -> tuple[Way | None, Proof]:
    """Return the fused way if it proves itself on this GPU, and why or why not; it is tried once for each GPU."""
    reason = missing_parts(device, torch.float16)
    if reason is not None:
        way, proof = None, Proof(False, reason)
    else:
        way, proof = try_resampling(device, resample_fused, time_on_cuda)
        # What the test took. The first batches measure how much memory a page needs.
        release_memory(device)
    log.debug("%s: %s resampling: %s", device, "plain" if way is None else "fused", proof.reason)
    return way, proof


def try_resampling(device: torch.device, fused: Way, timer: Timer) -> tuple[Way | None, Proof]:
    """Compare a way to resample with the plain one. No error leaves this function.

    Args:
        device: the device.
        fused: the way that must prove itself.
        timer: measures one run.

    Returns:
        The way, or None; and why.
    """
    try:
        proof = _prove(device, fused, timer)
    except Exception as error:
        # Compilers and drivers fail in many ways, and the plain way needs none of what failed.
        proof = Proof(False, f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}")
    return (fused if proof.is_fused else None), proof


def _prove(device: torch.device, fused: Way, timer: Timer) -> Proof:
    page = draw_window(*_NATIVE, 3).repeat(2, 1, 1, 1)
    # The second one has every tone.
    page[1] = (page[1].flip(1) + torch.linspace(0, 1, _NATIVE[1])) / 2
    # A network returns numbers a little beyond the range.
    exact = (page * 1.2 - 0.1).to(device)
    native = exact.to(torch.float16)
    with current_on(device), torch.inference_mode():
        cell = _whole(native, *_FACTORS[0])
        cases = [(native, _whole(native, *each), mixes) for each in _FACTORS for mixes in (False, True)]
        cases += [(exact, cell, False), (*_window(native, cell), False)]
        largest = 0
        for numbers, each, mixes in cases:
            wrong, levels = _compare(
                fused(numbers, each, mixes), resample_plainly(numbers.clone(), each, mixes)
            )
            if wrong is not None:
                return Proof(False, wrong)
            largest = max(largest, levels)
        broken = native.clone()
        broken[1, 2, -1, -1] = float("inf")
        if torch.isfinite(fused(broken, cell, False)[1]).tolist() != [True, False]:
            return Proof(False, "it does not see numbers that are not finite")
        plain_ms, fused_ms = time_both(
            lambda: resample_plainly(native, cell, False), lambda: fused(native, cell, False), timer
        )
    measured = f"it differs by {largest} levels and takes {fused_ms:.2f} ms instead of {plain_ms:.2f} ms"
    return Proof(fused_ms < plain_ms, measured)


def _compare(
    found: tuple[torch.Tensor, torch.Tensor], expected: tuple[torch.Tensor, torch.Tensor]
) -> tuple[str | None, int]:
    """Return what is wrong, None for nothing, and the largest difference in levels."""
    given, right = found[0], expected[0]
    if given.shape != right.shape or given.dtype != right.dtype:
        return f"it returns {given.dtype} {tuple(given.shape)}", 0
    if not bool(torch.isfinite(found[1]).all()):
        return "it takes finite numbers for others", 0
    difference = given.int() - right.int()
    largest, share = int(difference.abs().max()), float((difference != 0).float().mean())
    mean = float(difference.float().mean())
    if largest > _MOST_LEVELS or share > _MOST_SHARE or abs(mean) > _MOST_MEAN:
        return (
            f"it differs by {largest} levels, in {100 * share:.1f} % of the samples, by {mean:.3f} as a mean",
            largest,
        )
    return None, largest


def _window(native: torch.Tensor, cell: Cell) -> tuple[torch.Tensor, Cell]:
    """Return a part of the native pixels, and the cell that they suffice for."""
    rows, columns = (Span(length // 3, 2 * length // 3) for length in cell.target_size)
    down, across = (
        input_span(*lengths)
        for lengths in zip(cell.source_size, cell.target_size, (rows, columns), strict=True)
    )
    window = native[:, :, down.start : down.stop, across.start : across.stop]
    return window, Cell(cell.source_size, cell.target_size, (down.start, across.start), rows, columns)


def _whole(native: torch.Tensor, scale: int, factor: float) -> Cell:
    """Return the cell of a whole page that a network of this scale has made of its source."""
    height, width = native.shape[2:]
    rows, columns = (round(side * factor / scale) for side in (height, width))
    return Cell((height, width), (rows, columns), (0, 0), Span(0, rows), Span(0, columns))
