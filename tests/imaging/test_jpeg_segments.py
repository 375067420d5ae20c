"""JPEGs that lie in another way or have another profile, and the same samples."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from comic_upscale.errors import PageError
from comic_upscale.imaging.decode import decode, read_header
from comic_upscale.imaging.jpeg_segments import with_orientation, with_profile
from comic_upscale.imaging.orientation import upright
from tests.archives import picture

PLAIN = picture(1, (37, 23), "JPEG")
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def samples(jpeg: bytes) -> np.ndarray:
    return decode(jpeg, max_pixels=10_000).color


def saved(**options: object) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(PLAIN)).save(buffer, "JPEG", quality="keep", **options)
    return buffer.getvalue()


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_lies_as_it_is_told_to(orientation: int) -> None:
    wanted = upright(samples(PLAIN), orientation)
    assert np.array_equal(samples(with_orientation(PLAIN, orientation)), wanted)
    # What its own EXIF says, or its XMP where there is no EXIF, does not count.
    wanted = upright(samples(saved()), orientation)
    for before in (saved(exif=exif(6)), saved(xmp=b'<x tiff:Orientation="6"/>')):
        assert samples(before).shape != samples(saved()).shape
        assert np.array_equal(samples(with_orientation(before, orientation)), wanted)


def test_a_profile_is_put_in_taken_out_and_exchanged() -> None:
    large = PROFILE + bytes(200_000)
    for profile in (PROFILE, large):
        first = with_profile(PLAIN, profile)
        assert Image.open(io.BytesIO(first)).info["icc_profile"] == profile
        assert with_profile(first, None) == PLAIN
        assert with_profile(with_profile(first, large), profile) == first
        assert np.array_equal(samples(first), samples(PLAIN))
    with pytest.raises(ValueError, match="16,800,000"):
        with_profile(PLAIN, bytes(16_800_000))


@pytest.mark.parametrize(
    "broken", [b"", b"\xff\xd8", b"no JPEG", PLAIN[:100], b"\xff\xd8\xff\xe1\x00\x00" * 3]
)
def test_what_is_cut_or_no_jpeg_comes_back_as_it_is(broken: bytes) -> None:
    assert with_orientation(broken, 6) == broken
    assert with_profile(broken, PROFILE) == broken


def test_other_segments_stay() -> None:
    commented = saved(comment=b"by us", exif=exif(3), dpi=(300, 300))
    turned = with_orientation(commented, 8)
    assert Image.open(io.BytesIO(turned)).info["comment"] == b"by us"
    assert Image.open(io.BytesIO(turned)).info["dpi"] == (300, 300)
    assert turned[:4] == b"\xff\xd8\xff\xe0"


def with_frame(marker: int, bits: int = 8) -> bytes:
    """The JPEG, with another kind of frame."""
    at = PLAIN.index(b"\xff\xc0")
    return PLAIN[: at + 1] + bytes((marker,)) + PLAIN[at + 2 : at + 4] + bytes((bits,)) + PLAIN[at + 5 :]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (with_frame(0xC1, 12), "12-bit JPEG"),
        (with_frame(0xC3, 16), "16-bit JPEG"),
        (with_frame(0xC5), "hierarchical JPEG"),
        (with_frame(0xF7), "JPEG-LS"),
        (b"\xff\xd8\xff\xe8\0\x08SPIFF\0" + with_frame(0xF7)[2:], "JPEG-LS"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_kind_of_jpeg_that_is_not_read_is_named_and_not_called_damaged(data: bytes, kind: str) -> None:
    with pytest.raises(PageError, match=f"is a {kind}") as error:
        decode(data, max_pixels=10_000)
    assert error.value.kind == "unsupported"


def test_a_dry_run_names_such_a_kind_too() -> None:
    with pytest.raises(PageError, match="is a 12-bit JPEG"):
        read_header(with_frame(0xC1, 12))


def test_a_jpeg_with_an_impossible_depth_is_damaged() -> None:
    with pytest.raises(PageError) as error:
        decode(with_frame(0xC0, 200), max_pixels=10_000)
    assert error.value.kind == "damaged"
