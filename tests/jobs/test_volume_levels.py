"""`--levels volume`: the gray pages of a volume get one black and one white point, however the run is interrupted."""

from __future__ import annotations

import io
import sqlite3
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from comic_upscale.engines.registry import check_remote
from comic_upscale.errors import PageError, SettingsError
from comic_upscale.execution.local import steps
from comic_upscale.execution.stop import StopRequest
from comic_upscale.jobs import volume_levels
from comic_upscale.jobs.run import run_job
from comic_upscale.ledger.queries import read_done_pages
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.levels import Levels
from comic_upscale.settings.processing import ProcessingSettings
from comic_upscale.settings.rules import read_rules
from tests.archives import make_zip
from tests.conftest import MakeJob
from tests.fakes import NearestEngine
from tests.imaging.test_levels import manga, scanned

DRIFT = (-6, 2, 0, 5, -3, 1)
"""How many shades lighter or darker than the first one a scanner with a warming lamp makes each page."""


def png(page: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(page).save(file, "PNG")
    return file.getvalue()


def scan(drift: int, seed: int, paper: int = 228) -> bytes:
    page = manga()
    page[200:206, 20 + seed : 40 + seed] = 0
    return png(scanned(page, 20 + drift // 2, paper + drift, 2.5, 92))


def volume(paper: int = 228) -> dict[str, bytes]:
    return {f"{at}.png": scan(drift, at, paper) for at, drift in enumerate(DRIFT)}


@pytest.fixture
def job(make_job: MakeJob, tmp_path: Path) -> Any:
    make_zip(tmp_path / "in" / "v.cbz", volume())

    def make(**changes: Any) -> JobSettings:
        return make_job(**{"levels": Levels(per_volume=True), "gate": False, "scale": 1.5, **changes})

    return make


def run(settings: JobSettings, stop: StopRequest | None = None, engine: NearestEngine | None = None) -> int:
    return run_job(settings, open_engines=lambda *_: [engine or NearestEngine()], stop=stop).done_now


def levels(settings: JobSettings) -> dict[str, str]:
    found = read_done_pages(settings.ledger_path)[1]
    return {str(page["source"]): str(page["notes"]) for page in found}


def papers(settings: JobSettings, name: str = "v.cbz") -> list[float]:
    """The mean of the paper of each page: a corner without a line."""
    with zipfile.ZipFile(settings.output / name) as archive:
        pages = [Image.open(io.BytesIO(archive.read(each))) for each in sorted(archive.namelist())]
        return [float(np.array(page.convert("L"))[:20, :60].mean()) for page in pages]


def test_the_pages_of_a_volume_get_the_same_points_and_those_of_another_its_own(
    job: Any, tmp_path: Path
) -> None:
    make_zip(tmp_path / "in" / "w.cbz", volume(206))
    (tmp_path / "in" / "folder").mkdir()
    for name, data in volume(216).items():
        (tmp_path / "in" / "folder" / name).write_bytes(data)
    settings = job()
    assert run(settings) == 3 * len(DRIFT)
    notes = levels(settings)
    points = {
        name: {note for source, note in notes.items() if source.startswith(name)}
        for name in ("v.cbz", "w.cbz", "folder")
    }
    assert all(len(each) == 1 for each in points.values())
    assert len(set.union(*points.values())) == 3
    (note,) = points["v.cbz"]
    assert note.startswith("levels: black from 2") and note.endswith("as in the whole volume")
    # The lamp still shows, as little as it did.
    assert min(papers(settings)) > 246 and min(papers(settings, "w.cbz")) > 246


def test_the_points_stay_after_an_interruption_and_when_pages_are_added(job: Any, tmp_path: Path) -> None:
    settings, calm = job(workers=1), job(output=tmp_path / "calm")
    run(calm)
    stop = StopRequest()
    done = run(settings, stop, NearestEngine(before=lambda _: stop.request("a test")))
    assert 0 < done < len(DRIFT)
    # Pages of another paper, which would change the median of the volume.
    darker = {f"{at}.png": scan(-20, at) for at in range(10, 20)}
    make_zip(tmp_path / "in" / "v.cbz", {**volume(), **darker})
    assert run(settings) == len(DRIFT) - done + len(darker)
    assert len(set(levels(settings).values())) == 1
    assert set(levels(settings).values()) == set(levels(calm).values())


def test_a_page_with_a_white_of_its_own_and_one_in_colour_keep_their_shades(job: Any, tmp_path: Path) -> None:
    clean, colour = manga(), np.stack([manga(), manga() // 2, manga() // 3], axis=2)
    make_zip(tmp_path / "in" / "v.cbz", {**volume(), "7.png": png(clean), "8.png": png(colour)})
    settings = job()
    run(settings)
    notes = levels(settings)
    assert len({notes[f"v.cbz/{at}.png"] for at in range(len(DRIFT))}) == 1
    assert "levels" not in notes["v.cbz/7.png"] + notes["v.cbz/8.png"]


def test_equal_pages_of_different_volumes_get_the_points_of_their_own(job: Any, tmp_path: Path) -> None:
    shared = scan(0, 99, 214)
    for name, paper in (("v.cbz", 228), ("w.cbz", 206)):
        make_zip(tmp_path / "in" / name, {**volume(paper), "9.png": shared})
    settings = job()
    run(settings)
    notes = levels(settings)
    for name in ("v.cbz", "w.cbz"):
        assert notes[f"{name}/9.png"] == notes[f"{name}/0.png"]
    assert notes["v.cbz/9.png"] != notes["w.cbz/9.png"]


def test_a_rule_gives_some_pages_the_levels_of_their_volume(job: Any, tmp_path: Path) -> None:
    make_zip(tmp_path / "in" / "w.cbz", volume(206))
    rules = read_rules([{"path": "w.cbz", "levels": "volume"}], ProcessingSettings)
    settings = job(levels=None, rules=rules)
    run(settings)
    notes = levels(settings)
    assert {source for source, note in notes.items() if "levels" in note} == {
        source for source in notes if source.startswith("w.cbz")
    }


def test_pages_have_no_volumes_on_a_remote_machine(job: Any) -> None:
    with pytest.raises(SettingsError, match="--levels volume does not run on a remote machine"):
        check_remote(job())


def test_a_volume_that_cannot_be_read_is_measured_by_the_next_run(
    job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, calm = job(), job(output=tmp_path / "calm")
    run(calm)

    def fail(*_: object) -> object:
        raise PageError("unreadable", "the drive is away")

    with monkeypatch.context() as away:
        away.setattr(volume_levels, "decode_page", fail)
        away.setattr(steps, "decode_page", fail)
        run(settings)
    assert levels(settings) == {}
    run(job(retry_failed=True))
    assert levels(settings) == levels(calm)


@pytest.mark.parametrize("error", [MemoryError(), ValueError("an odd marker")])
@pytest.mark.parametrize("step", ["decode_page", "find_shades"])
def test_a_page_that_cannot_be_measured_does_not_fail_the_others(
    job: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, step: str
) -> None:
    whole = getattr(volume_levels, step)
    calls: list[object] = []

    def fail_once(*arguments: Any) -> object:
        calls.append(arguments)
        if len(calls) == 3:
            raise error
        return whole(*arguments)

    monkeypatch.setattr(volume_levels, step, fail_once)
    settings = job()
    assert run(settings) == len(DRIFT)
    notes = set(levels(settings).values())
    assert len(calls) == len(DRIFT)
    assert len(notes) == 1 and notes.pop().endswith("as in the whole volume")


@pytest.mark.parametrize(("black", "white"), [(100, 100), (200, 100)])
def test_points_of_a_ledger_that_cannot_be_are_measured_again(
    job: Any, tmp_path: Path, black: int, white: int
) -> None:
    settings = job()
    run(settings)
    right = levels(settings)
    with closing(sqlite3.connect(settings.ledger_path)) as ledger, ledger:
        ledger.execute("update levels set black = ?, white = ?", [black, white])
    (settings.output / "v.cbz").unlink()
    run(settings)
    assert levels(settings) == right


def test_a_folder_with_a_number_in_its_name_is_no_rule(job: Any, tmp_path: Path) -> None:
    """Equal pages are copied only if the same rules match them, in the same volume."""
    (tmp_path / "in" / "v.cbz").unlink()
    page = scan(0, 1)
    for folder in ("0 Chapter", "Chapter"):
        (tmp_path / "in" / folder).mkdir()
        (tmp_path / "in" / folder / "x.png").write_bytes(page)
    rules = read_rules([{"path": "/Chapter/", "levels": "50,200"}], ProcessingSettings)
    settings = job(rules=rules)
    run(settings)
    notes = levels(settings)
    assert "black from 50" in notes["Chapter/x.png"]
    assert "black from 50" not in notes["0 Chapter/x.png"]
