"""The file of bounds as the benchmark writes it is the one that the gate reads."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np

from benchmarks.gate import ENOUGH, Judged, bounds_text
from benchmarks.gate_pages import Made
from comic_upscale.gate.scores import Scores
from comic_upscale.gate.verdict import Bounds, thresholds
from comic_upscale.imaging.pixels import Pixels

PERFECT = Scores(**{field.name: 0.0 for field in fields(Scores)})


def judged(model: str, identity: str, count: int) -> list[Judged]:
    page = Pixels(np.zeros((4, 4, 3), np.uint8))
    return [
        Judged(Made(f"{number}.png", model, identity, "label", page, Path("none")), PERFECT, sets_bounds=True)
        for number in range(count)
    ]


def test_the_written_bounds_have_the_form_of_the_packaged_ones() -> None:
    written = tomllib.loads(bounds_text([*judged("one", "1" * 64, ENOUGH), *judged("two", "2" * 64, 3)]))
    assert written.keys() == thresholds().keys()
    assert set(written["bounds"]) == {field.name for field in fields(Bounds)}
    # Too few outputs of the other one.
    assert written["measured"] == {"one": {"identity": "1" * 64, "bounds": written["bounds"]}}
    assert asdict(Bounds(**written["bounds"])) == written["bounds"]
