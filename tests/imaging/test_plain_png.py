"""Ordinary PNGs are read without Pillow, with the same result; all others are left to it."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from comic_upscale.errors import PageError
from comic_upscale.imaging import decode as decoding
from comic_upscale.imaging import plain_png
from comic_upscale.imaging.codecs.png import SIGNATURE, chunk
from comic_upscale.imaging.decode import decode
from comic_upscale.imaging.pixels import Pixels
from comic_upscale.imaging.plain_png import read_plain_png
from tests.imaging.test_decode import LIMIT, noise, png

EXAMPLES = Path(__file__).parents[2] / "examples" / "pages"


def drawn(mode: str, size: tuple[int, int] = (301, 203)) -> Image.Image:
    """A smooth page with lines, for which an encoder chooses several filters."""
    down, right = np.indices(size[::-1])
    page = np.stack((down * 255 // size[1], right * 255 // size[0], 255 * ((down + right) % 40 > 3)), axis=2)
    return Image.fromarray(page.astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, **options: object) -> bytes:
    with io.BytesIO() as file:
        image.save(file, "PNG", **options)
        return file.getvalue()


def by_pillow(data: bytes, monkeypatch: pytest.MonkeyPatch) -> Pixels | PageError:
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "read_plain_png", lambda _: None)
        return by_either(data)


def by_either(data: bytes) -> Pixels | PageError:
    try:
        return decode(data, max_pixels=LIMIT)
    except PageError as error:
        return error


def assert_same(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = by_either(data), by_pillow(data, monkeypatch)
    if isinstance(one, PageError) or isinstance(other, PageError):
        assert str(one) == str(other)
        return
    np.testing.assert_array_equal(one.color, other.color)
    assert one.color.dtype == other.color.dtype and one.color.flags.writeable and one.color.flags.c_contiguous
    assert (one.metadata, one.notes, one.icc_profile) == (other.metadata, other.notes, other.icc_profile)
    assert (one.alpha is None, one.lossless) == (other.alpha is None, other.lossless)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("level", [0, 1, 9])
def test_the_same_samples_as_pillow(monkeypatch: pytest.MonkeyPatch, mode: str, level: int) -> None:
    image = drawn(mode)
    data = encoded(image, compress_level=level)
    samples = read_plain_png(data)
    assert samples is not None
    np.testing.assert_array_equal(samples, np.array(image).reshape(203, 301, -1))
    assert_same(data, monkeypatch)


@pytest.mark.parametrize("filter", range(5))
def test_every_filter_is_undone(filter: int) -> None:
    rows = b"".join(bytes((filter,)) + np.random.default_rng(row).bytes(3 * 90) for row in range(250))
    data = png(90, 250, 8, 2, rows)
    samples = read_plain_png(data)
    assert samples is not None
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(samples, np.array(image))


def test_metadata_before_and_after_the_samples_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = PngInfo()
    texts.add_text("parameters", "a cat, 20 steps")
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(drawn("RGB"), pnginfo=texts, exif=exif, dpi=(300, 300), icc_profile=None)
    before, end = data[:-12], data[-12:]
    late = before + chunk(b"tEXt", b"Author\0somebody") + end
    assert read_plain_png(late) is not None
    assert_same(late, monkeypatch)
    page = decode(late, max_pixels=LIMIT)
    assert dict(page.metadata.text) == {"parameters": "a cat, 20 steps", "Author": "somebody"}
    assert (page.width, page.height) == (203, 301)


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.png")), ids=lambda path: path.name)
def test_the_examples_are_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same(path.read_bytes(), monkeypatch)


ROWS = b"".join(b"\0" + row.tobytes() for row in noise(40, 30, 3))
SOUND = png(30, 40, 8, 2, ROWS)


def rows_as(packed: bytes, *, splits: bool = False) -> bytes:
    """The sound PNG with these bytes in place of its compressed rows."""
    half = len(packed) // 2
    parts = (packed[:half], packed[half:]) if splits else (packed,)
    between = [chunk(b"tEXt", b"a\0b")] if splits else []
    first, *others = (chunk(b"IDAT", part) for part in parts)
    return b"".join((SIGNATURE, SOUND[8:33], first, *between, *others, chunk(b"IEND", b"")))


@pytest.mark.parametrize("data", [
    encoded(drawn("RGBA")), encoded(drawn("LA")), encoded(drawn("P")), encoded(drawn("1")),
    encoded(drawn("RGB"), transparency=(1, 2, 3)), encoded(drawn("L"), transparency=9),
    encoded(drawn("L"), save_all=True, append_images=[drawn("L").rotate(180)]),
    png(30, 40, 16, 0, b"".join(b"\0" + bytes(60) for _ in range(40))),
    png(7, 5, 8, 2, b"", interlaced=True),
    # Too few rows, too many, a filter that there is not, damaged data, no checksum, and data in two places.
    png(30, 41, 8, 2, ROWS), png(30, 39, 8, 2, ROWS), png(30, 40, 8, 2, b"\5" + ROWS[1:]),
    rows_as(zlib.compress(ROWS)[:-8] + b"\0" * 8), rows_as(zlib.compress(ROWS)[:-4]),
    rows_as(zlib.compress(ROWS)[:-40]),
    rows_as(zlib.compress(ROWS), splits=True), rows_as(b""),
    SOUND[:16] + struct.pack(">LL", 0, 40) + SOUND[24:], SOUND[:200], SOUND[:20], b"", SIGNATURE,
    # The end before the samples, and a later chunk that is longer than the file.
    SOUND[:33] + chunk(b"IEND", b"") + SOUND[33:-12],
    SOUND[:-12] + struct.pack(">L4s", 1 << 31, b"IDAT") + SOUND[-12:],
    SOUND[:-12] + struct.pack(">L4s", 99, b"tEXt") + SOUND[-12:],
])  # fmt: skip
def test_other_files_are_left_to_pillow(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_plain_png(data) is None
    assert_same(data, monkeypatch)


def test_only_the_end_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same(SOUND[:-12], monkeypatch)
    assert decode(SOUND[:-12], max_pixels=LIMIT).notes == ("the end of the file is missing",)


def test_rows_are_not_unpacked_beyond_the_size_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = rows_as(zlib.compress(bytes(1 << 20)))
    unpacked: list[int] = []

    class Watched:
        def __init__(self) -> None:
            self._unpacker = zlib.decompressobj()
            self.eof = False

        def decompress(self, packed: bytes, most: int) -> bytes:
            rows = self._unpacker.decompress(packed, most)
            unpacked.append(len(rows))
            return rows

    monkeypatch.setattr(plain_png.isal_zlib, "decompressobj", Watched)
    assert read_plain_png(bomb) is None
    assert unpacked == [len(ROWS) + 1]


def test_a_second_header_cannot_pass_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    # Pillow goes by the last one, and so do all checks of the size.
    width, height = 400, 300
    rows = zlib.compress((b"\0" + bytes(width)) * height)
    first, last = (
        chunk(b"IHDR", struct.pack(">LLBBBBB", *size, 8, 0, 0, 0, 0)) for size in ((width, height), (8, 8))
    )
    data = b"".join((SIGNATURE, first, last, chunk(b"IDAT", rows), chunk(b"IEND", b"")))
    assert read_plain_png(data) is None
    assert_same(data, monkeypatch)
