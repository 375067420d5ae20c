"""The gate on pages of a few thousand pixels, and at the least and the largest factors: no false alarms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comic_upscale.engines.pages import finish, prepare
from comic_upscale.engines.upscaler import Upscaler
from comic_upscale.execution.quality_gate import QualityGate
from comic_upscale.gate.verdict import Bounds, Verdict, bounds_for, default_bounds, judge, measure_raw_output
from comic_upscale.imaging.pixels import Pixels, UInt8Array
from comic_upscale.imaging.target_size import target_size
from comic_upscale.models.catalogue import CATALOGUE
from tests.conftest import LONG

EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "pages").glob("0*.png"))
OWN = bounds_for(CATALOGUE["comic-compact-x3"].weights.sha256)
SIZES = ((64, 64), (97, 70), (200, 66))
"""(height, width) of the smallest pages that are judged."""
FACTORS = (1.01, 1.3, 1.49, 1.5, 2.37, 2.5, 4.0, 7.99)


def _pieces(height: int, width: int, count: int) -> Iterator[UInt8Array]:
    """Yield pieces of the examples, from places that never change."""
    chance = np.random.default_rng(height * 1000 + width)
    for number in range(count):
        with Image.open(EXAMPLES[number % len(EXAMPLES)]) as image:
            page = np.asarray(image.convert("RGB"))
        top, left = (
            int(chance.integers(0, long - short))
            for long, short in zip(page.shape, (height, width), strict=False)
        )
        yield page[top : top + height, left : left + width].copy()


def _larger(page: UInt8Array, factor: float, filter: Image.Resampling) -> UInt8Array:
    size = target_size(page.shape[1], page.shape[0], factor)
    return np.asarray(Image.fromarray(page).resize(size, filter)).copy()


def _judged(page: UInt8Array, larger: UInt8Array, bounds: Bounds) -> Verdict:
    """As in a run."""
    source = prepare(Pixels(page))
    raw = measure_raw_output(source.color, larger)
    done = finish(replace(source, color=larger.copy()))
    return judge(source.color, done.color, raw=raw, bounds=bounds)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("filter", [Image.Resampling.BICUBIC, Image.Resampling.LANCZOS])
def test_a_small_page_that_was_only_made_larger_passes(
    size: tuple[int, int], factor: float, filter: Image.Resampling
) -> None:
    for page in _pieces(*size, 4):
        assert _judged(page, _larger(page, factor, filter), OWN).reasons == ()


@pytest.mark.parametrize("factor", [1.01, 1.3, 2.37, 7.99])
def test_a_page_of_ordinary_size_passes_at_the_same_factors(factor: float) -> None:
    for page in _pieces(400, 300, 4):
        assert _judged(page, _larger(page, factor, Image.Resampling.BICUBIC), OWN).reasons == ()


def test_dots_of_one_pixel_pass_at_factors_that_divide_no_page() -> None:
    """Two filters would keep another contrast of them; before, they were flat or unlike their source."""
    page = np.full((120, 160, 3), 255, np.uint8)
    page[10:110:2, 10:150:2] = page[11:110:2, 11:150:2] = 0
    page[40:80, 40:120] = 90
    for factor in (1.01, 1.26, 2.26, 3.7, 7.99):
        assert _judged(page, _larger(page, factor, Image.Resampling.BICUBIC), OWN).reasons == (), factor


@pytest.mark.parametrize("model", ["comic-compact-x3", "realesr-animevideov3"])
def test_what_real_networks_make_of_small_pages_passes(model: str, weights_dir: Path) -> None:
    entry = CATALOGUE[model]
    bounds = bounds_for(entry.weights.sha256)
    assert bounds != default_bounds()
    name = model if entry.weights.bundled else str(weights_dir / entry.weights.name)
    if not entry.weights.bundled and not Path(name).is_file():
        pytest.skip(f"{entry.weights.name} is not here")
    with Upscaler(name, device="cpu") as upscaler:
        for page in _pieces(64, 64, 4 if LONG else 2):
            for factor in (1.01, 2.0, 7.99):
                larger = upscaler.upscale_pixels(Pixels(page), factor).color
                assert judge(page, larger, bounds=bounds).reasons == (), factor


Fault = Callable[[UInt8Array, UInt8Array], UInt8Array]


@pytest.mark.parametrize("factor", [1.01, 2.5, 7.99])
@pytest.mark.parametrize(
    "fault",
    [
        lambda larger, other: np.zeros_like(larger),
        lambda larger, other: np.full_like(larger, 200),
        lambda larger, other: other,
        lambda larger, other: larger[:, ::-1].copy(),
        lambda larger, other: np.roll(larger, larger.shape[1] // 20, axis=1),
        lambda larger, other: np.where(
            np.arange(larger.shape[1])[:, None] < larger.shape[1] // 2, other, larger
        ),
    ],
    ids=["black", "gray", "another page", "mirrored", "shifted", "half another page"],
)
def test_faults_of_small_pages_are_still_found(fault: Fault, factor: float) -> None:
    pieces = list(_pieces(80, 80, 8))
    # Pieces with lines in every direction: a flat one looks the same when it is mirrored or shifted.
    drawn = [page for page in pieces if np.abs(np.diff(page.astype(int), axis=1)).mean() > 8]
    assert len(drawn) >= 3
    for number, page in enumerate(drawn):
        larger, other = (
            _larger(each, factor, Image.Resampling.BICUBIC)
            for each in (page, drawn[(number + 1) % len(drawn)])
        )
        assert _judged(page, fault(larger, other).astype(np.uint8), OWN).is_suspect


@pytest.mark.parametrize("factor", [1.01, 2.5, 7.99])
def test_the_least_faults_of_pages_of_ordinary_size_are_still_found(factor: float) -> None:
    for page in _pieces(500, 400, 4 if LONG else 2):
        larger = _larger(page, factor, Image.Resampling.BICUBIC)
        moved = larger.astype(np.int16)
        moved[:, :, 2] -= 4
        assert _judged(page, moved.clip(0, 255).astype(np.uint8), OWN).is_suspect
        image = Image.fromarray(larger)
        affine = (1, 0, factor / 2, 0, 1, 0)
        half = np.asarray(
            image.transform(image.size, Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC)
        )
        assert _judged(page, half, OWN).is_suspect


def test_pages_of_less_than_64_pixels_are_not_judged() -> None:
    for height, width, is_judged in ((63, 500, False), (500, 63, False), (1, 1, False), (64, 64, True)):
        assert QualityGate.wants(Pixels(np.zeros((height, width, 1), np.uint8))) == is_judged
