"""`watch --replace`: files that come are replaced, and what a run exchanges starts no further run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from comic_upscale.commands import selection
from comic_upscale.commands.watch import watched_jobs
from comic_upscale.errors import LedgerBusyError, SettingsError
from comic_upscale.jobs.restore import prune_trash, restore
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.paths import TRASH, replace_folder
from comic_upscale.settings.selection import Selection
from comic_upscale.watching.replaced_files import ReplacedFiles
from comic_upscale.watching.scan import FileState, scan_folder
from tests.archives import make_zip
from tests.jobs.test_replace import bytes_of, page, visible
from tests.jobs.test_replace_edits import tag
from tests.watching.test_watcher import Watch, finished
from tests.windows import as_on_windows


@pytest.fixture
def library(tmp_path: Path) -> Path:
    page(tmp_path / "in" / "a.jpg", 1)
    make_zip(tmp_path / "in" / "v.cbz", {"0.png": bytes_of(tmp_path, 2)})
    return tmp_path / "in"


@pytest.fixture
def watch(library: Path, tmp_path: Path, tiny_weights: Path) -> Iterator[Watch]:
    job = JobSettings(
        input=library, output=replace_folder(library), replace_sources=True, model=str(tiny_weights), scale=2.0,
        workers=2, selection=Selection(),
    )  # fmt: skip
    with Watch([job], tmp_path / "state") as watch:
        watch.wait(lambda: bool(finished(watch)))
        yield watch


def test_what_comes_is_replaced_and_a_replacement_is_no_change(
    watch: Watch, library: Path, tmp_path: Path
) -> None:
    watch.rest()
    assert (sorted(visible(library)), watch.runs) == (["a.png", "v.cbz"], 1)
    page(library / "sub" / "b.png", 3)
    watch.wait(lambda: len(finished(watch)) == 2)
    watch.rest()
    assert ([each.replaced_now for each in finished(watch)], watch.runs) == ([2, 1], 2)
    with Image.open(library / "sub" / "b.png") as image:
        assert image.size == (192, 256)
    # Tagged by another program: it is still the output, and no original.
    tag(library / "v.cbz")
    edited = visible(library)
    watch.wait(lambda: len(finished(watch)) > 2)
    watch.rest()
    assert visible(library) == edited
    assert (len(watch.sources()), watch.runs) == (3, 3)


def test_originals_that_are_put_back_stay_until_something_new_comes(watch: Watch, library: Path) -> None:
    watch.wait(lambda: put_back(library))
    watch.rest()
    assert (sorted(visible(library)), watch.runs) == (["a.jpg", "v.cbz"], 1)


def put_back(library: Path) -> bool:
    """Put the originals back, unless the run that replaced them has not let go yet."""
    try:
        return restore(library, change=True).files == ("a.jpg", "v.cbz")
    except LedgerBusyError:
        return False


def test_pruning_is_no_change_and_removes_nothing_from_the_watch(watch: Watch, library: Path) -> None:
    watch.wait(lambda: prune(library))
    watch.rest()
    assert (watch.runs, [note for note in watch.notes if "is its drive there" in note]) == (1, [])
    page(library / "b.png", 3)
    watch.wait(lambda: len(finished(watch)) == 2)
    assert finished(watch)[-1].replaced_now == 1


def prune(library: Path) -> bool:
    try:
        return not prune_trash(library, remove=True).left
    except LedgerBusyError:
        return False


def test_a_replaced_file_that_is_renamed_keeps_its_original(watch: Watch, library: Path) -> None:
    (library / "a.png").rename(library / "cover.png")
    watch.wait(lambda: len(finished(watch)) > 1)
    watch.rest()
    assert (len(watch.sources()), watch.runs) == (2, 2)
    assert sorted(visible(library)) == ["cover.png", "v.cbz"]
    with watch:
        pass
    assert restore(library, change=False).files == ("cover.jpg", "v.cbz")


def test_a_library_whose_times_were_changed_is_read_once(
    watch: Watch, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with watch:
        pass
    os.utime(library / "a.png", ns=(1, time.time_ns()))
    replaced = ReplacedFiles(library)
    seen = replaced.with_originals(scan_folder(library).files)
    original = (library / TRASH / "a.jpg").stat()
    assert seen["a.jpg"] == FileState(original.st_size, original.st_mtime_ns)
    assert sorted(seen) == ["a.jpg", "v.cbz"]
    monkeypatch.setattr("comic_upscale.storage.replaced.hash_of", lambda _: pytest.fail("it is read again"))
    assert replaced.with_originals(scan_folder(library).files) == seen


def test_folders_that_are_replaced_need_no_output(tmp_path: Path, tiny_weights: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    given = {"model": str(tiny_weights), "replace_sources": True}
    jobs = watched_jobs([tmp_path / "one", tmp_path / "two"], given)
    assert [job.output for job in jobs] == [
        replace_folder(tmp_path / "one"),
        replace_folder(tmp_path / "two"),
    ]
    with pytest.raises(SettingsError, match="--replace has no --output"):
        watched_jobs([tmp_path / "one"], {**given, "output": tmp_path / "out"})
    with pytest.raises(SettingsError, match="or add --replace"):
        watched_jobs([tmp_path / "one"], {"model": str(tiny_weights)})


def test_patterns_name_folders_on_windows(
    tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    as_on_windows(monkeypatch, selection)
    jobs = watched_jobs([tmp_path / "t*"], {"model": str(tiny_weights), "output": tmp_path / "out"})
    assert [job.input.name for job in jobs] == ["three", "two"]
