"""TIFFs of samples that Pillow reads not at all, or wrongly: 32 bits, floating point, alpha of 16 bits."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from comic_upscale.errors import PageError
from comic_upscale.imaging.decode import decode, read_header
from comic_upscale.imaging.orientation import upright

LIMIT = 100_000
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RANDOM = np.random.default_rng(6)
SHADES = RANDOM.integers(0, 65536, (40, 50, 3), np.uint16)
SHARE = SHADES / 65535


def tiff(samples: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, samples, **options)
    return file.getvalue()


@pytest.mark.parametrize("layout", [{}, {"tile": (16, 32)}, {"compression": "zlib", "predictor": True}])
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.uint32])
def test_colour_of_32_bits_and_floating_point(kind: type, layout: dict[str, object]) -> None:
    samples = SHADES.astype(np.uint32) * 65537 if kind is np.uint32 else SHARE.astype(kind)
    page = decode(tiff(samples, photometric="rgb", **layout), max_pixels=LIMIT)
    assert page.color.dtype == np.uint16
    assert np.abs(page.color.astype(int) - SHADES).max() <= 1
    assert page.notes == ()


def test_channels_one_after_the_other() -> None:
    planes = np.moveaxis(SHARE.astype(np.float32), 2, 0)
    page = decode(tiff(planes, photometric="rgb", planarconfig="separate"), max_pixels=LIMIT)
    assert np.abs(page.color.astype(int) - SHADES).max() <= 1


def test_gray_of_half_precision_and_of_white_at_zero() -> None:
    half = decode(tiff(SHARE[:, :, 0].astype(np.float16), photometric="minisblack"), max_pixels=LIMIT)
    assert np.abs(half.color[:, :, 0].astype(int) - SHADES[:, :, 0]).max() < 65535 / 2**10
    turned = decode(tiff(SHARE[:, :, 0].astype(np.float64), photometric="miniswhite"), max_pixels=LIMIT)
    assert np.abs(65535 - turned.color[:, :, 0].astype(int) - SHADES[:, :, 0]).max() <= 1


def test_gray_of_32_bits_is_not_taken_for_signed() -> None:
    samples = SHADES[:, :, 0].astype(np.uint32) * 65537
    page = decode(tiff(samples, photometric="minisblack"), max_pixels=LIMIT)
    assert np.abs(page.color[:, :, 0].astype(int) - SHADES[:, :, 0]).max() <= 1


def test_gray_with_alpha_of_16_bits() -> None:
    data = tiff(SHADES[:, :, :2], photometric="minisblack", extrasamples=["unassalpha"])
    page = decode(data, max_pixels=LIMIT)
    assert (page.color[:, :, 0] == SHADES[:, :, 0]).all()
    assert page.alpha is not None
    assert (page.alpha == SHADES[:, :, 1]).all()


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_colours_multiplied_by_alpha_are_divided_again(kind: type) -> None:
    alpha = np.array([[65535, 32768, 0]], np.uint16)
    color = np.array([[[60000, 300, 9]] * 3], np.uint16)
    multiplied = np.rint(color * (alpha[:, :, None] / 65535))
    samples = np.dstack((multiplied, alpha))
    samples = (samples / 65535).astype(kind) if kind is np.float32 else samples.astype(kind)
    page = decode(tiff(samples, photometric="rgb", extrasamples=["assocalpha"]), max_pixels=LIMIT)
    assert page.alpha is not None
    assert (page.alpha == alpha).all()
    assert np.abs(page.color[:, :2].astype(int) - color[:, :2]).max() <= 1
    assert (page.color[:, 2] == 0).all()


def test_a_fifth_channel_that_is_no_alpha_is_left() -> None:
    samples = np.dstack((SHARE, SHARE[:, :, :1])).astype(np.float32)
    page = decode(tiff(samples, photometric="rgb", extrasamples=["unspecified"]), max_pixels=LIMIT)
    assert page.alpha is None
    assert np.abs(page.color.astype(int) - SHADES).max() <= 1


@pytest.mark.parametrize("kind", [np.float32, np.uint16, np.uint8])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_belongs_to_it_is_read_and_it_is_turned_once(orientation: int, kind: type) -> None:
    samples = (
        SHARE.astype(kind) if kind is np.float32 else (SHADES >> (16 - 8 * kind().itemsize)).astype(kind)
    )
    data = tiff(
        samples, photometric="rgb", resolution=(300, 600), resolutionunit="INCH",
        iccprofile=SRGB, extratags=[(274, "H", 1, orientation, True)],
    )  # fmt: skip
    page = decode(data, max_pixels=LIMIT)
    expected = upright(SHADES, orientation)
    assert page.color.shape == expected.shape
    unit = 65535 // np.iinfo(page.color.dtype).max
    assert np.abs(page.color.astype(int) * unit - expected).max() <= unit
    assert page.icc_profile == SRGB
    assert page.metadata.dpi == ((600, 300) if orientation >= 5 else (300, 600))
    header = read_header(data)
    assert (header.width, header.height) == (page.width, page.height)


def test_several_pages_are_counted() -> None:
    pages = np.stack((SHARE, SHARE)).astype(np.float32)
    page = decode(tiff(pages, photometric="rgb"), max_pixels=LIMIT)
    assert page.notes == ("multi-page: first of 2 frames",)


def test_what_is_not_read_is_said() -> None:
    data = tiff(SHADES, photometric="cielab")
    with pytest.raises(PageError, match="uint16, 3 channels") as caught:
        decode(data, max_pixels=LIMIT)
    assert caught.value.kind == "unsupported"
    with pytest.raises(PageError) as caught:
        decode(data[:-200], max_pixels=LIMIT)


def test_pillow_still_knows_no_such_mode() -> None:
    # Else our own way could go.
    with pytest.raises(Image.UnidentifiedImageError):
        Image.open(io.BytesIO(tiff(SHARE.astype(np.float32), photometric="rgb")))
