"""Outputs for a screen from a remote machine: cropped, rotated and dithered, and still compared with their sources."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comic_upscale.errors import PageError
from comic_upscale.execution.output_check import check_claim, compare
from comic_upscale.execution.remote_host import RemotePageResult
from comic_upscale.imaging.encode import encode
from comic_upscale.imaging.pixels import Pixels
from comic_upscale.imaging.screen import to_screen
from comic_upscale.imaging.shape import decode_page
from comic_upscale.imaging.target_size import find_target
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.screens import Screen

SETTINGS = JobSettings(
    input=Path("in"), output=Path("out"), size=Screen("x", 400, 600, 16, 1.0, "rotate"), crop_margins=True
)


@pytest.fixture
def source() -> bytes:
    """A landscape page in colour, with a margin."""
    rows, columns = np.mgrid[:160, :260]
    drawn = np.dstack((rows + columns, 250 - rows, 120 + 60 * np.sin(columns / 9))) % 256
    page = np.full((200, 320, 3), 255, np.uint8)
    page[20:180, 30:290] = drawn.astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(page).save(file, "PNG")
    return file.getvalue()


def upscaled(source: bytes, *, changed: bool = False) -> tuple[bytes, Pixels]:
    page = decode_page(source, SETTINGS)
    target = find_target(page.width, page.height, SETTINGS.size).size
    large = np.asarray(Image.fromarray(page.color).resize(target, Image.Resampling.LANCZOS))
    if changed:
        large = np.ascontiguousarray(large[::-1])
    return encode(to_screen(Pixels(large), SETTINGS, "png"), format="png"), page


def test_a_dithered_page_passes_and_another_page_does_not(source: bytes) -> None:
    output, page = upscaled(source)
    assert page.width < page.height
    checked = compare(source, output, SETTINGS)
    assert checked.scores
    assert checked.suspect == ()
    assert compare(source, upscaled(source, changed=True)[0], SETTINGS).suspect


def claim(width: int, height: int, output: tuple[int, int]) -> RemotePageResult:
    return RemotePageResult(
        name="a.png", state="done", width=width, height=height, output_width=output[0], output_height=output[1],
        size=1000, sha256="", seconds={}, notes=(), kind=None, reason=None,
    )  # fmt: skip


def test_a_claim_may_be_smaller_than_a_page_whose_margins_are_cropped(source: bytes) -> None:
    page = upscaled(source)[1]
    target = find_target(page.width, page.height, SETTINGS.size).size
    asked = claim(page.width, page.height, target)
    check_claim(asked, (320, 200), SETTINGS.size, cropped=True)
    with pytest.raises(PageError, match="a different page size"):
        check_claim(asked, (320, 200), SETTINGS.size)
    large = find_target(400, 500, SETTINGS.size).size
    with pytest.raises(PageError, match="a different page size"):
        check_claim(claim(400, 500, large), (320, 200), SETTINGS.size, cropped=True)
