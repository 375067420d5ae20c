"""The fused kernels in Triton's interpreter, against PyTorch's own layers.

`test_fused.py` runs this file in a process of its own: the interpreter must be chosen before Triton is imported.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from spandrel.architectures.Compact import Compact
from spandrel.architectures.ESRGAN import ESRGAN
from torch.nn import functional

from comic_upscale.engines.lanczos import Span, input_span
from comic_upscale.engines.torch import fused_resample, kernels, proof
from comic_upscale.engines.torch.fused import FusedCompact, NotFusableError, fuse
from comic_upscale.engines.torch.fused_resample import (
    Cell,
    resample_fused,
    resample_plainly,
    try_resampling,
)
from comic_upscale.engines.torch.proof import build_fused, draw_window, try_way
from comic_upscale.models.network import Network
from tests.conftest import LONG, pairs

LAST = torch.channels_last
CPU = torch.device("cpu")
HALVES = [torch.float32, torch.float16]


def _draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> torch.Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return drawn.contiguous(memory_format=LAST) if len(shape) == 4 else drawn


def _as_stored(exact: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return exact.to(dtype)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    pairs([(1, 32, 5, 7), (2, 64, 9, 3), (3, 27, 5, 11), (1, 48, 13, 9), (2, 1, 1, 1)], HALVES),
)
def test_bias_and_prelu_in_place(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    channels = shape[1]
    values = _draw(*shape, dtype=dtype)
    bias, slope = _draw(channels, dtype=dtype, seed=2), _draw(channels, dtype=dtype, seed=3)
    expected = functional.prelu(values.float() + bias.float()[:, None, None], slope.float())
    kernels.activate(values, bias, slope)
    assert values.is_contiguous(memory_format=LAST)
    torch.testing.assert_close(values, _as_stored(expected, dtype), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_numbers_that_are_not_finite_stay_so() -> None:
    values = torch.tensor([math.nan, math.inf, -math.inf, 65000.0], dtype=torch.float16)[None, :, None, None]
    values = values.contiguous(memory_format=LAST)
    kernels.activate(values, torch.tensor([0.0, 1.0, 1.0, 1000.0]).half(), torch.full((4,), 0.2).half())
    found = values.flatten().tolist()
    assert math.isnan(found[0])
    assert found[1:] == [math.inf, -math.inf, math.inf]


def _draw_parts(count: int, channels: int, dtype: torch.dtype) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return parts of different widths, and the sum of their channels from where the last part begins."""
    last = channels + 5
    widths = [last + 7 * index for index in reversed(range(count))]
    parts = [_draw(2, width, 5, 7, dtype=dtype, seed=width) for width in widths]
    runs = [part[:, part.shape[1] - last :][:, :channels].double() for part in parts]
    return parts, torch.stack(runs).sum(0)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("count", "channels"), [(1, 32), (2, 32), (3, 24), (4, 32), (5, 64)])
def test_joined_parts_and_prelu(count: int, channels: int, dtype: torch.dtype) -> None:
    parts, summed = _draw_parts(count, channels, dtype)
    bias, slope = _draw(channels, dtype=dtype, seed=12), _draw(channels, dtype=dtype, seed=13)
    summed = summed + bias.double()[:, None, None]
    expected = torch.where(summed > 0, summed, summed * slope.double()[:, None, None])
    found = kernels.join(parts, bias, slope=slope)
    assert found.is_contiguous(memory_format=LAST) and found.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-3
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("has_far", [False, True])
@pytest.mark.parametrize("count", [1, 5])
def test_joined_parts_and_residuals(count: int, has_far: bool, dtype: torch.dtype) -> None:
    parts, summed = _draw_parts(count, 32, dtype)
    near = _draw(2, 32, 5, 7, dtype=dtype, seed=14)
    far = _draw(2, 32, 5, 7, dtype=dtype, seed=15) if has_far else None
    bias = _draw(32, dtype=dtype, seed=16)
    expected = (summed + bias.double()[:, None, None]) * 0.2 + near.double()
    if far is not None:
        expected = expected * 0.2 + far.double()
    found = kernels.join(parts, bias, near=near, far=far, scale=0.2)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-3
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("factor", "dtype"), pairs([1, 2, 3], HALVES))
def test_enlargement(factor: int, dtype: torch.dtype) -> None:
    values, near = _draw(2, 16, 5, 7, dtype=dtype), _draw(2, 16, 5, 7, dtype=dtype, seed=2)
    bias, slope = _draw(16, dtype=dtype, seed=3), _draw(16, dtype=dtype, seed=5)
    summed = values.float() + bias.float()[:, None, None]
    for found, expected in (
        (kernels.enlarge(values, bias, factor, slope=slope), functional.prelu(summed, slope.float())),
        (kernels.enlarge(values, bias, factor, near=near), summed + near.float()),
    ):
        expected = functional.interpolate(expected.to(dtype), scale_factor=factor, mode="nearest")
        assert found.is_contiguous(memory_format=LAST)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("shape", "dtype"), pairs([(3, 3, 27), (3, 3, 32), (3, 4, 48), (1, 2, 8), (3, 1, 8)], HALVES)
)
def test_pixel_shuffle_and_base(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    channels, factor, depth = shape
    made, base = _draw(2, depth, 3, 7, dtype=dtype), _draw(2, channels, 3, 7, dtype=dtype, seed=2)
    bias = _draw(depth, dtype=dtype, seed=3)
    used = (made.float() + bias.float()[:, None, None])[:, : channels * factor**2]
    shuffled = functional.pixel_shuffle(used, factor)
    enlarged = functional.interpolate(base.float(), scale_factor=factor, mode="nearest")
    found = kernels.shuffle(made, bias, channels, factor, base)
    assert found.is_contiguous()
    torch.testing.assert_close(found, (shuffled + enlarged).to(dtype), rtol=0, atol=0)
    torch.testing.assert_close(
        kernels.shuffle(made, bias, channels, factor), shuffled.to(dtype), rtol=0, atol=0
    )


def test_what_the_kernels_would_read_wrongly_is_refused() -> None:
    weights = torch.zeros(8)
    with pytest.raises(ValueError, match="not channels-last"):
        kernels.activate(torch.zeros(1, 8, 4, 4), weights, weights)
    part = _draw(1, 8, 4, 4)
    with pytest.raises(ValueError, match="beside"):
        kernels.join([part], weights, near=_draw(1, 8, 4, 4, dtype=torch.float16))
    with pytest.raises(ValueError, match="beside"):
        kernels.join([part, _draw(2, 8, 4, 4)], weights, slope=weights)
    for narrow in ([_draw(1, 7, 4, 4)], [part, _draw(1, 12, 4, 4)]):
        with pytest.raises(ValueError, match="to be joined"):
            kernels.join(narrow, weights, slope=weights)
    with pytest.raises(ValueError, match="other channels"):
        kernels.join([part], weights, near=_draw(1, 4, 4, 4))
    near = _draw(1, 8, 4, 4)
    for wrong in ({}, {"far": near}, {"slope": weights, "near": near}, {"slope": weights, "far": near}):
        with pytest.raises(ValueError, match="either"):
            kernels.join([part], weights, **wrong)


def _fill(module: torch.nn.Module) -> torch.nn.Module:
    """Give every weight a value: biases, slopes, and numbers that keep their size from layer to layer."""
    torch.manual_seed(6)
    for part in module.modules():
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(part.weight, a=0.2)
            torch.nn.init.uniform_(part.bias, -0.2, 0.2)
        elif isinstance(part, torch.nn.PReLU):
            torch.nn.init.uniform_(part.weight, -0.3, 0.6)
    return module.eval().requires_grad_(False)


NETWORKS: dict[str, Callable[[], torch.nn.Module]] = {
    "compact": lambda: Compact(num_feat=32, num_conv=2, upscale=3),
    "compact, 64 features": lambda: Compact(num_feat=64, num_conv=1, upscale=4),
    "compact, 24 features, leaky": lambda: Compact(num_feat=24, num_conv=1, upscale=2, act_type="leakyrelu"),
    "compact, gray, relu": lambda: Compact(
        num_in_ch=1, num_out_ch=1, num_feat=16, num_conv=1, upscale=2, act_type="relu"
    ),
    "rrdb": lambda: ESRGAN(num_filters=64, num_blocks=2, scale=2, plus=False),
    "rrdb, x2 of squares": lambda: ESRGAN(in_nc=12, num_filters=32, num_blocks=1, scale=4, shuffle_factor=2),
    "rrdb, x3": lambda: ESRGAN(num_filters=32, num_blocks=1, scale=3, plus=False),
}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *(
            (name, torch.float32)
            for name in NETWORKS
            if LONG or name not in ("compact, 64 features", "rrdb, x3")
        ),
        ("compact", torch.float16),
        *((name, torch.float16) for name in ("compact, 64 features", "rrdb, x2 of squares") if LONG),
    ],
)
def test_the_fused_network_is_the_network(name: str, dtype: torch.dtype) -> None:
    network = _fill(NETWORKS[name]()).to(dtype=dtype).to(memory_format=LAST)
    before = copy.deepcopy(network.state_dict())
    channels = 1 if "gray" in name else 3
    pages = draw_window(10, 14, channels).reshape(1, channels, 10, 14)
    # Odd sides, and two pages for the networks that the interpreter runs quickly.
    pages = torch.cat((pages, pages.flip(3)))[: 1 if "rrdb" in name else 2, :, :3, :7]
    pages = pages.to(dtype).contiguous(memory_format=LAST)
    given = pages.clone()
    with torch.inference_mode():
        expected = network(pages)
        found = fuse(network)(pages)
    assert found.dtype == dtype
    scale = float(expected.abs().max())
    tolerance = 2e-5 if dtype == torch.float32 else 6e-3
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * scale)
    assert torch.equal(pages, given)
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[key]), key


@pytest.mark.parametrize(
    "network",
    [
        torch.nn.Conv2d(3, 3, 3),
        ESRGAN(num_filters=64, num_blocks=1, scale=4, plus=True),
        ESRGAN(num_filters=32, num_blocks=1, scale=2, upsampler="pixel_shuffle"),
        ESRGAN(num_filters=32, num_blocks=1, scale=2, norm="batch"),
    ],
    ids=["another architecture", "plus", "pixel shuffle", "batch norm"],
)
def test_other_networks_are_refused(network: torch.nn.Module) -> None:
    with pytest.raises(NotFusableError):
        fuse(network.eval())


def test_a_compact_network_of_other_convolutions_is_refused() -> None:
    network = Compact(num_feat=16, num_conv=1, upscale=2)
    network.body[2] = torch.nn.Conv2d(16, 16, 5, padding=2)
    with pytest.raises(NotFusableError):
        FusedCompact(network)


@pytest.fixture
def small_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter needs minutes for the windows of a GPU."""
    monkeypatch.setattr(proof, "_WINDOW", (15, 11))
    monkeypatch.setattr(proof, "_EVEN", (32, 16))
    monkeypatch.setattr(proof, "_SMALLEST", 5)


@pytest.fixture
def network(make_network: Callable[..., Network]) -> Network:
    made = make_network(_fill(Compact(num_feat=16, num_conv=1, upscale=2)))
    return replace(made, native_scale=2)


def _in_turn() -> Callable[[Callable[[], object]], float]:
    """Return a timer by which the plain way, which is timed first, takes twice as long."""
    count = 0

    def timer(work: Callable[[], object]) -> float:
        nonlocal count
        count += 1
        return 2.0 if count % 2 else 1.0

    return timer


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.usefixtures("small_window")
def test_the_kernels_prove_themselves(network: Network, dtype: torch.dtype) -> None:
    plain = copy.deepcopy(network.module).to(dtype=dtype).to(memory_format=LAST)
    module, found = try_way(network, plain, CPU, dtype, build=build_fused, timer=_in_turn())
    assert found.is_fused, found.reason
    assert isinstance(module, FusedCompact)


@pytest.mark.parametrize("wrong", ["bias", "slope", "last block", "shuffle"])
@pytest.mark.usefixtures("small_window")
def test_a_wrong_kernel_is_refused(network: Network, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    activate, shuffle = kernels.activate, kernels.shuffle

    def wrong_activate(values: torch.Tensor, bias: torch.Tensor, slope: torch.Tensor) -> None:
        if wrong == "bias":
            bias = bias.roll(1)
        if wrong == "slope":
            slope = torch.zeros_like(slope)
        kept = values.clone(memory_format=LAST)
        activate(values, bias, slope)
        if wrong == "last block":
            # As if the elements after the last whole block were left out.
            memory, before = values.permute(0, 2, 3, 1).view(-1), kept.permute(0, 2, 3, 1).reshape(-1)
            memory[2048:] = before[2048:]

    def wrong_shuffle(
        made: torch.Tensor, bias: torch.Tensor, channels: int, factor: int, base: torch.Tensor
    ) -> torch.Tensor:
        return shuffle(made, bias, channels, factor, base).transpose(0, 1).flip(0).transpose(0, 1)

    monkeypatch.setattr(kernels, "activate", wrong_activate)
    if wrong == "shuffle":
        monkeypatch.setattr(kernels, "activate", activate)
        monkeypatch.setattr(kernels, "shuffle", wrong_shuffle)
    module, found = try_way(network, network.module, CPU, torch.float32, build=build_fused, timer=_in_turn())
    assert module is network.module
    assert "levels" in found.reason


@pytest.mark.parametrize("wrong", ["first part", "start"])
@pytest.mark.usefixtures("small_window")
def test_a_dense_block_with_a_wrong_kernel_is_refused(
    make_network: Callable[..., Network], wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = _fill(ESRGAN(num_filters=32, num_blocks=1, scale=2, plus=False)).to(memory_format=LAST)
    network = replace(make_network(module), native_scale=2)
    right, found = try_way(network, module, CPU, torch.float32, build=build_fused, timer=_in_turn())
    assert found.is_fused, found.reason
    assert right is not module
    join = kernels.join

    def wrong_join(parts: Sequence[torch.Tensor], bias: torch.Tensor, **how: Any) -> torch.Tensor:
        if wrong == "first part" and len(parts) == 5:
            parts = parts[1:]
        if wrong == "start":
            parts = [part.roll(len(bias), 1).contiguous(memory_format=LAST) for part in parts]
        return join(parts, bias, **how)

    monkeypatch.setattr(kernels, "join", wrong_join)
    chosen, found = try_way(network, module, CPU, torch.float32, build=build_fused, timer=_in_turn())
    assert chosen is module
    assert "levels" in found.reason


def _native(
    channels: int, height: int, width: int, dtype: torch.dtype, *, last: bool = False
) -> torch.Tensor:
    """Return what a network gives for two pages, also a little below 0 and above 1."""
    pages = torch.cat([draw_window(height, width, channels), draw_window(height, width, channels).flip(2)])
    native = (pages * 1.2 - 0.1).to(dtype)
    return native.contiguous(memory_format=LAST) if last else native


def _cell(native: torch.Tensor, rows: int, columns: int) -> Cell:
    height, width = native.shape[2:]
    return Cell((height, width), (rows, columns), (0, 0), Span(0, rows), Span(0, columns))


def _most(found: torch.Tensor, expected: torch.Tensor) -> int:
    assert found.shape == expected.shape and found.dtype == expected.dtype
    return int((found.int() - expected.int()).abs().max())


@pytest.mark.parametrize(
    ("channels", "mixes", "rows", "columns"),
    [
        (3, False, 15, 10), (1, False, 15, 10), (3, True, 15, 10),
        # Larger than native, as large, one row, and wider than a program.
        (3, False, 23, 15), (3, False, 18, 12), (3, False, 1, 10), (1, False, 3, 700), (3, False, 18, 10),
    ],
)  # fmt: skip
def test_resampling_to_bytes(channels: int, mixes: bool, rows: int, columns: int) -> None:
    for dtype in HALVES:
        native = _native(channels, 18, 12, dtype, last=dtype == torch.float16)
        expected, _ = resample_plainly(native.clone(), _cell(native, rows, columns), mixes)
        found, marks = resample_fused(native, _cell(native, rows, columns), mixes)
        assert _most(found, expected) <= 1
        # Almost all are equal: only what lies between two levels may differ.
        assert (found != expected).float().mean() < 0.01
        assert marks.tolist() == [0, 0]


def test_a_window_is_resampled_in_the_coordinates_of_its_page() -> None:
    native = _native(3, 36, 24, torch.float16)[:1]
    whole, _ = resample_fused(native, _cell(native, 30, 20), False)
    rows, columns = Span(10, 22), Span(6, 14)
    seen = [input_span(*sides, span) for sides, span in (((36, 30), rows), ((24, 20), columns))]
    window = native[:, :, slice(*seen[0]), slice(*seen[1])]
    cell = Cell((36, 24), (30, 20), (seen[0].start, seen[1].start), rows, columns)
    part, _ = resample_fused(window, cell, False)
    assert torch.equal(part, whole[:, slice(*rows), slice(*columns)])


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize(
    ("wrong", "place"), [(math.nan, (0, 0, 0, 0)), (math.inf, (1, 2, 17, 11)), (-math.inf, (1, 1, 9, 5))]
)
def test_resampling_sees_numbers_that_are_not_finite(wrong: float, place: tuple[int, ...]) -> None:
    for mixes in (False, True):
        native = _native(3, 18, 12, torch.float16)
        native[place] = wrong
        _, marks = resample_fused(native, _cell(native, 15, 10), mixes)
        assert torch.isfinite(marks).tolist() == [place[0] != 0, place[0] != 1]


@pytest.fixture
def small_native(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes minutes for the real test window."""
    monkeypatch.setattr(fused_resample, "_NATIVE", (24, 18))
    monkeypatch.setattr(fused_resample, "_FACTORS", ((3, 2.5),))


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.usefixtures("small_native")
def test_resampling_proves_itself_and_wrong_resampling_does_not() -> None:
    way, found = try_resampling(CPU, resample_fused, _in_turn())
    assert way is resample_fused and "levels and takes" in found.reason

    def shifted(native: torch.Tensor, cell: Cell, mixes: bool) -> tuple[torch.Tensor, torch.Tensor]:
        made, marks = resample_fused(native, cell, mixes)
        return made.roll(1, 2), marks

    def darker(native: torch.Tensor, cell: Cell, mixes: bool) -> tuple[torch.Tensor, torch.Tensor]:
        # As if it cut off what it should round.
        return resample_fused(native - 0.5 / 255, cell, mixes)

    def only_halves(native: torch.Tensor, cell: Cell, mixes: bool) -> tuple[torch.Tensor, torch.Tensor]:
        return resample_fused(native.half() * (1 if native.dtype == torch.float16 else 0.5), cell, mixes)

    def blind(native: torch.Tensor, cell: Cell, mixes: bool) -> tuple[torch.Tensor, torch.Tensor]:
        made, marks = resample_fused(native, cell, mixes)
        return made, torch.zeros_like(marks)

    def failing(native: torch.Tensor, cell: Cell, mixes: bool) -> tuple[torch.Tensor, torch.Tensor]:
        raise RuntimeError("no compiler\nmore")

    for wrong, said in (
        (shifted, "differs by"),
        (darker, "as a mean"),
        (only_halves, "differs by"),
        (blind, "does not see numbers"),
        (failing, "RuntimeError: no compiler"),
        (lambda native, cell, mixes: (native, native), "it returns torch.float16"),
    ):
        way, found = try_resampling(CPU, wrong, lambda work: 1.0)
        assert way is None and said in found.reason


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.usefixtures("small_native")
def test_slower_resampling_is_not_used() -> None:
    times = iter([1.0, 2.0] * 50)
    way, found = try_resampling(CPU, resample_fused, lambda work: next(times))
    assert way is None and "takes 2.00 ms instead of 1.00 ms" in found.reason
