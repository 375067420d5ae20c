from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from comic_upscale.engines.lanczos import Span, dense_weights, input_span
from comic_upscale.engines.torch import resample as resample_module
from comic_upscale.engines.torch.resample import axis_blocks, resample

CPU = torch.device("cpu")
sides = st.integers(1, 90)


def as_floats(picture: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255


def as_bytes(pixels: torch.Tensor) -> NDArray[np.uint8]:
    levels = (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
    return levels[0].permute(1, 2, 0).numpy()


def noise(height: int, width: int, hard: bool) -> NDArray[np.uint8]:
    rng = np.random.default_rng(height * 1000 + width)
    if hard:
        return rng.choice(np.array([0, 255], np.uint8), (height, width, 3))
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def worst_against_pillow(picture: NDArray[np.uint8], height: int, width: int) -> int:
    ours = as_bytes(resample(as_floats(picture), source_size=picture.shape[:2], target_size=(height, width)))
    # In two steps, since Pillow 13 goes by the sizes which pass it makes first; up to 12 this is one call's result.
    wide = Image.fromarray(picture).resize((width, picture.shape[0]), Image.Resampling.LANCZOS)
    theirs = np.asarray(wide.resize((width, height), Image.Resampling.LANCZOS))
    return int(np.abs(ours.astype(int) - theirs.astype(int)).max())


@given(sides, sides, sides, sides)
@settings(max_examples=150, deadline=None)
def test_equals_pillow_within_a_grey_level(h: int, w: int, out_h: int, out_w: int) -> None:
    assert worst_against_pillow(noise(h, w, hard=False), out_h, out_w) <= 1


@given(sides, sides, sides, sides)
@settings(max_examples=100, deadline=None)
def test_the_hardest_noise_differs_by_no_more_than_two(h: int, w: int, out_h: int, out_w: int) -> None:
    # Pillow rounds to 8 bits between the passes and this does not: the second level.
    assert worst_against_pillow(noise(h, w, hard=True), out_h, out_w) <= 2


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((1, 1), (7, 9)),
        ((1, 400), (2, 250)),
        ((400, 1), (250, 1)),
        ((300, 200), (1, 1)),
        ((512, 512), (320, 320)),
        ((640, 480), (640, 300)),
        ((640, 480), (400, 480)),
        ((97, 61), (970, 611)),
    ],
)
def test_equals_pillow_at_the_corners(source: tuple[int, int], target: tuple[int, int]) -> None:
    assert worst_against_pillow(noise(*source, hard=False), *target) <= 1


@pytest.mark.parametrize("target", [(375, 250), (480, 320), (601, 401), (150, 100)])
def test_equals_one_call_of_pillow_for_a_page_that_keeps_its_shape(target: tuple[int, int]) -> None:
    picture = noise(600, 400, hard=False)
    ours = as_bytes(resample(as_floats(picture), source_size=(600, 400), target_size=target))
    theirs = np.asarray(Image.fromarray(picture).resize(target[::-1], Image.Resampling.LANCZOS))
    assert int(np.abs(ours.astype(int) - theirs.astype(int)).max()) <= 1


def test_the_same_size_is_left_alone() -> None:
    picture = noise(20, 30, hard=False)
    assert np.array_equal(
        as_bytes(resample(as_floats(picture), source_size=(20, 30), target_size=(20, 30))), picture
    )


def test_half_precision_is_resampled_in_float32() -> None:
    pixels = as_floats(noise(20, 30, hard=False)).half()
    exact = resample(pixels.float(), source_size=(20, 30), target_size=(12, 19))
    result = resample(pixels, source_size=(20, 30), target_size=(12, 19))
    assert result.dtype == torch.float32
    assert torch.equal(result, exact)


@given(st.integers(1, 400), st.integers(1, 400), st.data())
@settings(max_examples=150, deadline=None)
def test_blocks_are_the_rows_of_the_whole_axis(in_size: int, out_size: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, out_size - 1))
    stop = data.draw(st.integers(start + 1, out_size))
    _, whole = dense_weights(in_size, out_size, Span(0, out_size))
    span = input_span(in_size, out_size, Span(start, stop))
    made = start
    for block in axis_blocks(in_size, out_size, Span(start, stop), CPU, block=16):
        assert block.outputs.start == made
        assert block.weights.storage_offset() % 64 == 0
        made = block.outputs.stop
        if in_size != out_size:
            assert span.start <= block.inputs.start < block.inputs.stop <= span.stop
        rows = np.zeros((block.outputs.length, in_size), np.float32)
        rows[:, block.inputs.start : block.inputs.stop] = block.weights.numpy()
        expected = np.zeros_like(rows)
        first = input_span(in_size, out_size, Span(0, out_size)).start
        expected[:, first : first + whole.shape[1]] = whole[block.outputs.start : block.outputs.stop]
        np.testing.assert_array_equal(rows, expected)
    assert made == stop


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.data())
@settings(max_examples=100, deadline=None)
def test_a_cell_from_its_window_is_that_part_of_the_whole(
    h: int, w: int, out_h: int, out_w: int, data: st.DataObject
) -> None:
    pixels = as_floats(noise(h, w, hard=True))
    whole = resample(pixels, source_size=(h, w), target_size=(out_h, out_w))
    top = data.draw(st.integers(0, out_h - 1))
    rows = Span(top, data.draw(st.integers(top + 1, out_h)))
    left = data.draw(st.integers(0, out_w - 1))
    columns = Span(left, data.draw(st.integers(left + 1, out_w)))
    seen_rows, seen_columns = input_span(h, out_h, rows), input_span(w, out_w, columns)
    part = resample(
        pixels[:, :, slice(*seen_rows), slice(*seen_columns)],
        source_size=(h, w),
        target_size=(out_h, out_w),
        origin=(seen_rows.start, seen_columns.start),
        rows=rows,
        columns=columns,
    )
    torch.testing.assert_close(part, whole[:, :, slice(*rows), slice(*columns)], rtol=0, atol=1e-6)


def test_a_window_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="does not contain"):
        resample(torch.zeros(1, 3, 10, 10), source_size=(20, 20), target_size=(10, 10))


def drops_what_goes_into_a_slice(multiply: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Do as MPS does with macOS 14."""

    def product(*factors: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        return multiply(*factors) if out is None else out.fill_(0.5)

    return product


@pytest.mark.parametrize("target", [(250, 175), (50, 35), (100, 175), (250, 70)])
def test_on_mps_no_product_is_written_into_a_slice(
    target: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = as_floats(noise(100, 70, hard=False))
    expected = resample(pixels, source_size=(100, 70), target_size=target)
    monkeypatch.setattr(resample_module, "_writes_into_slices", lambda _: False)
    monkeypatch.setattr(torch, "mm", drops_what_goes_into_a_slice(torch.mm))
    monkeypatch.setattr(torch, "bmm", drops_what_goes_into_a_slice(torch.bmm))
    assert torch.equal(resample(pixels, source_size=(100, 70), target_size=target), expected)
    monkeypatch.undo()
    assert not resample_module._writes_into_slices(torch.device("mps"))
