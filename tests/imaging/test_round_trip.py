"""Without a network, what is read is what is written: samples, profile, EXIF, XMP and resolution."""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from comic_upscale.engines.pages import prepare
from comic_upscale.imaging.codecs import png
from comic_upscale.imaging.codecs.png import _predict, check_png, write_png, write_png_at_once
from comic_upscale.imaging.decode import decode
from comic_upscale.imaging.encode import check_encoded, encode, list_omissions, lossy_quality
from comic_upscale.imaging.metadata import read_density, sized_exif, upright_exif, with_density
from comic_upscale.imaging.pixels import Metadata, Pixels
from comic_upscale.imaging.shrink import shrink
from comic_upscale.settings.job import FormatName
from comic_upscale.settings.processing import ProcessingSettings

LIMIT = 100_000_000
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="1"/></x:xmpmeta>'


def made_exif(orientation: int = 1, order: str = "<") -> bytes:
    """EXIF with a description, an orientation and the size of the picture."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}L", 8)
    short = struct.pack(f"{order}H2x", orientation)
    first = struct.pack(f"{order}H", 3) + b"".join((
        struct.pack(f"{order}HHL4s", 0x010E, 2, 4, b"ink\0"),
        struct.pack(f"{order}HHL4s", 0x0112, 3, 1, short),
        struct.pack(f"{order}HHLL", 0x8769, 4, 1, 8 + 2 + 36 + 4),
    )) + struct.pack(f"{order}L", 0)  # fmt: skip
    second = struct.pack(f"{order}H", 2) + b"".join((
        struct.pack(f"{order}HHLH2x", 0xA002, 3, 1, 7),
        struct.pack(f"{order}HHLL", 0xA003, 4, 1, 9),
    )) + struct.pack(f"{order}L", 0)  # fmt: skip
    return head + first + second


def tags(exif: bytes) -> dict[int, object]:
    read = Image.Exif()
    read.load(b"Exif\0\0" + exif)
    found = {**dict(read), **read.get_ifd(0x8769)}
    # Where the other directory lies means nothing, and AVIF has an orientation of its own, upright by default.
    del found[0x8769]
    resolution = (0x011A, 0x011B, 0x0128)
    return {
        tag: value for tag, value in found.items() if (tag, value) != (0x0112, 1) and tag not in resolution
    }


@st.composite
def pages(draw: st.DrawFn, deep: bool = True) -> Pixels:
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    channels = draw(st.sampled_from([1, 3]))
    kind = draw(st.sampled_from([np.uint8, np.uint16])) if deep else np.uint8
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    top = np.iinfo(kind).max
    color = random.integers(0, top, (height, width, channels), kind, endpoint=True)
    alpha = random.integers(0, top, (height, width), kind, endpoint=True) if draw(st.booleans()) else None
    metadata = Metadata(
        exif=made_exif(order=draw(st.sampled_from("<>"))) if draw(st.booleans()) else None,
        xmp=XMP if draw(st.booleans()) else None,
        dpi=draw(st.sampled_from([None, (72.0, 72.0), (300.0, 600.0)])),
    )
    profile = SRGB if channels == 3 and draw(st.booleans()) else None
    return Pixels(color, alpha, profile, metadata=metadata)


def same(after: Pixels, before: Pixels) -> None:
    assert after.color.dtype == before.color.dtype
    assert (after.color == before.color).all()
    assert (after.alpha is None) == (before.alpha is None)
    if before.alpha is not None:
        assert (after.alpha == before.alpha).all()


def same_metadata(after: Pixels, before: Pixels) -> None:
    assert after.metadata.xmp == before.metadata.xmp
    # A format without another place for the resolution says it in EXIF.
    had_any = before.metadata.exif is not None or before.metadata.dpi is not None
    assert after.metadata.exif is None or had_any
    if before.metadata.exif is not None:
        assert after.metadata.exif is not None
        sized = sized_exif(before.metadata.exif, before.width, before.height)
        assert tags(after.metadata.exif) == tags(sized)
    if before.metadata.dpi is not None:
        assert after.metadata.dpi == pytest.approx(before.metadata.dpi, rel=0.001)


@settings(max_examples=40)
@given(pages())
def test_png(before: Pixels) -> None:
    data = encode(before, format="png")
    check_encoded(data, (before.width, before.height))
    after = decode(data, max_pixels=LIMIT)
    same(after, before)
    same_metadata(after, before)
    assert after.icc_profile == before.icc_profile


@settings(max_examples=25)
@given(pages())
def test_tiff(before: Pixels) -> None:
    data = encode(before, format="tiff")
    check_encoded(data, (before.width, before.height))
    after = decode(data, max_pixels=LIMIT)
    if before.bits == 16 and before.alpha is not None and before.color.shape[2] == 1:
        # Written as three equal channels, which is how other programs can read it.
        after = replace(after, color=after.color[:, :, :1])
    same(after, before)
    same_metadata(after, before)
    assert after.icc_profile == before.icc_profile


@settings(max_examples=25)
@given(pages(deep=False))
def test_lossless_webp(before: Pixels) -> None:
    after = decode(encode(before, format="webp"), max_pixels=LIMIT, gray="auto")
    if before.color.shape[2] == after.color.shape[2]:
        same(after, before)
    same_metadata(after, before)
    assert after.lossless


@settings(max_examples=25)
@given(pages())
def test_lossless_jxl(before: Pixels) -> None:
    data = encode(before, format="jxl")
    check_encoded(data, (before.width, before.height))
    after = decode(data, max_pixels=LIMIT)
    same(after, before)
    same_metadata(after, before)


@pytest.mark.parametrize("format", ["jpeg", "avif", "webp", "jxl"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossy_formats_keep_the_picture_and_what_belongs_to_it(format: FormatName, channels: int) -> None:
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    color = np.repeat(np.tile(ramp, (64, 1))[:, :, None], channels, axis=2)
    if channels == 3:
        color[:, :, 1] = 128
    before = Pixels(color, metadata=Metadata(made_exif(), XMP, (300.0, 300.0)))
    after = decode(encode(before, format=format, quality=95), max_pixels=LIMIT, gray="auto")
    assert after.color.shape == before.color.shape
    assert np.abs(after.color.astype(int) - before.color).mean() < 1.5
    same_metadata(after, before)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(order: str, orientation: int) -> None:
    values = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG", exif=b"Exif\0\0" + made_exif(orientation, order))
    page = decode(buffer.getvalue(), max_pixels=LIMIT)
    again = decode(encode(page, format="png"), max_pixels=LIMIT)
    assert (again.color == page.color).all()
    assert again.metadata.exif is not None
    found = tags(again.metadata.exif)
    assert 0x0112 not in found
    assert (found[0xA002], found[0xA003]) == (page.width, page.height)
    assert found[0x010E] == "ink"


def test_orientation_in_xmp_is_applied_once() -> None:
    values = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)
    buffer = io.BytesIO()
    xmp = XMP.replace(b'Orientation="1"', b'Orientation="6"')
    Image.fromarray(values).save(buffer, "WEBP", lossless=True, xmp=xmp)
    page = decode(buffer.getvalue(), max_pixels=LIMIT)
    assert page.metadata.xmp == XMP
    again = decode(encode(page, format="webp"), max_pixels=LIMIT)
    assert (again.color == np.rot90(values, -1)).all()


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_density_is_added_to_exif_or_replaced_in_it(order: str) -> None:
    once = with_density(made_exif(order=order), (300.0, 450.5))
    twice = with_density(once, (72.0, 72.0))
    assert read_density(once) == (300.0, 450.5)
    assert read_density(twice) == read_density(with_density(None, (72.0, 72.0))) == (72.0, 72.0)
    assert tags(twice) == tags(made_exif(order=order))
    assert read_density(made_exif(order=order)) is None


def test_a_density_in_centimetres_is_one_in_inches() -> None:
    exif = bytearray(with_density(None, (100.0, 100.0)))
    unit = exif.index(struct.pack("<HHLH", 0x0128, 3, 1, 2)) + 8
    exif[unit] = 3
    assert read_density(bytes(exif)) == pytest.approx((254.0, 254.0))
    exif[unit] = 1
    assert read_density(bytes(exif)) is None


@pytest.mark.parametrize("format", ["png", "jpeg", "webp", "avif", "jxl", "tiff"])
def test_the_density_asked_for_takes_the_place_of_the_page_s_own(format: FormatName) -> None:
    page = Pixels(np.zeros((4, 4, 3), np.uint8), metadata=Metadata(made_exif(), None, (72.0, 72.0)))
    again = decode(encode(page, format=format, dpi=300), max_pixels=LIMIT)
    assert again.metadata.dpi == pytest.approx((300, 300), rel=0.001)
    if again.metadata.exif is not None and (told := read_density(again.metadata.exif)) is not None:
        assert told == (300, 300)


@settings(max_examples=60)
@given(st.binary(max_size=60), st.sampled_from([b"II*\0", b"MM\0*"]))
def test_any_exif_is_corrected_or_left_out_and_never_a_failure(tail: bytes, head: bytes) -> None:
    buffer = io.BytesIO()
    Image.new("L", (3, 2)).save(buffer, "JPEG", exif=b"Exif\0\0" + head + tail)
    page = decode(buffer.getvalue(), max_pixels=LIMIT)
    encode(page, format="png")
    if page.metadata.exif is not None:
        assert len(upright_exif(page.metadata.exif)) == len(head + tail)


@pytest.mark.parametrize("write", [write_png, write_png_at_once])
@pytest.mark.parametrize("width", [1, 3, 3000])
@pytest.mark.parametrize("alpha", [False, True])
def test_a_png_is_read_the_same(write: Callable[..., bytes], width: int, alpha: bool) -> None:
    random = np.random.default_rng(2)
    color = random.integers(0, 256, (1500, width, 3), np.uint8)
    mask = random.integers(0, 256, (1500, width), np.uint8) if alpha else None
    data = write(color, mask)
    with Image.open(io.BytesIO(data)) as image:
        assert (np.asarray(image)[:, :, :3] == color).all()
        assert mask is None or (np.asarray(image)[:, :, 3] == mask).all()
    assert check_png(data) == ((width, 1500), "RGBA" if alpha else "RGB")


@pytest.mark.parametrize("at_once", [400 << 20, 0])
def test_a_damaged_png_is_not_proved(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(png, "_AT_ONCE", at_once)
    color = np.random.default_rng(4).integers(0, 256, (300, 400, 3), np.uint8)
    data = write_png(color, color[:, :, 0])
    assert check_png(data) == ((400, 300), "RGBA")
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 1
    short = data[: data.rindex(b"IDAT") - 4] + data[-12:]
    for wrong in (bytes(damaged), data[: len(data) // 2], short):
        with pytest.raises((ValueError, zlib.error, imagecodecs.DeflateError)):
            check_png(wrong)


@pytest.mark.parametrize("at_once", [400 << 20, 0])
@pytest.mark.parametrize(("rows", "filter"), [(299, 0), (301, 0), (300, 5)])
def test_wrong_rows_are_not_proved(
    monkeypatch: pytest.MonkeyPatch, at_once: int, rows: int, filter: int
) -> None:
    # Sums that are right do not make it a page.
    monkeypatch.setattr(png, "_AT_ONCE", at_once)
    data = write_png(np.zeros((300, 400, 1), np.uint8), None)
    packed = zlib.compress((bytes(400 + 1) * (rows - 1)) + bytes([filter]) + bytes(400))
    wrong = data[: 8 + 25] + png.chunk(b"IDAT", packed) + data[-12:]
    with pytest.raises((ValueError, imagecodecs.DeflateError)):
        check_png(wrong)


def test_png_levels_trade_time_for_size() -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8), (64, 4))[:, :, None]
    sizes = [
        len(encode(Pixels(ramp), format="png", settings=ProcessingSettings(png_level=level)))
        for level in (0, 9)
    ]
    assert sizes[1] < sizes[0]


@pytest.mark.parametrize("level", [0, 1, 9])
@pytest.mark.parametrize("shape", [(20000, 1, 1), (1400, 2, 3), (1, 20000, 1), (300, 300, 3)], ids=str)
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_narrow_pages_and_noise_are_written_at_every_png_level(
    level: int, shape: tuple[int, int, int], depth: type[np.uint8] | type[np.uint16]
) -> None:
    noise = np.random.default_rng(1).integers(0, np.iinfo(depth).max, shape).astype(depth)
    data = encode(Pixels(noise), format="png", settings=ProcessingSettings(png_level=level))
    assert np.array_equal(decode(data, max_pixels=LIMIT).color, noise)


def test_an_animation_is_skipped_when_asked() -> None:
    from comic_upscale.errors import PageError

    frames = [Image.new("RGB", (4, 4), shade) for shade in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    assert decode(buffer.getvalue(), max_pixels=LIMIT).notes == ("animated: first of 2 frames",)
    with pytest.raises(PageError, match="--animated first") as caught:
        decode(buffer.getvalue(), max_pixels=LIMIT, animated="skip")
    assert caught.value.kind == "animated"


@pytest.mark.parametrize(("second", "pages"), [(0, 2), (2, 2), (1, 1)])
def test_a_tiff_of_several_pages_is_skipped_when_asked_but_not_for_a_thumbnail(
    second: int, pages: int
) -> None:
    from comic_upscale.errors import PageError

    shades = [Image.new("RGB", (4, 4), shade) for shade in ("red", "blue")]
    shades[1].encoderinfo = {"tiffinfo": {254: second}}
    buffer = io.BytesIO()
    shades[0].save(buffer, "TIFF", save_all=True, append_images=shades[1:])
    taken = decode(buffer.getvalue(), max_pixels=LIMIT)
    assert taken.notes == ("multi-page: first of 2 frames",)
    if pages == 1:
        same = decode(buffer.getvalue(), max_pixels=LIMIT, animated="skip")
        assert (same.color == taken.color).all()
        return
    with pytest.raises(PageError, match="2 pages: --animated first") as caught:
        decode(buffer.getvalue(), max_pixels=LIMIT, animated="skip")
    assert caught.value.kind == "animated"


def test_what_a_format_does_not_hold_is_told() -> None:
    page = Pixels(np.zeros((2, 2, 3), np.uint16), np.zeros((2, 2), np.uint16), SRGB)
    assert list_omissions(page, "png", "png") == ()
    assert len(list_omissions(page, "jpeg", "jpeg")) == 2
    assert list_omissions(page, "jxl", "jxl") == ()


def test_a_lossless_page_with_the_name_of_a_jpeg_is_told() -> None:
    page = Pixels(np.zeros((2, 2, 3), np.uint8))
    assert any("lossless inside" in note for note in list_omissions(page, "jpeg", "auto"))
    assert (
        list_omissions(replace(page, lossless=False), "jpeg", "auto")
        == list_omissions(page, "jpeg", "jpeg")
        == ()
    )


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_page_is_shrunk_in_its_own_depth(kind: type[np.uint8 | np.uint16]) -> None:
    top = np.iinfo(kind).max
    color = np.full((40, 30, 3), top, kind)
    color[:20] = top // 3
    small = shrink(prepare(Pixels(color)), (15, 20))
    assert (small.color.dtype, small.color.shape, small.solid) == (np.dtype(kind), (20, 15, 3), None)
    assert (small.color[14:] == top).all()
    assert (small.color[:6] == top // 3).all()


def test_auto_keeps_lossless_lossless() -> None:
    exact = Pixels(np.zeros((2, 2, 3), np.uint8))
    lossy = replace(exact, lossless=False)
    assert lossy_quality(exact, "webp", "auto", 80) is None
    assert lossy_quality(lossy, "webp", "auto", 80) == 80
    assert lossy_quality(lossy, "webp", "auto", None) is not None
    assert lossy_quality(exact, "webp", "webp", 80) == 80


def test_srgb_converts_and_keep_hands_on() -> None:
    # A profile whose red and blue are exchanged: what it does cannot be overlooked.
    profile = bytearray(SRGB)
    red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    values = np.full((4, 4, 3), (250, 20, 10), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG", icc_profile=bytes(profile))
    kept = decode(buffer.getvalue(), max_pixels=LIMIT)
    assert (kept.color == values).all()
    assert kept.icc_profile == bytes(profile)
    converted = decode(buffer.getvalue(), max_pixels=LIMIT, icc="srgb")
    assert converted.icc_profile is None
    assert np.abs(converted.color[0, 0].astype(int) - (10, 20, 250)).max() <= 3


def test_a_broken_profile_is_noted_and_the_page_goes_on() -> None:
    broken = SRGB[:128] + zlib.compress(SRGB[128:])
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(buffer, "PNG", icc_profile=broken)
    page = decode(buffer.getvalue(), max_pixels=LIMIT)
    assert page.icc_profile is None
    assert page.notes == ("ICC profile left out: it is broken, the page is RGB",)


@pytest.mark.parametrize("left", [0, 1, 2, 63, 127, 128, 200, 254, 255])
def test_paeths_prediction_is_that_of_the_standard(left: int) -> None:
    above, corner = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    estimate = left + above - corner
    to_left, to_above, to_corner = (abs(estimate - each) for each in (left, above, corner))
    wanted = np.where(to_above <= to_corner, above, corner)
    wanted = np.where((to_left <= to_above) & (to_left <= to_corner), left, wanted)
    neighbours = (np.full_like(above, left), above, corner)
    np.testing.assert_array_equal(_predict(*(each.astype(np.uint8) for each in neighbours)), wanted)
