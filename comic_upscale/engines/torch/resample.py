"""Antialiased Lanczos-3 to an exact size, on the device that has the pixels. Equals Pillow within one gray level.

Resampling one axis is a product with a banded matrix: an output pixel uses only the few inputs around its position.
The matrix is applied in blocks of output pixels. Each block is a small dense matrix over a short run of inputs. So the
work grows with the sides of the page and not with their squares, and still consists of matrix products. The
coefficients are those of the whole axis, wherever the block is, so the cells of a tiled page meet without a seam.

As in Pillow, the horizontal pass comes first, and samples are clipped to their range between the passes. There are two
differences. Samples are not rounded between the passes; on pure black-and-white noise this adds up to a second gray
level in places. And Pillow 13 reverses the order if the height shrinks much more than the width, which does not happen
to a page that keeps its proportions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch

from comic_upscale.engines.lanczos import Span, dense_weights, input_span
from comic_upscale.engines.torch.device import stream_of


@dataclass(frozen=True, slots=True)
class BlockLengths:
    """Output pixels of one block."""

    across: int
    """Along the width."""
    down: int
    """Along the height."""


CPU_BLOCKS = BlockLengths(across=32, down=16)
"""Few, so that a block contains few zeros. Across, where they are columns of the product, fewer are slower."""
GPU_BLOCKS = BlockLengths(across=128, down=128)
"""Enough work for a kernel launch."""
_ALIGNED = 64
"""Numbers of 4 bytes: tensors begin at multiples of 256 bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class AxisBlock:
    """The coefficients of a run of outputs: ``output[outputs] = weights @ input[inputs]``."""

    outputs: Span
    """The outputs, in pixels of the whole target axis."""
    inputs: Span
    """The inputs that they need, in pixels of the whole source axis."""
    weights: torch.Tensor
    """float32, ``outputs.length x inputs.length``; each row sums to 1."""


def axis_blocks(
    in_size: int, out_size: int, outputs: Span, device: torch.device, block: int
) -> tuple[AxisBlock, ...]:
    """Return the coefficients of the outputs in blocks, in order, on the device.

    Results are cached for each stream of a GPU, see `stream_of`.

    Args:
        in_size: pixels of the whole source axis, at least 1.
        out_size: pixels of the whole target axis, at least 1.
        outputs: a run within ``[0, out_size)``, not empty.
        device: the device for the weights.
        block: outputs of one block, at least 1.
    """
    return _cached_blocks(in_size, out_size, outputs, str(device), block, stream_of(device))


def resample(
    pixels: torch.Tensor,
    *,
    source_size: tuple[int, int],
    target_size: tuple[int, int],
    origin: tuple[int, int] = (0, 0),
    rows: Span | None = None,
    columns: Span | None = None,
) -> torch.Tensor:
    """Resample a window of an image to a cell of the target, as if the whole image were resampled.

    Args:
        pixels: float, N x C x height x width, values 0..1, any memory format: the window.
        source_size: (height, width) of the whole source in pixels.
        target_size: (height, width) of the whole target in pixels.
        origin: (row, column) of the window's first pixel in the whole source.
        rows: rows of the target to compute; None for all. The window must contain their ``input_span``.
        columns: the same for columns.

    Returns:
        float32, N x C x ``rows`` x ``columns``, contiguous; a little outside 0..1 where Lanczos overshoots.

    Raises:
        ValueError: the window does not contain every pixel that the cell needs.
    """
    (source_h, source_w), (target_h, target_w) = source_size, target_size
    rows = rows or Span(0, target_h)
    columns = columns or Span(0, target_w)
    # Only the rows that the second pass reads go through the first.
    needed = _within(input_span(source_h, target_h, rows), origin[0], pixels.shape[2])
    seen = _within(input_span(source_w, target_w, columns), origin[1], pixels.shape[3])
    # With this contiguous float32 copy, every block is one plain matrix product.
    picture = pixels[:, :, needed.start : needed.stop, seen.start : seen.stop].to(torch.float32).contiguous()
    lengths = _block_lengths(picture.device)
    if source_w != target_w:
        blocks = axis_blocks(source_w, target_w, columns, picture.device, lengths.across)
        # Pillow stores 8 bits between the passes. Without clipping, hard edges would differ.
        picture = _horizontal(picture, blocks, origin[1] + seen.start).clamp_(0, 1)
    if source_h != target_h:
        blocks = axis_blocks(source_h, target_h, rows, picture.device, lengths.down)
        picture = _vertical(picture, blocks, origin[0] + needed.start)
    return picture


def prepare_resample(
    source_size: tuple[int, int],
    target_size: Sequence[int],
    rows: Span,
    columns: Span,
    device: torch.device,
) -> None:
    """Put the coefficients that `resample` needs for a cell on the device; arguments as there."""
    lengths = _block_lengths(device)
    axes = zip(source_size, target_size, (rows, columns), (lengths.down, lengths.across), strict=True)
    for source, target, outputs, block in axes:
        if source != target:
            axis_blocks(source, target, outputs, device, block)


def _horizontal(picture: torch.Tensor, blocks: tuple[AxisBlock, ...], first: int) -> torch.Tensor:
    """Apply the blocks along the width of a contiguous image whose first column is column ``first``."""
    n, channels, height, width = picture.shape
    start = blocks[0].outputs.start
    result = picture.new_empty((n * channels * height, blocks[-1].outputs.stop - start))
    flat = picture.view(n * channels * height, width)
    for block in blocks:
        source = flat[:, block.inputs.start - first : block.inputs.stop - first]
        out = result[:, block.outputs.start - start : block.outputs.stop - start]
        _multiply_into(out, torch.mm, source, block.weights.T)
    return result.view(n, channels, height, -1)


def _vertical(picture: torch.Tensor, blocks: tuple[AxisBlock, ...], first: int) -> torch.Tensor:
    """Apply the blocks along the height of a contiguous image whose first row is row ``first``."""
    n, channels, height, width = picture.shape
    start = blocks[0].outputs.start
    result = picture.new_empty((n * channels, blocks[-1].outputs.stop - start, width))
    flat = picture.view(n * channels, height, width)
    for block in blocks:
        source = flat[:, block.inputs.start - first : block.inputs.stop - first]
        out = result[:, block.outputs.start - start : block.outputs.stop - start]
        _multiply_into(out, torch.bmm, block.weights.expand(n * channels, -1, -1), source)
    return result.view(n, channels, -1, width)


def _multiply_into(
    out: torch.Tensor, multiply: Callable[..., torch.Tensor], left: torch.Tensor, right: torch.Tensor
) -> None:
    """Write a product into a slice of a tensor."""
    if _writes_into_slices(out.device):
        multiply(left, right, out=out)
    else:
        out.copy_(multiply(left, right))


def _writes_into_slices(device: torch.device) -> bool:
    """Return whether products arrive in a slice that is given as ``out``.

    On MPS they do not with macOS 14: the slice keeps what was in the memory before.
    """
    return device.type != "mps"


def _within(needed: Span, origin: int, length: int) -> Span:
    """Translate a run of the whole axis into a window; refuse a run that is not inside."""
    moved = Span(needed.start - origin, needed.stop - origin)
    if moved.start < 0 or moved.stop > length:
        raise ValueError(
            f"the window [{origin}, {origin + length}) does not contain the inputs {tuple(needed)}"
        )
    return moved


def _block_lengths(device: torch.device) -> BlockLengths:
    return CPU_BLOCKS if device.type == "cpu" else GPU_BLOCKS


@lru_cache(maxsize=128)
def _cached_blocks(
    in_size: int, out_size: int, outputs: Span, device: str, block: int, stream: int
) -> tuple[AxisBlock, ...]:
    del stream  # only a part of the key
    # Even blocks, because a short last block would be an inefficient product.
    count = math.ceil(outputs.length / block)
    cuts = [outputs.start + outputs.length * index // count for index in range(count + 1)]
    spans = [Span(*cut) for cut in pairwise(cuts)]
    inputs, weights = zip(*(dense_weights(in_size, out_size, span) for span in spans), strict=True)
    # In one copy: a device waits for each. Each block begins where a tensor of its own would, for the quickest kernels.
    padded = [np.pad(each.ravel(), (0, -each.size % _ALIGNED)) for each in weights]
    # inference_mode(False), because the blocks outlive the call that created them.
    with torch.inference_mode(False):
        on_device = torch.from_numpy(np.concatenate(padded)).to(device)
        parts = torch.split(on_device, [each.size for each in padded])
    return tuple(
        AxisBlock(span, seen, part[: each.size].view(each.shape))
        for span, seen, part, each in zip(spans, inputs, parts, weights, strict=True)
    )
