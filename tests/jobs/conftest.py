"""A small input folder of real images, and settings over it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comic_upscale.settings import JobSettings


def draw(path: Path, seed: int, size: tuple[int, int] = (24, 32), mode: str = "RGB") -> Path:
    """Write an image of noise that no other seed gives."""
    random = np.random.default_rng(seed)
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    samples = random.integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(samples.squeeze(), mode).save(path)
    return path


MakeJob = Callable[..., JobSettings]


@pytest.fixture
def make_job(tmp_path: Path, tiny_weights: Path) -> MakeJob:
    """Settings from `in` to `out` at 2x by a tiny network, with changes."""

    def make(**changes: object) -> JobSettings:
        values: dict[str, object] = {
            "input": tmp_path / "in", "output": tmp_path / "out", "model": str(tiny_weights), "workers": 2,
            "scale": 2.0,
        }  # fmt: skip
        return JobSettings(**{**values, **changes})  # type: ignore[arg-type]

    return make


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """Twelve pages in two folders, three shapes, gray and colour and with alpha."""
    folder = tmp_path / "pages"
    for number in range(8):
        draw(folder / f"page{number}.png", number, mode="L" if number % 4 == 3 else "RGB")
    for number in range(3):
        draw(folder / "extra" / f"{number}.png", 100 + number, size=(20, 20))
    draw(folder / "extra" / "sticker.png", 200, mode="RGBA")
    return folder


MakeSettings = Callable[..., JobSettings]


@pytest.fixture
def make_settings(pages: Path, tmp_path: Path, tiny_weights: Path) -> MakeSettings:
    def make(**changes: object) -> JobSettings:
        values: dict[str, object] = {
            "input": pages,
            "output": tmp_path / "out",
            "model": str(tiny_weights),
            "workers": 2,
        }
        return JobSettings(**{**values, **changes})  # type: ignore[arg-type]

    return make
