import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from comic_upscale.imaging.decode import decode
from comic_upscale.imaging.gray import eight_bits, is_gray, to_gray
from comic_upscale.settings.job import GrayMode

LIMIT = 100_000_000
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def inked(height: int = 96, width: int = 64) -> np.ndarray:
    """A page of black lines on white, with softened edges, as equal channels."""
    picture = np.full((height, width), 255, np.uint8)
    picture[::7] = 0
    picture[:, ::11] = 90
    return np.repeat(picture[:, :, None], 3, axis=2)


def jpeg(values: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def test_equal_channels_are_gray_and_keep_their_shades() -> None:
    page = inked()
    assert is_gray(page)
    assert (to_gray(page)[:, :, 0] == page[:, :, 0]).all()
    deep = page.astype(np.uint16) * np.uint16(257)
    assert is_gray(deep)
    assert (to_gray(deep)[:, :, 0] == deep[:, :, 0]).all()


def test_noise_in_the_chroma_is_no_colour() -> None:
    noise = np.random.default_rng(1).integers(-6, 7, (96, 64, 3))
    assert is_gray((inked().astype(int) + noise).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("at", [(0, 0), (50, 33), (95, 63)])
@pytest.mark.parametrize("color", [(255, 0, 0), (0, 0, 255), (255, 255, 0)])
def test_one_dot_of_colour_is_colour(at: tuple[int, int], color: tuple[int, int, int]) -> None:
    page = inked()
    page[at] = color
    assert not is_gray(page)


def test_paper_that_is_faintly_yellow_all_over_is_colour() -> None:
    page = inked()
    page[:, :, 2] -= page[:, :, 2] // 64  # 4 of 255
    assert not is_gray(page)


def test_hidden_colour_does_not_count() -> None:
    page = inked()
    page[:4, :4] = (255, 0, 0)
    alpha = np.full(page.shape[:2], 255, np.uint8)
    alpha[:4, :4] = 0
    assert is_gray(page, alpha)
    assert not is_gray(page)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 3), (5, 1030)])
def test_any_size(size: tuple[int, int]) -> None:
    page = np.full((*size, 3), 255, np.uint8)
    assert is_gray(page)
    page[-1, -1] = (255, 0, 255)
    assert not is_gray(page)


@pytest.mark.parametrize(("mode", "channels"), [("auto", 1), ("keep", 3), ("off", 3)])
def test_what_was_asked_for_gray_saved_as_colour(mode: GrayMode, channels: int) -> None:
    page = decode(jpeg(inked(), quality=80), max_pixels=LIMIT, gray=mode)
    assert page.color.shape[2] == channels


@pytest.mark.parametrize(("mode", "channels"), [("auto", 1), ("keep", 1), ("off", 3)])
def test_what_was_asked_for_gray_saved_as_gray(mode: GrayMode, channels: int) -> None:
    page = decode(jpeg(inked()[:, :, 0], quality=80), max_pixels=LIMIT, gray=mode)
    assert page.color.shape[2] == channels
    assert (np.ptp(page.color, axis=2) == 0).all()


def test_a_profile_for_colour_does_not_stay_on_a_page_that_became_gray() -> None:
    page = decode(jpeg(inked(), icc_profile=SRGB), max_pixels=LIMIT, gray="auto")
    assert (page.color.shape[2], page.icc_profile) == (1, None)


def test_eight_bits_round() -> None:
    deep = np.array([0, 128, 129, 257, 65406, 65407, 65535], np.uint16)
    assert eight_bits(deep).tolist() == [0, 0, 1, 1, 254, 255, 255]


# Of the real pages: those that are gray though stored as colour, and those that hold little colour.
GRAY = ("bobby__Bobby-Make-Believe_1915__0.jpg", "bobby__Bobby-Make-Believe_1915__1.jpg")
COLOUR = (
    "climatefrogs__climate-frogs-webtoons-en-20.jpg",
    "torinome__001.jpg",
    "statsill__debugging.jpg",
    "pageblanche__PageBlanche_Page_001.jpg",
)


@pytest.mark.parametrize(("name", "channels"), [*((n, 1) for n in GRAY), *((n, 3) for n in COLOUR)])
def test_real_pages(comics_dir: Path, name: str, channels: int) -> None:
    page = decode((comics_dir / "dev" / name).read_bytes(), max_pixels=LIMIT, gray="auto")
    assert page.color.shape[2] == channels
