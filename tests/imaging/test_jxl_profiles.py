"""The colour profile of a JPEG XL, in and out, and what becomes of it where libjxl itself cannot be reached."""

import ctypes
import struct
from collections.abc import Iterator
from ctypes import c_size_t, c_void_p
from dataclasses import replace

import imagecodecs
import numpy as np
import pytest
from PIL import ImageCms

from comic_upscale.errors import PageError
from comic_upscale.imaging.codecs import libjxl
from comic_upscale.imaging.codecs.jxl import write_jxl
from comic_upscale.imaging.color import to_srgb
from comic_upscale.imaging.decode import decode
from comic_upscale.imaging.encode import check_encoded, encode, list_omissions
from comic_upscale.imaging.pixels import NO_METADATA, Pixels, SampleArray

LIMIT = 1_000_000
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ADOBE = bytes(
    imagecodecs.cms_profile(
        "rgb",
        whitepoint=(0.3127, 0.329, 1),
        primaries=[0.64, 0.33, 1, 0.21, 0.71, 1, 0.15, 0.06, 1],
        gamma=2.2,
    )
)


def gray_profile(gamma: float) -> bytes:
    """A profile for gray, with a white point and a curve."""
    white = b"XYZ \0\0\0\0" + struct.pack(">lll", 0xF6D6, 0x10000, 0xD32D)
    curve = b"curv\0\0\0\0" + struct.pack(">LHxx", 1, round(gamma * 256))
    start = 128 + 4 + 2 * 12
    table = struct.pack(">L4sLL4sLL", 2, b"wtpt", start, len(white), b"kTRC", start + len(white), 14)
    body = table + white + curve
    return struct.pack(">L", 128 + len(body)) + SRGB[4:16] + b"GRAY" + SRGB[20:128] + body


GRAY = gray_profile(1.8)

needs_libjxl = pytest.mark.skipif(
    not libjxl.carries(SRGB), reason="libjxl cannot be reached through imagecodecs here"
)


def exchanged() -> bytes:
    """A profile whose red and blue are exchanged: none of the spaces that JPEG XL has a name for."""
    profile = bytearray(SRGB)
    red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(profile)


def tabled() -> bytes:
    """A profile with a curve of 17 points, which no number describes: lossy files, too, hold it whole."""
    points = [round(65535 * (step / 16) ** (1.6 + 0.05 * step)) for step in range(17)]
    curve = b"curv\0\0\0\0" + struct.pack(">L17Hxx", 17, *points)
    profile, entries = bytearray(SRGB), bytearray()
    for at in range(132, 132 + 12 * int.from_bytes(SRGB[128:132], "big"), 12):
        name, start, length = struct.unpack_from(">4sLL", SRGB, at)
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            start, length = len(SRGB), len(curve) - 2
        entries += struct.pack(">4sLL", name, start, length)
    profile[132 : 132 + len(entries)] = entries
    profile += curve
    profile[:4] = struct.pack(">L", len(profile))
    return bytes(profile)


needs_tables = pytest.mark.skipif(
    not libjxl.carries(tabled()), reason="libjxl does not read lossy images with profiles of tables (0.12)"
)
TABLED = pytest.param(3, tabled(), marks=needs_tables)


def page(channels: int = 3, kind: type = np.uint8, *, alpha: bool = False) -> Pixels:
    """Soft shades, which a lossy format keeps."""
    y, x = np.mgrid[0:48, 0:64]
    shades = np.dstack((60 + 2 * x, 200 - 2 * y, 40 + x + y))[:, :, :channels]
    unit = np.iinfo(kind).max // 255
    mask = (128 + x + y).astype(kind) * unit if alpha else None
    return Pixels((shades * unit).astype(kind), None if mask is None else mask.astype(kind))


def seen(page: Pixels) -> SampleArray:
    """What a page looks like: its samples in sRGB."""
    if page.icc_profile is None:
        return page.color
    converted = to_srgb(page.color, page.icc_profile)
    assert converted is not None
    return converted


@pytest.fixture
def no_libjxl(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have it as on Windows, where imagecodecs alone can be had."""
    monkeypatch.setattr(libjxl, "_library", lambda: None)
    libjxl.carries.cache_clear()
    yield
    libjxl.carries.cache_clear()


@needs_libjxl
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize(
    ("channels", "profile"), [(3, ADOBE), (3, SRGB), (3, exchanged()), TABLED, (1, GRAY)]
)
def test_a_lossless_one_keeps_samples_and_profile(
    kind: type, alpha: bool, channels: int, profile: bytes
) -> None:
    before = replace(page(channels, kind, alpha=alpha), icc_profile=profile)
    data = encode(before, format="jxl")
    check_encoded(data, (before.width, before.height))
    after = decode(data, max_pixels=LIMIT)
    assert after.icc_profile == profile
    assert after.color.dtype == before.color.dtype
    assert (after.color == before.color).all()
    assert (after.alpha is None) is not alpha
    assert before.alpha is None or (after.alpha == before.alpha).all()
    assert after.notes == list_omissions(before, "jxl", "jxl") == ()


@needs_libjxl
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("channels", "profile"), [(3, ADOBE), (3, SRGB), (3, exchanged()), TABLED, (1, GRAY)]
)
def test_a_lossy_one_looks_the_same_by_the_profile_that_it_carries(
    kind: type, channels: int, profile: bytes
) -> None:
    before = replace(page(channels, kind), icc_profile=profile)
    after = decode(encode(before, format="jxl", quality=95), max_pixels=LIMIT)
    assert after.color.shape == before.color.shape
    assert after.color.dtype == before.color.dtype
    unit = np.iinfo(kind).max / 255
    assert np.abs(seen(after).astype(float) - seen(before)).mean() < 1.5 * unit
    # libjxl writes a space that it has a name for by that, and makes a profile of its own for it; sRGB needs none.
    assert profile == SRGB or after.icc_profile is not None
    assert after.notes == ()


class Channel(ctypes.Structure):
    """libjxl's words on a channel that is no colour."""

    _fields_ = (
        ("kind", ctypes.c_int),
        ("bits_per_sample", ctypes.c_uint32),
        ("exponent_bits_per_sample", ctypes.c_uint32),
        ("dim_shift", ctypes.c_uint32),
        ("name_length", ctypes.c_uint32),
        ("alpha_premultiplied", ctypes.c_int),
        ("spot_color", ctypes.c_float * 4),
        ("cfa_channel", ctypes.c_uint32),
    )


@needs_libjxl
@pytest.mark.parametrize(("quality", "error"), [(None, 1), (95, 8)])
def test_colours_multiplied_by_alpha_are_divided_again(
    monkeypatch: pytest.MonkeyPatch, quality: int | None, error: int
) -> None:
    library = libjxl._library()
    assert library is not None
    really = library.JxlEncoderSetBasicInfo

    def multiplied(encoder: int, info: object) -> int:
        status = int(really(encoder, info))
        channel = Channel(kind=0, bits_per_sample=8, alpha_premultiplied=1)
        return status or int(
            library.JxlEncoderSetExtraChannelInfo(c_void_p(encoder), c_size_t(0), ctypes.byref(channel))
        )

    monkeypatch.setattr(library, "JxlEncoderSetBasicInfo", multiplied)
    alpha = np.full((8, 8), 128, np.uint8)
    halved = np.dstack((np.full((8, 8, 3), (100, 50, 20), np.uint8), alpha))
    # Of a lossy one in sRGB nothing but its alpha tells that it needs libjxl itself.
    after = decode(write_jxl(halved, quality, NO_METADATA, SRGB), max_pixels=LIMIT)
    assert (after.icc_profile == SRGB) is (quality is None)
    assert np.abs(after.color.astype(int) - (199, 100, 40)).max() <= error
    assert (after.alpha == 128).all()


@needs_libjxl
def test_one_that_is_cut_short_is_told() -> None:
    random = np.random.default_rng(3)
    noise = Pixels(random.integers(0, 256, (80, 90, 3), np.uint8), icc_profile=ADOBE)
    data = encode(noise, format="jxl")
    with pytest.raises(PageError) as caught:
        decode(data[: len(data) // 2], max_pixels=LIMIT)
    assert caught.value.kind == "truncated"


@needs_libjxl
def test_without_libjxl_a_profile_that_is_lost_is_told(request: pytest.FixtureRequest) -> None:
    data = encode(replace(page(), icc_profile=exchanged()), format="jxl")
    request.getfixturevalue("no_libjxl")
    after = decode(data, max_pixels=LIMIT)
    assert after.icc_profile is None
    assert any("ICC profile left out" in note for note in after.notes)


@needs_libjxl
def test_a_lossy_file_with_a_profile_of_tables_is_read_by_every_libjxl() -> None:
    before = replace(page(), icc_profile=tabled())
    data = libjxl.encode_with_profile(before.color, tabled(), distance=1.0, effort=1)
    assert data is not None
    after = decode(data, max_pixels=LIMIT)
    assert np.abs(seen(after).astype(float) - seen(before)).mean() < 4


@needs_libjxl
@needs_tables
def test_without_libjxl_a_lossy_one_comes_in_srgb(request: pytest.FixtureRequest) -> None:
    before = replace(page(), icc_profile=tabled())
    data = encode(before, format="jxl", quality=95)
    assert decode(data, max_pixels=LIMIT).icc_profile == tabled()
    request.getfixturevalue("no_libjxl")
    after = decode(data, max_pixels=LIMIT)
    assert after.icc_profile is None
    assert np.abs(after.color.astype(float) - seen(before)).mean() < 4
    assert after.notes == ()


def test_without_libjxl_a_page_is_written_in_srgb_and_told(no_libjxl: None) -> None:
    before = replace(page(), icc_profile=exchanged())
    after = decode(encode(before, format="jxl"), max_pixels=LIMIT)
    assert after.icc_profile is None
    assert (after.color == seen(before)).all()
    assert any("converted to sRGB" in note for note in list_omissions(before, "jxl", "jxl"))
