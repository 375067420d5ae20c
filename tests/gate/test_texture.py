"""Invented texture as the gate measures it: the islands that it must see, and what is no island."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from benchmarks.texture import invented_blocks
from comic_upscale.gate.texture import NO_ISLANDS, Islands, find_islands
from comic_upscale.gate.verdict import judge
from comic_upscale.imaging.pixels import UInt8Array

FACTOR = 2.5
SIDE = 160
"""Of the source."""


def quiet_source(seed: int = 1) -> UInt8Array:
    """Flat gray with the faint noise that a network can take for screentone."""
    noise = np.random.default_rng(seed).normal(0, 4, (SIDE, SIDE))
    return np.clip(130 + noise, 0, 255).astype(np.uint8)[..., None]


def enlarge(source: UInt8Array, factor: float = FACTOR) -> UInt8Array:
    planes = [Image.fromarray(source[..., channel]) for channel in range(source.shape[2])]
    size = round(source.shape[1] * factor), round(source.shape[0] * factor)
    return np.stack([np.asarray(plane.resize(size, Image.Resampling.BICUBIC)) for plane in planes], axis=2)


def dots(output: UInt8Array, left: int, top: int, width: int, height: int, amplitude: int = 60) -> None:
    """Draw checks of two pixels with hard edges; places are blocks of the source."""
    block = round(10 * output.shape[0] / SIDE)
    part = output[top * block : (top + height) * block, left * block : (left + width) * block]
    rows, columns = np.indices(part.shape[:2])
    signs = np.where((rows // 2 + columns // 2) % 2, 1, -1)[..., None]
    part[:] = np.clip(part.astype(np.int16) + amplitude * signs, 0, 255)


@pytest.mark.parametrize("factor", [2, 2.5, 3, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_island_of_dots_is_found_with_its_size(factor: float, channels: int) -> None:
    source = np.repeat(quiet_source(), channels, axis=2)
    output = enlarge(source, factor)
    assert find_islands(source, output) == NO_ISLANDS
    dots(output, 2, 3, 3, 2)
    dots(output, 11, 12, 1, 1)
    assert find_islands(source, output) == Islands(7, 6)


def test_what_is_examined_alone_is_what_the_whole_page_has() -> None:
    source = quiet_source(2)
    output = enlarge(source)
    for place, amplitude in enumerate((4, 6, 8, 12, 20, 40, 80)):
        dots(output, 2 * place + 1, 2 * place + 1, 1, 1, amplitude)
    whole = invented_blocks(*(Image.fromarray(page[..., 0]) for page in (source, output)))
    assert 3 < len(whole) < 7
    assert find_islands(source, output).blocks == len(whole)


def test_a_lonely_block_is_no_reason_and_an_island_is() -> None:
    source = quiet_source()
    one, island = enlarge(source), enlarge(source)
    dots(one, 4, 4, 1, 1)
    dots(island, 4, 4, 3, 1)
    for output, is_found in ((one, False), (island, True)):
        verdict = judge(source, output, looks_for_texture=True)
        assert any("texture" in reason for reason in verdict.reasons) == is_found
    unasked = judge(source, island)
    assert unasked.scores.invented == 0 and not any("texture" in reason for reason in unasked.reasons)


def test_sharp_lines_and_clear_noise_are_no_texture() -> None:
    source = quiet_source()
    source[40:44] = 0
    output = enlarge(source)
    output[100:110] = np.where(np.arange(output.shape[1]) % 4 < 2, 0, 255)[None, :, None]
    assert find_islands(source, output) == NO_ISLANDS
    loud = np.clip(quiet_source().astype(int) * 5 - 520, 0, 255).astype(np.uint8)
    drawn = enlarge(loud)
    dots(drawn, 2, 3, 3, 2, 30)
    assert find_islands(loud, drawn) == NO_ISLANDS


def test_a_page_too_small_to_measure_has_none() -> None:
    small = quiet_source()[:25]
    assert find_islands(small, enlarge(small)) == NO_ISLANDS
