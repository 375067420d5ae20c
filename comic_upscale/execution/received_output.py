"""Checks of an output that another process hands in.

`check_received` is for processes of ours: a worker behind a socket, or an actor of a cluster. What a remote machine
sends is checked further (`output_check.py`).
"""

from __future__ import annotations

import hashlib

from comic_upscale.errors import DeviceError, PageError
from comic_upscale.execution.base import PageUpscaled
from comic_upscale.imaging.codecs import FORMATS
from comic_upscale.imaging.decode import read_header
from comic_upscale.imaging.formats import recognise
from comic_upscale.settings.job import FormatName

_MOST_SAMPLES = 4
"""Of a pixel: colour and transparency."""


def check_received(outcome: PageUpscaled, format: FormatName, sender: str) -> None:
    """Check that an output arrived as it was made, in the format and size of the page.

    The sender has checked what it wrote, as every run does, so the pixels are not decoded here.

    Args:
        outcome: with the output.
        format: that the page was to have.
        sender: ``"an actor"``, for the message.

    Raises:
        DeviceError: it is something else.
    """
    if hashlib.sha256(outcome.data).hexdigest() != outcome.sha256:
        raise DeviceError(f"{sender} handed in a page that arrived damaged, or not at all")
    size = (outcome.output_width, outcome.output_height)
    try:
        fault = find_fault(outcome.data, size, format)
    except PageError as error:
        raise DeviceError(f"{sender} handed in something else than a page: {error}") from None
    if fault is not None:
        raise DeviceError(f"{sender} handed in {fault}")


def find_fault(data: bytes, size: tuple[int, int], format: FormatName) -> str | None:
    """Return what a file is by its header, if that is not one page of this size and format; None if it is.

    Args:
        data: the file.
        size: (width, height) that it has to have.
        format: that it has to have.

    Raises:
        PageError: the header cannot be read.
    """
    wanted, found = FORMATS[format], recognise(data[:64])
    if found != wanted.recognised_as:
        return f"{found or 'something else'} in place of {wanted.title}"
    header = read_header(data)
    if (header.width, header.height) != size:
        return f"a picture of {header.width}x{header.height} pixels in place of {size[0]}x{size[1]}"
    # A small file can hold many pictures, or samples of any number.
    if header.frames != 1 or header.samples > _MOST_SAMPLES:
        return "a file that is no page"
    return None
