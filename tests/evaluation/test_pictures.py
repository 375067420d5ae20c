"""Laying pages flat, finding the region worth a look, flat grounds, and likeness to a source."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from comic_upscale.errors import PageError
from comic_upscale.evaluation.flat import flat_ground
from comic_upscale.evaluation.likeness import likeness
from comic_upscale.evaluation.picture import as_pixels, busiest_region, detail, flatten, luma
from comic_upscale.evaluation.trial import lanczos
from comic_upscale.imaging.pixels import Pixels


def test_luma_is_bt601_in_full_range() -> None:
    colors = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
    assert luma(colors)[0] == pytest.approx([76.245, 149.685, 29.07, 255])
    assert luma(colors).max() <= 255


def test_a_page_is_laid_on_a_ground_and_any_depth_becomes_eight_bits() -> None:
    color = np.full((2, 2, 1), 100, np.uint8)
    alpha = np.array([[255, 0], [128, 255]], np.uint8)
    assert flatten(Pixels(color, alpha), 255)[:, :, 0].tolist() == [[100, 255], [177, 100]]
    wide = Pixels(np.full((2, 2, 1), 65535, np.uint16))  # type: ignore[arg-type]
    assert flatten(wide, 0).tolist() == [[[255], [255]], [[255], [255]]]


def test_the_region_is_where_the_detail_is() -> None:
    page = Image.new("L", (200, 300), 255)
    page.paste(Image.effect_noise((40, 40), 80), (120, 200))
    assert busiest_region(detail(as_pixels(page).color), (44, 44)) == pytest.approx(
        (118, 198, 162, 242), abs=2
    )
    assert busiest_region(detail(as_pixels(page).color), (300, 500)) == (0, 0, 200, 300)
    assert busiest_region(detail(np.zeros((1, 1, 1), np.uint8)), (5, 5)) == (0, 0, 1, 1)


def test_an_output_that_kept_its_page_is_like_it_and_one_that_did_not_is_not(drawing: Image.Image) -> None:
    source = as_pixels(drawing)
    larger = lanczos(drawing, 2.5)
    good = likeness(source, as_pixels(larger))
    assert good.ssim is not None and good.ssim > 0.99 and good.psnr > 30 and good.largest_shift < 0.2
    black = likeness(source, as_pixels(Image.new("RGB", larger.size)))
    assert black.ssim is not None and black.ssim < 0.5 and black.psnr < 10
    red, green, blue = larger.split()
    tinted = Image.merge("RGB", (red, green.point(lambda level: level * 0.9), blue))
    shift = likeness(source, as_pixels(tinted)).shift
    assert shift[1] < -15 and abs(shift[0]) < 0.5 and abs(shift[2]) < 0.5


def test_likeness_takes_gray_against_color_smaller_outputs_and_tiny_pages() -> None:
    gray = Image.effect_noise((40, 60), 60)
    assert likeness(as_pixels(gray), as_pixels(gray.convert("RGB"))).psnr == 80
    assert len(likeness(as_pixels(gray), as_pixels(gray)).shift) == 1
    half = gray.resize((20, 30), Image.Resampling.LANCZOS)
    assert likeness(as_pixels(gray), as_pixels(half)).psnr == 80
    dot = as_pixels(Image.new("L", (1, 1), 9))
    assert likeness(dot, dot).ssim is None


def test_a_page_whose_transparency_was_laid_on_white_is_compared_so(drawing: Image.Image) -> None:
    clear = drawing.copy()
    clear.putalpha(drawing.convert("L").point(lambda level: 255 - level))
    on_white = Pixels(flatten(as_pixels(clear), 255))
    assert likeness(as_pixels(clear), on_white).psnr == 80
    with pytest.raises(PageError):
        likeness(as_pixels(drawing), as_pixels(clear))


def test_flat_ground_counts_what_stays_exactly_white_and_black() -> None:
    source = Image.new("RGB", (40, 20), "white")
    source.paste("black", (20, 0, 40, 20))
    # Within four pixels of the edge the neighbourhood is not flat.
    kept = flat_ground(source, source.resize((80, 40), Image.Resampling.NEAREST))
    assert (kept.white, kept.white_kept) == (32 * 40, 32 * 40)
    assert (kept.black, kept.black_kept) == (32 * 40, 32 * 40)
    grayed = source.resize((80, 40), Image.Resampling.NEAREST)
    grayed.paste((255, 254, 255), (0, 0, 10, 40))
    grayed.paste((0, 0, 1), (70, 0, 80, 40))
    spoilt = flat_ground(source, grayed)
    assert (spoilt.white, spoilt.white_kept) == (32 * 40, 22 * 40)
    assert (spoilt.black, spoilt.black_kept) == (32 * 40, 22 * 40)


def test_lanczos_keeps_flat_ground(drawing: Image.Image) -> None:
    kept = flat_ground(drawing, lanczos(drawing, 2.5))
    assert kept.white == kept.white_kept > 0
    assert kept.black == kept.black_kept > 0
