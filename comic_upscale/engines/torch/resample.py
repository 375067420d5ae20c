"""Antialiased Lanczos-3 to an exact size, on the device that holds the pixels: Pillow's within a grey level.

Resampling one axis is a product with a banded matrix: an output pixel sees only the few inputs around
its place. The matrix is applied in blocks of output pixels, each block a small dense matrix over a short
run of inputs, so that the work grows with the page's sides, not with their squares, and still runs as
matrix products. Coefficients are those of the whole axis wherever the block lies, so that the cells of
a tiled page meet without a seam.

As in Pillow, the horizontal pass comes first, and between the passes samples are cut to their range.
Two things differ: samples are not rounded between the passes, which on pure black-and-white noise adds
up to a second grey level in places; and Pillow 13 turns the order round where the height shrinks much more
than the width, which no page does that keeps its shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch

from comic_upscale.engines.lanczos import Span, dense_weights, input_span

CPU_BLOCK = 16
"""Output pixels of one block on a CPU: few, so that little of a block is zeros."""
GPU_BLOCK = 128
"""Output pixels of one block on an accelerator: large enough that a launch has work."""


@dataclass(frozen=True, slots=True, eq=False)
class AxisBlock:
    """The coefficients of a run of outputs: ``output[outputs] = weights @ input[inputs]``."""

    outputs: Span
    """The outputs made, in pixels of the whole target axis."""
    inputs: Span
    """The inputs that they need, in pixels of the whole source axis."""
    weights: torch.Tensor
    """float32, ``outputs.length x inputs.length``, each row of sum 1."""


def axis_blocks(
    in_size: int, out_size: int, outputs: Span, device: torch.device, block: int | None = None
) -> tuple[AxisBlock, ...]:
    """Return the coefficients of the outputs in blocks, in order, on the device; calls repeat for free.

    Args:
        in_size: pixels of the whole source axis, at least 1.
        out_size: pixels of the whole target axis, at least 1.
        outputs: a run within ``[0, out_size)``, not empty.
        device: where the weights shall lie.
        block: outputs of one block; None for what suits the device.
    """
    return _cached_blocks(in_size, out_size, outputs, str(device), block or _block_length(device))


def resample(
    pixels: torch.Tensor,
    *,
    source_size: tuple[int, int],
    target_size: tuple[int, int],
    origin: tuple[int, int] = (0, 0),
    rows: Span | None = None,
    columns: Span | None = None,
) -> torch.Tensor:
    """Resample a window of a picture to a cell of the target, as if the whole picture were resampled.

    Args:
        pixels: float, N x C x height x width, values 0..1, any memory format: the window.
        source_size: (height, width) of the whole source in pixels.
        target_size: (height, width) of the whole target in pixels.
        origin: (row, column) of the window's first pixel in the whole source.
        rows: rows of the target to make; None for all. The window must hold ``input_span`` of them.
        columns: likewise the columns.

    Returns:
        float32, N x C x ``rows`` x ``columns``, contiguous; a little outside 0..1 where Lanczos overshoots.

    Raises:
        ValueError: the window does not hold every pixel that the cell needs.
    """
    (source_h, source_w), (target_h, target_w) = source_size, target_size
    rows = rows or Span(0, target_h)
    columns = columns or Span(0, target_w)
    # Only the rows that the second pass will read go through the first.
    needed = _within(input_span(source_h, target_h, rows), origin[0], pixels.shape[2])
    seen = _within(input_span(source_w, target_w, columns), origin[1], pixels.shape[3])
    # The float32 and contiguous copy, made once here, is what lets every block be one plain matrix product.
    picture = pixels[:, :, needed.start : needed.stop, seen.start : seen.stop].to(torch.float32).contiguous()
    if source_w != target_w:
        blocks = axis_blocks(source_w, target_w, columns, picture.device)
        # Pillow holds 8 bits between the passes, hence the cut: without it hard edges would differ.
        picture = _horizontal(picture, blocks, origin[1] + seen.start).clamp_(0, 1)
    if source_h != target_h:
        blocks = axis_blocks(source_h, target_h, rows, picture.device)
        picture = _vertical(picture, blocks, origin[0] + needed.start)
    return picture


def prepare_resample(
    source_size: tuple[int, int],
    target_size: Sequence[int],
    rows: Span,
    columns: Span,
    device: torch.device,
) -> None:
    """Have the coefficients that `resample` will want for a cell on the device; arguments as there."""
    for source, target, outputs in zip(source_size, target_size, (rows, columns), strict=True):
        if source != target:
            axis_blocks(source, target, outputs, device)


def _horizontal(picture: torch.Tensor, blocks: tuple[AxisBlock, ...], first: int) -> torch.Tensor:
    """Apply the blocks along the width of a contiguous picture whose first column is column ``first``."""
    n, channels, height, width = picture.shape
    start = blocks[0].outputs.start
    result = picture.new_empty((n * channels * height, blocks[-1].outputs.stop - start))
    flat = picture.view(n * channels * height, width)
    for block in blocks:
        source = flat[:, block.inputs.start - first : block.inputs.stop - first]
        out = result[:, block.outputs.start - start : block.outputs.stop - start]
        torch.mm(source, block.weights.T, out=out)
    return result.view(n, channels, height, -1)


def _vertical(picture: torch.Tensor, blocks: tuple[AxisBlock, ...], first: int) -> torch.Tensor:
    """Apply the blocks along the height of a contiguous picture whose first row is row ``first``."""
    n, channels, height, width = picture.shape
    start = blocks[0].outputs.start
    result = picture.new_empty((n * channels, blocks[-1].outputs.stop - start, width))
    flat = picture.view(n * channels, height, width)
    for block in blocks:
        source = flat[:, block.inputs.start - first : block.inputs.stop - first]
        out = result[:, block.outputs.start - start : block.outputs.stop - start]
        torch.bmm(block.weights.expand(n * channels, -1, -1), source, out=out)
    return result.view(n, channels, -1, width)


def _within(needed: Span, origin: int, length: int) -> Span:
    """Move a run of the whole axis into a window of it, and refuse one that is not inside."""
    moved = Span(needed.start - origin, needed.stop - origin)
    if moved.start < 0 or moved.stop > length:
        raise ValueError(f"the window [{origin}, {origin + length}) does not hold the inputs {tuple(needed)}")
    return moved


def _block_length(device: torch.device) -> int:
    return CPU_BLOCK if device.type == "cpu" else GPU_BLOCK


@lru_cache(maxsize=128)
def _cached_blocks(
    in_size: int, out_size: int, outputs: Span, device: str, block: int
) -> tuple[AxisBlock, ...]:
    # Even blocks: a short last one would be a product of a bad shape.
    count = math.ceil(outputs.length / block)
    cuts = [outputs.start + outputs.length * index // count for index in range(count + 1)]
    return tuple(_dense_block(in_size, out_size, Span(*cut), device) for cut in pairwise(cuts))


def _dense_block(in_size: int, out_size: int, outputs: Span, device: str) -> AxisBlock:
    inputs, weights = dense_weights(in_size, out_size, outputs)
    # inference_mode(False): the blocks outlive the call that made them.
    with torch.inference_mode(False):
        return AxisBlock(outputs, inputs, torch.from_numpy(weights).to(device))
