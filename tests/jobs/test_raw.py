"""``--raw``: what the network gives, to the level, against a plain forward pass outside of our engine."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from spandrel import ImageModelDescriptor, ModelLoader

from comic_upscale.engines.base import Batch, Upscaled
from comic_upscale.jobs.run import run_job
from comic_upscale.models.weights import BUNDLED_FOLDERS
from comic_upscale.settings.job import JobSettings
from tests.fakes import NearestEngine


@contextmanager
def plain_network(path: Path) -> Iterator[ImageModelDescriptor]:
    network = ModelLoader(device="cpu").load_from_file(path)
    assert isinstance(network, ImageModelDescriptor)
    with torch.inference_mode():
        yield network.float().eval()


def plain_pass(path: Path, page: np.ndarray) -> np.ndarray:
    with plain_network(path) as network:
        tensor = torch.from_numpy(page.astype(np.float32) / 255).permute(2, 0, 1)[None]
        return network(tensor)[0].permute(1, 2, 0).clamp(0, 1).mul(255).round().byte().numpy()


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.fixture(scope="module")
def page(comics_dir: Path) -> np.ndarray:
    """A part of a real page in colour with pure white, which the network does not keep exactly."""
    with Image.open(sorted((comics_dir / "dev").glob("climatefrogs*.jpg"))[0]) as image:
        return np.asarray(image.convert("RGB").crop((0, 0, 144, 112)))


def settings(folder: Path, **changes: object) -> JobSettings:
    job = JobSettings(
        input=folder / "in", output=folder / "out", scale=3, model="comic-compact-x3", device="cpu",
        precision="fp32", workers=2, raw=True,
    )  # fmt: skip
    return replace(job, **changes)  # type: ignore[arg-type]


def test_raw_is_the_network_alone(page: np.ndarray, tmp_path: Path, tiny_weights: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(page).save(tmp_path / "in" / "page.png")
    ours = next(path for folder in BUNDLED_FOLDERS for path in folder.glob("comic-compact-x3*"))
    for weights, scale in ((ours, 3), (tiny_weights, 4)):
        job = settings(tmp_path, model=str(weights), scale=scale, output=tmp_path / weights.stem)
        assert run_job(job).done == 1
        expected = plain_pass(weights, page).astype(int)
        raw = read(job.output / "page.png")
        assert raw.shape == expected.shape
        assert np.abs(raw - expected).max() <= 1
    # Without it, the tone that the last network changed is restored.
    usual = replace(job, raw=False, output=tmp_path / "usual")
    assert run_job(usual).done == 1
    assert np.abs(read(usual.output / "page.png") - expected).max() > 1


def test_a_suspect_page_is_not_upscaled_again(tmp_path: Path) -> None:
    ways: list[bool] = []

    class Upside(NearestEngine):
        """Gives something else than the page, so that the gate finds it suspect."""

        def upscale(self, batch: Batch) -> Upscaled:
            ways.append(batch.conservative)
            made = super().upscale(batch)
            return replace(made, pixels=[255 - each for each in made.pixels])

    (tmp_path / "in").mkdir()
    random = np.random.default_rng(1).integers(0, 2, (96, 96, 3), np.uint8) * 200
    Image.fromarray(random.astype(np.uint8)).save(tmp_path / "in" / "page.png")
    for raw, expected in ((False, [False, True]), (True, [False])):
        ways.clear()
        job = settings(tmp_path, raw=raw, output=tmp_path / f"out{raw}", scale=2)
        assert run_job(job, open_engines=lambda *_: [Upside()]).done == 1
        assert ways == expected
        with closing(sqlite3.connect(job.ledger_path)) as ledger:
            assert ledger.execute("select suspect from pages").fetchone()[0]
