"""The bounds for engines that draw, on outputs made as `benchmarks/gate_generative.py` makes them."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from benchmarks.gate import BOUNDS, GENERATIVE, generative_lines
from benchmarks.gate_generative import ALLOWED, FAULTS, Piece, is_suspect, letter, score
from comic_upscale.gate.verdict import bounds_for
from comic_upscale.imaging.pixels import Pixels
from tests.gate.test_gate import EXAMPLES

DRAWING = bounds_for("0" * 64, "generative")
PLANTED = [
    "moved by half a pixel", "resized by 1 %", "tinted by 5 levels", "contrast of 80 %", "other lettering",
    "a word erased", "lettering garbled",
]  # fmt: skip
NOT_ALWAYS_FOUND = {"one letter changed", "one word of three changed", "lighter or darker by 12 levels"}


@pytest.fixture(scope="module")
def piece() -> Piece:
    with Image.open(EXAMPLES[0]) as image:
        page = np.asarray(image.convert("RGB"))[100:340, 60:280].copy()
    return letter("example", Pixels(page), np.random.default_rng(4))


@pytest.mark.parametrize("name", ["all together", "grain removed", "lines redrawn by a quarter pixel"])
def test_what_an_engine_may_draw_passes(piece: Piece, name: str) -> None:
    output = ALLOWED[name](piece, np.random.default_rng(1))
    assert not is_suspect(piece, score(piece, output), DRAWING)


@pytest.mark.parametrize("name", PLANTED)
def test_what_it_must_not_change_is_found(piece: Piece, name: str) -> None:
    change = ALLOWED["all together"]
    chance = np.random.default_rng(2)
    faulty = FAULTS[name](piece, change(piece, chance), chance)
    assert faulty is not None and is_suspect(piece, score(piece, faulty), DRAWING)


def test_the_file_of_bounds_and_the_documents_say_what_was_measured() -> None:
    found = json.loads(GENERATIVE.read_text("utf-8"))
    assert asdict(DRAWING) == found["bounds"]
    assert "\n".join(generative_lines()) in BOUNDS.read_text("utf-8")
    for name, fault in found["faults"].items():
        assert fault["share"] >= (0.5 if name in NOT_ALWAYS_FOUND else 0.95), name
    assert sum(each["alarms"] for each in found["allowed"].values()) <= 0.05 * sum(
        each["outputs"] for each in found["allowed"].values()
    )
