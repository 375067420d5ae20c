from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from training.degrade import Compression, compress, draw_compression, scan, shrink, spoil


def _page(*, gray: bool, seed: int = 3) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (12, 12, 1 if gray else 3), dtype=np.uint8)
    return Image.fromarray(np.repeat(small, 3 if gray else 1, axis=2)).resize(
        (96, 96), Image.Resampling.BICUBIC
    )


def _is_gray(page: Image.Image) -> bool:
    pixels = np.asarray(page)
    return bool((pixels == pixels[..., :1]).all())


@pytest.mark.parametrize("how", [Compression("jpeg", 40), Compression("webp", 40), Compression("none")])
def test_a_gray_page_stays_gray(how: Compression) -> None:
    assert _is_gray(compress(_page(gray=True), how))


def test_what_is_not_compressed_is_not_touched() -> None:
    page = _page(gray=False)
    assert compress(page, Compression("none")) is page


def test_lower_quality_and_halved_chroma_cost_more() -> None:
    page = _page(gray=False)

    def error(how: Compression) -> float:
        return float(np.abs(np.asarray(compress(page, how), float) - np.asarray(page, float)).mean())

    assert 0 < error(Compression("jpeg", 95, 0)) < error(Compression("jpeg", 40, 0))
    assert error(Compression("jpeg", 95, 0)) < error(Compression("jpeg", 95, 2))


def test_every_way_of_storing_is_drawn() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_compression(rng) for _ in range(400)]
    assert {how.format for how in drawn} == {"none", "jpeg", "webp"}
    assert {how.chroma for how in drawn if how.format == "jpeg"} == {0, 2}
    assert all(40 <= how.quality <= 95 for how in drawn if how.format != "none")


def test_shrinking_a_region_is_shrinking_the_page_and_cutting_the_region() -> None:
    # The margin around the region is wider than any kernel reaches.
    page = _page(gray=False)

    def without_blur() -> np.random.Generator:
        return np.random.default_rng(1)

    whole = shrink(page, (48, 48), (0, 0, 96, 96), without_blur())
    cut = shrink(page.crop((20, 20, 76, 76)), (16, 16), (12, 12, 44, 44), without_blur())
    assert (np.asarray(cut) == np.asarray(whole)[16:32, 16:32]).all()


@pytest.mark.parametrize("gray", [True, False])
def test_scanner_noise_is_centred_and_gray_on_a_gray_page(gray: bool) -> None:
    flat = np.full((200, 200, 3), 128, np.uint8)
    if not gray:
        flat[..., 0] = 90
    noisy = scan(flat, np.random.default_rng(5))
    assert abs(float(noisy.astype(float).mean() - flat.mean())) < 0.1
    assert 0.3 < float((noisy.astype(float) - flat).std()) < 6.5
    assert _is_gray(Image.fromarray(noisy)) == gray


def test_a_good_share_of_pages_is_left_clean() -> None:
    rng = np.random.default_rng(2)
    page = _page(gray=False)
    untouched = sum(spoil(page, rng) is page for _ in range(200))
    assert 60 < untouched < 140
