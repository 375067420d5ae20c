"""`--replace`: outputs that somebody edited are not upscaled again."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from comic_upscale.jobs.restore import prune_trash, restore
from comic_upscale.planning.output_marks import OutputMarks
from comic_upscale.planning.preview import preview
from comic_upscale.settings.paths import TRASH
from tests.archives import make_zip
from tests.jobs.test_replace import bytes_of, job, library, page, run, run_without_engine, size_of, visible
from tests.library.test_cbz import DAMAGED

__all__ = ["job", "library"]
"""The fixtures."""


def tag(volume: Path) -> None:
    """Write a volume anew with a `ComicInfo.xml`, as programs that tag comics do."""
    with zipfile.ZipFile(volume) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(volume, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**members, "ComicInfo.xml": b"<ComicInfo/>"}.items():
            archive.writestr(name, data)


def retouch(picture: Path) -> None:
    with Image.open(picture) as image:
        image.load()
    image.putpixel((0, 0), 0)
    image.save(picture, dpi=(300, 300))


def test_outputs_that_were_edited_are_not_upscaled_again(library: Path, job: Any) -> None:
    run(job())
    volume, picture = library / "sub" / "v.cbz", library / "a.png"
    tag(volume)
    retouch(picture)
    edited = visible(library)
    assert {each.action for each in preview(job()).pages} == {"done"}
    again = run_without_engine(job())
    assert (again.done, again.failed, again.replaced_now, again.replaced, again.warnings) == (5, 0, 0, 3, ())
    # Tagged once more, and renamed by the program that did it.
    tag(volume)
    volume.rename(library / "sub" / "Vol 1.cbz")
    edited["sub/Vol 1.cbz"] = (library / "sub" / "Vol 1.cbz").read_bytes()
    del edited["sub/v.cbz"]
    assert run_without_engine(job()).replaced_now == 0
    assert run_without_engine(job()).moved_now == 0
    assert visible(library) == edited
    # An edit is never lost: neither to other settings nor to the way back.
    other = run(job(scale=3.0))
    assert other.replaced_now == 1
    assert sorted(other.warnings) == [
        "a.jpg was not replaced: a.png was edited since",
        "sub/Vol 1.cbz was not replaced: sub/Vol 1.cbz was edited since",
    ]
    edited["sub/b.png"] = (library / "sub" / "b.png").read_bytes()
    for change in (False, True):
        result = restore(library, change=change)
        assert result.files == ("sub/b.png",)
        assert result.kept[0] == (
            "a.jpg",
            f"a.png was edited since: move it out of the folder, then try again; the original is {TRASH}/a.jpg",
        )
        assert result.kept[1][0] == "sub/Vol 1.cbz"
    del edited["sub/b.png"]
    assert {name: data for name, data in visible(library).items() if name != "sub/b.png"} == edited
    # Once they are elsewhere, the originals come back.
    picture.unlink()
    (library / "sub" / "Vol 1.cbz").unlink()
    assert restore(library, change=True).kept == ()
    assert {"a.jpg", "sub/Vol 1.cbz"} <= visible(library).keys()


def test_edited_outputs_whose_originals_were_pruned(library: Path, job: Any) -> None:
    run(job())
    tag(library / "sub" / "v.cbz")
    assert prune_trash(library, remove=True).left == ()
    tag(library / "sub" / "v.cbz")
    edited = visible(library)
    page(library / "new.png", 4)
    assert run(job()).replaced_now == 1
    assert {name: data for name, data in visible(library).items() if name != "new.png"} == edited


def put_new_page(library: Path, _: Path) -> None:
    page(library / "a.png", 7)


def put_new_volume(library: Path, made: Path) -> None:
    make_zip(library / "sub" / "v.cbz", {f"{at}.png": bytes_of(made, 20 + at) for at in range(3)})


def put_most_pages_of_another(library: Path, made: Path) -> None:
    with zipfile.ZipFile(library / "sub" / "v.cbz") as archive:
        first = archive.read("0.png")
    pages = {f"{at}.png": bytes_of(made, 30 + at) for at in range(1, 3)}
    make_zip(library / "sub" / "v.cbz", {"0.png": first, **pages})


@pytest.mark.parametrize(
    ("put", "count"), [(put_new_page, 1), (put_new_volume, 3), (put_most_pages_of_another, 3)]
)
def test_a_new_file_in_the_place_of_an_output_is_upscaled(
    library: Path, job: Any, tmp_path: Path, put: Callable[[Path, Path], None], count: int
) -> None:
    run(job())
    put(library, tmp_path)
    assert sum(each.action != "done" for each in preview(job()).pages) == count
    again = run(job())
    assert (again.done_now, again.replaced_now) == (count, 1)


def test_marks_of_files_that_cannot_be_read(tmp_path: Path) -> None:
    marks = OutputMarks()
    for name in ("x.cbz", "x.png", "x.epub"):
        assert (marks.sample(tmp_path / name), marks.read(tmp_path / name)) == ("", frozenset())
        for content in (b"PK\x03\x04 strange", DAMAGED["of a later version"]):
            (tmp_path / name).write_bytes(content)
            assert (marks.sample(tmp_path / name), marks.read(tmp_path / name)) == ("", frozenset())
    many = make_zip(tmp_path / "many.cbz", {f"{at}.png": bytes([at]) for at in range(50)})
    assert len(marks.sample(many).split()) <= 12
    assert set(marks.sample(many).split()) <= marks.read(many)
    assert len(marks.read(many)) == 50
    assert size_of(page(tmp_path / "p.png", 1)) == (96, 128)
    assert marks.sample(tmp_path / "p.png") == "96x128"
