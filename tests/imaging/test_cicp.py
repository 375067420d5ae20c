"""Colours that a file names by numbers: nothing is shown other than a browser would show it."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from comic_upscale.imaging.cicp import _build_profile
from comic_upscale.imaging.color import to_srgb
from comic_upscale.imaging.decode import decode
from comic_upscale.imaging.encode import encode
from comic_upscale.imaging.pixels import Pixels

LIMIT = 100_000
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
COLOR = np.full((4, 6, 3), (128, 60, 200), np.uint8)
SRGB_POINTS = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
ADOBE_POINTS = (31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)


def png(samples: np.ndarray, *chunks: tuple[bytes, bytes], **options: object) -> bytes:
    """A PNG with chunks behind its header."""
    file = io.BytesIO()
    Image.fromarray(samples).save(file, "PNG", **options)
    data = file.getvalue()
    extra = b"".join(
        struct.pack(">L", len(body)) + name + body + struct.pack(">L", zlib.crc32(name + body))
        for name, body in chunks
    )
    return data[:33] + extra + data[33:]


def gamma(value: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">L", round(value * 100_000))


def points(values: tuple[int, ...]) -> tuple[bytes, bytes]:
    return b"cHRM", struct.pack(">8L", *values)


def shown(page: Pixels) -> list[int]:
    """The first pixel in sRGB."""
    assert page.icc_profile is not None
    converted = to_srgb(page.color, page.icc_profile)
    assert converted is not None
    return [int(value) for value in converted[0, 0]]


def test_linear_light_is_shown_as_such_and_goes_along_as_a_profile() -> None:
    page = decode(png(COLOR, gamma(1.0)), max_pixels=LIMIT)
    assert (page.color == COLOR).all()
    assert shown(page) == pytest.approx([188, 133, 229], abs=1)
    assert page.notes == ("colour space named by numbers: written as an ICC profile",)
    again = decode(encode(page, format="webp"), max_pixels=LIMIT)
    assert again.icc_profile == page.icc_profile
    converted = decode(png(COLOR, gamma(1.0)), max_pixels=LIMIT, icc="srgb")
    assert converted.icc_profile is None
    assert list(converted.color[0, 0]) == pytest.approx([188, 133, 229], abs=1)


def test_wide_primaries_are_shown_as_such() -> None:
    page = decode(png(COLOR, gamma(1 / 2.2), points(ADOBE_POINTS)), max_pixels=LIMIT)
    red, _, _ = shown(page)
    assert red > 140


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [gamma(0.45455)],
        [gamma(0.45455), points(SRGB_POINTS)],
        [points(ADOBE_POINTS)],
        [gamma(1.0), (b"sRGB", b"\0")],
        [gamma(0.0)],
        [gamma(9.0)],
        [(b"cICP", bytes((1, 13, 0, 1)))],
        [gamma(0.5), points((31270, 32900, 1, 1, 1, 1, 1, 1))],
    ],
)
def test_srgb_and_nonsense_need_no_profile(chunks: list[tuple[bytes, bytes]]) -> None:
    page = decode(png(COLOR, *chunks), max_pixels=LIMIT)
    assert (page.icc_profile, page.notes) == (None, ())


def test_a_profile_in_the_file_comes_first() -> None:
    page = decode(png(COLOR, gamma(1.0), icc_profile=SRGB), max_pixels=LIMIT)
    assert (page.icc_profile, page.notes) == (SRGB, ())


def test_the_gamma_of_a_gray_page_is_worked_into_its_shades() -> None:
    page = decode(png(COLOR[:, :, 0].copy(), gamma(1.0)), max_pixels=LIMIT)
    assert page.icc_profile is None
    assert page.color[0, 0, 0] == pytest.approx(188, abs=1)
    assert page.notes == ("gamma of the file: worked into the shades",)


def test_numbers_of_h273_in_a_png() -> None:
    page = decode(png(COLOR, (b"cICP", bytes((12, 13, 0, 1)))), max_pixels=LIMIT)
    red, green, _ = shown(page)
    assert red > 128
    assert green < 60
    hdr = decode(png(COLOR, (b"cICP", bytes((9, 16, 0, 1)))), max_pixels=LIMIT)
    assert hdr.icc_profile is None
    assert "taken for sRGB's" in hdr.notes[0]


def test_numbers_of_h273_in_an_avif() -> None:
    file = io.BytesIO()
    Image.fromarray(COLOR).save(file, "AVIF", quality=100)
    plain = file.getvalue()
    at = plain.index(b"colrnclx") + 8
    assert decode(plain, max_pixels=LIMIT).icc_profile is None
    wide = plain[:at] + struct.pack(">HH", 12, 13) + plain[at + 4 :]
    assert shown(decode(wide, max_pixels=LIMIT))[0] > 130
    hdr = plain[:at] + struct.pack(">HH", 9, 16) + plain[at + 4 :]
    assert "taken for sRGB's" in decode(hdr, max_pixels=LIMIT).notes[0]


def test_the_same_numbers_give_the_same_bytes() -> None:
    first = decode(png(COLOR, gamma(0.3)), max_pixels=LIMIT).icc_profile
    assert first is not None
    # lcms writes the time here.
    assert first[24:36] == struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    _build_profile.cache_clear()
    assert decode(png(COLOR, gamma(0.3)), max_pixels=LIMIT).icc_profile == first
