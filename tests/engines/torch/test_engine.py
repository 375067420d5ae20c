from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from spandrel.architectures.Compact import Compact
from spandrel.architectures.ESRGAN import ESRGAN

from comic_upscale.engines.base import Batch
from comic_upscale.engines.limits import BATCHES_BEFORE_GROWTH
from comic_upscale.engines.torch import engine as torch_engine
from comic_upscale.engines.torch import windows as windows_module
from comic_upscale.engines.torch.engine import OVERFLOWS_BEFORE_FP32, TorchEngine, open_torch_engine
from comic_upscale.engines.torch.fused_resample import Cell, resample_plainly
from comic_upscale.engines.torch.windows import Stage, WindowRunner
from comic_upscale.engines.torch.windows import _type_on as type_on
from comic_upscale.errors import DeviceError, PageError, SettingsError
from comic_upscale.imaging.pixels import NO_BORDERS, Borders
from comic_upscale.models.network import Network
from tests.engines.conftest import MakeNetwork
from tests.engines.drawn_pages import draw_pages, worst

CPU = torch.device("cpu")


def open_engine(network: Network, **settings: object) -> TorchEngine:
    return TorchEngine(network, device=CPU, **settings)  # type: ignore[arg-type]


class Enlarge(torch.nn.Module):
    """Enlarges by repeating pixels, so that what should come out is known."""

    def __init__(self, factor: int = 4) -> None:
        super().__init__()
        self.factor = factor
        self.gain = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.gain).repeat_interleave(self.factor, dim=2).repeat_interleave(self.factor, dim=3)


class Hungry(Enlarge):
    """Runs out of memory above a number of pixels, as a small GPU does."""

    def __init__(self, most: int, error: type[BaseException] = torch.OutOfMemoryError) -> None:
        super().__init__()
        self.most = most
        self.error = error
        self.seen: list[tuple[int, int, int]] = []

    def __deepcopy__(self, memo: dict[int, object]) -> Hungry:
        # The engine runs a copy, so its inputs are recorded here.
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, _, height, width = x.shape
        self.seen.append((n, height, width))
        if n * height * width > self.most:
            raise self.error("DefaultCPUAllocator: can't allocate memory")
        return super().forward(x)


class Crowded(Hungry):
    """Runs out of memory at these calls, as beside another program that comes and goes."""

    def __init__(self, calls: Iterable[int]) -> None:
        super().__init__(most=10**9)
        self.calls = set(calls)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.most = 0 if len(self.seen) in self.calls else 10**9
        return super().forward(x)


class Overflowing(Enlarge):
    """Gives a wrong number for bright pages, in half precision or always."""

    def __init__(self, wrong: float, always: bool = False) -> None:
        super().__init__()
        self.wrong = wrong
        self.always = always
        self.dtypes: list[torch.dtype] = []

    def __deepcopy__(self, _memo: object) -> Overflowing:
        # It has no weights: engines share it, so that a test sees what it was called with.
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.dtypes.append(x.dtype)
        result = super().forward(x)
        if self.always or x.dtype != torch.float32:
            bright = x.amax(dim=(1, 2, 3)) > 0.9
            result[bright] = self.wrong
        return result


class Failing(Enlarge):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise self.error


def test_known_pixels_come_out_where_they_should(make_network: MakeNetwork) -> None:
    source = draw_pages(2, 24, 36)
    result = open_engine(make_network(Enlarge())).upscale(Batch(source, (144, 96))).pixels
    assert np.array_equal(result, source.repeat(4, axis=1).repeat(4, axis=2))


def test_the_target_is_the_native_page_resampled_as_pillow_does(make_network: MakeNetwork) -> None:
    source = draw_pages(1, 48, 32)
    result = open_engine(make_network(Enlarge())).upscale(Batch(source, (80, 120))).pixels
    native = Image.fromarray(source[0].repeat(4, axis=0).repeat(4, axis=1))
    assert worst(result[0], np.asarray(native.resize((80, 120), Image.Resampling.LANCZOS))) <= 1


@pytest.mark.parametrize("target", [(300, 360), (188, 225), (80, 95), (150, 180), (31, 37)])
def test_tiled_equals_untiled(compact: Network, target: tuple[int, int]) -> None:
    batch = Batch(draw_pages(2, 90, 75), target)
    whole = open_engine(compact, tile=0).upscale(batch).pixels
    # The overlap is the reach of the network, so that nothing but the order of sums may differ.
    assert worst(open_engine(compact, tile=64).upscale(batch).pixels, whole) <= 1


@pytest.mark.parametrize("has_memory", [True, False])
def test_tiles_collected_on_the_device_make_the_same_page(
    compact: Network, monkeypatch: pytest.MonkeyPatch, has_memory: bool
) -> None:
    batch = Batch(draw_pages(2, 90, 75), (188, 225))
    expected = open_engine(compact, tile=64).upscale(batch)
    collected: list[torch.Tensor] = []

    def empty_like(like: torch.Tensor, **options: object) -> torch.Tensor:
        if not has_memory:
            raise torch.OutOfMemoryError("CUDA out of memory")
        collected.append(torch.full(like.shape, 7, dtype=like.dtype))
        return collected[-1]

    monkeypatch.setattr(WindowRunner, "_has_room_for", lambda *_: True)
    monkeypatch.setattr(torch, "empty_like", empty_like)
    made = open_engine(compact, tile=64).upscale(batch)
    assert len(collected) == has_memory
    assert made.borders == expected.borders != NO_BORDERS
    np.testing.assert_array_equal(made.pixels, expected.pixels)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("tile", [0, 64])
@pytest.mark.parametrize("is_fused", [True, False])
def test_the_way_of_a_gpu_makes_the_page_of_a_cpu(
    compact: Network,
    monkeypatch: pytest.MonkeyPatch,
    is_fused: bool,
    tile: int,
    channels: int,
    kind: type[np.generic],
) -> None:
    batch = Batch(draw_pages(2, 90, 75, channels, kind), (188, 225))
    expected = open_engine(compact, tile=tile).upscale(batch)
    engine = open_engine(compact, tile=tile)
    asked: list[Cell] = []

    def fused(native: torch.Tensor, cell: Cell, mixes: bool) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(cell)
        return resample_plainly(native, cell, mixes)

    monkeypatch.setattr(engine._windows, "_is_cpu", False)
    monkeypatch.setattr(engine._windows, "_fused", fused if is_fused else None)
    made = engine.upscale(batch)
    # Samples of 16 bits go the plain way.
    assert bool(asked) == (is_fused and kind == np.uint8)
    assert made.borders == expected.borders
    assert worst(made.pixels, expected.pixels) <= (1 if kind == np.uint8 else 2)


def test_the_engine_says_where_its_tiles_meet_and_that_whole_pages_have_none(compact: Network) -> None:
    batch = Batch(draw_pages(1, 300, 75), (188, 750))
    assert open_engine(compact, tile=0).upscale(batch).borders == Borders()
    engine = open_engine(compact, tile=64)
    borders = engine.upscale(batch).borders
    assert borders.rows and borders.columns
    assert all(0 < row < 750 for row in borders.rows) and list(borders.rows) == sorted(borders.rows)
    # Twice the overlap leaves less of each window, so that there are more tiles and more borders.
    conservative = engine.upscale(Batch(batch.pixels, batch.target_size, conservative=True)).borders
    assert len(conservative.rows) > len(borders.rows)


def test_without_overlap_pages_differ_near_these_borders_alone(compact: Network) -> None:
    batch = Batch(draw_pages(1, 120, 100), (250, 300))
    engine = open_engine(compact, tile=64, overlap=0)
    made = engine.upscale(batch)
    apart = (made.pixels[0] != open_engine(compact, tile=0).upscale(batch).pixels[0]).any(axis=2)
    rows, columns = np.arange(300), np.arange(250)
    borders = made.borders
    assert compact.receptive_radius is not None
    reach = 2.5 * (compact.receptive_radius + 4)
    near_row = np.min([np.abs(rows - row) for row in borders.rows], axis=0) <= reach
    near_column = np.min([np.abs(columns - column) for column in borders.columns], axis=0) <= reach
    assert apart.any()
    assert not apart[~near_row][:, ~near_column].any() and not (near_row.all() or near_column.all())


def test_tiles_of_a_network_that_folds_pixels_begin_at_its_squares(make_network: MakeNetwork) -> None:
    torch.manual_seed(9)
    module = ESRGAN(in_nc=12, num_filters=8, num_blocks=1, scale=4, shuffle_factor=2)
    module.scale = 4
    network = make_network(module, native_scale=2, multiple_of=2, minimum=2)
    batch = Batch(draw_pages(1, 91, 75), (120, 146))
    assert (
        worst(
            open_engine(network, tile=64, overlap=16).upscale(batch).pixels,
            open_engine(network, tile=0).upscale(batch).pixels,
        )
        <= 1
    )


@pytest.mark.parametrize("tile", [0, 64])
def test_a_batch_equals_its_pages_one_by_one(compact: Network, tile: int) -> None:
    source = draw_pages(5, 70, 68)
    together = open_engine(compact, batch=4, tile=tile).upscale(Batch(source, (170, 175))).pixels
    engine = open_engine(compact, tile=tile)
    alone = np.concatenate([engine.upscale(Batch(page[None], (170, 175))).pixels for page in source])
    assert worst(together, alone) <= 1


def test_a_page_does_not_depend_on_its_neighbours(compact: Network) -> None:
    source = draw_pages(3, 40, 30)
    engine = open_engine(compact, batch=3)
    first = engine.upscale(Batch(source, (60, 80))).pixels
    source[0], source[2] = 0, 255
    assert np.array_equal(engine.upscale(Batch(source, (60, 80))).pixels[1], first[1])


def test_gray_pages_go_through_an_rgb_network_as_the_mean_of_equal_channels(compact: Network) -> None:
    gray = draw_pages(2, 33, 29, channels=1)
    engine = open_engine(compact)
    result = engine.upscale(Batch(gray, (116, 132))).pixels
    assert result.shape == (2, 132, 116, 1)
    colored = engine.upscale(Batch(gray.repeat(3, axis=3), (116, 132))).pixels
    assert worst(result, np.rint(colored.mean(axis=3, keepdims=True)).astype(np.uint8)) <= 1


def test_rgb_pages_go_through_a_gray_network_channel_by_channel(gray_compact: Network) -> None:
    source = draw_pages(2, 33, 29)
    engine = open_engine(gray_compact, batch=2)
    result = engine.upscale(Batch(source, (58, 66))).pixels
    for channel in range(3):
        alone = engine.upscale(Batch(source[..., channel : channel + 1], (58, 66))).pixels
        assert worst(result[..., channel : channel + 1], alone) <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2), (17, 5)])
def test_tiny_pages_are_padded_to_what_the_network_takes(
    make_network: MakeNetwork, size: tuple[int, int]
) -> None:
    source = draw_pages(1, *size)
    network = make_network(Enlarge(), multiple_of=8, minimum=16, square=True)
    result = open_engine(network).upscale(Batch(source, (size[1] * 4, size[0] * 4))).pixels
    assert np.array_equal(result, source.repeat(4, axis=1).repeat(4, axis=2))


def test_read_only_and_strided_pages_are_taken(make_network: MakeNetwork) -> None:
    source = draw_pages(1, 24, 36)[:, ::2, ::-1]
    source.flags.writeable = False
    result = open_engine(make_network(Enlarge())).upscale(Batch(source, (144, 48))).pixels
    assert np.array_equal(result, source.repeat(4, axis=1).repeat(4, axis=2))


def test_the_loaded_network_is_left_as_it_is(compact: Network) -> None:
    before = {name: tensor.clone() for name, tensor in compact.module.state_dict().items()}
    engine = open_engine(compact, precision=torch.bfloat16)
    engine.upscale(Batch(draw_pages(1, 20, 20), (40, 40)))
    engine.close()
    for name, tensor in compact.module.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_every_precision_is_near_float32(compact: Network, precision: str) -> None:
    batch = Batch(draw_pages(1, 40, 40), (100, 100))
    engine = open_torch_engine(compact, "cpu", precision)
    assert engine.info.precision == precision
    assert worst(engine.upscale(batch).pixels, open_engine(compact).upscale(batch).pixels) <= 6


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_out_of_memory_leads_to_smaller_batches_then_smaller_tiles(
    make_network: MakeNetwork, error: type[BaseException]
) -> None:
    module = Hungry(70 * 70, error)
    engine = open_engine(make_network(module), batch=4, tile=None, overlap=4)
    source = draw_pages(4, 100, 120)
    expected = source.repeat(4, axis=1).repeat(4, axis=2)
    assert np.array_equal(engine.upscale(Batch(source, (480, 400))).pixels, expected)
    assert module.seen[:3] == [(4, 100, 120), (2, 100, 120), (1, 100, 120)]
    assert max(module.seen[-1][1:]) <= 64
    # What was learnt is remembered: no attempt of the second call fails.
    module.seen.clear()
    assert np.array_equal(engine.upscale(Batch(source, (480, 400))).pixels, expected)
    assert all(n * height * width <= module.most for n, height, width in module.seen)
    assert engine.batch_limit(100, 120) == 1


def test_memory_that_is_short_for_a_moment_makes_no_batch_smaller(make_network: MakeNetwork) -> None:
    module = Crowded([1])
    engine = open_engine(make_network(module), batch=4, tile=None)
    source = draw_pages(4, 100, 120)
    for _ in range(3):
        engine.upscale(Batch(source, (480, 400)))
    assert module.seen == [(4, 100, 120)] * 4


def test_memory_that_is_short_for_a_while_makes_batches_smaller_for_a_while(
    make_network: MakeNetwork,
) -> None:
    module = Crowded([1, 2, 3])
    engine = open_engine(make_network(module), batch=4, tile=None)
    source = draw_pages(4, 20, 30)
    expected = source.repeat(4, axis=1).repeat(4, axis=2)
    for _ in range(2 * BATCHES_BEFORE_GROWTH + 3):
        assert np.array_equal(engine.upscale(Batch(source, (120, 80))).pixels, expected)
    sizes = [count for count, _, _ in module.seen]
    assert sizes[:5] == [4, 4, 4, 2, 1]
    assert sizes[-1] == 4


class Solitary(Hungry):
    """Counts the calls in which it was called already: a batch would need its memory twice."""

    inside = 0
    overlaps = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.overlaps += self.inside > 0
        self.inside += 1
        try:
            time.sleep(0.005)
            return super().forward(x)
        finally:
            self.inside -= 1


@pytest.mark.parametrize("most", [10**9, 2 * 96 * 64])
def test_calls_from_two_threads_give_the_pages_of_one(make_network: MakeNetwork, most: int) -> None:
    batches = [Batch(draw_pages(3, 96, 64) // (1 + number), (128, 192)) for number in range(12)]
    engine = open_engine(make_network(Hungry(most)), batch=3)
    expected = [engine.upscale(batch).pixels for batch in batches]
    module = Solitary(most)
    engine = open_engine(make_network(module), batch=3)
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(engine.upscale, batches))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.pixels, other)
    assert len(module.seen) >= len(batches) and not module.overlaps


def test_a_cpu_takes_one_batch(compact: Network) -> None:
    assert open_engine(compact).batches_at_once == 1


def test_a_tile_too_large_even_at_its_smallest_fails_its_page(make_network: MakeNetwork) -> None:
    engine = open_engine(make_network(Hungry(10)))
    with pytest.raises(PageError, match="too little memory for") as caught:
        engine.upscale(Batch(draw_pages(1, 100, 120), (480, 400)))
    assert caught.value.kind == "out-of-memory"
    small = draw_pages(1, 2, 3)
    assert engine.upscale(Batch(small, (12, 8))).pixels.shape == (1, 8, 12, 3)


def test_a_page_that_is_never_to_be_cut_says_so_when_it_does_not_fit(make_network: MakeNetwork) -> None:
    engine = open_engine(make_network(Hungry(5000)), tile=0)
    with pytest.raises(PageError, match="cut into tiles"):
        engine.upscale(Batch(draw_pages(1, 100, 120), (480, 400)))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf"), 0.0])
@pytest.mark.parametrize("tile", [0, 64])
def test_overflow_in_half_precision_is_done_again_in_float32(
    make_network: MakeNetwork, wrong: float, tile: int
) -> None:
    source = draw_pages(3, 80, 90) // 2
    source[1] += 128
    engine = open_engine(make_network(Overflowing(wrong)), precision=torch.float16, batch=3, tile=tile)
    result = engine.upscale(Batch(source, (360, 320))).pixels
    assert worst(result, source.repeat(4, axis=1).repeat(4, axis=2)) <= 1


def test_half_precision_is_given_up_where_every_page_overflows(make_network: MakeNetwork) -> None:
    module = Overflowing(float("nan"))
    engine = open_engine(make_network(module), precision=torch.float16)
    bright, dark = (Batch(np.full((1, 8, 8, 3), level, np.uint8), (16, 16)) for level in (255, 99))
    for _ in range(OVERFLOWS_BEFORE_FP32 - 1):
        assert engine.upscale(bright).pixels.min() == 255
    # One page that half precision can do shows that the card can.
    assert engine.upscale(dark).pixels.min() == 99
    most = Batch(np.concatenate([bright.pixels] * OVERFLOWS_BEFORE_FP32 + [dark.pixels]), (16, 16))
    for _ in range(OVERFLOWS_BEFORE_FP32):
        assert engine.upscale(most).pixels[-1].max() == 99
    for number in range(OVERFLOWS_BEFORE_FP32):
        assert engine.info.precision == "fp16", number
        engine.upscale(bright)
    assert engine.info.precision == "fp32"
    before = len(module.dtypes)
    assert engine.upscale(bright).pixels.min() == 255
    assert module.dtypes[before:] == [torch.float32]


def test_pages_that_come_out_black_in_float32_too_say_nothing_of_half_precision(
    make_network: MakeNetwork,
) -> None:
    module = Overflowing(0.0, always=True)
    engine = open_engine(make_network(module), precision=torch.float16)
    for _ in range(2 * OVERFLOWS_BEFORE_FP32):
        assert not engine.upscale(Batch(np.full((1, 8, 8, 3), 255, np.uint8), (16, 16))).pixels.any()
    assert engine.info.precision == "fp16"


def test_a_library_that_does_not_support_the_gpu_ends_the_run(make_network: MakeNetwork) -> None:
    error = RuntimeError("GET was unable to find an engine to execute this computation")
    with pytest.raises(DeviceError, match=r"unable to find an engine.*driver"):
        open_engine(make_network(Failing(error))).upscale(Batch(draw_pages(1, 200, 200), (400, 400)))


def test_a_page_with_one_pixel_that_is_not_black_is_not_black(make_network: MakeNetwork) -> None:
    source = np.zeros((1, 40, 40, 3), np.uint8)
    source[0, 5, 7] = 200
    engine = open_engine(make_network(Overflowing(0.0, always=False)), precision=torch.float16)
    engine.upscale(Batch(source, (80, 80)))
    source[0, 5, 7] = 255
    assert engine.upscale(Batch(source, (160, 160))).pixels[0, 22, 30].min() > 200


def test_a_black_page_is_black_and_no_failure(make_network: MakeNetwork) -> None:
    engine = open_engine(make_network(Enlarge()), precision=torch.float16)
    assert not engine.upscale(Batch(np.zeros((2, 8, 8, 3), np.uint8), (16, 16))).pixels.any()


@pytest.mark.parametrize("precision", [torch.float16, torch.float32])
def test_numbers_that_are_not_finite_in_float32_either_fail_the_page(
    make_network: MakeNetwork, precision: torch.dtype
) -> None:
    engine = open_engine(make_network(Overflowing(float("nan"), always=True)), precision=precision)
    with pytest.raises(PageError) as caught:
        engine.upscale(Batch(np.full((1, 8, 8, 3), 255, np.uint8), (16, 16)))
    assert caught.value.kind == "not-finite"
    assert engine.upscale(Batch(np.full((1, 8, 8, 3), 99, np.uint8), (16, 16))).pixels.min() == 99


def test_a_lost_device_ends_the_run_and_another_error_is_not_hidden(make_network: MakeNetwork) -> None:
    batch = Batch(draw_pages(1, 8, 8), (16, 16))
    lost = open_engine(make_network(Failing(RuntimeError("CUDA error: unspecified launch failure"))))
    with pytest.raises(DeviceError, match="unspecified launch failure"):
        lost.upscale(batch)
    bug = open_engine(make_network(Failing(RuntimeError("Expected a CUDA tensor"))))
    with pytest.raises(RuntimeError, match="Expected a CUDA tensor"):
        bug.upscale(batch)


@pytest.mark.parametrize("tile", [0, 64])
def test_sixteen_bits_are_not_rounded_to_eight(make_network: MakeNetwork, tile: int) -> None:
    repeat = make_network(torch.nn.Upsample(scale_factor=4, mode="nearest"))
    pixels = np.random.default_rng(3).integers(0, 65536, (1, 70, 90, 3)).astype(np.uint16)
    # A network that rounds to 8 bits in its own precision: such pages go through float32 whatever was asked.
    engine = TorchEngine(repeat, device=torch.device("cpu"), precision=torch.bfloat16, tile=tile)
    result = engine.upscale(Batch(pixels, (360, 280))).pixels
    assert result.dtype == np.uint16
    assert (result == pixels.repeat(4, axis=1).repeat(4, axis=2)).all()


def test_sixteen_bits_agree_with_eight(compact: Network) -> None:
    eight = np.random.default_rng(4).integers(0, 256, (1, 40, 30, 3), np.uint8)
    engine = open_engine(compact)
    deep = engine.upscale(Batch(eight.astype(np.uint16) * np.uint16(257), (75, 100))).pixels
    assert np.abs(deep / 257 - engine.upscale(Batch(eight, (75, 100))).pixels).max() <= 0.51


@pytest.mark.parametrize("tile", [0, 64])
@pytest.mark.parametrize("channels", [3, 1])
def test_sixteen_bits_are_in_int32_on_a_device_without_uint16(
    compact: Network, tile: int, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = np.random.default_rng(5).integers(0, 65536, (2, 80, 90, channels)).astype(np.uint16)
    batch = Batch(deep, (225, 200))
    seen: set[torch.dtype] = set()

    def compute(windows: WindowRunner, stage: Stage, source: torch.Tensor, *args: Any) -> None:
        seen.update((source.dtype, args[2].dtype))
        run_chunk(windows, stage, source, *args)

    def upscale() -> NDArray[Any]:
        engine = open_engine(compact, tile=tile)
        # As on every GPU.
        monkeypatch.setattr(engine._windows, "_is_cpu", False)
        return engine.upscale(batch).pixels

    expected = upscale()
    run_chunk = WindowRunner._run_chunk
    monkeypatch.setattr(WindowRunner, "_run_chunk", compute)
    monkeypatch.setattr(windows_module, "_type_on", lambda _, samples: type_on(torch.device("mps"), samples))
    made = upscale()
    assert (made.dtype, seen) == (np.uint16, {torch.int32})
    assert np.array_equal(made, expected)


def test_the_engine_says_what_it_is(compact: Network) -> None:
    engine = open_torch_engine(compact, "cpu", "fp32")
    assert (engine.info.native_scale, engine.info.precision) == (4, "fp32")
    assert engine.info.device.is_cpu and str(engine.info.device).startswith("cpu (")
    assert engine.info.deterministic and engine.info.warnings == ()
    assert engine.batch_limit(768, 512) == 1
    assert open_engine(compact, batch=6, tile=0).batch_limit(768, 512) == 6


def test_settings_out_of_range_are_refused(compact: Network, make_network: MakeNetwork) -> None:
    with pytest.raises(SettingsError, match="batch must be 1 or more"):
        open_engine(compact, batch=0)
    with pytest.raises(SettingsError, match="too small"):
        open_engine(compact, tile=20)
    with pytest.raises(SettingsError, match="overlap"):
        open_engine(compact, overlap=-1)
    with pytest.raises(SettingsError, match="4 channels into 3"):
        open_engine(make_network(Enlarge(), input_channels=4))


def test_a_batch_that_is_none_is_refused(compact: Network) -> None:
    engine = open_engine(compact)
    for shape in ((8, 8, 3), (1, 8, 8, 4), (0, 8, 8, 3)):
        with pytest.raises(ValueError, match="not uint8"):
            engine.upscale(Batch(np.zeros(shape, np.uint8), (16, 16)))


def test_the_real_network_is_the_same_to_the_bit_in_tiles(animevideo_weights: Path, comics_dir: Path) -> None:
    state = torch.load(animevideo_weights, map_location="cpu", weights_only=True)["params"]
    module = Compact(num_feat=64, num_conv=16, upscale=4)
    module.load_state_dict(state)
    network = Network(module.eval().requires_grad_(False), 4, 3, 3, True, True, "Compact", 1, 0, False, 18)
    path = comics_dir / "dev" / "pc__Pepper-and-Carrot_by-David-Revoy_E17P02_en.png"
    with Image.open(path) as page:
        source = np.asarray(page.convert("RGB").crop((300, 300, 450, 440)))[None]
    whole = open_engine(network, tile=0).upscale(Batch(source, (375, 350))).pixels
    tiled = open_engine(network, tile=128).upscale(Batch(source, (375, 350))).pixels
    assert worst(tiled, whole) <= 1


def test_a_huge_page_is_done_with_little_memory_kept_and_no_other_is(
    compact: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[str] = []

    @contextmanager
    def noted() -> Iterator[None]:
        kept.append("in")
        yield
        kept.append("out")

    monkeypatch.setattr(torch_engine, "HUGE_PIXELS", 100 * 100)
    monkeypatch.setattr(torch_engine, "little_memory_kept", noted)
    engine = TorchEngine(compact, device=CPU)
    engine.upscale(Batch(np.zeros((1, 100, 100, 3), np.uint8), (200, 200)))
    assert kept == []
    engine.upscale(Batch(np.zeros((1, 100, 101, 3), np.uint8), (202, 200)))
    assert kept == ["in", "out"]
