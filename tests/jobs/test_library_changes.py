"""Libraries that change between two runs: renamed, swapped, deleted and replaced pages and volumes."""

from __future__ import annotations

import os
import shutil
import sqlite3
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from comic_upscale.engines.base import Batch
from comic_upscale.errors import InputError, OutputError
from comic_upscale.execution.events import JobFinished
from comic_upscale.jobs import run as run_module
from comic_upscale.jobs.run import run_job
from comic_upscale.ledger.changes import LibraryChanges
from comic_upscale.ledger.status import read_status
from comic_upscale.library.discover import Discovery
from comic_upscale.reporting.export import read_export
from comic_upscale.settings.job import JobSettings
from comic_upscale.storage.local import LocalOutputStore
from tests.archives import make_7z, make_zip, picture, pictures, read_cbz
from tests.conftest import MakeJob, draw
from tests.fakes import NearestEngine


def run(settings: JobSettings) -> JobFinished:
    return run_job(settings, open_engines=lambda *_: [NearestEngine()])


def run_without_engine(settings: JobSettings) -> JobFinished:
    def refuse(*_: object) -> list[NearestEngine]:
        raise AssertionError("a page is computed although its output is known")

    return run_job(settings, open_engines=refuse)


def files(folder: Path) -> dict[str, bytes]:
    """The outputs: everything but the marker folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".comic-upscale" not in path.parts
    }


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def folders(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_dir())


def as_fresh(settings: JobSettings, tmp_path: Path) -> dict[str, bytes]:
    """The outputs of the same input by a job that knows nothing of before."""
    fresh = tmp_path / "fresh"
    shutil.rmtree(fresh, ignore_errors=True)
    run(JobSettings(input=settings.input, output=fresh, model=settings.model, workers=2, scale=2.0))
    return files(fresh)


def query(settings: JobSettings, statement: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(settings.ledger_path)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.commit()
        connection.close()


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Three pages that differ, also in size."""
    for number, name in enumerate(("001.png", "002.png", "003.png"), 1):
        draw(tmp_path / "in" / name, number, size=(24 + 2 * number, 32))
    return tmp_path / "in"


def test_a_renamed_page_moves_its_output_and_is_not_computed(make_job: MakeJob, library: Path) -> None:
    settings = make_job()
    run(settings)
    before = files(settings.output)
    (library / "001.png").rename(library / "z.png")
    finished = run_without_engine(settings)
    assert (finished.total, finished.done, finished.moved_now, finished.orphans) == (3, 3, 1, 0)
    assert files(settings.output) == {
        "002.png": before["002.png"], "003.png": before["003.png"], "z.png": before["001.png"],
    }  # fmt: skip
    assert run_without_engine(settings).moved_now == 0
    assert sorted(row.source for row in read_export(settings.ledger_path).rows) == [
        "002.png",
        "003.png",
        "z.png",
    ]


def test_a_renamed_folder_moves_its_outputs_and_leaves_no_empty_folder(
    make_job: MakeJob, library: Path, tmp_path: Path
) -> None:
    draw(library / "old" / "deep" / "1.png", 11)
    draw(library / "old" / "2.png", 12)
    settings = make_job()
    run(settings)
    (library / "old").rename(library / "new")
    finished = run_without_engine(settings)
    assert (finished.done, finished.moved_now) == (5, 2)
    assert files(settings.output) == as_fresh(settings, tmp_path)
    assert [name for name in folders(settings.output) if "comic-upscale" not in name] == ["new", "new/deep"]


@pytest.mark.parametrize("depth", [2, 3])
def test_pages_that_swap_names_swap_outputs(
    make_job: MakeJob, library: Path, tmp_path: Path, depth: int
) -> None:
    settings = make_job()
    run(settings)
    names = ["001.png", "002.png", "003.png"][:depth]
    for name in names:
        (library / name).rename(library / f"{name}.away")
    for name, other in zip(names, [*names[1:], names[0]], strict=True):
        (library / f"{name}.away").rename(library / other)
    finished = run_without_engine(settings)
    assert (finished.done, finished.failed, finished.moved_now) == (3, 0, depth)
    assert files(settings.output) == as_fresh(settings, tmp_path)


def test_deleting_the_first_page_and_counting_down_computes_nothing(
    make_job: MakeJob, library: Path, tmp_path: Path
) -> None:
    settings = make_job()
    run(settings)
    (library / "002.png").replace(library / "001.png")
    (library / "003.png").replace(library / "002.png")
    finished = run_without_engine(settings)
    assert (finished.total, finished.done, finished.moved_now, finished.orphans) == (2, 2, 2, 0)
    assert files(settings.output) == as_fresh(settings, tmp_path)


def test_a_new_first_page_moves_all_others_up(make_job: MakeJob, library: Path, tmp_path: Path) -> None:
    settings = make_job()
    run(settings)
    for number in (3, 2, 1):
        (library / f"00{number}.png").rename(library / f"00{number + 1}.png")
    draw(library / "001.png", 99)
    finished = run(settings)
    assert (finished.done, finished.done_now, finished.moved_now, finished.failed) == (4, 1, 3, 0)
    assert files(settings.output) == as_fresh(settings, tmp_path)


def test_a_name_that_changes_its_case_alone(make_job: MakeJob, library: Path) -> None:
    settings = make_job()
    draw(library / "Cover.png", 7)
    run(settings)
    (library / "Cover.png").rename(library / "cover.png")
    finished = run_without_engine(settings)
    assert (finished.done, finished.moved_now, finished.orphans) == (4, 1, 0)
    assert set(files(settings.output)) == {"001.png", "002.png", "003.png", "cover.png"}


def test_a_folder_that_changes_its_case_alone_keeps_its_sidecars(make_job: MakeJob, library: Path) -> None:
    draw(library / "PIter" / "1.png", 31)
    (library / "PIter" / "1.txt").write_text("a caption")
    settings = make_job()
    run(settings)
    (library / "PIter").rename(library / "x")
    (library / "x").rename(library / "Piter")
    finished = run_without_engine(settings)
    assert (finished.done, finished.moved_now, finished.orphans) == (4, 1, 0)
    assert set(files(settings.output)) == {"001.png", "002.png", "003.png", "Piter/1.png", "Piter/1.txt"}
    assert "PIter" not in folders(settings.output)


def test_a_page_that_was_edited_and_renamed_is_computed(make_job: MakeJob, library: Path) -> None:
    settings = make_job()
    run(settings)
    (library / "001.png").unlink()
    draw(library / "z.png", 88, size=(26, 32))
    finished = run(settings)
    assert (finished.done, finished.done_now, finished.moved_now, finished.orphans) == (3, 1, 0, 1)


def test_two_sources_of_one_content_each_keep_an_output(make_job: MakeJob, library: Path) -> None:
    shutil.copy(library / "001.png", library / "same.png")
    settings = make_job()
    run(settings)
    (library / "001.png").rename(library / "a.png")
    (library / "same.png").rename(library / "b.png")
    finished = run_without_engine(settings)
    assert (finished.done, finished.moved_now, finished.orphans) == (4, 2, 0)
    (library / "a.png").rename(library / "c.png")
    assert run_without_engine(settings).moved_now == 1
    made = files(settings.output)
    assert set(made) == {"002.png", "003.png", "b.png", "c.png"}
    assert made["b.png"] == made["c.png"]


def test_one_source_becomes_two(make_job: MakeJob, library: Path) -> None:
    settings = make_job()
    run(settings)
    shutil.copy(library / "001.png", library / "a.png")
    (library / "001.png").rename(library / "b.png")
    finished = run(settings)
    assert (finished.done, finished.moved_now, finished.copied_now, finished.orphans) == (4, 1, 1, 0)
    assert set(files(settings.output)) == {"002.png", "003.png", "a.png", "b.png"}


@pytest.mark.parametrize("grows", [True, False])
def test_an_output_that_was_edited_stays_where_it_is_when_its_page_is_renamed(
    make_job: MakeJob, library: Path, grows: bool
) -> None:
    settings = make_job()
    run(settings)
    output = settings.output / "001.png"
    edited = output.read_bytes() + b"mine" if grows else bytes(reversed(output.read_bytes()))
    output.write_bytes(edited)
    (library / "001.png").rename(library / "z.png")
    finished = run(settings)
    assert (finished.done, finished.done_now + finished.copied_now, finished.moved_now) == (3, 1, 0)
    assert output.read_bytes() == edited
    assert size_of(settings.output / "z.png") == (52, 64)


def test_a_stranger_at_the_new_name_is_not_replaced(make_job: MakeJob, library: Path) -> None:
    settings = make_job()
    run(settings)
    before = files(settings.output)["001.png"]
    (settings.output / "z.png").write_bytes(b"mine")
    (library / "001.png").rename(library / "z.png")
    finished = run(settings)
    assert [failure[:2] for failure in finished.failures] == [("z.png", "output-exists")]
    made = files(settings.output)
    assert (made["z.png"], made["001.png"]) == (b"mine", before)


def test_a_renamed_page_takes_its_sidecar_along(make_job: MakeJob, library: Path) -> None:
    (library / "001.txt").write_text("a caption")
    (library / "002.txt").write_text("another")
    settings = make_job()
    run(settings)
    (library / "001.png").rename(library / "z.png")
    (library / "001.txt").rename(library / "z.txt")
    run_without_engine(settings)
    assert set(files(settings.output)) == {"002.png", "002.txt", "003.png", "z.png", "z.txt"}
    (settings.output / "002.txt").write_text("edited here")
    (library / "002.png").rename(library / "y.png")
    (library / "002.txt").rename(library / "y.txt")
    run_without_engine(settings)
    assert (settings.output / "002.txt").read_text() == "edited here"
    assert (settings.output / "y.txt").read_text() == "another"


def test_deleted_pages_are_orphans_and_count_no_longer(make_job: MakeJob, library: Path) -> None:
    settings = make_job()
    run(settings)
    (library / "003.png").unlink()
    finished = run_without_engine(settings)
    assert (finished.total, finished.done, finished.orphans) == (2, 2, 1)
    status = read_status(settings.ledger_path)
    assert (status.total, status.done, status.orphans, status.percent) == (2, 2, 1, 100.0)
    exported = read_export(settings.ledger_path)
    assert ([row.file for row in exported.rows], exported.orphans) == (["001.png", "002.png"], 1)
    assert query(settings, "select total, done from progress") == [(2, 2)]
    assert query(settings, "select source, output from orphans") == [("003.png", "003.png")]
    # It comes back: nothing to compute.
    draw(library / "003.png", 3, size=(30, 32))
    finished = run_without_engine(settings)
    assert (finished.total, finished.done, finished.orphans) == (3, 3, 0)


def test_a_deleted_page_that_never_was_done_is_forgotten(make_job: MakeJob, library: Path) -> None:
    (library / "bad.png").write_bytes(b"bad")
    settings = make_job()
    assert run(settings).failed == 1
    (library / "bad.png").unlink()
    finished = run_without_engine(settings)
    assert (finished.total, finished.failed, finished.skipped, finished.orphans) == (3, 0, 0, 0)


def test_an_orphan_whose_output_was_deleted_is_none(make_job: MakeJob, library: Path) -> None:
    settings = make_job()
    run(settings)
    (library / "003.png").unlink()
    (settings.output / "003.png").unlink()
    assert run_without_engine(settings).orphans == 0


def test_a_page_of_another_format_takes_the_name_of_the_one_it_replaces(
    make_job: MakeJob, library: Path
) -> None:
    with Image.open(library / "001.png") as image:
        image.convert("L").save(library / "004.jpg")
    settings = make_job()
    run(settings)
    (library / "004.jpg").unlink()
    draw(library / "004.png", 44)
    finished = run(settings)
    assert (finished.total, finished.done, finished.done_now, finished.orphans) == (4, 4, 1, 0)
    made = files(settings.output)
    assert set(made) == {"001.png", "002.png", "003.png", "004.png"}
    assert size_of(settings.output / "004.png") == (48, 64)


def test_an_edited_output_does_not_give_up_its_name(make_job: MakeJob, library: Path) -> None:
    with Image.open(library / "001.png") as image:
        image.convert("L").save(library / "004.jpg")
    settings = make_job()
    run(settings)
    (settings.output / "004.png").write_bytes(b"edited")
    (library / "004.jpg").unlink()
    draw(library / "004.png", 44)
    finished = run(settings)
    assert (finished.done, finished.failed) == (4, 0)
    assert files(settings.output)["004.png"] == b"edited"
    assert "004_2.png" in files(settings.output)


# What is out of sight is not gone


@pytest.mark.parametrize("state", ["missing", "empty", "only litter"])
def test_an_input_that_is_not_there_changes_nothing(make_job: MakeJob, library: Path, state: str) -> None:
    settings = make_job()
    run(settings)
    before = files(settings.output)
    library.rename(library.with_name("unmounted"))
    if state != "missing":
        library.mkdir()
    if state == "only litter":
        (library / "readme.txt").write_text("the place of a drive")
    with pytest.raises(InputError):
        run(settings)
    status = read_status(settings.ledger_path)
    assert (status.done, status.orphans) == (3, 0)
    assert files(settings.output) == before


def test_the_pages_of_a_volume_that_cannot_be_opened_are_not_gone(make_job: MakeJob, library: Path) -> None:
    volume = make_zip(library / "v.cbz", pictures(2))
    settings = make_job()
    run(settings)
    good = volume.read_bytes()
    volume.write_bytes(good[: len(good) // 3])
    finished = run_without_engine(settings)
    assert (finished.failed, finished.orphans) == (1, 0)
    volume.write_bytes(good)
    finished = run_without_engine(settings)
    assert (finished.done, finished.failed, finished.volumes_done) == (5, 0, 1)


def test_a_link_to_a_drive_that_is_not_mounted(make_job: MakeJob, library: Path, tmp_path: Path) -> None:
    drive = tmp_path / "drive"
    draw(drive / "1.png", 50)
    (library / "linked").symlink_to(drive)
    settings = make_job()
    run(settings)
    drive.rename(tmp_path / "unplugged")
    finished = run_without_engine(settings)
    assert (finished.orphans, finished.done, finished.total) == (0, 4, 4)


# Kills


class Killed(BaseException):
    """What a kill is to the process: nothing after it happens."""


@pytest.mark.parametrize("after", range(8))
@pytest.mark.parametrize("change", ["swap", "chain"])
def test_a_kill_between_any_two_moves_loses_nothing(
    make_job: MakeJob, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int, change: str
) -> None:
    settings = make_job()
    run(settings)
    if change == "swap":
        (library / "001.png").rename(library / "x")
        (library / "002.png").rename(library / "001.png")
        (library / "x").rename(library / "002.png")
    else:
        for number in (3, 2, 1):
            (library / f"00{number}.png").rename(library / f"00{number + 1}.png")
    relocate, moves = LocalOutputStore.relocate, 0

    def dies(store: LocalOutputStore, name: str, to: str) -> None:
        nonlocal moves
        if moves == after:
            raise Killed
        moves += 1
        relocate(store, name, to)

    monkeypatch.setattr(LocalOutputStore, "relocate", dies)
    try:
        run_without_engine(settings)
    except Killed:
        monkeypatch.undo()
        finished = run_without_engine(settings)
        assert (finished.done, finished.failed, finished.orphans) == (3, 0, 0)
    monkeypatch.undo()
    assert files(settings.output) == as_fresh(settings, tmp_path)
    assert folders(settings.output) == [".comic-upscale"]


# Volumes


@pytest.mark.parametrize("output", ["cbz", "folder"])
def test_a_renamed_volume_takes_its_output_along(make_job: MakeJob, library: Path, output: str) -> None:
    make_zip(library / "v.cbz", pictures(3))
    settings = make_job(archive_output=output)
    run(settings)
    before = files(settings.output)
    (library / "v.cbz").rename(library / "w.cbz")
    finished = run_without_engine(settings)
    assert (finished.done, finished.total, finished.volumes_done, finished.volumes) == (6, 6, 1, 1)
    assert (finished.orphans, finished.failed) == (0, 0)
    renamed = {("w" + name[1:] if name.startswith("v") else name): data for name, data in before.items()}
    assert files(settings.output) == renamed
    assert "v" not in folders(settings.output)
    assert run_without_engine(settings).moved_now == 0


def test_volumes_that_swap_names(make_job: MakeJob, library: Path) -> None:
    make_zip(library / "v.cbz", pictures(2, seed=5))
    make_zip(library / "w.cbz", pictures(3, seed=50))
    settings = make_job()
    run(settings)
    before = files(settings.output)
    (library / "v.cbz").rename(library / "x")
    (library / "w.cbz").rename(library / "v.cbz")
    (library / "x").rename(library / "w.cbz")
    finished = run_without_engine(settings)
    assert (finished.done, finished.failed, finished.volumes_done) == (8, 0, 2)
    after = files(settings.output)
    assert (after["v.cbz"], after["w.cbz"]) == (before["w.cbz"], before["v.cbz"])


def test_a_renamed_volume_of_an_older_ledger_is_known_by_its_pages(make_job: MakeJob, library: Path) -> None:
    make_zip(library / "v.cbz", pictures(3))
    settings = make_job()
    run(settings)
    query(settings, "update pages set source_sha256 = null where kind = 'volume'")
    (library / "v.cbz").rename(library / "w.cbz")
    finished = run_without_engine(settings)
    assert (finished.done, finished.volumes_done, finished.moved_now) == (6, 1, 1)


def test_a_volume_that_was_packed_again_needs_no_network(make_job: MakeJob, library: Path) -> None:
    inside = pictures(3)
    make_7z(library / "v.cb7", inside)
    settings = make_job()
    run(settings)
    before = read_cbz(settings.output / "v.cbz")
    (library / "v.cb7").unlink()
    make_zip(library / "v.cbz", inside)
    finished = run_without_engine(settings)
    assert (finished.done, finished.total, finished.volumes_done, finished.orphans) == (6, 6, 1, 0)
    assert read_cbz(settings.output / "v.cbz") == before


def test_a_volume_of_another_kind_takes_the_name_of_the_one_it_replaces(
    make_job: MakeJob, library: Path
) -> None:
    make_7z(library / "v.cb7", pictures(3))
    settings = make_job()
    run(settings)
    (library / "v.cb7").unlink()
    better = {**pictures(3), "p02.png": picture(90), "p04.png": picture(91)}
    make_zip(library / "v.cbz", better)
    finished = run(settings)
    assert (finished.total, finished.done, finished.done_now, finished.copied_now) == (7, 7, 4, 2)
    assert (finished.volumes, finished.volumes_done, finished.orphans) == (1, 1, 0)
    assert set(files(settings.output)) == {"001.png", "002.png", "003.png", "v.cbz"}
    assert list(read_cbz(settings.output / "v.cbz")) == ["p01.png", "p02.png", "p03.png", "p04.png"]
    assert run_without_engine(settings).orphans == 0


def test_a_renamed_volume_keeps_the_tags_that_somebody_added(make_job: MakeJob, library: Path) -> None:
    make_zip(library / "v.cbz", pictures(3))
    settings = make_job()
    run(settings)
    with zipfile.ZipFile(settings.output / "v.cbz", "a") as archive:
        archive.writestr("ComicInfo.xml", "<ComicInfo/>")
    tagged = (settings.output / "v.cbz").read_bytes()
    (library / "v.cbz").rename(library / "w.cbz")
    finished = run_without_engine(settings)
    assert (finished.done, finished.volumes_done) == (6, 1)
    assert (settings.output / "w.cbz").read_bytes() == tagged
    assert not (settings.output / "v.cbz").exists()


def test_volumes_that_were_all_replaced_are_read_from_the_ledger_once(
    make_job: MakeJob, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        make_zip(library / f"old{number}.cbz", pictures(2, seed=10 * number))
    settings = make_job()
    run(settings)
    for number in range(3):
        (library / f"old{number}.cbz").unlink()
        make_zip(library / f"new{number}.cbz", pictures(2, seed=500 + 10 * number))
    page_rows_of, read = LibraryChanges.page_rows_of, []

    def note(ledger: LibraryChanges, volume_id: int) -> Any:
        read.append(volume_id)
        return page_rows_of(ledger, volume_id)

    monkeypatch.setattr(LibraryChanges, "page_rows_of", note)
    finished = run(settings)
    assert (finished.done_now, finished.moved_now, finished.orphans) == (6, 0, 3)
    assert len(read) == len(set(read)) == 3


def test_deleted_volumes_are_one_orphan_each(make_job: MakeJob, library: Path) -> None:
    make_zip(library / "v.cbz", pictures(3))
    make_zip(library / "w.cbz", pictures(2, seed=70))
    settings = make_job()
    run(settings)
    (library / "v.cbz").unlink()
    finished = run_without_engine(settings)
    assert (finished.total, finished.done, finished.volumes, finished.volumes_done) == (5, 5, 1, 1)
    assert finished.orphans == 1
    assert {row.volume for row in read_export(settings.ledger_path).rows} == {None, "w.cbz"}


def test_a_page_taken_out_of_a_volume_is_no_orphan(make_job: MakeJob, library: Path) -> None:
    inside = pictures(3)
    make_zip(library / "v.cbz", inside)
    settings = make_job()
    run(settings)
    inside.pop("p02.png")
    make_zip(library / "v.cbz", inside)
    finished = run_without_engine(settings)
    assert (finished.total, finished.done, finished.orphans) == (5, 5, 0)
    assert list(read_cbz(settings.output / "v.cbz")) == ["p01.png", "p03.png"]


# Moved or copied as a whole


@pytest.mark.parametrize("output", ["cbz", "folder"])
@pytest.mark.parametrize("how", ["moved", "copied without times"])
def test_a_library_that_went_elsewhere_with_its_outputs(
    make_job: MakeJob, library: Path, tmp_path: Path, output: str, how: str
) -> None:
    make_zip(library / "v.cbz", pictures(3))
    make_7z(library / "deep" / "w.cb7", pictures(2, seed=30))
    settings = make_job(archive_output=output)
    run(settings)
    before = files(settings.output)
    target = tmp_path / "elsewhere"
    target.mkdir()
    if how == "moved":
        library.rename(target / "in")
        settings.output.rename(target / "out")
    else:
        for folder in (library, settings.output):
            shutil.copytree(folder, target / folder.name, copy_function=shutil.copyfile)
            for path in (target / folder.name).rglob("*"):
                os.utime(path, (1e9, 1e9))
    moved = make_job(input=target / "in", output=target / "out", archive_output=output)
    finished = run(moved)
    assert (finished.failed, finished.done, finished.total, finished.done_now) == (0, 8, 8, 0)
    assert (finished.volumes_done, finished.volumes, finished.orphans) == (2, 2, 0)
    assert files(moved.output) == before
    assert run_without_engine(moved).done == 8


def test_a_moved_library_whose_output_was_tagged(make_job: MakeJob, library: Path, tmp_path: Path) -> None:
    make_zip(library / "v.cbz", pictures(3))
    settings = make_job()
    run(settings)
    with zipfile.ZipFile(settings.output / "v.cbz", "a") as archive:
        archive.writestr("ComicInfo.xml", "<ComicInfo/>")
    library.rename(tmp_path / "elsewhere")
    finished = run(make_job(input=tmp_path / "elsewhere"))
    assert (finished.failed, finished.done, finished.done_now, finished.volumes_done) == (0, 6, 0, 1)


def test_a_volume_that_cannot_be_written_counts_once(make_job: MakeJob, library: Path) -> None:
    make_zip(library / "v.cbz", pictures(3))
    settings = make_job()
    settings.output.mkdir()
    (settings.output / "v.cbz").write_bytes(b"mine")
    finished = run(settings)
    assert (finished.total, finished.done, finished.failed, finished.skipped) == (4, 3, 1, 0)
    assert read_status(settings.ledger_path).total == 4


def test_an_output_folder_that_is_moved_while_the_input_is_read_leaves_nothing_at_its_place(
    make_job: MakeJob, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_job()
    run(settings)
    find_pages = run_module.find_pages

    def moves(*arguments: Any) -> Discovery:
        settings.output.rename(tmp_path / "elsewhere")
        return find_pages(*arguments)

    monkeypatch.setattr(run_module, "find_pages", moves)
    with pytest.raises(OutputError, match="was moved"):
        run(settings)
    assert not settings.output.exists()


# Claims of runs that died


def test_a_claim_of_a_run_that_died_does_not_outlive_the_next_run(make_job: MakeJob, library: Path) -> None:
    settings = make_job()
    (library / "001.png").write_bytes(b"broken")
    run(settings)
    query(settings, "update pages set state = 'working', claimed = 1 where source = '001.png'")
    assert run(settings).failed == 1
    assert query(settings, "select sum(claimed) from pages") == [(0,)]
    # A file that the user puts there now is the user's.
    (settings.output / "001.png").write_bytes(b"mine")
    draw(library / "001.png", 1)
    assert run(settings).failures[0][1] == "output-exists"
    assert (settings.output / "001.png").read_bytes() == b"mine"


def test_what_a_run_placed_before_it_died_is_still_ours_after_a_failure(
    make_job: MakeJob, library: Path
) -> None:
    settings = make_job()
    run(settings)
    good = (library / "001.png").read_bytes()
    query(
        settings,
        "update pages set state = 'working', claimed = 1, output_size = null where source = '001.png'",
    )
    (library / "001.png").write_bytes(b"broken")
    assert run(settings).failed == 1
    (library / "001.png").write_bytes(good)
    finished = run(settings)
    assert (finished.done, finished.failed) == (3, 0)


def test_a_stop_in_the_middle_of_the_run_after_a_rename(make_job: MakeJob, library: Path) -> None:
    settings = make_job()
    run(settings)
    (library / "001.png").rename(library / "z.png")
    draw(library / "new.png", 60)

    def fail(batch: Batch) -> None:
        raise RuntimeError("the device died")

    with pytest.raises(Exception, match="device died"):
        run_job(settings, open_engines=lambda *_: [NearestEngine(fail)])
    finished = run(settings)
    assert (finished.done, finished.total, finished.orphans) == (4, 4, 0)
