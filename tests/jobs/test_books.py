"""Volumes as books, and pages for the screen of an e-reader, from the run's side."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from comic_upscale.errors import OutputError
from comic_upscale.execution.events import Event, JobFinished
from comic_upscale.imaging.codecs.png import write_png_at_once
from comic_upscale.jobs.prune import prune
from comic_upscale.jobs.run import run_job
from comic_upscale.ledger.records import PageDone, VolumeDone
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.screens import Screen
from comic_upscale.storage.local import LocalOutputStore
from tests.archives import make_zip, picture, pictures, read_cbz
from tests.conftest import MakeJob, draw
from tests.fakes import NearestEngine

SCREEN = Screen("small", 200, 300, 16)


def run(settings: JobSettings, events: list[Event] | None = None) -> JobFinished:
    return run_job(
        settings,
        open_engines=lambda *_: [NearestEngine(limit=4)],
        on_event=None if events is None else events.append,
    )


def done_pages(settings: JobSettings) -> list[str]:
    """Run, and return the pages that the run did."""
    events: list[Event] = []
    finished = run(settings, events)
    assert (finished.failed, finished.volumes_done) == (0, finished.volumes)
    return sorted(event.source for event in events if isinstance(event, PageDone))


def run_without_engine(settings: JobSettings) -> JobFinished:
    def none_needed(*_: object) -> list[NearestEngine]:
        raise AssertionError("no page is left to do")

    return run_job(settings, open_engines=none_needed)


def books(settings: JobSettings) -> dict[str, bytes]:
    return {
        path.relative_to(settings.output).as_posix(): path.read_bytes()
        for path in sorted(settings.output.rglob("*"))
        if path.is_file() and ".comic-upscale" not in path.parts
    }


def images(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {
            name.removeprefix("OEBPS/images/"): archive.read(name)
            for name in archive.namelist()
            if name.startswith("OEBPS/images/")
        }


@pytest.mark.parametrize(("kind", "name"), [("epub", "v.epub"), ("kepub", "v.kepub.epub"), ("pdf", "v.pdf")])
def test_a_volume_becomes_a_book(make_job: MakeJob, tmp_path: Path, kind: str, name: str) -> None:
    source = make_zip(
        tmp_path / "in" / "v.cbz", {**pictures(4), "notes.txt": b"x", "ComicInfo.xml": b"<ComicInfo/>"}
    )
    settings = make_job(archive_output=kind)
    events: list[Event] = []
    assert run(settings, events).volumes_done == 1
    (made,) = (event for event in events if isinstance(event, VolumeDone))
    assert made.notes == ("1 other file(s) left out: a book has no place for them",)
    first = books(settings)
    assert list(first) == [name]
    assert run_without_engine(settings).volumes_done == 1
    assert not (settings.output / ".comic-upscale" / "volumes").exists()
    # One page changes: an EPUB gives the others back, and a PDF does not. One run is enough for both.
    changed = {**pictures(4), "p02.png": picture(99), "ComicInfo.xml": b"<ComicInfo/>"}
    make_zip(source, changed)
    again = ["v.cbz/p02.png"] if kind != "pdf" else [f"v.cbz/p0{at}.png" for at in range(1, 5)]
    assert done_pages(settings) == again
    assert books(settings)[name] != first[name]
    fresh = make_job(archive_output=kind, output=tmp_path / "fresh")
    run(fresh)
    assert books(fresh) == books(settings)


def test_tags_that_change_need_no_engine_for_an_epub(make_job: MakeJob, tmp_path: Path) -> None:
    source = make_zip(tmp_path / "in" / "v.cbz", pictures(3))
    settings = make_job(archive_output="epub")
    run(settings)
    make_zip(source, {**pictures(3), "ComicInfo.xml": b"<ComicInfo><Title>Named</Title></ComicInfo>"})
    assert run_without_engine(settings).volumes_done == 1
    with zipfile.ZipFile(settings.output / "v.epub") as archive:
        assert b"<dc:title>Named</dc:title>" in archive.read("OEBPS/content.opf")


def test_an_epub_of_a_kepub_has_one_extension(make_job: MakeJob, tmp_path: Path) -> None:
    make_zip(tmp_path / "in" / "v.cbz", pictures(2))
    kepub = make_job(archive_output="kepub")
    run(kepub)
    again = make_job(input=kepub.output, output=tmp_path / "again", archive_output="kepub")
    run(again)
    assert list(books(again)) == ["v.kepub.epub"]


def large(count: int, seed: int = 0) -> dict[str, bytes]:
    return {f"p{at + 1:02}.png": picture(1000 * seed + at, (100, 130)) for at in range(count)}


def _size_of_a_large_page() -> int:
    """Return the bytes of a large page at 2x."""
    with Image.open(io.BytesIO(large(1)["p01.png"])) as page:
        samples = np.asarray(page).repeat(2, axis=0).repeat(2, axis=1)
    return len(write_png_at_once(samples, None))


LIMIT = 5 * _size_of_a_large_page() // 2
"""Bytes for two of the large pages at 2x."""


def split_job(make_job: MakeJob, **changes: Any) -> JobSettings:
    return make_job(archive_output="epub", max_volume_size=LIMIT, **changes)


NAMES = ["v (part 2).epub", "v (part 3).epub", "v.epub"]


def test_a_large_book_is_split(make_job: MakeJob, tmp_path: Path) -> None:
    make_zip(tmp_path / "in" / "v.cbz", large(5))
    settings = split_job(make_job)
    finished = run(settings)
    assert (finished.done_now, finished.warnings) == (5, ())
    made = books(settings)
    assert sorted(made) == NAMES
    assert finished.output_bytes == sum(map(len, made.values()))
    assert all(len(data) <= LIMIT for data in made.values())
    parts = [images(made[name]) for name in ("v.epub", *NAMES[:2])]
    assert [sorted(part) for part in parts] == [
        ["p00001.png", "p00002.png"], ["p00003.png", "p00004.png"], ["p00005.png"],
    ]  # fmt: skip
    assert not (settings.output / ".comic-upscale" / "volumes").exists()
    assert run_without_engine(settings).volumes_done == 1
    # A file that is gone is written again, with the pages that only it had.
    (settings.output / "v (part 2).epub").unlink()
    assert done_pages(settings) == ["v.cbz/p03.png", "v.cbz/p04.png"]
    assert books(settings) == made


def test_a_page_that_is_larger_than_a_file_may_be_is_told(make_job: MakeJob, tmp_path: Path) -> None:
    pages = {f"{number}.png": picture(number, (160, 200)) for number in range(2)}
    make_zip(tmp_path / "in" / "v.cbz", pages)
    finished = run(make_job(archive_output="epub", max_volume_size=100_000))
    assert finished.volumes_done == 1
    assert finished.warnings == ("v.cbz: 2 file(s) larger than --max-volume-size, because one page is",)


def test_fewer_pages_need_fewer_files(make_job: MakeJob, tmp_path: Path) -> None:
    source = make_zip(tmp_path / "in" / "v.cbz", large(5))
    settings = split_job(make_job)
    run(settings)
    make_zip(source, {name: data for name, data in large(5).items() if name < "p04"})
    assert run_without_engine(settings).volumes_done == 1
    assert sorted(books(settings)) == ["v (part 2).epub", "v.epub"]


def test_a_split_book_overwrites_no_file_of_somebody_else(make_job: MakeJob, tmp_path: Path) -> None:
    make_zip(tmp_path / "in" / "v.cbz", large(3))
    settings = split_job(make_job)
    mine = settings.output / "v (part 2).epub"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    finished = run(settings)
    assert [(source, kind) for source, kind, _ in finished.failures] == [("v.cbz", "output-exists")]
    assert mine.read_bytes() == b"mine"
    assert sorted(books(settings)) == ["v (part 2).epub"]
    mine.unlink()
    assert run_without_engine(settings).volumes_done == 1
    assert sorted(books(settings)) == ["v (part 2).epub", "v.epub"]


def test_a_split_book_moves_with_its_volume_and_is_pruned_with_it(make_job: MakeJob, tmp_path: Path) -> None:
    source = make_zip(tmp_path / "in" / "v.cbz", large(5))
    make_zip(tmp_path / "in" / "other.cbz", pictures(1))
    settings = split_job(make_job)
    run(settings)
    before = books(settings)
    source.rename(source.with_name("w.cbz"))
    assert run_without_engine(settings).moved_now == 1
    after = books(settings)
    assert sorted(after) == ["other.epub", "w (part 2).epub", "w (part 3).epub", "w.epub"]
    assert after["w (part 3).epub"] == before["v (part 3).epub"]
    source.with_name("w.cbz").unlink()
    run_without_engine(settings)
    assert len(prune(settings.ledger_path, remove=True).to_remove) == 3
    assert sorted(books(settings)) == ["other.epub"]


def test_a_split_book_does_not_move_to_where_a_file_of_somebody_else_is(
    make_job: MakeJob, tmp_path: Path
) -> None:
    source = make_zip(tmp_path / "in" / "v.cbz", large(3))
    settings = split_job(make_job)
    run(settings)
    before = books(settings)
    mine = settings.output / "w (part 2).epub"
    mine.write_bytes(b"mine")
    source.rename(source.with_name("w.cbz"))
    finished = run(settings)
    assert [(name, kind) for name, kind, _ in finished.failures] == [("w.cbz", "output-exists")]
    assert books(settings) == {**before, mine.name: b"mine"}


def test_split_books_that_swap_names(make_job: MakeJob, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    make_zip(folder / "v.cbz", large(3))
    make_zip(folder / "w.cbz", large(3, 1))
    settings = split_job(make_job)
    run(settings)
    before = books(settings)
    (folder / "v.cbz").rename(folder / "x.cbz")
    (folder / "w.cbz").rename(folder / "v.cbz")
    (folder / "x.cbz").rename(folder / "w.cbz")
    run(settings)
    after = books(settings)
    for end in (".epub", " (part 2).epub"):
        assert images(after[f"v{end}"]) == images(before[f"w{end}"])
        assert images(after[f"w{end}"]) == images(before[f"v{end}"])


@pytest.mark.parametrize("stop_at", [0, 1, 2])
def test_a_run_that_ends_between_the_files_of_a_book(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    source = make_zip(tmp_path / "in" / "v.cbz", large(5))
    settings = split_job(make_job)
    run(settings)
    make_zip(source, large(6, 1))
    placed = 0

    class Full(LocalOutputStore):
        def relocate(self, name: str, to: str) -> None:
            nonlocal placed
            if placed == stop_at:
                raise OutputError("the disk is full")
            placed += 1
            super().relocate(name, to)

    with monkeypatch.context() as patched:
        patched.setattr("comic_upscale.storage.stores.LocalOutputStore", Full)
        with pytest.raises(OutputError):
            run(settings)
    assert placed == stop_at
    assert run(settings).volumes_done == 1
    calm = split_job(make_job, output=tmp_path / "calm")
    run(calm)
    assert books(settings) == books(calm)


def wide(seed: int) -> bytes:
    return picture(seed, (160, 120))


@pytest.mark.parametrize("kind", ["cbz", "epub", "pdf"])
def test_double_pages_are_cut_for_the_screen(make_job: MakeJob, tmp_path: Path, kind: str) -> None:
    comicinfo = (
        b'<ComicInfo><Manga>YesAndRightToLeft</Manga><Pages><Page Image="0"/><Page Image="1"/>'
        b'<Page Image="2" ImageWidth="1"/></Pages></ComicInfo>'
    )
    inside = {"a.png": picture(1, (60, 90)), "b.png": wide(2), "c.png": picture(3, (60, 90))}
    inside["ComicInfo.xml"] = comicinfo
    source = make_zip(tmp_path / "in" / "v.cbz", inside)
    settings = make_job(scale=None, size=replace(SCREEN, spreads="split"), archive_output=kind)
    assert len(done_pages(settings)) == 3
    assert run_without_engine(settings).volumes_done == 1
    if kind == "cbz":
        made = read_cbz(settings.output / "v.cbz")
        assert list(made) == ["a.png", "b_1.png", "b_2.png", "c.png", "ComicInfo.xml"]
        listed = [page.attrib for page in ET.fromstring(made["ComicInfo.xml"]).iter("Page")]
        assert [page["Image"] for page in listed] == ["0", "1", "3"]
        assert listed[2]["ImageWidth"] == "200"
        first, second = (np.asarray(Image.open(io.BytesIO(made[name]))) for name in ("b_1.png", "b_2.png"))
        whole = replace(settings, input=tmp_path / "one", output=tmp_path / "o")
        (tmp_path / "one").mkdir()
        (tmp_path / "one" / "b.png").write_bytes(wide(2))
        run(whole)
        # A page outside of volumes is not cut, and it is what the halves are cut from: the right half comes first.
        page = np.asarray(Image.open(tmp_path / "o" / "b.png"))
        assert page.shape == (300, 400)
        assert (np.hstack((second, first)) == page).all()
        assert set(np.unique(page).tolist()) <= {17 * level for level in range(16)}
    elif kind == "epub":
        made = images((settings.output / "v.epub").read_bytes())
        assert sorted(made) == ["p00001.png", "p00002-1.png", "p00002-2.png", "p00003.png"]
    # The volume is written again: only the page that was cut is done again.
    inside["a.png"] = picture(9, (60, 90))
    make_zip(source, inside)
    again = {"cbz": ["a", "b"], "epub": ["a", "b"], "pdf": ["a", "b", "c"]}[kind]
    assert done_pages(settings) == [f"v.cbz/{name}.png" for name in again]


def test_strips_fill_the_screen(make_job: MakeJob, tmp_path: Path) -> None:
    strip = np.full((700, 100), 255, np.uint8)
    for top in range(0, 700, 70):
        strip[top + 5 : top + 65, 10:90] = np.random.default_rng(top).integers(
            0, 100, (60, 80), dtype=np.uint8
        )
    file = io.BytesIO()
    Image.fromarray(strip).save(file, "PNG")
    make_zip(tmp_path / "in" / "v.cbz", {"1.png": file.getvalue()})
    settings = make_job(scale=None, size=SCREEN, archive_output="epub")
    run(settings)
    made = [
        Image.open(io.BytesIO(data)).size
        for data in images((settings.output / "v.epub").read_bytes()).values()
    ]
    assert {width for width, _ in made} == {200}
    assert sum(height for _, height in made) == 1400
    assert max(height for _, height in made) <= 300
    assert len(made) == 5


def test_margins_are_cropped_before_the_network(make_job: MakeJob, tmp_path: Path) -> None:
    page = Image.new("RGB", (200, 300), "white")
    page.paste(Image.open(draw(tmp_path / "ink.png", 5, (100, 150))), (50, 75))
    (tmp_path / "in").mkdir()
    page.save(tmp_path / "in" / "a.png")
    settings = make_job(crop_margins=True)
    events: list[Event] = []
    run(settings, events)
    (done,) = (event for event in events if isinstance(event, PageDone))
    assert done.notes[0].startswith("margins cropped: ")
    made = np.asarray(Image.open(settings.output / "a.png"))
    assert made.shape[:2] < (300 * 2 - 100, 200 * 2 - 100)
    ink = np.asarray(Image.open(tmp_path / "ink.png")).repeat(2, 0).repeat(2, 1)
    top = (made.shape[0] - 300) // 2
    left = (made.shape[1] - 200) // 2
    assert np.abs(made[top : top + 300, left : left + 200].astype(int) - ink.astype(int)).max() <= 1
