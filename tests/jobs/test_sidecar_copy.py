"""Sidecars and other files: carried once, again when they change, and never over what is not ours."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from comic_upscale.execution.events import JobFinished
from comic_upscale.execution.stop import StopRequest
from comic_upscale.jobs.run import run_job
from comic_upscale.reporting.export import read_export
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.sizes import Bounds
from comic_upscale.storage import parts
from tests.archives import break_checksum, make_7z, make_zip, picture
from tests.conftest import draw
from tests.fakes import NearestEngine


@pytest.fixture
def settings(tmp_path: Path) -> JobSettings:
    """A training set: pages with captions, one in a subfolder, and files that belong to no page."""
    (tmp_path / "any.pth").write_bytes(b"weights")
    folder = tmp_path / "set"
    draw(folder / "a.jpg", 1)
    draw(folder / "a.png", 2)
    draw(folder / "deep" / "b.png", 3)
    for name in ("a.txt", "a.jpg.xmp", "deep/b.caption", "deep/b.json", "notes.md", "orphan.txt"):
        (folder / name).write_text(f"this is {name}", encoding="utf-8")
    return JobSettings(input=folder, output=tmp_path / "out", model=str(tmp_path / "any.pth"), workers=1)


def run(settings: JobSettings, *, stop: StopRequest | None = None, **changes: object) -> JobFinished:
    return run_job(
        dataclasses.replace(settings, **changes),  # type: ignore[arg-type]
        open_engines=lambda *_: [NearestEngine()],
        stop=stop,
    )


def others(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".png", ".jpg") and ".comic-upscale" not in path.parts
    }


def test_sidecars_go_beside_their_outputs_and_are_called_after_them(settings: JobSettings) -> None:
    finished = run(settings)
    assert (finished.done, finished.carried_now, finished.warnings) == (3, 5, ())
    assert others(settings.output) == {
        "a.txt": "this is a.txt",
        "a_jpg.txt": "this is a.txt",
        "a_jpg.png.xmp": "this is a.jpg.xmp",
        "deep/b.caption": "this is deep/b.caption",
        "deep/b.json": "this is deep/b.json",
    }


def test_a_second_run_copies_nothing_and_a_changed_sidecar_alone(settings: JobSettings) -> None:
    run(settings)
    before = {name: (settings.output / name).stat() for name in others(settings.output)}
    assert run(settings).carried_now == 0
    for name, status in before.items():
        now = (settings.output / name).stat()
        assert (now.st_ino, now.st_mtime_ns) == (status.st_ino, status.st_mtime_ns)
    (settings.input / "deep" / "b.caption").write_text("another")
    (settings.output / "a.txt").unlink()
    finished = run(settings)
    assert (finished.done_now, finished.carried_now) == (0, 2)
    assert others(settings.output)["deep/b.caption"] == "another"
    assert others(settings.output)["a.txt"] == "this is a.txt"


@pytest.mark.parametrize(
    ("when", "left"),
    [("deep/b.png", "2 other files are"), ("notes.md", "1 other file is")],
)
def test_a_stop_leaves_other_files_to_the_next_run_but_no_sidecar(
    settings: JobSettings, when: str, left: str
) -> None:
    class Stop(StopRequest):
        """Comes as soon as the last page, or the first other file, is there."""

        @property
        def requested(self) -> bool:
            if (settings.output / when).exists():
                self.request("enough")
            return super().requested

    finished = run(settings, copy_others=True, stop=Stop())
    assert (finished.done, finished.pending) == (3, 0)
    assert (finished.state, finished.reason) == ("interrupted", "enough")
    assert finished.warnings == (
        f"{left} not copied yet: the run was stopped, and the next one goes on there",
    )
    assert "orphan.txt" not in others(settings.output) and "deep/b.json" in others(settings.output)
    again = run(settings, copy_others=True)
    assert (again.state, again.carried_now + finished.carried_now, again.warnings) == ("finished", 7, ())
    # What is copied already is not left.
    stop = StopRequest()
    stop.request("enough")
    assert run(settings, copy_others=True, stop=stop).warnings == ()


@pytest.fixture
def zipped(settings: JobSettings, tmp_path: Path) -> JobSettings:
    """A training set in a ZIP, to become a folder."""
    inside = {
        "1.png": picture(1), "1.txt": b"one", "2.jpg": picture(2, format="JPEG"), "2.txt": b"two",
        "deep/3.jpg": picture(3, format="JPEG"), "deep/3.jpg.caption": b"three", "deep/notes.md": b"notes",
        "ComicInfo.xml": b"<ComicInfo/>", "deep/1.txt": b"of no page here",
    }  # fmt: skip
    make_zip(tmp_path / "zips" / "set.zip", inside)
    return dataclasses.replace(settings, input=tmp_path / "zips", archive_output="folder")


CAPTIONS_OF_ZIPPED = {"set.zip/1.png": "one", "set.zip/2.jpg": "two", "set.zip/deep/3.jpg": "three"}


def test_what_is_beside_the_pages_in_a_volume_goes_into_its_folder(zipped: JobSettings) -> None:
    finished = run(zipped)
    assert (finished.done, finished.carried_now, finished.warnings) == (3, 6, ())
    extra = {"set/deep/notes.md": "notes", "set/ComicInfo.xml": "<ComicInfo/>"}
    assert others(zipped.output) == {
        **extra, "set/1.txt": "one", "set/2.txt": "two", "set/deep/3.png.caption": "three",
        "set/deep/1.txt": "of no page here",
    }  # fmt: skip
    assert {row.source: row.caption for row in read_export(zipped.ledger_path).rows} == CAPTIONS_OF_ZIPPED
    assert run(zipped).carried_now == 0
    (zipped.output / "set" / "1.txt").write_text("edited")
    assert run(zipped).carried_now == 0
    make_zip(zipped.input / "set.zip", {"1.png": picture(1), "1.txt": b"new", "deep/notes.md": b"notes"})
    finished = run(zipped)
    assert [warning.split(" was ")[0] for warning in finished.warnings] == ["set.zip/1.txt"]
    assert others(zipped.output)["set/1.txt"] == "edited"


def test_captions_in_a_volume_can_be_left(zipped: JobSettings) -> None:
    assert run(zipped, sidecars="skip").carried_now == 3
    assert others(zipped.output).keys() == {"set/deep/notes.md", "set/ComicInfo.xml", "set/deep/1.txt"}


def test_captions_come_out_of_a_cbz(zipped: JobSettings) -> None:
    assert run(zipped, archive_output="cbz").carried_now == 0
    rows = read_export(zipped.ledger_path).rows
    assert {row.source: row.caption for row in rows} == CAPTIONS_OF_ZIPPED


@pytest.mark.parametrize("kind", ["7z", "zip with a damaged file"])
def test_what_is_beside_the_pages_of_other_volumes(settings: JobSettings, tmp_path: Path, kind: str) -> None:
    inside = {"z.txt": b"z", "1.png": picture(1), "a.md": b"a"}
    if kind == "7z":
        make_7z(tmp_path / "zips" / "v.cb7", inside)
    else:
        break_checksum(make_zip(tmp_path / "zips" / "v.cbz", inside), "a.md")
    finished = run(settings, input=tmp_path / "zips", archive_output="folder")
    assert (finished.done, finished.volumes_done) == (1, 1)
    if kind == "7z":
        assert others(settings.output) == {"v/z.txt": "z", "v/a.md": "a"}
        assert finished.warnings == ()
    else:
        assert others(settings.output) == {"v/z.txt": "z"}
        assert ["a.md" in warning for warning in finished.warnings] == [True]


def test_sidecars_can_be_left_and_other_files_taken_along(settings: JobSettings) -> None:
    assert run(settings, sidecars="skip").carried_now == 0
    assert others(settings.output) == {}
    assert run(settings, copy_others=True).carried_now == 7
    assert {"notes.md", "orphan.txt"} < others(settings.output).keys()


def test_what_is_not_ours_is_left_and_told(settings: JobSettings) -> None:
    settings.output.mkdir()
    (settings.output / "a.txt").write_text("the user's")
    finished = run(settings)
    assert (finished.done, finished.carried_now) == (3, 4)
    (warning,) = finished.warnings
    assert warning.startswith("a.txt was not copied: a.txt exists and was not written by this job")
    assert others(settings.output)["a.txt"] == "the user's"
    assert run(settings, overwrite=True).warnings == ()
    assert others(settings.output)["a.txt"] == "this is a.txt"


def test_an_edited_copy_stays_until_both_have_changed_and_then_too(settings: JobSettings) -> None:
    run(settings)
    (settings.output / "a.txt").write_text("edited in the output")
    assert run(settings).warnings == ()
    assert others(settings.output)["a.txt"] == "edited in the output"
    (settings.input / "a.txt").write_text("changed at the source")
    (warning,) = run(settings).warnings
    assert "was edited since it was copied" in warning
    assert others(settings.output)["a.txt"] == "edited in the output"
    assert others(settings.output)["a_jpg.txt"] == "changed at the source"


def test_a_copy_that_was_not_recorded_is_known_again(settings: JobSettings) -> None:
    """As after a kill between the rename and the ledger."""
    settings.output.mkdir()
    (settings.output / "a.txt").write_text("this is a.txt")
    finished = run(settings)
    assert (finished.carried_now, finished.warnings) == (5, ())


def test_a_failed_page_has_no_sidecars_until_it_is_done(settings: JobSettings) -> None:
    (settings.input / "deep" / "b.png").write_bytes(b"broken")
    assert run(settings).carried_now == 3
    draw(settings.input / "deep" / "b.png", 3)
    assert run(settings).carried_now == 2


def test_pages_skipped_for_their_size_go_along_with_the_others(settings: JobSettings) -> None:
    bounds = Bounds(10, 10)
    assert run(settings, skip_larger_than=bounds).carried_now == 0
    finished = run(settings, skip_larger_than=bounds, copy_others=True)
    assert (finished.done, finished.skipped, finished.warnings) == (0, 3, ())
    for name in ("a.jpg", "a.png", "deep/b.png", "a.txt", "a.jpg.xmp", "deep/b.caption", "notes.md"):
        assert (settings.output / name).read_bytes() == (settings.input / name).read_bytes()
    assert run(settings, skip_larger_than=bounds, copy_others=True).carried_now == 0


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_links_lead_neither_out_of_the_output_nor_into_the_sources(
    settings: JobSettings, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    settings.output.mkdir()
    (settings.output / "deep").symlink_to(tmp_path / "elsewhere")
    (settings.input / "c.txt").symlink_to(tmp_path / "nowhere")
    (settings.input / "linked.md").symlink_to(settings.input / "notes.md")
    finished = run(settings, copy_others=True)
    assert sorted(path.suffix for path in (tmp_path / "elsewhere").iterdir()) == [".png"]
    told = "\n".join(finished.warnings)
    assert "deep/b.json was not copied: deep/b.json would be written outside" in told
    assert "c.txt was not copied: cannot be copied" in told
    assert not (settings.output / "linked.md").is_symlink()
    assert (settings.output / "linked.md").read_text() == "this is notes.md"


def test_one_image_has_its_sidecars_too(settings: JobSettings, tmp_path: Path) -> None:
    one = dataclasses.replace(settings, input=settings.input / "deep" / "b.png")
    assert run(one).carried_now == 2
    assert others(settings.output) == {
        "b.caption": "this is deep/b.caption",
        "b.json": "this is deep/b.json",
    }
    beside = dataclasses.replace(settings, input=settings.input / "a.jpg", output=settings.input)
    before = others(settings.input)
    run(beside)
    assert before.items() <= others(settings.input).items()


def test_a_full_disk_leaves_no_part_behind(settings: JobSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    from comic_upscale.errors import OutputError

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    run(settings, sidecars="skip")
    monkeypatch.setattr(parts.os, "fsync", full)
    with pytest.raises(OutputError, match="Free some space"):
        run(settings)
    assert not list(settings.output.rglob("*carry.part"))
    monkeypatch.undo()
    assert run(settings).carried_now == 5
