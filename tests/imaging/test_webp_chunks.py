"""WebP files whose image is whole and whose lengths or metadata are wrong: browsers show them."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from comic_upscale.errors import PageError
from comic_upscale.imaging.decode import decode, read_header

LIMIT = 1 << 20
EXIF = b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"


def webp(*, lossless: bool = True, mode: str = "RGB", **options: object) -> bytes:
    shape = (40, 30, len(mode))
    image = Image.fromarray(np.random.default_rng(8).integers(0, 256, shape, dtype=np.uint8), mode=mode)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=lossless, exact=True, **options)
    return buffer.getvalue()


def with_length(data: bytes, at: int, length: int) -> bytes:
    return data[:at] + struct.pack("<L", length) + data[at + 4 :]


def at_exif(data: bytes) -> int:
    return data.rindex(b"EXIF")


WRONG: dict[str, Callable[[bytes], bytes]] = {
    "EXIF longer than the file": lambda data: with_length(data, at_exif(data) + 4, 10_000_000),
    "EXIF cut short": lambda data: data[: at_exif(data) + 12],
    "EXIF missing": lambda data: data[: at_exif(data)],
    "file longer than it is": lambda data: with_length(data, 4, 1_000_000),
    "file of no length": lambda data: with_length(data, 4, 0),
    "file shorter than it is": lambda data: with_length(data, 4, len(data) - 14),
}


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("wrong", WRONG)
def test_the_image_of_a_webp_with_wrong_lengths_is_read(wrong: str, lossless: bool, mode: str) -> None:
    data = webp(lossless=lossless, mode=mode, exif=EXIF)
    expected, found = decode(data, max_pixels=LIMIT), decode(WRONG[wrong](data), max_pixels=LIMIT)
    assert np.array_equal(found.color, expected.color)
    assert (found.alpha is None) == (expected.alpha is None)
    if found.alpha is not None and expected.alpha is not None:
        assert np.array_equal(found.alpha, expected.alpha)
    assert found.lossless == lossless
    assert any("EXIF left out" in note or "lengths" in note for note in found.notes)
    assert read_header(WRONG[wrong](data)).width == 30


@pytest.mark.parametrize("part", [0.3, 0.9])
def test_a_webp_whose_image_is_cut_still_fails(part: float) -> None:
    data = webp()
    with pytest.raises(PageError) as error:
        decode(data[: int(len(data) * part)], max_pixels=LIMIT)
    assert error.value.kind == "truncated"


def test_a_whole_webp_is_read_as_it_is() -> None:
    assert decode(webp() + b"bytes behind the end", max_pixels=LIMIT).notes == ()
