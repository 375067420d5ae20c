from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageChops

from benchmarks.candidates import lanczos
from benchmarks.scores import flat_ground, luma, score


def test_luma_is_bt601_in_full_range() -> None:
    image = Image.new("RGB", (4, 3), (255, 255, 255))
    image.putpixel((0, 0), (255, 0, 0))
    image.putpixel((1, 0), (0, 255, 0))
    image.putpixel((2, 0), (0, 0, 255))
    levels = luma(image)
    assert levels[0] == pytest.approx([76.245, 149.685, 29.07, 255])
    assert levels.max() <= 255


def test_a_gray_page_and_its_rgb_twin_have_the_same_luma() -> None:
    gray = Image.linear_gradient("L")
    assert np.allclose(luma(gray), luma(gray.convert("RGB")), atol=1e-4)


def test_an_identical_page_is_perfect_and_a_shifted_one_is_worse(drawing: Image.Image) -> None:
    pytest.importorskip("piq", reason="piq is not installed")
    perfect = score(drawing, drawing)
    assert (perfect.psnr, perfect.ssim, perfect.gmsd) == pytest.approx((80, 1, 0), abs=1e-3)
    shifted = score(ImageChops.offset(drawing, 1, 0), drawing)
    assert shifted.psnr < 30 and shifted.ssim < 0.95 and shifted.gmsd > 0.05
    further = score(ImageChops.offset(drawing, 3, 0), drawing)
    assert further.psnr < shifted.psnr and further.ssim < shifted.ssim


def test_pages_of_different_sizes_cannot_be_compared(drawing: Image.Image) -> None:
    pytest.importorskip("piq", reason="piq is not installed")
    with pytest.raises(ValueError, match="compared"):
        score(drawing, drawing.resize((80, 120)))


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
