"""Metadata of cameras, phones and programs: read, corrected and passed on."""

import io
import struct
from collections.abc import Callable

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, PngImagePlugin

from comic_upscale.imaging.codecs.jxl import decode_jxl, lost_profile, write_jxl
from comic_upscale.imaging.decode import decode
from comic_upscale.imaging.encode import encode, list_omissions
from comic_upscale.imaging.metadata import read_density, upright_exif
from comic_upscale.imaging.pixels import NO_METADATA, Metadata, Pixels

LIMIT = 10**6
PICTURE = np.random.default_rng(5).integers(0, 256, (6, 9, 3), np.uint8)
DEEP = np.random.default_rng(6).integers(0, 65536, (24, 20, 3), np.uint16)


def telephone(orientation: int = 6) -> Image.Exif:
    """EXIF that gives the size in its first directory too, the place, and a density that differs by the way."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x0100], exif[0x0101] = "Maker", orientation, 9, 6
    exif[0x011A], exif[0x011B], exif[0x0128] = 300.0, 150.0, 2
    camera, place = exif.get_ifd(0x8769), exif.get_ifd(0x8825)
    camera[0xA002], camera[0xA003], camera[0x9003] = 9, 6, "2020:01:01 00:00:00"
    place[1], place[2] = "N", (1.0, 2.0, 3.0)
    return exif


def saved(format: str, picture: np.ndarray = PICTURE, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format, **options)
    return buffer.getvalue()


def read(exif: bytes | None) -> Image.Exif:
    assert exif is not None
    found = Image.Exif()
    found.load(b"Exif\0\0" + exif)
    return found


def test_the_first_directory_gives_the_new_size_too_and_the_density_turns_with_the_page() -> None:
    page = decode(saved("JPEG", exif=telephone(), dpi=(300, 150)), max_pixels=LIMIT)
    assert page.metadata.dpi == (150, 300)
    again = decode(encode(page, format="png"), max_pixels=LIMIT)
    exif = read(again.metadata.exif)
    assert (exif[0x0100], exif[0x0101], exif[0x0112]) == (6, 9, 1)
    assert read_density(again.metadata.exif or b"") == (150, 300)
    assert again.metadata.dpi == pytest.approx((150, 300), rel=0.001)


def test_an_orientation_of_four_bytes_is_reset_once_it_is_applied() -> None:
    exif = b"II*\0" + struct.pack("<LHHHLLL", 8, 1, 0x0112, 4, 1, 6, 0)
    page = decode(saved("PNG", exif=b"Exif\0\0" + exif), max_pixels=LIMIT)
    assert (page.color == np.rot90(PICTURE, -1)).all()
    again = decode(encode(page, format="png"), max_pixels=LIMIT)
    assert (again.color == page.color).all()
    assert read(upright_exif(exif))[0x0112] == 1


@pytest.mark.parametrize(
    "written", [b"tiff:Orientation='6'", b'tiff:Orientation = "6"', b"<tiff:Orientation>6<"]
)
def test_an_orientation_in_xmp_is_read_however_it_is_written(written: bytes) -> None:
    page = decode(saved("WEBP", lossless=True, xmp=b"<x:xmpmeta " + written), max_pixels=LIMIT)
    assert (page.color == np.rot90(PICTURE, -1)).all()
    assert page.metadata.xmp == b"<x:xmpmeta " + written.replace(b"6", b"1")


@pytest.mark.parametrize("order", ["II", "MM"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_tiff_holds_all_of_the_exif_as_other_programs_read_it(
    order: str, kind: type, channels: int
) -> None:
    exif = telephone(1)
    exif.endian = "<" if order == "II" else ">"
    samples = np.random.default_rng(1).integers(0, np.iinfo(kind).max, (700, 300, channels), kind)
    told = exif.tobytes().removeprefix(b"Exif\0\0")
    assert told.startswith(order.encode())
    page = Pixels(samples, metadata=Metadata(told, None, (300.0, 150.0)))
    data = encode(page, format="tiff")
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tags = file.pages.first.tags
        assert (tags["Make"].value, tags["ImageWidth"].value) == ("Maker", 300)
        assert tags["ExifTag"].value["DateTimeOriginal"] == "2020:01:01 00:00:00"
        assert tags["GPSTag"].value["GPSLatitudeRef"] == "N"
        assert len(tags["StripOffsets"].value) > 1 or samples.nbytes < 2**18
        assert (np.atleast_3d(file.asarray()) == samples).all()
    again = decode(data, max_pixels=LIMIT)
    assert (again.color == samples).all()
    found = read(again.metadata.exif)
    assert (found[0x010F], found.get_ifd(0x8769)[0x9003]) == ("Maker", "2020:01:01 00:00:00")
    assert found.get_ifd(0x8825)[1] == "N"


def test_a_tiff_that_says_no_density_has_none() -> None:
    page = decode(saved("TIFF"), max_pixels=LIMIT)
    assert page.metadata.dpi is None


def test_metadata_that_a_jpeg_has_no_room_for_is_told() -> None:
    page = Pixels(PICTURE, metadata=Metadata(None, b"<x>" + bytes(70_000), None))
    assert any("XMP" in note for note in list_omissions(page, "jpeg", "jpeg"))
    assert not list_omissions(page, "png", "png")
    assert decode(encode(page, format="jpeg"), max_pixels=LIMIT).metadata.xmp is None


def test_a_gray_avif_carries_no_profile_for_colours() -> None:
    gray = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    gray = gray[:16] + b"GRAY" + gray[20:]
    curve = struct.pack(">4s4xL", b"curv", 0)
    table = struct.pack(">L4sLL", 1, b"kTRC", 144, len(curve)) + curve
    profile = struct.pack(">L", 128 + len(table)) + gray[4:128] + table
    page = Pixels(PICTURE[:, :, :1].copy(), icc_profile=profile)
    data = encode(page, format="avif")
    with Image.open(io.BytesIO(data)) as image:
        assert "icc_profile" not in image.info
    assert decode(data, max_pixels=LIMIT).notes == ()


def test_packed_boxes_of_a_jpeg_xl_are_opened() -> None:
    exif = telephone(1).tobytes().removeprefix(b"Exif\0\0")
    plain = write_jxl(PICTURE, None, Metadata(exif, b"<x/>", None))
    packed = plain
    for kind, content in ((b"Exif", bytes(4) + exif), (b"xml ", b"<x/>")):
        squeezed = kind + bytes(imagecodecs.brotli_encode(content))
        box = struct.pack(">L", len(content) + 8) + kind + content
        assert box in packed
        packed = packed.replace(box, struct.pack(">L", len(squeezed) + 8) + b"brob" + squeezed)
    page = decode(packed, max_pixels=LIMIT)
    assert (page.metadata.exif, page.metadata.xmp) == (exif, b"<x/>")


@pytest.mark.parametrize("quality", [None, 95])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_in_jpeg_xl_are_not_called_linear_light(channels: int, quality: int | None) -> None:
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (48, 1))
    samples = np.repeat(ramp[:, :, None], channels, axis=2)
    data = write_jxl(samples, quality, NO_METADATA)
    # Without our own mending: libjxl hands lossy ones out in the curve that the file names.
    raw = np.atleast_3d(imagecodecs.jpegxl_decode(data)).astype(float)
    assert np.abs(raw - samples).mean() < 257
    assert np.abs(decode_jxl(data)[0].astype(float) - samples).mean() < 257
    # The way in which imagecodecs writes it alone is linear light, and read as that.
    alone = bytes(imagecodecs.jpegxl_encode(samples.squeeze(), lossless=True))
    read_back, _ = decode_jxl(alone)
    if channels in (1, 3):
        assert read_back[0, 32, 0] == pytest.approx(65535 * 0.735, abs=600)
    assert not lost_profile(data)
    assert not lost_profile(alone)


def made_ppm(top: int, samples: np.ndarray) -> bytes:
    return b"P6\n# drawn by hand\n20 24\n%d\n" % top + samples.astype(">u2").tobytes()


@pytest.mark.parametrize(
    "made",
    [
        lambda samples: bytes(imagecodecs.jpeg2k_encode(samples, level=0, reversible=True)),
        lambda samples: made_ppm(65535, samples),
    ],
)
def test_sixteen_bits_in_colour_that_pillow_reads_as_eight(made: Callable[[np.ndarray], bytes]) -> None:
    page = decode(made(DEEP), max_pixels=LIMIT)
    assert page.bits == 16
    assert (page.color == DEEP).all()


def test_a_ppm_of_ten_bits_fills_sixteen() -> None:
    page = decode(made_ppm(1023, DEEP >> 6), max_pixels=LIMIT)
    assert np.abs(page.color - (DEEP >> 6) * (65535 / 1023)).max() <= 0.51


def test_depth_that_is_not_read_is_told() -> None:
    data = bytes(imagecodecs.avif_encode(DEEP >> 6, bitspersample=10))
    page = decode(data, max_pixels=LIMIT)
    assert page.bits == 8
    assert any("more than 8 bits" in note for note in page.notes)


def test_what_a_generator_wrote_into_a_png_goes_into_the_next() -> None:
    said = {
        "parameters": "a knight, ink\nSteps: 20, Seed: 1",
        "Title": "\u9a0e\u58eb \u2192 knight",
        "Comment": "caf\u00e9",
    }
    info = PngImagePlugin.PngInfo()
    for keyword, words in said.items():
        info.add_text(keyword, words)
    page = decode(saved("PNG", pnginfo=info), max_pixels=LIMIT)
    with Image.open(io.BytesIO(encode(page, format="png"))) as written:
        written.load()
        assert written.text == said
    assert list_omissions(page, "png", "png") == ()
    assert "parameters" in list_omissions(page, "webp", "webp")[0]


def test_texts_that_are_too_long_or_hold_something_else_are_left() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", "\nexif\n 4\n00000000")
    info.add_text("long", "x" * (1 << 20), zip=True)
    page = decode(saved("PNG", pnginfo=info), max_pixels=LIMIT)
    assert page.metadata.text == ()
    assert any("larger than 1 MiB" in note for note in page.notes)
