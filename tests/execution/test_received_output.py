"""An output that another process hands in must be one page of the size and format that was asked for."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from comic_upscale.errors import DeviceError, PageError
from comic_upscale.execution.base import PageUpscaled
from comic_upscale.execution.output_check import check_file
from comic_upscale.execution.received_output import check_received
from comic_upscale.execution.remote_host import RemotePageResult
from comic_upscale.settings.job import FormatName

SIZE = (40, 30)


def image(format: str, size: tuple[int, int] = SIZE, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "teal").save(file, format, **options)
    return file.getvalue()


def samples(count: int) -> bytes:
    import tifffile

    file = io.BytesIO()
    pixels = np.zeros((SIZE[1], SIZE[0], count), np.uint8)
    tifffile.imwrite(file, pixels, photometric="minisblack", planarconfig="contig")
    return file.getvalue()


ANOTHER = Image.new("RGB", SIZE, "coral")


def check_one_of_ours(data: bytes, format: FormatName) -> None:
    outcome = PageUpscaled(
        row_id=1, source_sha256="", width=20, height=15, output_width=SIZE[0], output_height=SIZE[1], data=data,
        sha256=hashlib.sha256(data).hexdigest(), seconds={}, made_at=0.0,
    )  # fmt: skip
    check_received(outcome, format, "it")


def check_one_of_a_remote_machine(data: bytes, format: FormatName) -> None:
    page = RemotePageResult(
        name="x", state="done", output_width=SIZE[0], output_height=SIZE[1], size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )  # fmt: skip
    check_file(data, page, format)


CHECKS = pytest.mark.parametrize("check", [check_one_of_ours, check_one_of_a_remote_machine])


@CHECKS
@pytest.mark.parametrize(
    ("data", "format", "words"),
    [
        (b"", "png", "something else in place of PNG"),
        (b"<html>a proxy</html>", "png", "in place of PNG"),
        (image("JPEG"), "png", "JPEG in place of PNG"),
        (image("PNG", (41, 30)), "png", "41x30 pixels in place of 40x30"),
        (image("PNG", save_all=True, append_images=[ANOTHER]), "png", "a file that is no page"),
        (image("WEBP", save_all=True, append_images=[ANOTHER]), "webp", "a file that is no page"),
        (image("TIFF", save_all=True, append_images=[ANOTHER]), "tiff", "a file that is no page"),
        (samples(5), "tiff", r"a file that is no page|samples per pixel"),
        (image("PNG")[:20], "png", "."),
    ],
    ids=["empty", "html", "format", "size", "apng", "webp", "tiff", "samples", "cut"],
)
def test_what_is_no_page_is_refused(check: Any, data: bytes, format: FormatName, words: str) -> None:
    with pytest.raises((DeviceError, PageError), match=words):
        check(data, format)


@CHECKS
@pytest.mark.parametrize(
    ("name", "format"), [("PNG", "png"), ("JPEG", "jpeg"), ("WEBP", "webp"), ("TIFF", "tiff")]
)
def test_a_page_is_accepted(check: Any, name: str, format: FormatName) -> None:
    check(image(name), format)
