"""Drawn pages, and what is to be said of them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from comic_upscale.imaging.decode import decode, read_header
from comic_upscale.imaging.drawn import Drawn, as_png, notes_of, with_note
from tests.archives import picture


def pnm(mode: str) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture(1))).convert(mode).save(buffer, "PPM")
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_note_goes_along_with_the_pixels(mode: str) -> None:
    plain = pnm(mode)
    noted = with_note(plain, Drawn(300, 300))
    assert with_note(plain, None) == plain
    decoded, without = (decode(data, max_pixels=10_000) for data in (noted, plain))
    assert np.array_equal(decoded.color, without.color)
    assert decoded.notes == ("drawn at 300 dpi, the resolution of its images",)
    assert without.notes == ()
    assert notes_of(with_note(plain, Drawn(200, 600))) == (
        "drawn at 200 dpi instead of the 600 dpi of its images, because of --max-pixels",
    )
    assert read_header(noted) == read_header(plain)


@pytest.mark.parametrize(
    "comment", [b"", b"hello", b"drawn: 1 dpi of 2 \x1b[31m", b"drawn: 9999999 dpi of 1", b"drawn"]
)
def test_the_comments_of_others_are_not_told(comment: bytes) -> None:
    data = pnm("RGB")
    assert decode(data[:3] + b"# " + comment + b"\n" + data[3:], max_pixels=10_000).notes == ()


def test_for_readers_it_becomes_a_png() -> None:
    for mode in ("L", "RGB"):
        made = as_png(with_note(pnm(mode), Drawn(1, 1)))
        assert made.startswith(b"\x89PNG")
        assert np.array_equal(
            decode(made, max_pixels=10_000).color, decode(pnm(mode), max_pixels=10_000).color
        )
    assert as_png(b"P5 no newline") == b"P5 no newline"
    assert as_png(picture(1)) == picture(1)
