"""The gate: a page that was only made larger passes, and each fault is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from comic_upscale.gate import scores
from comic_upscale.gate.scores import compare
from comic_upscale.gate.verdict import default_bounds, judge
from comic_upscale.pages.page import UInt8Array

EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "pages").glob("0*.png"))
Fault = Callable[[UInt8Array], UInt8Array]


def _page(number: int = 0, mode: str = "RGB") -> UInt8Array:
    with Image.open(EXAMPLES[number]) as image:
        page = np.asarray(image.convert(mode))
    return page.reshape(*page.shape[:2], -1)


def _larger(page: UInt8Array, scale: float = 2.5) -> UInt8Array:
    image = Image.fromarray(page[:, :, 0] if page.shape[2] == 1 else page)
    size = (round(image.width * scale), round(image.height * scale))
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS)).reshape(size[1], size[0], -1)


def _shifted(larger: UInt8Array) -> UInt8Array:
    image = Image.fromarray(larger)
    # Half a pixel of the source: 1.25 of the page at 2.5 times.
    return np.asarray(
        image.transform(image.size, Image.Transform.AFFINE, (1, 0, 1.25, 0, 1, 0), Image.Resampling.BICUBIC)
    )


def _with_a_tile_from_elsewhere(larger: UInt8Array) -> UInt8Array:
    page, other = larger.copy(), _larger(_page(1))
    page[400:700, 300:600] = other[:300, :300]
    return page


def _tinted(larger: UInt8Array) -> UInt8Array:
    moved = larger.astype(np.int16)
    moved[:, :, 2] -= 4
    return moved.clip(0, 255).astype(np.uint8)


def _darker(larger: UInt8Array) -> UInt8Array:
    return (larger.astype(np.int16) - 8).clip(0, 255).astype(np.uint8)


def _off_white(larger: UInt8Array) -> UInt8Array:
    return np.minimum(larger, 252)


def _with_a_seam(larger: UInt8Array) -> UInt8Array:
    moved = larger.astype(np.int16)
    moved[:, larger.shape[1] // 2 :] -= 16
    return moved.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("scale", [2.0, 2.5])
def test_a_page_that_was_only_made_larger_passes(number: int, mode: str, scale: float) -> None:
    page = _page(number, mode)
    assert judge(page, _larger(page, scale)).reasons == ()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (np.zeros_like, "flat where the source is not"),
        (lambda larger: np.full_like(larger, 128), "flat where the source is not"),
        (lambda larger: _larger(_page(2)), "unlike its source"),
        (_with_a_tile_from_elsewhere, "a part unlike its source"),
        (_tinted, "tinted by"),
        (_darker, "brighter or darker by"),
        (_shifted, "shifted by"),
        (_off_white, "white paper off by"),
        (_with_a_seam, "a straight line across it"),
    ],
)
def test_each_fault_is_named(fault: Fault, reason: str) -> None:
    page = _page()
    verdict = judge(page, fault(_larger(page)))
    assert verdict.is_suspect
    assert any(reason in text for text in verdict.reasons), verdict


def test_colour_on_a_gray_page_is_named() -> None:
    page = np.repeat(_page(mode="L"), 3, axis=2)
    larger = _larger(page).astype(np.int16)
    larger[:, :, 0] += 5
    larger[:, :, 2] -= 5
    assert any("on gray" in text for text in judge(page, larger.clip(0, 255).astype(np.uint8)).reasons)


def test_sixteen_bits_are_held_to_the_same_bounds() -> None:
    page = _page().astype(np.uint16) * 257
    larger = _larger(_page()).astype(np.uint16) * 257
    assert judge(page, larger).reasons == ()
    assert judge(page, np.zeros_like(larger)).is_suspect


@given(
    page=arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]))),
    factor=st.integers(2, 3),
)
@settings(max_examples=60, deadline=None)
def test_any_page_can_be_scored_and_the_scores_are_numbers(page: UInt8Array, factor: int) -> None:
    larger = page.repeat(factor, axis=0).repeat(factor, axis=1)
    scores = compare(page, larger)
    values = [getattr(scores, name) for name in scores.__slots__]
    assert np.isfinite(values).all()
    assert max(scores.brightness, scores.tint) < 1


def test_a_flat_page_passes() -> None:
    for level in (0, 7, 255):
        page = np.full((50, 40, 3), level, np.uint8)
        assert judge(page, np.full((125, 100, 3), level, np.uint8)).reasons == ()


def test_the_bounds_are_those_of_the_package() -> None:
    bounds = default_bounds()
    assert 0 < bounds.ssim < 1
    assert bounds.psnr > 0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("size", "target"), [((601, 1307), (240, 523)), ((90, 700), (30, 300)), ((70, 80), (60, 50))]
)
def test_a_page_shrunk_in_strips_is_the_same(
    size: tuple[int, int], target: tuple[int, int], channels: int
) -> None:
    page = np.random.default_rng(8).integers(0, 256, (size[1], size[0], channels), np.uint8)
    whole = Image.fromarray(page.squeeze()).resize(target, Image.Resampling.HAMMING, reducing_gap=1.0)
    assert (scores._shrunk(page, *target).squeeze() == np.asarray(whole)).all()


def test_a_large_page_is_never_copied_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    copied = []

    def watched(array: UInt8Array) -> Image.Image:
        copied.append(array.nbytes)
        return fromarray(array)

    fromarray = Image.fromarray
    monkeypatch.setattr(Image, "fromarray", watched)
    page = np.zeros((6000, 2000, 3), np.uint8)
    assert scores._shrunk(page, 800, 2400).shape == (2400, 800, 3)
    assert max(copied) <= page.nbytes / 4
