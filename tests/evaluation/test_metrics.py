"""The scores: equal to scikit-image's, and never silently wrong where pictures differ in kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from comic_upscale.errors import PageError
from comic_upscale.evaluation.metrics import PERFECT_PSNR, Metrics
from comic_upscale.evaluation.picture import as_pixels, luma
from comic_upscale.imaging.pixels import Pixels
from tests.evaluation.conftest import noisy


@pytest.fixture(scope="module")
def metrics() -> Metrics:
    return Metrics()


def score(metrics: Metrics, picture: Image.Image, original: Image.Image) -> tuple[float, float]:
    scores = metrics.score(as_pixels(picture), as_pixels(original))
    return scores.psnr, scores.ssim


@pytest.mark.parametrize("noise", [0.4, 3, 40])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_psnr_and_ssim_are_those_of_scikit_image(
    metrics: Metrics, drawing: Image.Image, noise: float, mode: str
) -> None:
    measure = pytest.importorskip(
        "skimage.metrics", reason="scikit-image is not installed: pip install scikit-image"
    )
    original = drawing.convert(mode)
    picture = noisy(original, noise)
    one, other = (luma(as_pixels(image).color) for image in (original, picture))
    psnr, ssim = score(metrics, picture, original)
    assert psnr == pytest.approx(measure.peak_signal_noise_ratio(one, other, data_range=255), abs=1e-3)
    expected = measure.structural_similarity(
        one, other, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim == pytest.approx(expected, abs=1e-3)


def test_scores_of_a_real_page_are_those_of_scikit_image(metrics: Metrics, comics_dir: Path) -> None:
    measure = pytest.importorskip(
        "skimage.metrics", reason="scikit-image is not installed: pip install scikit-image"
    )
    with Image.open(next(iter(sorted((comics_dir / "dev").glob("pc*"))))) as page:
        original = page.convert("RGB").crop((100, 100, 500, 700))
    small = original.resize((160, 240), Image.Resampling.BICUBIC)
    picture = small.resize(original.size, Image.Resampling.LANCZOS)
    one, other = (luma(as_pixels(image).color) for image in (original, picture))
    psnr, ssim = score(metrics, picture, original)
    assert psnr == pytest.approx(measure.peak_signal_noise_ratio(one, other, data_range=255), abs=1e-3)
    expected = measure.structural_similarity(
        one, other, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim == pytest.approx(expected, abs=1e-3)


def test_an_identical_page_is_perfect_and_a_shifted_one_is_worse(
    metrics: Metrics, drawing: Image.Image
) -> None:
    page = as_pixels(drawing)
    perfect = metrics.score(page, page)
    assert (perfect.psnr, perfect.ssim, perfect.gmsd, perfect.shift) == pytest.approx((80, 1, 0, 0), abs=1e-3)
    one = metrics.score(as_pixels(ImageChops.offset(drawing, 1, 0)), page)
    three = metrics.score(as_pixels(ImageChops.offset(drawing, 3, 0)), page)
    assert one.psnr < 30 and one.ssim < 0.95 and one.gmsd > 0.05
    assert three.psnr < one.psnr and three.ssim < one.ssim
    assert one.ms_ssim is not None and three.ms_ssim is not None
    assert three.ms_ssim < one.ms_ssim < perfect.ms_ssim == pytest.approx(1, abs=1e-4)


def test_pages_of_different_sizes_cannot_be_compared(metrics: Metrics, drawing: Image.Image) -> None:
    with pytest.raises(PageError, match=r"80 x 120.* 170 x 250") as raised:
        score(metrics, drawing.resize((80, 120)), drawing)
    assert raised.value.kind == "sizes-differ"


def test_what_is_too_small_for_a_window_is_refused_and_ms_ssim_left_out(metrics: Metrics) -> None:
    with pytest.raises(PageError, match="11 pixels"):
        score(metrics, Image.new("L", (10, 40)), Image.new("L", (10, 40)))
    smallest = Image.new("L", (11, 40))
    assert metrics.score(as_pixels(smallest), as_pixels(smallest)).ms_ssim is None


def test_gray_equals_the_same_page_in_rgb_and_a_tint_shows(metrics: Metrics, drawing: Image.Image) -> None:
    gray = drawing.convert("L")
    same = metrics.score(as_pixels(gray.convert("RGB")), as_pixels(gray))
    assert (same.psnr, same.shift) == pytest.approx((PERFECT_PSNR, 0), abs=1e-3)
    # Red up and green down leaves luma as it was.
    tinted = np.asarray(Image.new("RGB", (64, 64), (128 + 30, 128 - 15, 128)))
    plain = Pixels(np.full((64, 64, 1), 128, np.uint8))
    scores = metrics.score(Pixels(tinted), plain)
    assert scores.psnr > 50
    assert scores.shift == pytest.approx(30)


def test_transparency_is_compared_on_white_and_on_black(metrics: Metrics) -> None:
    def page(color: int, alpha: int) -> Pixels:
        seen = np.full((40, 40), 255, np.uint8)
        seen[10:30, 10:30] = alpha
        return Pixels(np.full((40, 40, 3), color, np.uint8), seen)

    hidden = page(255, 0)
    assert metrics.score(hidden, page(255, 0)).psnr == PERFECT_PSNR
    # White lines on transparency vanish on white: on black they do not.
    assert metrics.score(hidden, page(255, 128)).psnr < 15
    # What is under full transparency is nothing that anybody sees.
    other = page(255, 0)
    other.color[15:20, 15:20] = 0
    assert metrics.score(hidden, other).psnr == PERFECT_PSNR


def test_a_transparent_page_against_an_opaque_one_is_refused(metrics: Metrics, drawing: Image.Image) -> None:
    clear = drawing.copy()
    clear.putalpha(Image.new("L", drawing.size, 200))
    with pytest.raises(PageError) as raised:
        score(metrics, clear, drawing)
    assert raised.value.kind == "transparency"
    clear.putalpha(Image.new("L", drawing.size, 255))
    assert score(metrics, clear, drawing)[0] == PERFECT_PSNR


def test_without_its_weights_lpips_is_left_out_and_nothing_is_downloaded(
    tmp_path: Path, drawing: Image.Image
) -> None:
    import torch

    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path)
    try:
        metrics = Metrics()
        assert not metrics.has_lpips
        assert metrics.score(as_pixels(drawing), as_pixels(drawing)).lpips is None
        assert not any(tmp_path.iterdir())
    finally:
        torch.hub.set_dir(before)


def test_with_its_weights_lpips_is_measured(tmp_path: Path, drawing: Image.Image) -> None:
    import torch
    from torchvision.models import vgg16

    # The weights' names and shapes are real, their values are not, and each is stored but once: 528 MB as 1.
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in vgg16(weights=None).state_dict().items()}
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    weights = {name: torch.full((), 0.01).expand(shape) for name, shape in shapes.items()}
    torch.save(weights, folder / "vgg16-397923af.pth")
    layers = [torch.full((1, channels, 1, 1), 1.0) for channels in (64, 128, 256, 512, 512)]
    torch.save(layers, folder / "lpips_weights.pt")
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path)
    try:
        metrics = Metrics()
    finally:
        torch.hub.set_dir(before)
    assert metrics.has_lpips
    page = as_pixels(drawing)
    assert metrics.score(page, page).lpips == pytest.approx(0, abs=1e-6)
    worse = metrics.score(as_pixels(noisy(drawing, 30)), page).lpips
    assert worse is not None and worse > 0
