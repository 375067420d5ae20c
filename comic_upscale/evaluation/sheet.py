"""Sheets of labelled images side by side, as one PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

LABEL, GAP = 24, 8
"""Pixels: height of a line of text, and space between images."""

_PAPER, _INK = "white", "black"


def row_of(pictures: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Return images of the same size side by side under their labels."""
    width, height = pictures[0][1].size
    canvas = Image.new("RGB", (len(pictures) * (width + GAP) - GAP, height + LABEL), _PAPER)
    for number, (label, picture) in enumerate(pictures):
        left = number * (width + GAP)
        _write(canvas, (left + 4, 2), label, width - 8)
        canvas.paste(picture.convert("RGB"), (left, LABEL))
    return canvas


def under(title: str, rows: Sequence[Image.Image], *, columns: int = 1) -> Image.Image:
    """Return rows below each other, or in several columns, under a title. Narrower rows are padded with white."""
    width = max((row.width for row in rows), default=400)
    height = max((row.height for row in rows), default=0)
    columns = max(1, min(columns, len(rows)))
    lines = -(-len(rows) // columns)
    size = (columns * (width + GAP) + GAP, lines * (height + GAP) + GAP + LABEL)
    canvas = Image.new("RGB", size, _PAPER)
    _write(canvas, (GAP, 4), title, size[0] - 2 * GAP)
    for number, row in enumerate(rows):
        line, column = divmod(number, columns)
        canvas.paste(row, (GAP + column * (width + GAP), GAP + LABEL + line * (height + GAP)))
    return canvas


def as_png(image: Image.Image) -> bytes:
    """Return an image as the bytes of a PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _write(canvas: Image.Image, place: tuple[int, int], text: str, room: int) -> None:
    """Write as much of a text as fits. Its end is kept, because names differ there."""
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    shown = text
    while draw.textlength(shown, font=font) > room and len(text) > 1:
        text = text[1:]
        shown = f"...{text}"
    draw.text(place, shown, fill=_INK, font=font)
