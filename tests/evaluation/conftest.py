"""A drawing, and noise on it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw


@pytest.fixture(scope="session")
def drawing() -> Image.Image:
    """A drawing of 170 x 250: lines and a filled shape on white."""
    image = Image.new("RGB", (170, 250), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((90, 150, 160, 240), fill="black")
    draw.ellipse((20, 30, 90, 110), outline="black", fill=(200, 60, 40), width=4)
    draw.line((5, 230, 80, 130), fill="black", width=3)
    return image


def noisy(image: Image.Image, strength: float) -> Image.Image:
    """Add noise, always the same; ``strength`` is its standard deviation in gray levels."""
    samples = np.asarray(image).astype(np.float64)
    noise = np.random.default_rng(3).normal(0, strength, samples.shape)
    return Image.fromarray(np.rint(np.clip(samples + noise, 0, 255)).astype(np.uint8))
