"""Drawn pages for measurements without the user's own: panels, hatching, tones and balloons, always the same ones.

The time of a network does not depend on the content of a page, but that of an encoder does. So these pages have hard
lines, flat tones, a gradient and grain, in about the proportions of a printed page.
"""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image, ImageDraw

SIZE = (512, 768)
_PAPER, _INK = (250, 247, 240), (24, 20, 26)


def draw_page(number: int) -> bytes:
    """Return page ``number`` as a PNG of 512 x 768 pixels, RGB; the same number gives the same samples."""
    random = np.random.default_rng(number)
    image = Image.new("RGB", SIZE, _PAPER)
    pen = ImageDraw.Draw(image)
    for row in range(3):
        split = int(random.integers(180, 330))
        top, bottom = 16 + row * 248, 16 + row * 248 + 236
        _panel(pen, image, (16, top, split, bottom), random)
        _panel(pen, image, (split + 12, top, 496, bottom), random)
    grain = random.normal(0, 2.0, (SIZE[1], SIZE[0], 1))
    samples = np.clip(np.asarray(image, dtype=np.float64) + grain, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(samples).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _panel(
    pen: ImageDraw.ImageDraw, image: Image.Image, box: tuple[int, int, int, int], random: np.random.Generator
) -> None:
    left, top, right, bottom = box
    base = random.integers(90, 235, 3)
    sky = np.linspace(1.0, 0.72, bottom - top)[:, None, None] * base
    shade = np.broadcast_to(sky, (bottom - top, right - left, 3)).astype(np.uint8)
    image.paste(Image.fromarray(np.ascontiguousarray(shade)), (left, top))
    horizon = top + (bottom - top) * 2 // 3
    for x in range(left, right, 5):
        pen.line([(x, horizon), (x - 30, bottom)], fill=_INK)
    for _ in range(3):
        middle = (int(random.integers(left + 20, right - 20)), int(random.integers(top + 50, bottom - 20)))
        radius = int(random.integers(14, 40))
        outline = [
            (
                middle[0] + radius * (1 + 0.2 * math.sin(5 * turn)) * math.cos(turn),
                middle[1] + radius * math.sin(turn),
            )
            for turn in np.linspace(0, 2 * math.pi, 40)
        ]
        pen.polygon(outline, fill=tuple(int(v) for v in random.integers(60, 250, 3)), outline=_INK, width=2)
    pen.ellipse((left + 8, top + 8, left + 110, top + 52), fill=_PAPER, outline=_INK, width=2)
    for line in range(3):
        for letter in range(8):
            x, y = left + 24 + letter * 9, top + 17 + line * 10
            pen.line([(x, y + 6), (x + int(random.integers(2, 6)), y), (x + 5, y + 6)], fill=_INK)
    pen.rectangle(box, outline=_INK, width=3)
