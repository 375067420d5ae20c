"""The passes between convolutions as Triton kernels: bias, activation, residuals, enlargement and pixel shuffle.

A convolution of cuDNN writes its result, then PyTorch adds the bias in one pass over memory and applies the activation
in another. These passes take longer than the convolutions of a compact network. Here both are one pass.

Every tensor of N x C x H x W has the memory format channels-last: in memory it is a row of pixels, each with its C
channels. So a kernel goes over that row, and the channel of an element is its position modulo C. All arithmetic is
float32; a result is rounded once, when it is stored. Positions in tensors are 64-bit, because batches of RRDB networks
approach 2^31 elements.

Importing this module imports Triton. Only `proof` decides whether it is imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import torch
import triton
import triton.language as tl

_BLOCK = 2048
"""Elements of one program: with 128 threads, 16 per thread, in two vectors of 8 for 16-bit numbers."""
_COLUMNS = 512
"""Native columns of one program of the pixel shuffle."""
_LINES, _ACROSS = 8, 128
"""Rows and columns of one program of the resampling. Rows share the weights of their columns."""
_MOST_PARTS = 5


@triton.jit
def _activate(values, bias, slope, total, channels: tl.constexpr, common: tl.constexpr, block: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * block
    steps = tl.arange(0, block)
    inside = start + steps < total
    # The compiler does not find this divisor by itself, and without it reads numbers one by one.
    channel = (tl.multiple_of((start % channels).to(tl.int32), common) + steps) % channels
    value = tl.load(values + start + steps, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(bias + channel).to(tl.float32)
    # A NaN is not above 0, and stays a NaN.
    value = tl.where(value > 0, value, value * tl.load(slope + channel).to(tl.float32))
    tl.store(values + start + steps, value.to(values.dtype.element_ty), mask=inside)


@triton.jit
def _read_part(part, first, pixel, channel, inside, width: tl.constexpr, ahead: tl.constexpr):
    place = pixel * width + (width - ahead + channel)
    return tl.load(part + first * width + place, mask=inside, other=0.0).to(tl.float32)


# Parts one by one, because Triton before 3.3 takes no tuples.
@triton.jit
def _join(
    part_0,
    part_1,
    part_2,
    part_3,
    part_4,
    bias,
    slope,
    near,
    far,
    out,
    scale,
    total,
    width_0: tl.constexpr,
    width_1: tl.constexpr,
    width_2: tl.constexpr,
    width_3: tl.constexpr,
    width_4: tl.constexpr,
    ahead: tl.constexpr,
    channels: tl.constexpr,
    residuals: tl.constexpr,
    common: tl.constexpr,
    block: tl.constexpr,
):
    start = tl.program_id(0).to(tl.int64) * block
    steps = tl.arange(0, block)
    inside = start + steps < total
    # The first pixel of the block is 64-bit. The pixels after it are counted from there, in 32 bits.
    first = start // channels
    # The compiler does not find this divisor by itself, and without it reads numbers one by one.
    place = tl.multiple_of((start % channels).to(tl.int32), common) + steps
    pixel = place // channels
    channel = place % channels
    value = _read_part(part_0, first, pixel, channel, inside, width_0, ahead)
    if width_1 > 0:
        value += _read_part(part_1, first, pixel, channel, inside, width_1, ahead)
    if width_2 > 0:
        value += _read_part(part_2, first, pixel, channel, inside, width_2, ahead)
    if width_3 > 0:
        value += _read_part(part_3, first, pixel, channel, inside, width_3, ahead)
    if width_4 > 0:
        value += _read_part(part_4, first, pixel, channel, inside, width_4, ahead)
    value += tl.load(bias + channel).to(tl.float32)
    if residuals == 0:
        value = tl.where(value > 0, value, value * tl.load(slope + channel).to(tl.float32))
    if residuals > 0:
        value = value * scale + tl.load(near + start + steps, mask=inside, other=0.0).to(tl.float32)
    if residuals > 1:
        value = value * scale + tl.load(far + start + steps, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + start + steps, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _enlarge(
    values,
    bias,
    slope,
    near,
    out,
    columns,
    channels: tl.constexpr,
    factor: tl.constexpr,
    adds: tl.constexpr,
    block: tl.constexpr,
):
    # One program is a part of one row of one page.
    row = tl.program_id(0).to(tl.int64)
    length = columns * channels
    place = tl.program_id(1) * block + tl.arange(0, block)
    inside = place < length
    channel = place % channels
    column = place // channels
    value = tl.load(values + row * length + place, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(bias + channel).to(tl.float32)
    if adds:
        value += tl.load(near + row * length + place, mask=inside, other=0.0).to(tl.float32)
    else:
        value = tl.where(value > 0, value, value * tl.load(slope + channel).to(tl.float32))
    rounded = value.to(out.dtype.element_ty)
    for down in tl.static_range(factor):
        target = out + (row * factor + down) * length * factor
        for right in tl.static_range(factor):
            tl.store(target + ((column * factor + right) * channels + channel), rounded, mask=inside)


@triton.jit
def _shuffle(
    made,
    bias,
    base,
    out,
    rows,
    columns,
    depth: tl.constexpr,
    channels: tl.constexpr,
    factor: tl.constexpr,
    adds: tl.constexpr,
    block: tl.constexpr,
):
    # One program is a part of one row of one page. It reads every channel of its pixels, so that the lines which one
    # channel brought into the cache serve the others.
    row = tl.program_id(0).to(tl.int64)
    page = row // rows
    line = row % rows
    place = tl.program_id(1) * block + tl.arange(0, block)
    inside = place < columns * factor
    column = place // factor
    right = place % factor
    pixels = made + row * columns * depth
    for channel in tl.static_range(channels):
        if adds:
            under = tl.load(
                base + row * columns * channels + (column * channels + channel), mask=inside, other=0.0
            ).to(tl.float32)
        for down in tl.static_range(factor):
            source = (channel * factor + down) * factor + right
            value = tl.load(pixels + (column * depth + source), mask=inside, other=0.0).to(tl.float32)
            value += tl.load(bias + source).to(tl.float32)
            if adds:
                value += under
            target = out + ((page * channels + channel) * rows * factor + line * factor + down) * (
                columns * factor
            )
            tl.store(target + place, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _across(
    native,
    out,
    marks,
    first,
    weights,
    count,
    rows,
    columns,
    wide,
    channels: tl.constexpr,
    mixed: tl.constexpr,
    taps: tl.constexpr,
    lines: tl.constexpr,
    block: tl.constexpr,
):
    # One program is a part of some rows, each of one channel of the result, of one page.
    row = tl.program_id(0).to(tl.int64) * lines + tl.arange(0, lines)
    plane = row // rows
    page = plane // channels
    source = native + (plane * mixed * rows + row % rows) * columns
    place = tl.program_id(1) * block + tl.arange(0, block)
    inside = (row < count)[:, None] & (place < wide)[None, :]
    start = tl.load(first + place, mask=place < wide, other=0)
    total = tl.zeros((lines, block), tl.float32)
    # Of numbers that are not finite, 0 times them is NaN.
    wrong = tl.zeros((lines, block), tl.float32)
    for tap in range(taps):
        # Past the end of the axis the weight is 0.
        column = tl.minimum(start + tap, columns - 1)
        level = tl.zeros((lines, block), tl.float32)
        for other in tl.static_range(mixed):
            place_there = (source + other * rows * columns)[:, None] + column[None, :]
            value = tl.load(place_there, mask=inside, other=0.0).to(tl.float32)
            wrong += value * 0.0
            level += tl.minimum(tl.maximum(value, 0.0), 1.0)
        weight = tl.load(weights + tap * wide + place, mask=place < wide, other=0.0)
        total += weight[None, :] * (level / mixed)
    # Pillow stores 8 bits between the passes. Without clipping, hard edges would differ.
    total = tl.minimum(tl.maximum(total, 0.0), 1.0)
    tl.store(out + row[:, None] * wide + place[None, :], total, mask=inside)
    found = tl.sum(wrong, axis=1)
    tl.atomic_add(marks + page, found, mask=(found != found) & (row < count))


@triton.jit
def _down(
    middle,
    out,
    first,
    weights,
    count,
    rows,
    tall,
    wide,
    channels: tl.constexpr,
    taps: tl.constexpr,
    lines: tl.constexpr,
    block: tl.constexpr,
):
    # One program is a part of some rows of the result, with all channels.
    row = tl.program_id(0).to(tl.int64) * lines + tl.arange(0, lines)
    page = row // tall
    line = row % tall
    place = tl.program_id(1) * block + tl.arange(0, block)
    inside = (row < count)[:, None] & (place < wide)[None, :]
    start = tl.load(first + line)
    for channel in tl.static_range(channels):
        plane = middle + (page * channels + channel) * rows * wide
        total = tl.zeros((lines, block), tl.float32)
        for tap in range(taps):
            source = tl.minimum(start + tap, rows - 1).to(tl.int64)
            value = tl.load((plane + source * wide)[:, None] + place[None, :], mask=inside, other=0.0)
            total += tl.load(weights + tap * tall + line)[:, None] * value
        level = tl.minimum(tl.maximum(total, 0.0), 1.0) * 255.0
        target = out + (row * wide)[:, None] * channels + (place * channels + channel)[None, :]
        tl.store(target, tl.floor(level + 0.5).to(tl.uint8), mask=inside)


def resample_to_bytes(
    native: torch.Tensor,
    across: tuple[torch.Tensor, torch.Tensor],
    down: tuple[torch.Tensor, torch.Tensor],
    *,
    mixes: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Resample windows of the output of a network, and round them to 8 bits.

    Args:
        native: N x C x H x W, any strides; clipped to 0..1.
        across: for each column of the result the first column that it uses, int32, and float32 taps x columns: the
            weights of the columns from there on; 0 past the last.
        down: the same for its rows.
        mixes: whether the mean of the channels is one channel of the result.

    Returns:
        uint8, N x rows x columns x C; and float32, N: NaN for a window with numbers that are not finite, otherwise 0.
    """
    n, channels, height, width = native.shape
    mixed = channels if mixes else 1
    channels //= mixed
    wide, tall = len(across[0]), len(down[0])
    middle = torch.empty((n, channels, height, wide), dtype=torch.float32, device=native.device)
    out = torch.empty((n, tall, wide, channels), dtype=torch.uint8, device=native.device)
    marks = torch.zeros(n, dtype=torch.float32, device=native.device)
    parts = triton.cdiv(wide, _ACROSS)
    count = n * channels * height
    _across[(triton.cdiv(count, _LINES), parts)](
        native.contiguous(),
        middle,
        marks,
        *across,
        count,
        height,
        width,
        wide,
        channels=channels,
        mixed=mixed,
        taps=len(across[1]),
        lines=_LINES,
        block=_ACROSS,
    )
    count = n * tall
    _down[(triton.cdiv(count, _LINES), parts)](
        middle,
        out,
        *down,
        count,
        height,
        tall,
        wide,
        channels=channels,
        taps=len(down[1]),
        lines=_LINES,
        block=_ACROSS,
    )
    return out, marks


def activate(values: torch.Tensor, bias: torch.Tensor, slope: torch.Tensor) -> None:
    """Add the bias and apply a PReLU, in place.

    Args:
        values: N x C x H x W, channels-last.
        bias: C.
        slope: C, the factors for numbers below 0: 0 for a ReLU, all equal for a LeakyReLU.
    """
    _check(values)
    total = values.numel()
    _activate[(triton.cdiv(total, _BLOCK),)](
        values,
        bias,
        slope,
        total,
        channels=values.shape[1],
        common=gcd(values.shape[1], _BLOCK),
        block=_BLOCK,
    )


def join(
    parts: Sequence[torch.Tensor],
    bias: torch.Tensor,
    *,
    slope: torch.Tensor | None = None,
    near: torch.Tensor | None = None,
    far: torch.Tensor | None = None,
    scale: float = 1.0,
) -> torch.Tensor:
    """Add up a run of channels of each part, and a bias: ``prelu(sum)``, or ``sum * scale + near``, channels-last.

    With ``far``, the result is ``(sum * scale + near) * scale + far``.

    Args:
        parts: one to five, each N x P x H x W, channels-last. The parts end with the same channels, and the last part
            has the fewest. The runs begin where the last part begins.
        bias: C, the length of a run.
        slope: C, as in `activate`; None to add ``near``.
        near: N x C x H x W, channels-last; None to use ``slope``.
        far: as ``near``; None for no second residual.
        scale: the factor of the residuals.
    """
    if (slope is None) == (near is None) or (near is None and far is not None):
        raise ValueError("there must be either a slope, or one or two residuals")
    residuals = [each for each in (near, far) if each is not None]
    _check(*parts, *residuals)
    widths, channels = [part.shape[1] for part in parts], len(bias)
    if not channels <= widths[-1] == min(widths):
        raise ValueError(f"parts of {widths} channels, of which {channels} are to be joined")
    if any(each.shape[1] != channels for each in residuals):
        raise ValueError("a residual has other channels than the bias")
    n, _, height, width = parts[0].shape
    out = _empty(parts[0], (n, channels, height, width))
    total = out.numel()
    absent = _MOST_PARTS - len(parts)
    # The kernel does not read what there is not. It needs some tensor in each place.
    _join[(triton.cdiv(total, _BLOCK),)](
        *parts,
        *[out] * absent,
        bias,
        bias if slope is None else slope,
        out if near is None else near,
        out if far is None else far,
        out,
        scale,
        total,
        *widths,
        *[0] * absent,
        ahead=widths[-1],
        channels=channels,
        residuals=len(residuals),
        common=gcd(channels, _BLOCK),
        block=_BLOCK,
    )
    return out


def enlarge(
    values: torch.Tensor,
    bias: torch.Tensor,
    factor: int,
    *,
    slope: torch.Tensor | None = None,
    near: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return ``prelu(values + bias)``, or ``values + bias + near``, enlarged to nearest neighbours, channels-last.

    Args:
        values: N x C x H x W, channels-last.
        bias: C.
        factor: the enlargement, at least 1.
        slope: C, as in `activate`; None to add ``near``.
        near: as ``values``; None to use ``slope``.
    """
    _check(values, *(() if near is None else (near,)))
    n, channels, height, width = values.shape
    out = _empty(values, (n, channels, height * factor, width * factor))
    _enlarge[(n * height, triton.cdiv(width * channels, _BLOCK))](
        values,
        bias,
        bias if slope is None else slope,
        values if near is None else near,
        out,
        width,
        channels=channels,
        factor=factor,
        adds=near is not None,
        block=_BLOCK,
    )
    return out


def shuffle(
    made: torch.Tensor, bias: torch.Tensor, channels: int, factor: int, base: torch.Tensor | None = None
) -> torch.Tensor:
    """Return ``pixel_shuffle(made + bias, factor) + enlarged base``, contiguous: N x channels x H*factor x W*factor.

    Args:
        made: N x D x H x W, channels-last; D is at least ``channels * factor * factor``, and channels after these are
            not read.
        bias: D.
        channels: of the result.
        factor: the enlargement; 1 for none.
        base: N x channels x H x W, channels-last; None for none.
    """
    _check(made, *(() if base is None else (base,)))
    n, depth, height, width = made.shape
    out = torch.empty((n, channels, height * factor, width * factor), dtype=made.dtype, device=made.device)
    _shuffle[(n * height, triton.cdiv(width * factor, _COLUMNS))](
        made,
        bias,
        made if base is None else base,
        out,
        height,
        width,
        depth=depth,
        channels=channels,
        factor=factor,
        adds=base is not None,
        block=_COLUMNS,
    )
    return out


def _check(first: torch.Tensor, *others: torch.Tensor) -> None:
    """Refuse what the kernels would read wrongly: other memory formats, types and sizes."""
    for tensor in (first, *others):
        if not tensor.is_contiguous(memory_format=torch.channels_last):
            raise ValueError(f"a tensor of strides {tensor.stride()} is not channels-last")
        if tensor.dtype != first.dtype or (tensor.shape[0], *tensor.shape[2:]) != (
            first.shape[0],
            *first.shape[2:],
        ):
            raise ValueError(
                f"{tensor.dtype} {tuple(tensor.shape)} beside {first.dtype} {tuple(first.shape)}"
            )


def _empty(like: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
