from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from comic_upscale.imaging.jpeg_quality import jpeg_quality

PAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8))


def saved(format: str, **options: object) -> bytes:
    file = io.BytesIO()
    PAGE.save(file, format, **options)
    return file.getvalue()


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 51, 75, 89, 95, 100])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=str)
def test_the_quality_by_which_a_file_was_saved(quality: int, options: dict[str, object]) -> None:
    assert jpeg_quality(saved("JPEG", quality=quality, **options)) == quality


def test_another_table_has_the_quality_of_the_nearest() -> None:
    # A table that no quality gives: flat, as some cameras have it.
    found = jpeg_quality(saved("JPEG", qtables=[[12] * 64, [12] * 64]))
    assert found is not None and 60 <= found <= 95


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", saved("PNG"), saved("JPEG")[:30], saved("WEBP")])
def test_what_is_no_readable_jpeg_has_none(data: bytes) -> None:
    assert jpeg_quality(data) is None
