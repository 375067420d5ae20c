"""A job whose pages and outputs are in no folder: the same run, through the stores alone."""

from __future__ import annotations

import dataclasses
import io
import sqlite3
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

from comic_upscale.errors import OutputError
from comic_upscale.execution.events import JobFinished
from comic_upscale.jobs.run import run_job
from comic_upscale.settings.job import JobSettings
from comic_upscale.storage.stores import Stores
from tests.archives import make_7z, make_zip, picture, pictures
from tests.conftest import MakeJob
from tests.fakes import NearestEngine
from tests.storage.conftest import names_in
from tests.storage.memory import MemoryOutputStore, MemorySourceStore

Run = Callable[..., JobFinished]


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    """A few pages, two of them the same, with a caption; a ZIP and a solid archive."""
    objects = {
        "1.png": picture(1),
        "1.txt": b"a caption",
        "deep/2.jpg": picture(2, format="JPEG"),
        "deep/same.png": picture(1),
        "notes.md": b"notes",
        "v.cbz": make_zip(
            tmp_path / "made.zip", {**pictures(3), "ComicInfo.xml": b"<ComicInfo/>"}
        ).read_bytes(),
        "w.cb7": make_7z(tmp_path / "made.7z", pictures(4, seed=7)).read_bytes(),
    }
    return Stores(MemorySourceStore(objects), MemoryOutputStore())


@pytest.fixture
def settings(make_job: MakeJob, stores: Stores) -> JobSettings:
    return make_job(input=stores.sources.root, copy_others=True)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, stores: Stores, settings: JobSettings) -> Run:
    monkeypatch.setattr("comic_upscale.jobs.run.open_stores", lambda *_: stores)

    def go(engine: NearestEngine | None = None, **changes: object) -> JobFinished:
        return run_job(
            dataclasses.replace(settings, **changes),  # type: ignore[arg-type]
            open_engines=lambda *_: [engine or NearestEngine()],
        )

    return go


def memory(stores: Stores) -> tuple[MemorySourceStore, MemoryOutputStore]:
    assert isinstance(stores.sources, MemorySourceStore)
    assert isinstance(stores.outputs, MemoryOutputStore)
    return stores.sources, stores.outputs


def test_a_whole_job_goes_through_its_stores(run: Run, stores: Stores, settings: JobSettings) -> None:
    _, outputs = memory(stores)
    engine = NearestEngine(limit=4)
    finished = run(engine)
    assert (finished.done, finished.failed, finished.warnings) == (10, 0, ())
    assert (finished.volumes_done, finished.carried_now, finished.copied_now) == (2, 2, 1)
    assert outputs.names == ["1.png", "1.txt", "deep/2.png", "deep/same.png", "notes.md", "v.cbz", "w.cbz"]
    with Image.open(io.BytesIO(outputs.read("1.png"))) as image:
        assert image.size == (48, 64)
    assert outputs.read("deep/same.png") == outputs.read("1.png")
    with zipfile.ZipFile(io.BytesIO(outputs.read("w.cbz"))) as archive:
        assert archive.namelist() == list(pictures(4))
    # The ledger and its lock are all that is on the disk.
    assert {name.split("/")[0] for name in names_in(settings.output)} == {".comic-upscale"}
    assert not [name for name in names_in(settings.output) if name.endswith((".png", ".part"))]


def test_a_second_run_does_what_is_missing_and_a_changed_page(run: Run, stores: Stores) -> None:
    sources, outputs = memory(stores)
    first = run()
    assert run(NearestEngine(_refuse)).done == first.done
    del outputs._objects["deep/2.png"], outputs._objects["v.cbz"]
    sources.change("1.png", picture(99))
    finished = run()
    # The page, the three of the volume, and the changed one; the one that was the same keeps its own output.
    assert (finished.done_now, finished.failed) == (5, 0)
    assert "v.cbz" in outputs.names
    assert not [name for name in outputs.names if name.startswith(".comic-upscale")]


def test_an_output_of_somebody_else_is_kept(run: Run, stores: Stores) -> None:
    _, outputs = memory(stores)
    outputs._put("1.png", b"mine")
    outputs._put("v.cbz", b"mine too")
    outputs._put("notes.md", b"mine as well")
    finished = run()
    assert sorted(failure[0] for failure in finished.failures) == ["1.png", "v.cbz"]
    assert [warning.split(" was ")[0] for warning in finished.warnings] == ["notes.md"]
    assert [outputs.read(name) for name in ("1.png", "v.cbz", "notes.md")] == [
        b"mine", b"mine too", b"mine as well",
    ]  # fmt: skip
    assert run(overwrite=True, retry_failed=True).failed == 0
    assert outputs.read("1.png") != b"mine"


def test_a_store_that_is_full_ends_the_run_and_the_next_one_continues(
    run: Run, stores: Stores, settings: JobSettings
) -> None:
    _, outputs = memory(stores)

    def fill(_: object) -> None:
        outputs.full = len(outputs.names) >= 2

    with pytest.raises(OutputError, match="Free some space"):
        run(NearestEngine(fill))
    with closing(sqlite3.connect(settings.ledger_path)) as ledger, ledger:
        assert ledger.execute("select count(*) from pages where state = 'done'").fetchone()[0] < 10
    outputs.full = False
    assert run().done == 10


def _refuse(_: object) -> None:
    raise AssertionError("nothing is left to do")
