import io
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from isal import isal_zlib
from PIL import Image, ImageCms
from PIL.JpegImagePlugin import JpegImageFile, get_sampling

from comic_upscale.errors import PageError
from comic_upscale.imaging.decode import decode
from comic_upscale.imaging.encode import FormatName, check_encoded, check_target, encode
from comic_upscale.imaging.pixels import Pixels

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def page(channels: int = 3, *, alpha: bool = False, icc_profile: bytes | None = None) -> Pixels:
    random = np.random.default_rng(3)
    color = random.integers(0, 256, (9, 13, channels), np.uint8)
    mask = random.choice(np.array([0, 90, 255], np.uint8), (9, 13)) if alpha else None
    return Pixels(color, mask, icc_profile)


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize(
    ("channels", "alpha", "mode"), [(1, False, "L"), (1, True, "LA"), (3, False, "RGB"), (3, True, "RGBA")]
)
def test_png_keeps_every_sample(channels: int, alpha: bool, mode: str) -> None:
    before = page(channels, alpha=alpha)
    data = encode(before, format="png")
    check_encoded(data, (13, 9), mode)
    after = decode(data, max_pixels=1000)
    assert (after.color == before.color).all()
    if before.alpha is None:
        assert after.alpha is None
    else:
        assert after.alpha is not None
        assert (after.alpha == before.alpha).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("alpha", [False, True])
def test_webp_without_quality_keeps_every_sample(channels: int, alpha: bool) -> None:
    before = page(channels, alpha=alpha)
    after = decode(encode(before, format="webp"), max_pixels=1000)
    assert (after.color == before.color).all()
    if before.alpha is not None:
        assert after.alpha is not None
        assert (after.alpha == before.alpha).all()


def test_webp_with_quality_is_smaller_and_keeps_alpha() -> None:
    before = page(alpha=True)
    lossy = encode(before, format="webp", quality=50)
    assert len(lossy) < len(encode(before, format="webp"))
    after = decode(lossy, max_pixels=1000)
    assert after.alpha is not None
    assert (after.alpha == before.alpha).all()


def test_jpeg_lays_transparency_on_white() -> None:
    color = np.zeros((16, 16, 3), np.uint8)
    alpha = np.zeros((16, 16), np.uint8)
    alpha[8:] = 255
    image = np.asarray(opened(encode(Pixels(color, alpha), format="jpeg")))
    assert image[:7].min() > 250
    assert image[9:].max() < 5


def test_jpeg_keeps_gray_and_full_colour() -> None:
    assert opened(encode(page(1), format="jpeg")).mode == "L"
    image = opened(encode(page(), format="jpeg"))
    assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3  # type: ignore[attr-defined]
    before = page()
    worse = encode(before, format="jpeg", quality=30)
    assert len(worse) < len(encode(before, format="jpeg"))


FORMATS = [format for format in get_args(FormatName) if format != "auto"]


@pytest.mark.parametrize("format", ["png", "webp", "jpeg", "avif", "tiff"])
def test_the_profile_goes_into_the_file(format: FormatName) -> None:
    assert opened(encode(page(icc_profile=SRGB), format=format)).info["icc_profile"] == SRGB
    assert "icc_profile" not in opened(encode(page(), format=format)).info


def test_a_gray_profile_goes_where_it_fits(comics_dir: Path) -> None:
    gray = decode((comics_dir / "odd" / "haruko__02.jpg").read_bytes(), max_pixels=10_000_000)
    assert gray.icc_profile is not None
    for format in ("png", "jpeg"):
        assert opened(encode(gray, format=format)).info["icc_profile"] == gray.icc_profile
    webp = opened(encode(gray, format="webp"))
    assert "icc_profile" not in webp.info
    # Worked into the shades: black stays black, white stays white, and gray stays gray.
    values = np.asarray(webp).astype(int)
    assert np.abs(values - values[:, :, :1]).max() <= 1
    for shade in (0, 255):
        where = gray.color[:, :, 0] == shade
        assert np.abs(values[where] - shade).max() <= 2


@pytest.mark.parametrize("quality", [0, 101, -1])
def test_quality_has_a_range(quality: int) -> None:
    with pytest.raises(ValueError, match="1 to 100"):
        encode(page(), format="webp", quality=quality)


@pytest.mark.parametrize(
    ("format", "size", "words"),
    [
        ("webp", (16384, 1), "16383 pixels a side: choose PNG, JPEG, AVIF, JPEG XL, TIFF or a smaller scale"),
        ("jpeg", (1, 65501), "65500 pixels a side: choose PNG, "),
        ("avif", (32769, 1), "32768 pixels a side: choose PNG, JPEG, "),
        ("webp", (16000, 16000), "pixels in all: choose PNG, JPEG"),
    ],
)
def test_limits_of_formats(format: FormatName, size: tuple[int, int], words: str) -> None:
    with pytest.raises(PageError, match=words) as caught:
        check_target(*size, format)
    assert caught.value.kind == "too-large-for-format"


def test_sizes_within_the_limits() -> None:
    check_target(16383, 100, "webp")
    check_target(65500, 65500, "jpeg")
    check_target(100_000, 100_000, "png")


def test_the_limit_is_real_on_both_sides() -> None:
    row = np.zeros((1, 16384, 3), np.uint8)
    with pytest.raises(PageError) as caught:
        encode(Pixels(row), format="webp")
    assert caught.value.kind == "too-large-for-format"
    check_encoded(encode(Pixels(row[:, 1:]), format="webp"), (16383, 1))


@pytest.mark.parametrize("format", FORMATS)
def test_a_damaged_output_is_found(format: FormatName) -> None:
    data = encode(page(), format=format)
    check_encoded(data, (13, 9))
    for wrong in (data[: len(data) // 2], b"", data[:-20]):
        with pytest.raises(PageError) as caught:
            check_encoded(wrong, (13, 9))
        assert caught.value.kind == "encode"
    with pytest.raises(PageError, match=r"\(13, 9\)"):
        check_encoded(data, (9, 13))


def test_an_output_beyond_pillows_guard_can_be_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for format in ("png", "jpeg"):
        check_encoded(encode(page(), format=format), (13, 9))


@pytest.mark.parametrize("format", ["png", "jpeg"])
def test_no_memory(monkeypatch: pytest.MonkeyPatch, format: FormatName) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "save", refuse)
    monkeypatch.setattr(isal_zlib, "compress", refuse)
    with pytest.raises(PageError) as caught:
        encode(page(), format=format)
    assert caught.value.kind == "out-of-memory"


@pytest.mark.parametrize("quality", [None, 40, 95])
def test_colour_has_as_many_samples_as_light(quality: int | None) -> None:
    """Thin coloured lettering is what 4:2:0 ruins."""
    with Image.open(io.BytesIO(encode(page(), format="jpeg", quality=quality))) as image:
        assert isinstance(image, JpegImageFile)
        assert get_sampling(image) == 0
    avif = encode(page(), format="avif", quality=quality)
    # AV1's configuration: bits 3 and 2 of the third byte say that colour is halved across and down.
    assert avif[avif.index(b"av1C") + 6] & 0b1100 == 0
