"""The weights of Pillow's filter, for devices: those of a definition in plain numbers, and Pillow's own results."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from comic_upscale.gate.reduce import WEIGHT_BITS, filter_weights

ONE, OTHER = float(np.float32(0.54)), float(np.float32(0.46))


def hamming(distance: float) -> float:
    distance = abs(distance)
    if distance == 0:
        return 1.0
    if distance >= 1:
        return 0.0
    angle = distance * math.pi
    return math.sin(angle) / angle * (ONE + OTHER * math.cos(angle))


def weights_of(length: int, count: int, end: float) -> list[dict[int, int]]:
    """Return the weights of each pixel of the result, as ``Resample.c`` computes them one by one."""
    scale = float(np.float32(end)) / count
    found = []
    for place in range(count):
        center = (place + 0.5) * scale
        pixels = range(max(int(center - scale + 0.5), 0), min(int(center + scale + 0.5), length))
        weights = [hamming((pixel - center + 0.5) * (1 / scale)) for pixel in pixels]
        total = sum(weights)
        whole = [int(0.5 + weight / total * (1 << WEIGHT_BITS)) for weight in weights]
        found.append({pixel: weight for pixel, weight in zip(pixels, whole, strict=True) if weight})
    return found


# In the first three, a weight lies right between two numbers.
@pytest.mark.parametrize(("length", "count", "end"), [
    (189, 75, 189.0), (77, 15, 77.0), (2067, 345, 2067.0),
    (1282, 256, 1279.5009746588694), (378, 75, 376.2358490566038),
    *((length, round(length / ratio), length) for length in (7, 61, 320, 1001) for ratio in (1.4, 2.5, 4.9, 5.9)),
])  # fmt: skip
def test_the_weights_are_those_of_the_definition(length: int, count: int, end: float) -> None:
    pixels, weights = filter_weights(length, count, end)
    found = [
        {int(pixel): int(weight) for pixel, weight in zip(*each, strict=True) if weight}
        for each in zip(pixels, weights, strict=True)
    ]
    assert found == weights_of(length, count, end)


@pytest.mark.parametrize(("length", "count"), [(189, 75), (77, 15), (1001, 400), (640, 211)])
def test_the_result_is_pillows(length: int, count: int) -> None:
    samples = np.random.default_rng(length).integers(0, 256, (200, length), np.uint8)
    expected = np.asarray(Image.fromarray(samples).resize((count, 200), Image.Resampling.HAMMING))
    pixels, weights = filter_weights(length, count, length)
    sums = (samples.astype(np.int64)[:, pixels] * weights).sum(axis=2) + (1 << (WEIGHT_BITS - 1))
    np.testing.assert_array_equal((sums >> WEIGHT_BITS).clip(0, 255), expected)
