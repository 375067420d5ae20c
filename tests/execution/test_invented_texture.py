"""A page on which a network invented texture is made again by another network of the package."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comic_upscale.engines.base import Batch, Engine, Upscaled
from comic_upscale.errors import DeviceError, PageError
from comic_upscale.execution.events import Event, JobFinished
from comic_upscale.jobs.run import run_job
from comic_upscale.settings.job import JobSettings
from tests.fakes import NearestEngine


class DottedEngine(NearestEngine):
    """Draws a checkerboard of a given strength into part of the page."""

    def __init__(self, strength: int, *, side: int = 40, fails: bool = False) -> None:
        super().__init__()
        self._strength, self._side, self._fails = strength, side, fails

    def upscale(self, batch: Batch) -> Upscaled:
        if self._fails:
            raise PageError("engine", "this network cannot do it")
        height, width = batch.pixels.shape[1:3]
        super().upscale(batch)
        page = np.stack([_enlarge(each, batch.target_size) for each in batch.pixels])
        down, right = page.shape[1] // height, page.shape[2] // width
        end = 40 + self._side
        part = page[:, 40 * down : end * down, 40 * right : end * right]
        rows, columns = np.indices(part.shape[1:3])
        signs = np.where((rows // 2 + columns // 2) % 2, 1, -1)[None, ..., None]
        part[:] = np.clip(part.astype(np.int16) + self._strength * signs, 0, 255)
        return Upscaled(page)


def _enlarge(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    planes = [Image.fromarray(pixels[..., channel].copy()) for channel in range(pixels.shape[2])]
    return np.stack([np.asarray(plane.resize(size, Image.Resampling.BICUBIC)) for plane in planes], axis=2)


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    folder = tmp_path / "pages"
    folder.mkdir()
    noise = np.random.default_rng(1).normal(0, 4, (200, 160))
    Image.fromarray(np.clip(130 + noise, 0, 255).astype(np.uint8)).save(folder / "001.png")
    return folder


def run(
    pages: Path,
    strengths: dict[str, int],
    *,
    model: str = "comic-best",
    fails: str = "",
    cannot_open: str = "",
    sides: dict[str, int] | None = None,
    **options: object,
) -> tuple[JobFinished, dict[str, object], list[str]]:
    """Run a job; return its end, the row of its page, and the networks that were opened."""
    opened: list[str] = []

    def open_engines(settings: JobSettings, _: object) -> list[Engine]:
        opened.append(settings.model)
        if settings.model == cannot_open:
            raise DeviceError("the GPU has no memory for another network")
        side = (sides or {}).get(settings.model, 40)
        return [DottedEngine(strengths.get(settings.model, 0), side=side, fails=settings.model == fails)]

    settings = JobSettings(
        input=pages,
        output=pages.parent / "out",
        scale=2.0,
        model=model,
        device="cpu",
        **options,  # type: ignore[arg-type]
    )
    events: list[Event] = []
    finished = run_job(settings, on_event=events.append, open_engines=open_engines)
    ledger = pages.parent / "out" / ".comic-upscale" / "ledger.sqlite3"
    with closing(sqlite3.connect(ledger)) as connection, connection:
        connection.row_factory = sqlite3.Row
        row = dict(connection.execute("select * from pages").fetchone())
    return finished, row, opened


def loudest(pages: Path) -> int:
    """Return how far the output is from gray, in levels."""
    with Image.open(pages.parent / "out" / "001.png") as output:
        return int(np.abs(np.asarray(output.convert("L")).astype(int) - 130).max())


def test_the_result_of_a_fallback_network_is_taken_and_said(pages: Path) -> None:
    finished, row, opened = run(pages, {"comic-best-x2": 60})
    assert (finished.done, finished.suspects, opened) == (1, 0, ["comic-best-x2", "comic-fast-x2"])
    assert "upscaled again with comic-fast-x2: comic-best-x2 drew texture" in str(row["notes"])
    assert json.loads(str(row["scores"]))["invented"] == 0
    assert loudest(pages) < 40


def test_what_both_networks_draw_is_held_by_the_source(pages: Path) -> None:
    finished, row, opened = run(pages, {"comic-best-x2": 60, "comic-fast-x2": 50})
    assert (finished.done, finished.suspects, len(opened)) == (1, 0, 2)
    assert row["notes"] is None and row["suspect"] is None
    assert json.loads(str(row["scores"]))["invented"] > 5
    assert loudest(pages) > 55, "the first result is kept"


def test_without_a_second_result_the_page_is_suspect(pages: Path) -> None:
    finished, row, _ = run(pages, {"comic-best-x2": 60}, fails="comic-fast-x2")
    assert (finished.done, finished.suspects) == (1, 1)
    assert "texture that the source does not have" in str(row["suspect"])


def test_a_fallback_network_that_cannot_be_opened_does_not_end_the_run(pages: Path) -> None:
    (pages / "002.png").write_bytes((pages / "001.png").read_bytes()[:-12] + b"\0\0\0\0IEND\xaeB`\x82 ")
    finished, row, opened = run(pages, {"comic-best-x2": 60}, cannot_open="comic-fast-x2", workers=1)
    assert (finished.done, finished.failed, opened.count("comic-fast-x2")) == (2, 0, 1)
    assert "texture that the source does not have" in str(row["suspect"])


def test_much_less_texture_is_taken_also_where_some_is_left(pages: Path) -> None:
    finished, row, _ = run(
        pages, {"comic-best-x2": 60, "comic-fast-x2": 60}, sides={"comic-fast-x2": 20}, strict=True
    )
    assert (finished.done, finished.failed, finished.suspects) == (1, 0, 0)
    assert "upscaled again with comic-fast-x2" in str(row["notes"])
    assert json.loads(str(row["scores"]))["invented_group"] >= 3


def test_a_raw_page_is_not_looked_at_for_texture(pages: Path) -> None:
    finished, _, opened = run(pages, {"comic-best-x2": 60}, raw=True)
    assert (finished.suspects, opened) == (0, ["comic-best-x2"])


def test_a_calm_network_is_not_examined_and_no_other_is_opened(pages: Path) -> None:
    finished, row, opened = run(pages, {"comic-fast-x2": 60}, model="comic-fast")
    assert (finished.done, finished.suspects, opened) == (1, 0, ["comic-fast-x2"])
    assert json.loads(str(row["scores"]))["invented"] == 0


def test_a_page_without_texture_opens_no_other_network(pages: Path) -> None:
    _, row, opened = run(pages, {})
    assert opened == ["comic-best-x2"] and row["notes"] is None


def test_without_the_gate_nobody_looks(pages: Path) -> None:
    finished, row, opened = run(pages, {"comic-best-x2": 60}, gate=False)
    assert (finished.suspects, row["scores"], opened) == (0, None, ["comic-best-x2"])
