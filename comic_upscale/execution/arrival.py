"""Checks of an output that another process of ours hands in: a worker behind a socket, or an actor of a cluster."""

from __future__ import annotations

import hashlib

from comic_upscale.errors import DeviceError, PageError
from comic_upscale.execution.base import PageUpscaled
from comic_upscale.imaging.codecs import FORMATS
from comic_upscale.imaging.decode import read_header
from comic_upscale.imaging.formats import recognise
from comic_upscale.settings.job import FormatName


def check_arrived(outcome: PageUpscaled, format: FormatName, sender: str) -> None:
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
    try:
        header = read_header(outcome.data)
    except PageError as error:
        raise DeviceError(f"{sender} handed in something else than a page: {error}") from None
    size = (outcome.output_width, outcome.output_height)
    found = recognise(outcome.data[:64])
    if found != FORMATS[format].recognised_as or (header.width, header.height) != size:
        raise DeviceError(
            f"{sender} handed in {found} of {header.width}x{header.height} pixels in place of {format} of "
            f"{size[0]}x{size[1]}"
        )
