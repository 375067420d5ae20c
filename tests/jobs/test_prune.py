"""Pruning: only files of ours, whose sources are gone, with the recorded content."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import zipfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from comic_upscale.errors import InputError, LedgerBusyError, LedgerDamagedError
from comic_upscale.jobs.prune import EDITED, PruneResult, prune
from comic_upscale.ledger.lock import hold_job
from comic_upscale.ledger.status import read_status
from comic_upscale.settings.job import JobSettings
from tests.archives import make_zip, pictures
from tests.conftest import MakeJob, draw
from tests.jobs.test_library_changes import files, folders, run, run_without_engine


@pytest.fixture
def settings(make_job: MakeJob, tmp_path: Path) -> JobSettings:
    """A finished job of three pages and a volume, some in folders, one with a caption."""
    for number, name in enumerate(("1.png", "2.png", "deep/3.png"), 1):
        draw(tmp_path / "in" / name, number)
    (tmp_path / "in" / "deep" / "3.txt").write_text("a caption")
    make_zip(tmp_path / "in" / "books" / "v.cbz", pictures(2))
    settings = make_job()
    run(settings)
    return settings


def kept(result: PruneResult) -> dict[str, str | None]:
    return {file.output: file.kept for file in result.files}


def test_deleted_pages_volumes_and_their_sidecars_go_after_they_were_listed(settings: JobSettings) -> None:
    shutil.rmtree(settings.input / "deep")
    shutil.rmtree(settings.input / "books")
    before = files(settings.output)
    assert run_without_engine(settings).orphans == 2
    listed = prune(settings.ledger_path, remove=False)
    assert kept(listed) == {"deep/3.png": None, "deep/3.txt": None, "books/v.cbz": None}
    assert (listed.removed, files(settings.output)) == (False, before)
    removed = prune(settings.ledger_path, remove=True)
    assert (removed.removed, kept(removed)) == (True, kept(listed))
    assert set(files(settings.output)) == {"1.png", "2.png"}
    assert folders(settings.output) == [".comic-upscale"]
    assert read_status(settings.ledger_path).orphans == 0
    assert prune(settings.ledger_path, remove=True).files == ()
    finished = run_without_engine(settings)
    assert (finished.total, finished.done, finished.orphans) == (2, 2, 0)


@pytest.mark.parametrize("same_size", [True, False])
def test_an_output_that_was_edited_is_never_removed(settings: JobSettings, same_size: bool) -> None:
    output = settings.output / "2.png"
    data = output.read_bytes()
    edited = bytes(reversed(data)) if same_size else data + b"mine"
    (settings.input / "2.png").unlink()
    run_without_engine(settings)
    output.write_bytes(edited)
    (settings.input / "deep" / "3.txt").unlink()
    (settings.output / "deep" / "3.txt").write_text("edited here")
    result = prune(settings.ledger_path, remove=True)
    assert set(kept(result)) == {"2.png", "deep/3.txt"}
    assert all("edited" in str(why) for why in kept(result).values())
    assert output.read_bytes() == edited
    # They belong to the user now, and nothing speaks of them any more.
    assert read_status(settings.ledger_path).orphans == 0
    assert prune(settings.ledger_path, remove=True).files == ()


def test_a_page_that_was_renamed_since_the_last_run_keeps_its_output(settings: JobSettings) -> None:
    (settings.input / "2.png").rename(settings.input / "new.png")
    result = prune(settings.ledger_path, remove=True)
    assert (result.files, result.unplanned) == ((), 1)
    assert run_without_engine(settings).moved_now == 1


def test_a_page_that_came_back_keeps_its_output(settings: JobSettings, tmp_path: Path) -> None:
    (settings.input / "2.png").rename(tmp_path / "2.png")
    run_without_engine(settings)
    (tmp_path / "2.png").rename(settings.input / "2.png")
    assert prune(settings.ledger_path, remove=True).files == ()
    assert "2.png" in files(settings.output)


@pytest.mark.parametrize("state", ["missing", "empty", "another drive"])
def test_an_input_that_is_not_the_right_one_is_refused(settings: JobSettings, state: str) -> None:
    (settings.input / "2.png").unlink()
    run_without_engine(settings)
    before = files(settings.output)
    settings.input.rename(settings.input.with_name("unmounted"))
    if state != "missing":
        settings.input.mkdir()
    if state == "another drive":
        draw(settings.input / "holiday.png", 77)
    with pytest.raises(InputError):
        prune(settings.ledger_path, remove=True)
    assert files(settings.output) == before


def test_the_place_of_a_drive_that_is_not_mounted_is_told_from_a_deleted_folder(
    settings: JobSettings,
) -> None:
    shutil.rmtree(settings.input / "deep")
    (settings.input / "deep").mkdir()
    assert run_without_engine(settings).orphans == 1
    result = prune(settings.ledger_path, remove=True)
    assert set(kept(result)) == {"deep/3.png", "deep/3.txt"}
    assert all("deep is empty" in str(why) for why in kept(result).values())
    assert "deep/3.png" in files(settings.output)
    (settings.input / "deep").rmdir()
    assert set(kept(prune(settings.ledger_path, remove=True))) == {"deep/3.png", "deep/3.txt"}
    assert "deep/3.png" not in files(settings.output)


def test_a_ledger_that_names_other_files_removes_none_of_them(settings: JobSettings, tmp_path: Path) -> None:
    (settings.input / "2.png").unlink()
    run_without_engine(settings)
    outside = tmp_path / "outside"
    outside.mkdir()
    good = (settings.output / "2.png").read_bytes()
    (outside / "2.png").write_bytes(good)
    (settings.output / "link").symlink_to(outside)
    (settings.input / "twin.png").write_bytes(good)
    for name in (
        "../outside/2.png",
        "link/2.png",
        "../in/twin.png",
        ".comic-upscale/ledger.sqlite3",
        str(outside / "2.png"),
    ):
        with closing(sqlite3.connect(settings.ledger_path)) as connection, connection:
            connection.execute("update pages set output = ?, gone = 1 where source = '2.png'", [name])
        # A name that leads out by itself is in no ledger of ours.
        refused = contextlib.nullcontext() if name == "link/2.png" else pytest.raises(LedgerDamagedError)
        with refused:
            prune(settings.ledger_path, remove=True)
        assert (outside / "2.png").read_bytes() == good
        assert (settings.input / "twin.png").exists()
        assert settings.ledger_path.exists()


def test_an_orphan_whose_name_another_page_has_now_stays(settings: JobSettings) -> None:
    (settings.input / "2.png").unlink()
    run_without_engine(settings)
    with closing(sqlite3.connect(settings.ledger_path)) as connection, connection:
        connection.execute(
            "update pages set output = '1.png', output_sha256 ="
            " (select output_sha256 from pages where source = '1.png') where source = '2.png'"
        )
    assert prune(settings.ledger_path, remove=True).files == ()
    assert "1.png" in files(settings.output)


def test_pages_that_waited_for_a_volume_that_is_gone_go_too(make_job: MakeJob, tmp_path: Path) -> None:
    draw(tmp_path / "in" / "1.png", 1)
    make_zip(tmp_path / "in" / "v.cbz", {**pictures(2), "bad.png": b"bad"})
    settings = make_job()
    assert run(settings).volumes_done == 0
    waiting = settings.output / ".comic-upscale" / "volumes"
    assert len(list(waiting.rglob("*.png"))) == 2
    (tmp_path / "in" / "v.cbz").unlink()
    run_without_engine(settings)
    prune(settings.ledger_path, remove=True)
    assert not waiting.exists()


def test_a_run_that_works_on_the_job_is_not_disturbed(settings: JobSettings) -> None:
    with hold_job(settings.output, settings.ledger_path), pytest.raises(LedgerBusyError):
        prune(settings.ledger_path, remove=True)


def test_a_folder_that_was_moved_is_pruned_where_it_is_now(settings: JobSettings, tmp_path: Path) -> None:
    (settings.input / "2.png").unlink()
    run_without_engine(settings)
    # The name is no Unicode, and the result can be printed all the same.
    elsewhere = tmp_path / os.fsdecode(b"elsewhere\xff")
    settings.output.rename(elsewhere)
    result = prune(elsewhere / ".comic-upscale" / "ledger.sqlite3", remove=True)
    assert (kept(result), result.output) == ({"2.png": None}, f"{tmp_path}/elsewhere%FF")
    assert not (elsewhere / "2.png").exists()
    assert not settings.output.exists()


def test_outputs_of_an_earlier_format_are_counted_listed_and_removed(
    make_job: MakeJob, settings: JobSettings, tmp_path: Path
) -> None:
    (tmp_path / "in" / "1.png").touch()
    before = files(settings.output)
    finished = run(replace(settings, format="webp"))
    sizes = [(settings.output / name).stat().st_size for name in ("1.png", "2.png", "deep/3.png")]
    assert (finished.earlier, finished.earlier_bytes) == (3, sum(sizes))
    (settings.input / "2.png").unlink()
    found = prune(settings.ledger_path, remove=False)
    # It may have been renamed.
    assert found.unplanned == 1 and "2.png" not in kept(found)
    assert run_without_engine(replace(settings, format="webp")).orphans == 1
    listed = prune(settings.ledger_path, remove=False)
    assert {file.output: (file.kept, file.instead) for file in listed.files} == {
        "2.webp": (None, None), "1.png": (None, "1.webp"), "2.png": (None, None), "deep/3.png": (None, "deep/3.webp"),
    }  # fmt: skip
    assert files(settings.output).keys() >= before.keys()
    # One that somebody edited is theirs.
    edited = settings.output / "1.png"
    edited.write_bytes(edited.read_bytes()[:-1] + b"!")
    assert kept(prune(settings.ledger_path, remove=True))["1.png"] == EDITED
    assert set(files(settings.output)) == {"1.png", "1.webp", "deep/3.webp", "deep/3.txt", "books/v.cbz"}
    assert prune(settings.ledger_path, remove=True).files == ()
    finished = run_without_engine(replace(settings, format="webp"))
    assert (finished.done, finished.done_now, finished.earlier) == (4, 0, 0)


def test_an_earlier_output_stays_while_its_page_has_no_other(settings: JobSettings) -> None:
    (settings.input / "1.png").write_bytes(b"not a page any more")
    finished = run(replace(settings, format="webp"))
    assert finished.failed == 1
    assert "1.png" not in kept(prune(settings.ledger_path, remove=True))
    assert (settings.output / "1.png").is_file()
    # Nor are the outputs of the newest settings earlier ones.
    run(replace(settings, format="png"))
    assert set(kept(prune(settings.ledger_path, remove=False))) == {"2.webp", "deep/3.webp"} & set(
        files(settings.output)
    )


def test_a_volume_that_became_another_kind_of_book_leaves_its_earlier_one(settings: JobSettings) -> None:
    finished = run(replace(settings, archive_output="folder"))
    assert finished.earlier == 1
    (file,) = prune(settings.ledger_path, remove=True).files
    assert (file.output, file.kept, file.instead) == ("books/v.cbz", None, "books/v/")
    assert not (settings.output / "books" / "v.cbz").exists()
    finished = run(settings)
    assert finished.earlier == 2
    files_now = prune(settings.ledger_path, remove=False).files
    assert {file.instead for file in files_now} == {"books/v.cbz"}


@pytest.mark.parametrize("lost", ["a page", "a volume", "a page of a folder"])
def test_an_earlier_output_stays_if_the_new_one_was_deleted(settings: JobSettings, lost: str) -> None:
    out = settings.output
    if lost == "a page":
        run(replace(settings, format="webp"))
        deleted, earlier = out / "1.webp", {"1.png"}
    elif lost == "a volume":
        run(replace(settings, archive_output="folder"))
        earlier = {name for name in files(out) if name.startswith("books/v/")}
        run(settings)
        deleted = out / "books" / "v.cbz"
    else:
        run(replace(settings, archive_output="folder"))
        deleted, earlier = next((out / "books" / "v").iterdir()), {"books/v.cbz"}
    assert earlier and earlier <= files(out).keys()
    deleted.unlink()
    assert not earlier & kept(prune(settings.ledger_path, remove=True)).keys()
    assert earlier <= files(out).keys()


def test_an_earlier_output_stays_while_its_volume_is_not_whole(settings: JobSettings) -> None:
    run(replace(settings, archive_output="folder"))
    before = files(settings.output)
    book = settings.input / "books" / "v.cbz"
    with zipfile.ZipFile(book, "a") as archive:
        archive.writestr("zz.png", b"not a page")
    (settings.output / "books" / "v.cbz").unlink(missing_ok=True)
    finished = run(settings)
    assert finished.failed and not (settings.output / "books" / "v.cbz").exists()
    assert finished.earlier == 0
    prune(settings.ledger_path, remove=True)
    assert {name for name in before if name.startswith("books/v/")} <= set(files(settings.output))


def test_an_earlier_output_stays_until_its_volume_is_written_again(settings: JobSettings) -> None:
    run(replace(settings, archive_output="folder"))
    earlier = {name for name in files(settings.output) if name.startswith("books/v/")}
    run(settings)
    # As after a stop: its pages are done, and the book is the one before.
    with closing(sqlite3.connect(settings.ledger_path)) as ledger, ledger:
        ledger.execute("update pages set state = 'pending' where kind = 'volume'")
    assert earlier and not earlier & kept(prune(settings.ledger_path, remove=False)).keys()
