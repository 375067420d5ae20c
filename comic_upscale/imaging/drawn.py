"""Rendered pages: PPM or PGM, which are quick to write and read, with a note as a comment.

The bytes of a page go through queues and to remote machines and are decoded there. The note travels with them.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

from PIL import Image

_COMMENT = re.compile(rb"P[56]\n# drawn: (\d{1,6}) dpi of (\d{1,6})\n")


@dataclass(frozen=True, slots=True)
class Drawn:
    """The resolution of a rendered page and of its images."""

    dpi: int
    """Pixels per inch of the rendered page."""
    images: int
    """Pixels per inch of the images. More than ``dpi`` if that many pixels were not allowed."""


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
    """Return the note in an image file as a sentence, or nothing."""
    match = _COMMENT.match(data)
    if match is None:
        return ()
    dpi, images = int(match[1]), int(match[2])
    if images > dpi:
        return (f"drawn at {dpi} dpi instead of the {images} dpi of its images, because of --max-pixels",)
    return (f"drawn at {dpi} dpi, the resolution of its images",)


def as_png(data: bytes) -> bytes:
    """Convert a rendered page to PNG for readers. Any other file is returned unchanged."""
    if not data.startswith((b"P5\n", b"P6\n")):
        return data
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(data), formats=["PPM"]) as image:
        image.save(buffer, "PNG")
    return buffer.getvalue()
