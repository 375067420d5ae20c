"""A dry run foresees what a run does: what is in the way, what is renamed, what is taken over."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from comic_upscale.execution.events import JobFinished, JobStarted
from comic_upscale.jobs.run import run_job
from comic_upscale.planning.foresight import reserved_part
from comic_upscale.planning.preview import Preview, preview
from comic_upscale.settings.job import JobSettings
from tests.archives import make_zip, pictures
from tests.conftest import MakeJob, draw
from tests.fakes import NearestEngine


def run(settings: JobSettings) -> JobFinished:
    return run_job(settings, open_engines=lambda *_: [NearestEngine()])


def everything(folder: Path) -> dict[str, bytes]:
    # Any reader of a database in WAL mode makes the files -shm and -wal beside it.
    return {
        str(path): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("ledger.sqlite3-")
    }


def foreseen(settings: JobSettings) -> dict[str, tuple[str, str]]:
    """Action and output of each page; checks that nothing on the disk changes."""
    before = everything(settings.output)
    found = preview(settings)
    assert everything(settings.output) == before
    return {page.source: (page.action, page.output) for page in found.pages}


def note(found: Preview, source: str) -> str:
    return next(page.note or "" for page in found.pages if page.source == source)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    for number, name in enumerate(("1.png", "2.png", "3.png"), 1):
        draw(tmp_path / "in" / name, number, size=(24 + 2 * number, 32))
    return tmp_path / "in"


def test_outputs_that_exist_already_are_refused_as_the_run_refuses_them(
    make_job: MakeJob, library: Path
) -> None:
    make_zip(library / "v.cbz", pictures(2))
    settings = make_job()
    settings.output.mkdir()
    (settings.output / "1.png").write_bytes(b"mine")
    (settings.output / "2.png").mkdir()
    (settings.output / "v.cbz").write_bytes(b"mine")
    found = preview(settings)
    refused = {page.source for page in found.pages if page.action == "refuse"}
    assert refused == {"1.png", "2.png", "v.cbz/p01.png", "v.cbz/p02.png"}
    assert "output-exists" in note(found, "1.png")
    assert found.estimated_bytes == sum(
        page.estimated_bytes or 0 for page in found.pages if page.action == "do"
    )
    finished = run(settings)
    assert {source for source, kind, _ in finished.failures if kind == "output-exists"} == {
        "1.png",
        "2.png",
        "v.cbz",
    }
    # The same after a run that could not write them.
    again = preview(settings)
    assert {page.source for page in again.pages if page.action == "refuse"} == refused
    allowed = preview(make_job(overwrite=True))
    assert {page.source for page in allowed.pages if page.action == "refuse"} == {"2.png"}


def test_an_output_that_was_edited_is_foreseen(make_job: MakeJob, library: Path) -> None:
    settings = make_job()
    run(settings)
    (settings.output / "1.png").write_bytes(b"edited")
    assert foreseen(settings)["1.png"] == ("refuse", "1.png")
    assert foreseen(settings)["2.png"] == ("done", "2.png")


def test_names_that_the_ledger_has_given_away_are_foreseen(make_job: MakeJob, library: Path) -> None:
    with Image.open(library / "1.png") as image:
        image.convert("RGB").save(library / "4.jpg")
    settings = make_job()
    run(settings)
    draw(library / "4.png", 44)
    wanted = foreseen(settings)
    run(settings)
    assert {source: ("done", output) for source, (_, output) in wanted.items()} == foreseen(settings)
    assert wanted["4.png"] == ("do", "4_2.png")


def test_renamed_pages_and_orphans_are_foreseen(make_job: MakeJob, library: Path) -> None:
    settings = make_job()
    run(settings)
    (library / "1.png").rename(library / "x")
    (library / "2.png").rename(library / "1.png")
    (library / "x").rename(library / "2.png")
    (library / "3.png").unlink()
    assert foreseen(settings) == {"1.png": ("move", "1.png"), "2.png": ("move", "2.png")}
    assert preview(settings).orphans == 1
    finished = run(settings)
    assert (finished.moved_now, finished.orphans, finished.done_now) == (2, 1, 0)


@pytest.mark.parametrize("archives", ["cbz", "folder"])
def test_a_library_that_was_moved_is_foreseen_as_done(
    make_job: MakeJob, library: Path, tmp_path: Path, archives: str
) -> None:
    make_zip(library / "v.cbz", pictures(2))
    settings = make_job(archive_output=archives)
    run(settings)
    library.rename(tmp_path / "elsewhere")
    settings.output.rename(tmp_path / "elsewhere-out")
    moved = make_job(input=tmp_path / "elsewhere", output=tmp_path / "elsewhere-out", archive_output=archives)
    assert {action for action, _ in foreseen(moved).values()} == {"done"}


def test_a_page_that_the_format_cannot_hold(make_job: MakeJob, faults_dir: Path) -> None:
    found = preview(make_job(input=faults_dir / "dry-run-format", format="jpeg"))
    (page,) = found.pages
    assert (page.action, page.estimated_bytes) == ("refuse", None)
    assert "65500 pixels a side" in (page.note or "")


def test_a_dry_run_needs_no_permission_and_makes_no_folder(make_job: MakeJob, library: Path) -> None:
    settings = make_job()
    assert {action for action, _ in foreseen(settings).values()} == {"do"}
    assert not settings.output.exists()


@pytest.mark.parametrize(
    ("output", "part"),
    [
        ("con.png", "con.png"),
        ("a/NUL/1.png", "NUL"),
        ("com1.png", "com1.png"),
        ("a/console.png", None),
        ("1.png", None),
    ],
)
def test_names_that_windows_reserves(output: str, part: str | None) -> None:
    assert reserved_part(output, windows=True) == part
    assert reserved_part(output, windows=False) is None


def test_finished_outputs_of_other_settings_are_announced_before_they_are_replaced(
    make_job: MakeJob, library: Path
) -> None:
    make_zip(library / "v.cbz", pictures(2))
    first, second = make_job(scale=2.0), make_job(scale=3.0)
    assert preview(second).replaced == 0
    run(first)
    # Three pages and a volume.
    assert (preview(first).replaced, preview(second).replaced) == (0, 4)
    told: list[str] = []

    def note_warnings(event: object) -> None:
        if isinstance(event, JobStarted):
            told.extend(event.warnings)

    run_job(second, on_event=note_warnings, open_engines=lambda *_: [NearestEngine()])
    assert [line for line in told if "other settings" in line] == [
        "4 finished outputs were made with other settings and will be replaced: choose another --output to keep them"
    ]
    assert preview(second).replaced == 0
