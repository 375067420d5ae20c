import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin

from comic_upscale.errors import PageError
from comic_upscale.imaging import decode as decode_module
from comic_upscale.imaging.decode import decode, read_header
from comic_upscale.imaging.formats import ARCHIVE_EXTENSIONS, extension_of
from comic_upscale.imaging.pixels import Pixels

LIMIT = 100_000_000

# Every file of odd/ that does not decode; all the others must.
ODD_FAILURES = {
    "pillow__broken.png": "truncated",
    "pillow__truncated_image.png": "truncated",
    "pngsuite__xc1n0g08.png": "damaged",
    "pngsuite__xd3n2c08.png": "damaged",
    "pngsuite__xdtn0g01.png": "damaged",
    "pngsuite__xhdn0g08.png": "damaged",
    "pngsuite__xs1n0g01.png": "not-an-image",
}
NAMED = " | colour space named by numbers: written as an ICC profile"
SHADES = " | gamma of the file: worked into the shades"
# The rest of a name: width x height, channels, A with alpha, p with a profile, and the notes.
ODD_PAGES = {
    "climatefrogs__c_005.jpg": "2048x2048 1 | ICC profile left out: it is for RGB, the page is GRAY",
    "exif__Landscape_3.jpg": "1800x1200 3",
    "exif__Landscape_6.jpg": "1800x1200 3",
    "exif__Portrait_5.jpg": "1200x1800 3",
    "haruko__02.jpg": "600x837 1 p",
    "made__haruko_03_16bit.png": "600x837 1 16",
    "made__haruko_03_1bit.png": "600x837 1 p",
    "made__pageblanche_006_cmyk.jpg": "1200x1577 3 | CMYK: converted to sRGB",
    "made__pageblanche_006_exif6.jpg": "1200x1577 3",
    "pillow__16bit.cropped.tif": "64x64 1 16",
    "pillow__apng_mode_16bit.png": "128x64 3 16 A | animated: first of 3 frames",
    "pillow__apng_mode_grayscale_alpha.png": "128x64 1 A | animated: first of 3 frames",
    "pillow__avif_rot1mir0.avif": "640x427 3",
    "pillow__avif_star.avifs": "159x159 3 A | animated: first of 5 frames",
    "pillow__g4-multi.tiff": "3307x4677 1 | multi-page: first of 3 frames",
    "pillow__avif_hopper.heif": "128x128 3",
    "stump__3.jxl": "550x368 3",
    "pillow__hopper.Lab.tif": "128x128 3 | LAB: converted to sRGB",
    "pillow__i_trns.png": "64x64 1 16 A",
    "pillow__iss634.webp": "245x245 3 A | animated: first of 42 frames",
    "pillow__la.tga": "64x64 1 A",
    "pillow__png_decompression_dos.png": "1x1 1"
    ' | text "big1" left out: it is larger than 1 MiB'
    ' | text "big2" left out: it is larger than 1 MiB'
    ' | text "big3" left out: it is larger than 1 MiB',
    "pillow__truncated_end_chunk.png": "128x128 3 | the end of the file is missing",
    "pillow__unknown_compression_method.png": "57x57 3 A | ICC profile left out: it is broken",
    "pillow__orientation_rectangle.jpg": "1x2 3",
    "pillow__pil123p.png": f"162x150 3 A p{NAMED}",
    "pillow__pport_g4.tif": "2548x3296 1 p",
    "pillow__sugarshack.mpo": "640x480 3 | multi-page: first of 2 frames",
    "pillow__uncompressed_la.png": "128x128 1 A",
    "pillow__xmp_tags_orientation.png": "326x268 3 A p",
    "pngsuite__basi6a16.png": f"32x32 3 16 A p{NAMED}",
    "pngsuite__basn4a16.png": f"32x32 1 16 A{SHADES}",
    "pngsuite__tbbn3p08.png": f"32x32 3 A p{NAMED}",
    "pngsuite__tbwn0g16.png": f"32x32 1 16 A{SHADES}",
    "poignant__dwemthy-back-castle-anim.gif": "1017x634 3 A | animated: first of 7 frames"
    " | the whole page is transparent",
}


def saved(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def adam7(values: np.ndarray) -> bytes:
    """The seven passes of an interlaced PNG, unfiltered."""
    starts = (
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    )
    passes = [values[y::down, x::across] for y, x, down, across in starts]
    return b"".join(b"\0" + row.astype(">u2").tobytes() for part in passes if part.size for row in part)


def png(
    width: int, height: int, bits: int, color_type: int, rows: bytes, *extra: bytes, interlaced: bool = False
) -> bytes:
    header = struct.pack(">LLBBBBB", width, height, bits, color_type, 0, 0, interlaced)
    parts = (chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def noise(height: int = 5, width: int = 7, channels: int = 3) -> np.ndarray:
    values = np.random.default_rng(7).integers(0, 256, (height, width, channels), np.uint8)
    return values[:, :, 0] if channels == 1 else values


def failure(data: bytes, *, max_pixels: int = LIMIT) -> PageError:
    with pytest.raises(PageError) as caught:
        decode(data, max_pixels=max_pixels)
    return caught.value


def described(page: Pixels) -> str:
    words = [f"{page.width}x{page.height} {page.color.shape[2]}"]
    words += ["16"] * (page.bits == 16)
    words += ["A"] * (page.alpha is not None) + ["p"] * (page.icc_profile is not None)
    return " | ".join((" ".join(words), *page.notes))


def test_odd_files_decode_or_fail_with_the_right_reason(comics_dir: Path) -> None:
    paths = [
        path for path in (comics_dir / "odd").iterdir() if extension_of(path.name) not in ARCHIVE_EXTENSIONS
    ]
    results: dict[str, str] = {}

    def attempt(path: Path) -> None:
        try:
            page = decode(path.read_bytes(), max_pixels=LIMIT)
        except PageError as error:
            results[path.name] = error.kind
            return
        assert page.color.flags.c_contiguous
        assert page.color.flags.writeable
        header = read_header(path)
        assert (header.width, header.height) == (page.width, page.height), path.name
        results[path.name] = described(page)

    # Threads as in a run; a warning from any of them is an error here.
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(attempt, paths))
    assert len(results) > 70
    assert {name: kind for name, kind in results.items() if " " not in kind} == ODD_FAILURES
    assert {name: results[name] for name in ODD_PAGES} == ODD_PAGES


@pytest.mark.parametrize(
    "name",
    [
        "exif__Landscape_3.jpg",
        "exif__Landscape_6.jpg",
        "exif__Portrait_5.jpg",
        "pillow__exif_imagemagick_orientation.png",
        "pillow__avif_rot1mir0.avif",
        "pillow__orientation_rectangle.jpg",
    ],
)
def test_real_files_lie_as_pillow_lays_them(comics_dir: Path, name: str) -> None:
    path = comics_dir / "odd" / name
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert (decode(path.read_bytes(), max_pixels=LIMIT).color == expected).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_orientation(orientation: int, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    data = saved(Image.fromarray(noise()), format, exif=exif, **options)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    page = decode(data, max_pixels=LIMIT)
    assert (page.color == expected).all()
    header = read_header(data)
    assert (header.width, header.height) == (page.width, page.height)


def test_orientation_from_xmp_alone_and_alpha_turns_too() -> None:
    values = noise(channels=4)
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    page = decode(
        saved(Image.fromarray(values), "WEBP", lossless=True, exact=True, xmp=xmp), max_pixels=LIMIT
    )
    assert page.alpha is not None
    assert (np.dstack((page.color, page.alpha)) == np.rot90(values, -1)).all()


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0"]
)
def test_broken_exif_is_no_failure(exif: bytes) -> None:
    for format in ("JPEG", "PNG"):
        assert decode(saved(Image.fromarray(noise()), format, exif=exif), max_pixels=LIMIT).width == 7


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("interlaced", [False, True])
def test_sixteen_bits_are_read_whole(channels: int, interlaced: bool) -> None:
    values = np.random.default_rng(5).integers(0, 65536, (9, 11, channels)).astype(np.uint16)
    if interlaced:
        data = png(11, 9, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], adam7(values), interlaced=True)
    else:
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        data = png(11, 9, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], rows)
    page = decode(data, max_pixels=LIMIT)
    together = page.color if page.alpha is None else np.dstack((page.color, page.alpha))
    assert together.dtype == np.uint16
    assert (together == values).all()
    assert page.notes == ()


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_sixteen_bit_tiff_in_colour(planar: str, orientation: int) -> None:
    import tifffile

    values = np.random.default_rng(6).integers(0, 65536, (9, 11, 3)).astype(np.uint16)
    buffer = io.BytesIO()
    samples = values if planar == "contig" else np.moveaxis(values, 2, 0)
    tag = [(274, 3, 1, orientation, True)]
    tifffile.imwrite(buffer, samples, photometric="rgb", planarconfig=planar, metadata=None, extratags=tag)
    page = decode(buffer.getvalue(), max_pixels=LIMIT)
    assert page.bits == 16 or planar == "separate"
    if page.bits == 16:
        assert (page.color == (values if orientation == 1 else np.rot90(values, -1))).all()


def test_sixteen_bits_of_gray_keep_their_values() -> None:
    values = np.array([[0, 1, 128, 129, 257, 32767, 32768, 65406, 65407, 65535]], np.uint16)
    for format in ("PNG", "TIFF"):
        page = decode(saved(Image.fromarray(values), format), max_pixels=LIMIT)
        assert (page.color[:, :, 0] == values).all()
        assert page.notes == ()
    big_endian = b"P5 10 1 65535\n" + values.astype(">u2").tobytes()
    assert (decode(big_endian, max_pixels=LIMIT).color[:, :, 0] == values).all()


def test_sixteen_bit_tiff_with_white_at_zero() -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[262] = 0
    values = np.array([[0, 65535]], np.uint16)
    data = saved(Image.fromarray(values), "TIFF", tiffinfo=tags)
    with Image.open(io.BytesIO(data)) as image:
        assert image.tag_v2[262] == 0
    assert decode(data, max_pixels=LIMIT).color.ravel().tolist() == [65535, 0]


@pytest.mark.parametrize(
    ("values", "expected"), [([0.0, 0.5, 1.0], [0, 32768, 65535]), ([0.0, 2.5, 255.0], [0, 642, 65535])]
)
def test_floating_point(values: list[float], expected: list[int]) -> None:
    data = saved(Image.fromarray(np.array([[*values, np.nan, -3]], np.float32)), "TIFF")
    assert decode(data, max_pixels=LIMIT).color.ravel().tolist() == [*expected, 0, 0]


def test_floating_point_that_holds_whole_shades_of_eight_bits() -> None:
    data = saved(Image.fromarray(np.array([[0, 2, 255]], np.float32)), "TIFF")
    page = decode(data, max_pixels=LIMIT)
    assert (page.bits, page.color.ravel().tolist()) == (8, [0, 2, 255])


@pytest.mark.parametrize(("bits", "rows", "shades"), [(1, 0x40, [0, 255]), (2, 0x1B, [0, 85, 170, 255])])
def test_transparent_shade_of_shallow_gray(bits: int, rows: int, shades: list[int]) -> None:
    data = png(len(shades), 1, bits, 0, bytes((0, rows)), chunk(b"tRNS", b"\0\1"))
    page = decode(data, max_pixels=LIMIT)
    assert page.color.ravel().tolist() == shades
    assert page.alpha is not None
    assert page.alpha.ravel().tolist() == [255 * (index != 1) for index in range(len(shades))]


def test_transparent_colour() -> None:
    eight = png(2, 1, 8, 2, b"\0\1\2\3\1\2\4", chunk(b"tRNS", struct.pack(">3H", 1, 2, 4)))
    values = struct.pack(">6H", 1000, 2000, 3000, 4000, 5000, 6000)
    sixteen = png(2, 1, 16, 2, b"\0" + values, chunk(b"tRNS", values[6:]))
    for data in (eight, sixteen):
        page = decode(data, max_pixels=LIMIT)
        assert page.alpha is not None
        assert page.alpha.tolist() == [[255 if data is eight else 65535, 0]]


def test_palette_and_its_transparency() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert decode(saved(image), max_pixels=LIMIT).color.tolist() == [[[10, 20, 30], [40, 50, 60]]]
    page = decode(saved(image, transparency=bytes((77, 255))), max_pixels=LIMIT)
    assert page.color.tolist() == [[[10, 20, 30], [40, 50, 60]]]
    assert page.alpha is not None
    assert page.alpha.tolist() == [[77, 255]]


def test_alpha_is_kept_even_where_it_hides_nothing() -> None:
    values = noise(channels=4)
    values[:, :, 3] = 255
    page = decode(saved(Image.fromarray(values)), max_pixels=LIMIT)
    assert (page.color == values[:, :, :3]).all()
    assert page.alpha is not None
    assert (page.alpha == 255).all()


def test_colour_under_transparency_is_left() -> None:
    values = noise(channels=4)
    values[:, :, 3] = 0
    assert (decode(saved(Image.fromarray(values)), max_pixels=LIMIT).color == values[:, :, :3]).all()


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "LAB"])
def test_other_colour_spaces_become_rgb(mode: str) -> None:
    # A gentle ramp: noise would leave the range of sRGB.
    ramp = np.linspace(60, 200, 64, dtype=np.uint8)
    rgb = Image.fromarray(
        np.dstack([np.tile(ramp, (8, 1)), np.full((8, 64), 120, np.uint8), np.tile(ramp[::-1], (8, 1))])
    )
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(rgb, srgb, lab, outputMode="LAB")
    else:
        image = rgb.convert(mode)
    if mode == "HSV":  # no file format holds it
        color = decode_module.to_samples(image, decode_module.depth_of(image, b"")).color
    else:
        color = decode(saved(image, "TIFF"), max_pixels=LIMIT).color
    assert np.abs(color.astype(int) - np.asarray(rgb)).max() <= 4


def test_cmyk_loses_its_profile_and_a_broken_one_does_no_harm() -> None:
    image = Image.fromarray(noise(16, 16)).convert("CMYK")
    broken = bytes(16) + b"CMYK" + bytes(16) + b"acsp" + bytes(200)
    page = decode(saved(image, "TIFF", icc_profile=broken), max_pixels=LIMIT)
    assert page.icc_profile is None
    assert page.notes == ("CMYK: converted to sRGB",)
    assert (page.color == np.asarray(image.convert("RGB"))).all()


def test_a_fitting_profile_is_kept_byte_by_byte() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for format in ("PNG", "JPEG", "WEBP", "TIFF"):
        assert (
            decode(saved(Image.fromarray(noise()), format, icc_profile=profile), max_pixels=LIMIT).icc_profile
            == profile
        )
    page = decode(saved(Image.fromarray(noise(channels=1)), icc_profile=profile), max_pixels=LIMIT)
    assert page.icc_profile is None
    assert "for RGB" in page.notes[0]


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (b"", "empty", "0 bytes"),
        (b"just text", "not-an-image", "not an image"),
        (bytes(5000), "not-an-image", "not an image"),
        (b"\n<!DOCTYPE HTML><html>404</html>", "not-an-image", "web page"),
        (b"PK\x03\x04" + bytes(60), "not-an-image", "ZIP"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not-an-image", "not an image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50), "damaged", "damaged"),
        (b"\xff\x0a", "truncated", "cut short"),
        (b"\x89PNG\r\n\x1a\n", "truncated", "cut short"),
        (b"GIF89a", "damaged", "damaged"),
    ],
)
def test_what_is_not_a_readable_image(data: bytes, kind: str, words: str) -> None:
    error = failure(data)
    assert error.kind == kind
    assert words in error.reason


@pytest.mark.parametrize(
    "format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "QOI", "PPM", "TGA"]
)
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_a_page_cut_short_fails(format: str, part: float) -> None:
    data = saved(Image.fromarray(noise(64, 64)), format)
    decode(data, max_pixels=LIMIT)
    error = failure(data[: int(len(data) * part)])
    if format in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "PPM"):
        assert error.kind == "truncated"
    else:
        assert error.kind in ("truncated", "damaged")


def test_a_jpeg_filled_up_with_zeros_fails() -> None:
    data = saved(Image.fromarray(noise(64, 64)), "JPEG")
    half = data[: len(data) // 2] + bytes(len(data) // 2)
    with Image.open(io.BytesIO(half)) as image:
        image.load()  # this is why: Pillow takes it
    assert failure(half).kind == "truncated"
    decode(data + bytes(1000), max_pixels=LIMIT)  # padding behind the end is no harm


def test_too_large_is_told_from_the_header_alone() -> None:
    bomb = png(60_000, 60_000, 8, 0, b"")  # no such pixels: to decode it would say "truncated"
    error = failure(bomb)
    assert error.kind == "too-large"
    assert "3600000000" in error.reason
    assert "--max-pixels" in error.reason
    assert failure(saved(Image.fromarray(noise())), max_pixels=34).kind == "too-large"
    assert decode(saved(Image.fromarray(noise())), max_pixels=35).width == 7


def test_an_icon_does_not_hide_a_bomb() -> None:
    inside = png(60_000, 60_000, 8, 0, b"")
    entry = struct.pack("<BBBBHHLL", 16, 16, 0, 0, 1, 32, len(inside), 22)
    assert failure(b"\0\0\1\0\1\0" + entry + inside).kind == "too-large"


def test_the_limit_is_ours_and_pillows_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    data = saved(Image.fromarray(noise()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(data, max_pixels=35).width == 7
    assert Image.MAX_IMAGE_PIXELS == 10


def test_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise MemoryError

    monkeypatch.setattr(decode_module, "to_samples", refuse)
    error = failure(saved(Image.fromarray(noise())))
    assert error.kind == "out-of-memory"
    assert "--workers" in error.reason


def test_header(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    frames = [Image.fromarray(noise(channels=1)), Image.new("L", (7, 5))]
    path.write_bytes(saved(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    header = read_header(path)
    assert (header.width, header.height, header.format, header.frames) == (7, 5, "GIF", 2)
    assert read_header(path.read_bytes()) == header
    with pytest.raises(PageError) as caught:
        read_header(tmp_path / "none.png")
    assert caught.value.kind == "unreadable"


FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "ICO", "QOI", "PPM", "TGA")
WHOLE = {format: saved(Image.fromarray(noise(24, 24)), format) for format in FORMATS}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(FORMATS),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    st.floats(0, 1),
)
def test_hostile_bytes_never_escape(format: str, changes: list[tuple[float, int]], part: float) -> None:
    data = bytearray(WHOLE[format])
    for where, value in changes:
        data[int(where**3 * len(data))] = value  # rather near the start, where headers are
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            page = decode(bytes(data[: max(1, int(len(data) * part))]), max_pixels=1_000_000)
        except PageError as error:
            assert error.kind in (
                "truncated",
                "damaged",
                "not-an-image",
                "too-large",
                "unsupported",
                "out-of-memory",
            )
            assert error.reason
        else:
            assert page.color.dtype in (np.uint8, np.uint16)
            assert page.color.shape[2] in (1, 3)
