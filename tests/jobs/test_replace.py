"""`--replace`: what takes the place of originals, what does not, and what the next run makes of it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from comic_upscale.errors import InputError, LedgerBusyError, OutputError, SettingsError
from comic_upscale.execution.events import Event, JobFinished
from comic_upscale.execution.stop import StopRequest
from comic_upscale.jobs.restore import prune_trash, restore
from comic_upscale.jobs.run import run_job
from comic_upscale.ledger.lock import hold_job
from comic_upscale.ledger.pausing import paused_since
from comic_upscale.ledger.recent import choose_job, choose_ledger
from comic_upscale.ledger.records import PageDone
from comic_upscale.ledger.status import read_status
from comic_upscale.planning.preview import preview
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.paths import TRASH, replace_folder
from comic_upscale.storage import replaced
from comic_upscale.storage.replaced import Trash
from comic_upscale.watching.folder import WatchedFolder
from comic_upscale.watching.replaced_files import ReplacedFiles
from tests.archives import as_jpeg_pdf, make_tar, make_zip
from tests.commands.test_run import invoke
from tests.conftest import MakeJob
from tests.fakes import NearestEngine


def page(path: Path, seed: int, size: tuple[int, int] = (96, 128)) -> Path:
    """Write a smooth page that the quality gate accepts when it is enlarged."""
    rows, columns = np.mgrid[: size[1], : size[0]]
    samples = 128 + 60 * np.sin(rows / (11 + seed)) + 60 * np.cos(columns / (13 + seed))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(samples.clip(0, 255).astype(np.uint8)).save(path)
    return path


def bytes_of(tmp_path: Path, seed: int, name: str = "x.png") -> bytes:
    return page(tmp_path / "made" / name, seed).read_bytes()


@pytest.fixture
def library(tmp_path: Path) -> Path:
    folder = tmp_path / "library"
    page(folder / "a.jpg", 1)
    page(folder / "sub" / "b.png", 2)
    inside = {f"{at}.png": bytes_of(tmp_path, 3 + at) for at in range(3)}
    make_zip(folder / "sub" / "v.cbz", {**inside, "notes.txt": b"n"})
    (folder / "a.txt").write_text("a caption")
    return folder


@pytest.fixture
def job(make_job: MakeJob, library: Path) -> Any:
    def make(**changes: Any) -> JobSettings:
        return make_job(input=library, output=replace_folder(library), replace_sources=True, **changes)

    return make


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as opened:
        return opened.size


def run(settings: JobSettings, stop: StopRequest | None = None) -> JobFinished:
    return run_job(settings, open_engines=lambda *_: [NearestEngine(limit=4)], stop=stop)


def run_without_engine(settings: JobSettings) -> JobFinished:
    def none_needed(*_: object) -> list[NearestEngine]:
        raise AssertionError("no page is left to do")

    return run_job(settings, open_engines=none_needed)


def visible(library: Path) -> dict[str, bytes]:
    return {
        path.relative_to(library).as_posix(): path.read_bytes()
        for path in sorted(library.rglob("*"))
        if path.is_file() and ".comic-upscale" not in path.relative_to(library).parts
    }


def test_pages_and_volumes_are_replaced_and_restored(library: Path, job: Any) -> None:
    before = visible(library)
    finished = run(job())
    assert (finished.done, finished.failed, finished.replaced_now, finished.replaced) == (5, 0, 3, 3)
    assert finished.warnings == ()
    after = visible(library)
    assert sorted(after) == ["a.png", "a.txt", "sub/b.png", "sub/v.cbz"]
    assert size_of(library / "a.png") == (192, 256)
    with zipfile.ZipFile(library / "sub" / "v.cbz") as archive:
        assert archive.namelist() == ["0.png", "1.png", "2.png", "notes.txt"]
    for name in ("a.jpg", "sub/b.png", "sub/v.cbz"):
        assert (library / TRASH / name).read_bytes() == before[name]
    # The next run, and a preview, see the originals: nothing is upscaled twice.
    again = run_without_engine(job())
    assert (again.done, again.replaced_now, again.replaced, again.orphans) == (5, 0, 3, 0)
    assert {each.action for each in preview(job()).pages} == {"done"}
    assert read_status(job().ledger_path).done == 5
    # A new page is done and replaced, too.
    page(library / "sub" / "c.png", 9)
    more = run(job())
    assert (more.done_now, more.replaced_now, more.replaced) == (1, 1, 4)
    listed = restore(library, change=False)
    assert listed.files == ("a.jpg", "sub/b.png", "sub/c.png", "sub/v.cbz")
    assert restore(library, change=True).files == listed.files
    restored = visible(library)
    del restored["sub/c.png"]
    assert restored == before
    # What was restored can be replaced again, and nothing has to be computed for that.
    assert run_without_engine(job()).replaced_now == 4


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux")
@pytest.mark.parametrize("is_written_before", [False, True])
def test_no_volume_is_open_when_originals_are_replaced(
    is_written_before: bool, library: Path, job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows neither moves nor removes a file that is open."""
    make_tar(library / "w.cbt", {f"{at}.png": bytes_of(tmp_path, 7 + at) for at in range(2)})
    still_open: list[Path] = []
    exchange = Trash.exchange

    def check(self: Trash, path: Path, *args: Any, **options: Any) -> None:
        opened = {each.readlink() for each in Path("/proc/self/fd").iterdir() if each.is_symlink()}
        still_open.extend(each for each in (library / "w.cbt", library / "sub" / "v.cbz") if each in opened)
        exchange(self, path, *args, **options)

    if is_written_before:
        run(replace(job(), replace_sources=False))
    monkeypatch.setattr(Trash, "exchange", check)
    finished = run(job())
    assert (finished.replaced_now, finished.warnings, still_open) == (4, (), [])


def test_an_original_that_cannot_be_removed_does_not_count_as_replaced(
    library: Path, job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, _: os.stat_result) -> None:
        raise PermissionError(errno.EACCES, "it is being used by another process", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(replaced, "unlink_unchanged", refuse)
        finished = run(job())
    assert (finished.replaced_now, finished.replaced) == (2, 2)
    assert finished.warnings == ("a.jpg was not replaced: it is being used by another process",)
    assert {"a.jpg", "a.png"} <= visible(library).keys()
    assert run_without_engine(job()).replaced == 3
    assert "a.jpg" not in visible(library)


def test_a_stop_ends_the_exchange_and_the_next_run_goes_on(library: Path, job: Any) -> None:
    class Stop(StopRequest):
        """Comes as soon as an original is replaced."""

        @property
        def requested(self) -> bool:
            if any((library / TRASH / name).exists() for name in ("a.jpg", "sub/b.png", "sub/v.cbz")):
                self.request("enough")
            return super().requested

    before = visible(library)
    finished = run(job(), Stop())
    assert (finished.done, finished.pending, finished.replaced_now, finished.replaced) == (5, 0, 1, 1)
    # All pages are done, but the run is not.
    assert (finished.state, finished.reason) == ("interrupted", "enough")
    assert finished.warnings == (
        "2 originals are not replaced yet: the run was stopped, and the next one goes on there",
    )
    after = visible(library)
    assert sum(after.get(name) == content for name, content in before.items() if name != "a.txt") == 2
    again = run_without_engine(job())
    assert (again.state, again.replaced_now, again.replaced, again.warnings) == ("finished", 2, 3, ())


def test_a_stop_before_the_exchange_does_not_count_originals_that_stay(library: Path, job: Any) -> None:
    (library / "sub" / "v.cbz").unlink()
    # Too small for the gate, so it is never replaced.
    page(library / "tiny.png", 5, (24, 32))
    stop, done = StopRequest(), 0

    def on_event(event: Event) -> None:
        nonlocal done
        done += isinstance(event, PageDone)
        if done == 3:
            stop.request("enough")

    finished = run_job(job(), open_engines=lambda *_: [NearestEngine()], on_event=on_event, stop=stop)
    assert (finished.state, finished.replaced, finished.pending) == ("interrupted", 0, 0)
    assert [warning.split(":")[0] for warning in finished.warnings] == ["2 originals are not replaced yet"]


def test_pruned_originals_are_gone_and_nothing_is_upscaled_twice(library: Path, job: Any) -> None:
    run(job())
    after = visible(library)
    listed = prune_trash(library, remove=False)
    assert (len(listed.files), listed.removed) == (3, False)
    assert prune_trash(library, remove=True).left == ()
    assert prune_trash(library, remove=False).files == ()
    assert not [path for path in replace_folder(library).rglob("*") if path.suffix in (".png", ".cbz")]
    assert visible(library) == after
    with pytest.raises(InputError, match="was replaced by its output"):
        run_without_engine(job())
    assert [name for name, _ in restore(library, change=False).kept] == ["a.jpg", "sub/b.png", "sub/v.cbz"]
    page(library / "new.png", 4)
    assert run(job()).replaced_now == 1
    assert {name: data for name, data in visible(library).items() if name != "new.png"} == after


def test_the_library_stands_for_its_job(library: Path, job: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        choose_job(library, None, tmp_path)
    run(job())
    assert choose_job(library, None, tmp_path) == (job().ledger_path, job().folder)
    assert choose_ledger(library, None, tmp_path) == job().ledger_path
    assert choose_job(job().folder, None, tmp_path)[1] == job().folder
    assert invoke("pause", library)[0] == 0
    assert paused_since(job().folder) is not None
    assert invoke("resume", library)[0] == 0
    assert paused_since(job().folder) is None


def test_a_trash_that_was_deleted_by_hand_counts_as_pruned(library: Path, job: Any) -> None:
    run(job())
    after = visible(library)
    shutil.rmtree(library / TRASH)
    with pytest.raises(InputError, match="was replaced by its output"):
        run_without_engine(job())
    page(library / "new.png", 4)
    assert run(job()).replaced_now == 1
    assert {name: data for name, data in visible(library).items() if name != "new.png"} == after
    # The journal is complete again, and so is its copy.
    journal, copy = library / TRASH / "journal.jsonl", library / ".comic-upscale" / "replaced.jsonl"
    assert journal.read_bytes() == copy.read_bytes()
    assert {json.loads(line)["new"] for line in copy.read_text().split("\n") if line} == {
        "a.png", "new.png", "sub/b.png", "sub/v.cbz",
    }  # fmt: skip
    # After a kill between the two, and in a trash of an earlier version, the copy is not complete.
    copy.write_bytes(copy.read_bytes()[:50])
    page(library / "newer.png", 5)
    assert run(job()).replaced_now == 1
    assert journal.read_bytes() == copy.read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_journal_that_cannot_be_read_stops_the_run(library: Path, job: Any) -> None:
    run(job())
    after = visible(library)
    journal = library / TRASH / "journal.jsonl"
    journal.unlink()
    journal.symlink_to(journal.name)
    with pytest.raises(OutputError, match="make it readable"):
        run_without_engine(job())
    assert visible(library) == after
    folder = WatchedFolder(library, settle=0, replaced=ReplacedFiles(library))
    assert folder.look() is None
    assert "make it readable" in (folder.problem or "")


def test_replaced_files_that_were_renamed_are_known(library: Path, job: Any) -> None:
    before = visible(library)
    run(job())
    after = visible(library)
    (library / "sub").rename(library / "Series")
    (library / "Series" / "v.cbz").rename(library / "Series" / "Vol 1.cbz")
    (library / "a.png").rename(library / "cover.png")
    now = {
        "a.txt": after["a.txt"], "cover.png": after["a.png"], "Series/b.png": after["sub/b.png"],
        "Series/Vol 1.cbz": after["sub/v.cbz"],
    }  # fmt: skip
    assert {each.action for each in preview(job()).pages} == {"move"}
    again = run_without_engine(job())
    assert (again.done, again.failed, again.replaced_now, again.replaced) == (5, 0, 0, 3)
    assert visible(library) == now
    assert run_without_engine(job()).moved_now == 0
    # They are also known to the commands that work on the trash, without a run.
    (library / "Series").rename(library / "S")
    assert restore(library, change=False).files == ("S/Vol 1.cbz", "S/b.png", "cover.jpg")
    assert restore(library, change=True).kept == ()
    assert visible(library) == {
        "a.txt": before["a.txt"], "cover.jpg": before["a.jpg"], "S/b.png": before["sub/b.png"],
        "S/Vol 1.cbz": before["sub/v.cbz"],
    }  # fmt: skip


def test_replaced_files_that_were_renamed_after_their_originals_were_pruned(library: Path, job: Any) -> None:
    run(job())
    (library / "sub").rename(library / "Series")
    prune_trash(library, remove=True)
    assert not [path for path in replace_folder(library).rglob("*") if path.suffix in (".png", ".cbz")]
    (library / "Series").rename(library / "S")
    after = visible(library)
    with pytest.raises(InputError, match="was replaced by its output"):
        run_without_engine(job())
    assert visible(library) == after


def test_a_copy_of_a_replaced_file_is_not_upscaled_again(library: Path, job: Any) -> None:
    original = (library / "a.jpg").read_bytes()
    run(job())
    copied = library / "best" / "a.png"
    copied.parent.mkdir()
    copied.write_bytes((library / "a.png").read_bytes())
    engine = NearestEngine()
    finished = run_job(job(), open_engines=lambda *_: [engine])
    assert (finished.done, finished.replaced, engine.batches) == (6, 4, [])
    assert copied.read_bytes() == (library / "a.png").read_bytes()
    # Each of the two gets the original that they share.
    assert "best/a.jpg" in restore(library, change=True).files
    assert copied.with_name("a.jpg").read_bytes() == (library / "a.jpg").read_bytes() == original
    assert prune_trash(library, remove=False).files == ()


def test_a_run_changes_nothing_while_another_process_works_on_the_library(library: Path, job: Any) -> None:
    original = (library / "a.jpg").read_bytes()
    run(job())
    # As after a kill between the last two steps of a replacement.
    (library / "a.jpg").write_bytes(original)
    journal = library / TRASH / "journal.jsonl"
    journal.write_text(journal.read_text().replace('"done": true', '"done": false'))
    before, noted = visible(library), journal.read_bytes()
    with hold_job(job().output, job().ledger_path), pytest.raises(LedgerBusyError, match="another run"):
        run_without_engine(job())
    assert (visible(library), journal.read_bytes()) == (before, noted)
    assert run_without_engine(job()).replaced == 3
    assert "a.jpg" not in visible(library)


def test_a_replaced_file_that_is_renamed_during_a_later_run_keeps_its_original(
    library: Path, job: Any
) -> None:
    before = visible(library)
    run(job())
    page(library / "new.png", 30)
    new = (library / "new.png").read_bytes()

    def rename(_: object) -> None:
        if (library / "a.png").exists():
            (library / "a.png").rename(library / "cover.png")

    finished = run_job(job(), open_engines=lambda *_: [NearestEngine(rename, limit=4)])
    assert finished.replaced_now == 1
    (warning,) = finished.warnings
    assert "a.jpg was not replaced: its replacement was moved" in warning
    assert restore(library, change=True).kept == ()
    before["cover.jpg"] = before.pop("a.jpg")
    assert visible(library) == {**before, "new.png": new}


def test_a_new_original_under_the_name_of_a_pruned_one(library: Path, job: Any) -> None:
    before = visible(library)
    run(job())
    prune_trash(library, remove=True)
    (library / "a.png").rename(library / "cover.png")
    page(library / "a.jpg", 30)
    run(job())
    # Its original is in the trash, and not taken for that of the cover.
    assert run(job(format="webp")).replaced_now == 1
    assert size_of(library / "cover.png") == (192, 256)
    assert sorted(visible(library)) == ["a.txt", "a.webp", "cover.png", "sub/b.png", "sub/v.cbz"]
    assert restore(library, change=True).files == ("a.jpg",)
    assert visible(library)["a.txt"] == before["a.txt"]


def test_a_folder_that_is_read_only_keeps_its_files(library: Path, job: Any) -> None:
    before = visible(library)
    ReadOnly.folder = library / "sub"
    ReadOnly.hook_once()
    try:
        finished = run(job())
    finally:
        ReadOnly.folder = None
    assert (finished.done, finished.replaced_now) == (5, 1)
    assert sorted(warning.split(": ")[:2] for warning in finished.warnings) == [
        ["sub/b.png was not replaced", "its folder is read-only"],
        ["sub/v.cbz was not replaced", "its folder is read-only"],
    ]
    del before["a.jpg"]
    assert visible(library) == {**before, "a.png": (library / "a.png").read_bytes()}
    assert run_without_engine(job()).replaced == 3


class ReadOnly:
    """Lets the system refuse new files in a folder, as where a file system is mounted read-only."""

    folder: Path | None = None
    is_hooked = False

    @classmethod
    def hook_once(cls) -> None:
        if not cls.is_hooked:
            sys.addaudithook(cls.hook)
            cls.is_hooked = True

    @classmethod
    def hook(cls, event: str, arguments: tuple[Any, ...]) -> None:
        if cls.folder is None or event != "open" or not arguments[2] & os.O_CREAT:
            return
        if str(arguments[0]).startswith(f"{cls.folder}{os.sep}"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(arguments[0]))


def test_other_settings_replace_the_replacements(library: Path, job: Any) -> None:
    before = visible(library)
    run(job())
    finished = run(job(scale=3.0, format="webp"))
    assert finished.replaced_now == 3
    assert size_of(library / "a.webp") == (288, 384)
    assert sorted(visible(library)) == ["a.txt", "a.webp", "sub/b.webp", "sub/v.cbz"]
    restore(library, change=True)
    assert visible(library) == before


def test_an_original_counts_as_replaced_while_its_older_output_cannot_be_removed(
    library: Path, job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, _: os.stat_result) -> None:
        raise PermissionError(errno.EACCES, "it is being used by another process", str(path))

    run(job())
    with monkeypatch.context() as patch:
        patch.setattr(replaced, "unlink_unchanged", refuse)
        finished = run(job(scale=3.0, format="webp"))
    # The volume has its old name, and the pages have new ones beside their older outputs.
    assert finished.replaced == 3
    assert {"a.png", "a.webp"} <= visible(library).keys()
    assert run_without_engine(job(scale=3.0, format="webp")).replaced == 3
    assert "a.png" not in visible(library)


def test_what_the_gate_has_not_accepted_stays(library: Path, job: Any, tmp_path: Path) -> None:
    page(library / "tiny.png", 5, (20, 20))
    (library / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    make_zip(library / "w.cbz", {"1.png": bytes_of(tmp_path, 7), "2.png": b"\x89PNG\r\n\x1a\n"})
    make_zip(
        library / "x.cbz", {"1.png": bytes_of(tmp_path, 8), "2.png": (library / "tiny.png").read_bytes()}
    )
    finished = run(job())
    assert finished.failed == 2
    why = {warning.split(" was ")[0]: warning for warning in finished.warnings}
    assert sorted(why) == ["tiny.png", "x.cbz"]
    assert "has not compared it" in why["tiny.png"]
    assert "its page 2.png" in why["x.cbz"]
    after = visible(library)
    assert after["tiny.png"] == (library / "tiny.png").read_bytes()
    assert size_of(library / "tiny.png") == (20, 20)
    assert after["broken.png"] == b"\x89PNG\r\n\x1a\n"
    with zipfile.ZipFile(library / "w.cbz") as archive:
        assert archive.read("2.png") == b"\x89PNG\r\n\x1a\n"


class Wrong(NearestEngine):
    """An engine whose pages the gate rejects: they are upside down."""

    def upscale(self, batch: Any) -> Any:
        made = super().upscale(batch)
        return type(made)(pixels=[np.ascontiguousarray(each[::-1]) for each in made.pixels])


def test_suspect_pages_stay(library: Path, job: Any) -> None:
    before = visible(library)
    finished = run_job(job(), open_engines=lambda *_: [Wrong(limit=4)])
    assert finished.suspects == 5
    assert finished.replaced == 0
    assert visible(library) == before
    assert len(finished.warnings) == 3


def test_an_original_that_was_restored_and_edited_is_done_again(library: Path, job: Any) -> None:
    run(job())
    restore(library, change=True)
    page(library / "a.jpg", 20)
    edited = (library / "a.jpg").read_bytes()
    finished = run(job())
    assert (finished.done_now, finished.replaced_now) == (1, 3)
    assert (library / TRASH / "a.jpg").read_bytes() == edited


def test_pruning_keeps_originals_that_somebody_put_back(library: Path, job: Any) -> None:
    original = (library / "a.jpg").read_bytes()
    run(job())
    (library / "a.jpg").write_bytes(original)
    prune_trash(library, remove=True)
    assert (library / "a.jpg").read_bytes() == original


def test_volumes_whose_outputs_lack_something_stay(library: Path, job: Any, tmp_path: Path) -> None:
    inner = make_zip(tmp_path / "inner.cbz", {"1.png": bytes_of(tmp_path, 5)}).read_bytes()
    make_zip(library / "box.zip", {"1.png": bytes_of(tmp_path, 6), "inner.cbz": inner})
    as_jpeg_pdf(library / "book.pdf", Image.open(page(tmp_path / "p.png", 7)).convert("RGB"))
    before = visible(library)
    finished = run(job())
    assert finished.failed == 0
    after = visible(library)
    assert (after["box.zip"], after["book.pdf"]) == (before["box.zip"], before["book.pdf"])
    why = "\n".join(finished.warnings)
    assert "box.zip was not replaced: it contains other volumes" in why
    assert "book.pdf was not replaced: a PDF may hold text and notes" in why


def test_only_a_cbz_takes_the_place_of_an_archive(library: Path, job: Any) -> None:
    before = visible(library)
    finished = run(job(archive_output="epub"))
    assert visible(library)["sub/v.cbz"] == before["sub/v.cbz"]
    assert [each for each in finished.warnings if "sub/v.cbz was not replaced: only a CBZ keeps" in each]


def test_restore_tells_of_replacements_that_are_no_longer_there(library: Path, job: Any) -> None:
    before = visible(library)
    run(job())
    (library / "a.png").write_bytes(b"edited")
    (library / "sub" / "v.cbz").unlink()
    (library / "sub" / "b.png").write_bytes(before["sub/b.png"])
    reason = f"its replacement was edited, moved or deleted; the original is {TRASH}/a.jpg"
    for change in (False, True):
        result = restore(library, change=change)
        assert result.files == ("sub/b.png", "sub/v.cbz")
        assert result.kept == (("a.jpg", reason),)
    after = visible(library)
    assert (after["a.png"], after["sub/v.cbz"]) == (b"edited", before["sub/v.cbz"])
    assert after["sub/b.png"] == before["sub/b.png"]
    assert [name for name, _ in prune_trash(library, remove=False).files] == ["a.jpg"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gate": False}, "--no-gate"),
        ({"archive_output": "folder"}, "--archive-output folder"),
        ({"overwrite": True}, "--overwrite"),
        ({"copy_others": True}, "--copy-others"),
        ({"keep_original_on_failure": True}, "--keep-original-on-failure"),
        ({"crop_margins": True}, "--crop-margins"),
        ({"output": Path("elsewhere")}, "no --output"),
        ({"archive_output": "epub", "max_volume_size": 10**6}, "--max-volume-size"),
    ],
)  # fmt: skip
def test_combinations_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    library = Path("library").absolute()
    values = {"input": library, "output": replace_folder(library), "replace_sources": True}
    with pytest.raises(SettingsError, match=message):
        JobSettings(**{**values, **options})


def test_a_folder_where_nothing_was_replaced(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no original of"):
        restore(tmp_path, change=True)
    with pytest.raises(InputError, match="no original of"):
        prune_trash(tmp_path, remove=True)
    assert list(tmp_path.iterdir()) == []


def test_pruning_after_a_restore_removes_the_copies_of_the_job(library: Path, job: Any) -> None:
    before = visible(library)
    run(job())
    # A list names what --yes would remove.
    assert prune_trash(library, remove=False).copies == 3
    restore(library, change=True)
    copies = [path for path in replace_folder(library).rglob("*") if path.suffix in (".png", ".cbz")]
    listed = prune_trash(library, remove=False)
    size = sum(path.stat().st_size for path in copies)
    assert (listed.files, listed.copies, listed.copy_bytes) == ((), 3, size)
    assert all(path.exists() for path in copies)
    assert prune_trash(library, remove=True).copies == 3
    assert not any(path.exists() for path in copies)
    assert visible(library) == before
    # The pages are simply done again.
    assert run(job()).replaced_now == 3
