"""Pages that were drawn: a PPM or PGM, which is quick to write and to read, and in it what is to be said of it.

A page's bytes go through queues and to other machines, and are decoded elsewhere; what was done to make them
is known only where they were drawn.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

from PIL import Image

_COMMENT = re.compile(rb"P[56]\n# drawn: (\d{1,6}) dpi of (\d{1,6})\n")


@dataclass(frozen=True, slots=True)
class Drawn:
    """How finely a page was drawn because of the images on it."""

    dpi: int
    """Pixels an inch of the drawing."""
    images: int
    """Pixels an inch of the images; more than ``dpi`` where these would have been too many pixels."""


def with_note(pnm: bytes, drawn: Drawn | None) -> bytes:
    """Return a PPM or PGM with a note.

    Args:
        pnm: as Pillow writes it.
        drawn: None leaves it as it is.
    """
    if drawn is None:
        return pnm
    return b"%b# drawn: %d dpi of %d\n%b" % (pnm[:3], drawn.dpi, drawn.images, pnm[3:])


def notes_of(data: bytes) -> tuple[str, ...]:
    """The note that an image file holds, in words; none of any other image."""
    match = _COMMENT.match(data)
    if match is None:
        return ()
    dpi, images = int(match[1]), int(match[2])
    if images > dpi:
        return (f"drawn at {dpi} dpi, and its images have {images}: --max-pixels bounds it",)
    return (f"drawn at {dpi} dpi, which is that of its images",)


def as_png(data: bytes) -> bytes:
    """A drawn page as a PNG, for those who read it; anything else as it is."""
    if not data.startswith((b"P5\n", b"P6\n")):
        return data
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(data), formats=["PPM"]) as image:
        image.save(buffer, "PNG")
    return buffer.getvalue()
