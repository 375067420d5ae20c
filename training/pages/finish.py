"""From the large drawing to the finished page: shrunk, and perhaps as a scanner or old paper leaves it."""

from __future__ import annotations

from random import Random

import numpy as np
from PIL import Image, ImageFilter

from training.pages.sheet import Colour, Floats, Pixels, Sheet

_KERNELS = (
    Image.Resampling.BOX,
    Image.Resampling.HAMMING,
    Image.Resampling.BICUBIC,
    Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS,
    Image.Resampling.LANCZOS,
)


def shrunk(sheet: Sheet, width: int, height: int, dice: Random) -> Image.Image:
    """The drawing in the size asked, by one of several kernels."""
    return sheet.image.resize((width, height), dice.choice(_KERNELS))


def one_bit(image: Image.Image, dice: Random) -> Image.Image:
    """Ink or paper and nothing between, as line art is scanned."""
    threshold = dice.randint(96, 170)
    return image.point([255 if v >= threshold else 0 for v in range(256)])


def scanned(image: Image.Image, dice: Random) -> Image.Image:
    """Spread a little and grained as a good scan; gray stays gray."""
    if dice.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(dice.uniform(0.25, 0.5)))
    values: Floats = np.asarray(image, dtype=np.float32)
    rng = np.random.default_rng(dice.getrandbits(32))
    noise = rng.standard_normal(values.shape[:2], dtype=np.float32) * np.float32(dice.uniform(0.6, 3))
    black, white = dice.uniform(0, 24), dice.uniform(236, 255)
    return _image(
        black + values * ((white - black) / 255) + (noise if values.ndim == 2 else noise[..., None])
    )


def yellowed(image: Image.Image, paper: Colour, dice: Random) -> Image.Image:
    """Printed on paper of a colour, uneven in its fibres."""
    values: Floats = np.asarray(image, dtype=np.float32)
    rng = np.random.default_rng(dice.getrandbits(32))
    rows, columns = values.shape[:2]
    total = np.ones((rows, columns), dtype=np.float32)
    for step, amount in ((160, 0.02), (9, 0.008), (1, dice.uniform(0.002, 0.012))):
        small = rng.standard_normal((rows // step + 2, columns // step + 2), dtype=np.float32)
        total += np.asarray(
            Image.fromarray(small).resize((columns, rows), Image.Resampling.BILINEAR)
        ) * np.float32(amount)
    tint = np.array(paper, dtype=np.float32) / np.float32(255)
    return _image((values * np.float32(0.93) + np.float32(16)) * total[..., None] * tint)


def pixels_of(image: Image.Image) -> Pixels:
    """The finished page as rows of red, green and blue."""
    return np.ascontiguousarray(np.asarray(image.convert("RGB")))


def _image(values: Floats) -> Image.Image:
    return Image.fromarray(np.clip(values + 0.5, 0, 255).astype(np.uint8))
