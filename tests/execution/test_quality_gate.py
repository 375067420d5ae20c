"""The gate in a run: a fault of an engine is seen, corrected if possible, and reported."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from comic_upscale.cli import app
from comic_upscale.engines.base import Batch, Engine, Upscaled
from comic_upscale.execution import quality_gate as gatekeeper
from comic_upscale.execution.events import Event, JobFinished
from comic_upscale.imaging.pixels import Borders
from comic_upscale.jobs.run import run_job
from comic_upscale.ledger.queries import read_failures, read_suspects
from comic_upscale.ledger.status import read_status
from comic_upscale.settings.job import JobSettings
from tests.conftest import REPOSITORY
from tests.fakes import NearestEngine

EXAMPLES = sorted((REPOSITORY / "examples" / "pages").glob("0*.png"))


class FaultyEngine(NearestEngine):
    """Gives the page upside down; by the conservative path as it is, where it is told to heal."""

    def __init__(self, *, heals: bool) -> None:
        super().__init__()
        self._heals = heals
        self.conservative = 0

    def upscale(self, batch: Batch) -> Upscaled:
        self.conservative += batch.conservative
        page = super().upscale(batch)
        return page if batch.conservative and self._heals else Upscaled(page.pixels[:, ::-1])


class SeamedEngine(NearestEngine):
    """Says that it works in two tiles side by side, and makes the right one darker; not by the conservative path."""

    def upscale(self, batch: Batch) -> Upscaled:
        page = super().upscale(batch).pixels.copy()
        if not batch.conservative:
            half = page[:, :, page.shape[2] // 2 :]
            half[:] = np.maximum(half, 6) - 6
        return Upscaled(page, Borders(columns=(batch.target_size[0] // 2,)))


class GrayingEngine(NearestEngine):
    """Gives white as 252; also by the conservative path."""

    def upscale(self, batch: Batch) -> Upscaled:
        return Upscaled(np.minimum(super().upscale(batch).pixels, 252))


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    folder = tmp_path / "pages"
    folder.mkdir()
    for path in EXAMPLES[:3]:
        with Image.open(path) as image:
            image.convert("RGB").crop((0, 0, 200, 300)).save(folder / path.name)
    return folder


def run(pages: Path, weights: Path, engine: Engine, **options: object) -> JobFinished:
    settings = JobSettings(
        input=pages,
        output=pages.parent / "out",
        scale=2.0,
        model=str(weights),
        **options,  # type: ignore[arg-type]
    )
    events: list[Event] = []
    return run_job(settings, on_event=events.append, open_engines=lambda *_: [engine])


def test_pages_that_are_right_are_scored_and_none_is_suspect(pages: Path, tiny_weights: Path) -> None:
    finished = run(pages, tiny_weights, NearestEngine())
    ledger = pages.parent / "out" / ".comic-upscale" / "ledger.sqlite3"
    assert (finished.done, finished.suspects) == (3, 0)
    assert read_suspects(ledger) == []
    with closing(sqlite3.connect(ledger)) as connection, connection:
        rows = connection.execute("select json_extract(scores, '$.psnr'), suspect from pages").fetchall()
    assert all(psnr > 30 and suspect is None for psnr, suspect in rows)


def test_a_suspect_page_is_done_again_by_the_safest_path(pages: Path, tiny_weights: Path) -> None:
    engine = FaultyEngine(heals=True)
    finished = run(pages, tiny_weights, engine)
    assert (finished.done, finished.suspects, engine.conservative) == (3, 0, 3)
    with Image.open(pages / "001.png") as before, Image.open(pages.parent / "out" / "001.png") as after:
        small = np.asarray(after.convert("RGB").resize(before.size, Image.Resampling.NEAREST), np.int16)
        assert np.abs(small - np.asarray(before, np.int16)).mean() < 20
    with (
        closing(sqlite3.connect(pages.parent / "out" / ".comic-upscale" / "ledger.sqlite3")) as connection,
        connection,
    ):
        notes = [row[0] for row in connection.execute("select notes from pages")]
    assert all("upscaled again" in note for note in notes)


def test_a_seam_at_a_tile_border_is_seen_and_corrected(pages: Path, tiny_weights: Path) -> None:
    flat = np.full((300, 200, 3), 180, np.uint8)
    flat[40:120, 30:90] = (60, 90, 20)
    for number, path in enumerate(sorted(pages.iterdir())):
        flat[:4, :4] = number
        Image.fromarray(flat).save(path)
    finished = run(pages, tiny_weights, SeamedEngine())
    assert (finished.done, finished.suspects) == (3, 0)
    with (
        closing(sqlite3.connect(pages.parent / "out" / ".comic-upscale" / "ledger.sqlite3")) as connection,
        connection,
    ):
        notes = [row[0] for row in connection.execute("select notes from pages")]
    assert all("upscaled again" in note for note in notes)


def test_what_a_run_puts_right_is_told_as_well(pages: Path, tiny_weights: Path) -> None:
    white = np.full((300, 200, 3), 255, np.uint8)
    white[40:120, 30:90] = (60, 90, 20)
    for path in sorted(pages.iterdir())[1:]:
        path.unlink()
    Image.fromarray(white).save(pages / "001.png")
    finished = run(pages, tiny_weights, GrayingEngine())
    assert (finished.done, finished.suspects) == (1, 1)
    suspects = read_suspects(pages.parent / "out" / ".comic-upscale" / "ledger.sqlite3")
    assert "white paper off by 3.0 levels before correction" in suspects[0].reasons
    with Image.open(pages.parent / "out" / "001.png") as after:
        assert after.convert("RGB").getpixel((300, 500)) == (255, 255, 255)


def test_a_page_that_stays_suspect_is_kept_and_marked(pages: Path, tiny_weights: Path) -> None:
    finished = run(pages, tiny_weights, FaultyEngine(heals=False))
    ledger = pages.parent / "out" / ".comic-upscale" / "ledger.sqlite3"
    assert (finished.done, finished.failed, finished.suspects) == (3, 0, 3)
    assert read_status(ledger).suspects == 3
    suspects = read_suspects(ledger)
    assert [page.source for page in suspects] == ["001.png", "002.png", "003.png"]
    assert all("source" in page.reasons and page.scores["psnr"] < 30 for page in suspects)
    assert all((pages.parent / "out" / page.output).is_file() for page in suspects)


def test_scores_that_somebody_has_spoilt_are_left_out_of_the_list(pages: Path, tiny_weights: Path) -> None:
    run(pages, tiny_weights, FaultyEngine(heals=False))
    ledger = pages.parent / "out" / ".comic-upscale" / "ledger.sqlite3"
    spoilt = ("not json", '{"psnr": NaN, "ssim": "low", "tint": 1.5}', None)
    with closing(sqlite3.connect(ledger)) as connection, connection:
        for number, scores in enumerate(spoilt, 1):
            connection.execute("update pages set scores = ? where source = ?", [scores, f"00{number}.png"])
        connection.execute("update pages set suspect = ? where source = '002.png'", ["\x1b[31m<b>\n"])
    assert read_status(ledger).suspects == 3
    assert [page.scores for page in read_suspects(ledger)] == [{}, {"tint": 1.5}, {}]
    told = CliRunner().invoke(app, ["status", "--ledger", str(ledger), "--suspects", "--json"])
    assert told.exit_code == 0
    assert len(json.loads(told.stdout)["suspects"]) == 3
    shown = CliRunner().invoke(app, ["status", "--ledger", str(ledger), "--suspects"])
    assert "\x1b[31m" not in shown.stdout and "002.png" in shown.stdout


def test_strict_makes_it_a_failure_that_can_be_tried_again(pages: Path, tiny_weights: Path) -> None:
    finished = run(pages, tiny_weights, FaultyEngine(heals=False), strict=True)
    ledger = pages.parent / "out" / ".comic-upscale" / "ledger.sqlite3"
    assert (finished.done, finished.failed, finished.suspects) == (0, 3, 0)
    assert {failure.kind for failure in read_failures(ledger)} == {gatekeeper.SUSPECT}
    assert not list((pages.parent / "out").glob("*.png"))
    again = run(pages, tiny_weights, NearestEngine(), strict=True, retry_failed=True)
    assert (again.done, again.failed) == (3, 0)


def test_without_the_gate_nothing_is_looked_at(pages: Path, tiny_weights: Path) -> None:
    engine = FaultyEngine(heals=True)
    finished = run(pages, tiny_weights, engine, gate=False)
    assert (finished.done, finished.suspects, engine.conservative) == (3, 0, 0)


def test_a_network_that_does_nothing_right_is_not_asked_twice_for_ever(
    pages: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gatekeeper, "HOPELESS_AFTER", 1)
    engine = FaultyEngine(heals=False)
    finished = run(pages, tiny_weights, engine, workers=1)
    assert (finished.suspects, engine.conservative) == (3, 1)


def test_paper_cleaned_of_jpeg_artifacts_is_no_fault(pages: Path) -> None:
    """With a strength, white becomes lighter than the source has it; the page is still compared in everything else."""
    for path in sorted(pages.iterdir()):
        with Image.open(path) as image:
            page = Image.new("L", (384, 576), 255)
            page.paste(image.convert("L"), (90, 130))
        path.unlink()
        for row in range(0, 576, 14):
            page.paste(0, (10, row, 374, row + 1))
        page.save(path.with_suffix(".jpg"), quality=10)
    settings = JobSettings(
        input=pages, output=pages.parent / "out", scale=2.0, model="comic-fast", denoise=1.0, device="cpu"
    )
    finished = run_job(settings)
    assert (finished.done, finished.suspects) == (3, 0)
