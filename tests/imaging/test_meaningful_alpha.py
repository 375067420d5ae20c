"""Files with a fourth byte that says nothing, and pages of which nothing is visible."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from comic_upscale.imaging.decode import decode
from comic_upscale.imaging.pixels import Pixels

LIMIT = 10_000_000
COLOR = np.random.default_rng(5).integers(0, 256, (6, 8, 3), np.uint8)
HIDDEN = ("transparency left out: it would hide the whole page",)
NOTHING = ("the whole page is transparent",)


def rgba(alpha: int | np.ndarray) -> np.ndarray:
    return np.dstack((COLOR, np.broadcast_to(np.asarray(alpha, np.uint8), COLOR.shape[:2])))


def tga(samples: np.ndarray, attributes: int, extension: int | None = None) -> bytes:
    """A TGA from the top down, its samples in blue, green, red and what follows."""
    height, width, channels = samples.shape
    kind = 2 if channels > 2 else 3
    header = bytes((0, 0, kind, 0, 0, 0, 0, 0)) + struct.pack(
        "<4H2B", 0, 0, width, height, 8 * channels, 0x20 | attributes
    )
    order = [2, 1, 0, 3][:channels] if channels > 2 else [0, 1]
    data = header + np.ascontiguousarray(samples[:, :, order]).tobytes()
    if extension is None:
        return data
    area = struct.pack("<H", 495) + bytes(492) + bytes((extension,))
    return data + area + struct.pack("<LL", len(data), 0) + b"TRUEVISION-XFILE.\0"


def bmp(samples: np.ndarray) -> bytes:
    """A BMP whose header gives masks for red, green, blue and alpha."""
    height, width, _ = samples.shape
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    info = struct.pack("<LllHHLLllLL4L", 108, width, -height, 1, 32, 3, 0, 0, 0, 0, 0, *masks) + bytes(52)
    data = np.ascontiguousarray(samples[:, :, [2, 1, 0, 3]]).tobytes()
    return b"BM" + struct.pack("<LLL", 14 + len(info) + len(data), 0, 14 + len(info)) + info + data


def ico(samples: np.ndarray) -> bytes:
    """An icon of one bitmap of 32 bits."""
    height, width, _ = samples.shape
    info = struct.pack("<LllHHLLllLL", 40, width, 2 * height, 1, 32, 0, 0, 0, 0, 0, 0)
    data = info + np.ascontiguousarray(samples[::-1, :, [2, 1, 0, 3]]).tobytes() + bytes(4 * height)
    return b"\0\0\1\0\1\0" + struct.pack("<BBBBHHLL", width, height, 0, 0, 1, 32, len(data), 22) + data


def tiff(samples: np.ndarray, extra: list[str] | None) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, photometric="rgb", extrasamples=extra, metadata=None)
    data = buffer.getvalue()
    if extra is None:
        # tifffile always names them: give the entry a number that nothing reads.
        at = data.index(struct.pack("<HHL", 338, 3, 1))
        data = data[:at] + struct.pack("<H", 337) + data[at + 2 :]
    return data


def saved(samples: np.ndarray, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(samples).save(buffer, format, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def read(data: bytes) -> Pixels:
    return decode(data, max_pixels=LIMIT, gray="auto")


@pytest.mark.parametrize(
    "make", [bmp, ico, lambda samples: tga(samples, 8), lambda samples: tiff(samples, None)]
)
def test_an_alpha_of_zeros_in_a_format_that_has_filler(make: object) -> None:
    result = read(make(rgba(0)))  # type: ignore[operator]
    assert (result.color == COLOR).all()
    assert (result.alpha, result.notes) == (None, HIDDEN)
    some = np.zeros(COLOR.shape[:2], np.uint8)
    some[2, 3] = 9
    result = read(make(rgba(some)))  # type: ignore[operator]
    assert result.alpha is not None
    assert (result.alpha == some).all()
    assert result.notes == ()


def test_a_jpeg_2000_that_does_not_say_that_it_has_alpha() -> None:
    data = saved(rgba(0), "JPEG2000", no_jp2=True)
    assert (read(data).color == COLOR).all()
    assert (read(data).alpha, read(data).notes) == (None, HIDDEN)
    assert read(saved(rgba(0), "JPEG2000")).notes == NOTHING


def test_a_tga_that_says_that_it_has_no_alpha() -> None:
    left_out = ("transparency left out: the header of the TGA declares none",)
    ramp = np.arange(48, dtype=np.uint8).reshape(COLOR.shape[:2])
    for data, notes in (
        (tga(rgba(0), 0), ()),
        (tga(rgba(255), 0), ()),
        (tga(rgba(ramp), 0), left_out),
        (tga(rgba(ramp), 8, extension=0), None),  # Pillow has made this one opaque itself since version 12
        (tga(rgba(ramp), 8, extension=1), left_out),
        (tga(rgba(ramp), 8, extension=2), left_out),
    ):
        result = read(data)
        assert (result.color == COLOR).all()
        assert result.alpha is None
        assert notes is None or result.notes == notes
    for data in (tga(rgba(ramp), 8), tga(rgba(ramp), 0, extension=3), tga(rgba(ramp), 8, extension=3)):
        result = read(data)
        assert result.alpha is not None
        assert (result.alpha == ramp).all()
        assert result.notes == ()


def test_a_gray_tga() -> None:
    ramp = np.arange(48, dtype=np.uint8).reshape(COLOR.shape[:2])
    samples = np.dstack((COLOR[:, :, 0], ramp))
    assert read(tga(samples, 0)).alpha is None
    assert read(tga(samples, 8)).alpha is not None


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True, "exact": True}),
        ("QOI", {}),
        ("TIFF", {}),
    ],
)
def test_a_page_of_which_nothing_is_visible_is_told_of_and_keeps_its_colour(
    format: str, options: dict[str, object]
) -> None:
    result = read(saved(rgba(0), format, **options))
    assert result.notes == NOTHING
    assert result.alpha is not None
    assert not result.alpha.any()
    assert (result.color == COLOR).all()


def test_a_gif_of_which_nothing_is_visible() -> None:
    image = Image.new("P", (8, 6))
    image.putpalette([9, 9, 9])
    buffer = io.BytesIO()
    image.save(buffer, "GIF", transparency=0)
    assert read(buffer.getvalue()).notes == NOTHING


def test_sixteen_bits_of_which_nothing_is_visible() -> None:
    import imagecodecs

    data = bytes(imagecodecs.png_encode(rgba(0).astype(np.uint16)))
    assert read(data).notes == NOTHING


def test_files_that_came_out_wrong_once(faults_dir: Path) -> None:
    for name, notes in (("tga_alpha0.tga", ()), ("bmp_bf_alpha0.bmp", HIDDEN)):
        result = read((faults_dir / "alpha-all-zero" / name).read_bytes())
        assert (result.alpha, result.color.shape, result.notes) == (None, (128, 96, 3), notes)
