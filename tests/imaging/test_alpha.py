import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from comic_upscale.imaging.alpha import bleed_color
from comic_upscale.imaging.pixels import UInt8Array

SEEDS = st.integers(0, 2**32 - 1)


def made(height: int, width: int, channels: int, seed: int) -> tuple[UInt8Array, UInt8Array]:
    random = np.random.default_rng(seed)
    color = random.integers(0, 256, (height, width, channels), np.uint8)
    alpha = random.choice(np.array([0, 0, 0, 1, 128, 255], np.uint8), (height, width))
    return color, alpha


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]), SEEDS)
def test_what_is_seen_stays_and_the_rest_lies_between(
    height: int, width: int, channels: int, seed: int
) -> None:
    color, alpha = made(height, width, channels, seed)
    before = color.copy()
    bled = bleed_color(color, alpha)
    assert (color == before).all()
    assert bled.shape == color.shape
    assert bled.dtype == np.uint8
    seen = alpha > 0
    assert (bled[seen] == color[seen]).all()
    if seen.any():
        assert (bled >= color[seen].min(axis=0)).all()
        assert (bled <= color[seen].max(axis=0)).all()


@pytest.mark.parametrize("at", [(0, 0), (7, 12), (36, 50), (15, 16)])
def test_one_visible_pixel_gives_its_colour_to_all(at: tuple[int, int]) -> None:
    color = np.zeros((37, 51, 3), np.uint8)
    alpha = np.zeros((37, 51), np.uint8)
    color[at], alpha[at] = (200, 100, 50), 1
    assert (bleed_color(color, alpha) == (200, 100, 50)).all()


def test_colour_comes_from_nearby() -> None:
    color = np.zeros((64, 256, 1), np.uint8)
    alpha = np.zeros((64, 256), np.uint8)
    color[:, 255] = 255
    alpha[:, 0] = alpha[:, 255] = 255
    bled = bleed_color(color, alpha)[:, :, 0].astype(int)
    assert bled[:, :32].max() < 64
    assert bled[:, -32:].min() > 191


def test_nothing_to_do_costs_nothing() -> None:
    color = np.zeros((4, 4, 3), np.uint8)
    for value in (0, 255):
        assert bleed_color(color, np.full((4, 4), value, np.uint8)) is color


def test_sixteen_bits_bleed_like_eight() -> None:
    color, alpha = made(37, 51, 3, 5)
    eight = bleed_color(color, alpha)
    deep = bleed_color(color.astype(np.uint16) * np.uint16(257), alpha.astype(np.uint16) * np.uint16(257))
    assert deep.dtype == np.uint16
    assert np.abs(deep / 257 - eight).max() <= 4  # the roundings of every level


def test_strips_make_no_difference() -> None:
    color, alpha = made(600, 5, 1, 6)
    tall, short = bleed_color(color, alpha), bleed_color(color[:520], alpha[:520])
    assert (tall[:256] == short[:256]).mean() > 0.99
