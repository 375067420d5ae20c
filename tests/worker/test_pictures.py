"""The pictures that a worker makes of a finished job: of every page, in order, and the very bytes of its result."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from comic_upscale.execution.stop import StopRequest
from comic_upscale.jobs.service import JobService
from comic_upscale.ledger.queries import read_suspects
from comic_upscale.library.sorting import natural_key
from comic_upscale.server.files import LocalFiles
from comic_upscale.server.pictures import PagePictures, Place, from_json
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.paths import default_ledger
from comic_upscale.settings.sizes import Bounds
from comic_upscale.worker.members import find_members
from comic_upscale.worker.pictures import FAILED, NO_ORIGINAL, media_type_of, store_pictures
from tests.conftest import draw
from tests.fakes import NearestEngine


class Stored:
    """The pictures of a job that really ran, as the server would find them."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.output = folder / "out"
        settings = JobSettings(
            input=folder / "in", output=self.output, device="cpu", workers=1,
            keep_original_on_failure=True, **options,
        )  # fmt: skip
        finished = JobService(folder / "state").run(
            settings,
            on_event=lambda event: None,
            stop=StopRequest(),
            open_engines=lambda *_: [NearestEngine()],
        )
        assert finished.state == "finished"
        self.results = sorted(
            (
                path.relative_to(self.output).as_posix()
                for path in self.output.rglob("*")
                if path.is_file() and not path.relative_to(self.output).parts[0].startswith(".")
            ),
            key=natural_key,
        )
        self.store = LocalFiles(folder / "files")
        self.files = dict(store_pictures(self.store, "pictures/1/1", self.output, self.results))

    @property
    def pages(self) -> tuple[PagePictures, ...]:
        listed = self.files["pictures"]
        return from_json(b"".join(self.store.read(listed.key, 0, listed.size)))

    def read(self, place: Place | None) -> bytes:
        assert place is not None
        if place.result is None:
            data = (self.store.local_path(self.files["picturedata"].key)).read_bytes()
        else:
            data = (self.output / self.results[place.result]).read_bytes()
        found = data[place.offset : place.offset + place.length]
        assert len(found) == place.length
        return found


def size_of(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data)) as image:
        return image.size


def test_pages_of_a_folder(tmp_path: Path) -> None:
    sources = [draw(tmp_path / "in" / f"{number}.png", number, size=(400, 640)) for number in (1, 2, 10)]
    stored = Stored(tmp_path, scale=1.5)
    assert [page.name for page in stored.pages] == ["1.png", "2.png", "10.png"]
    for page, source in zip(stored.pages, sources, strict=True):
        assert (page.size, page.before_size) == ((600, 960), (400, 640))
        assert stored.read(page.before) == source.read_bytes()
        assert page.after.result is not None
        assert stored.read(page.after) == (tmp_path / "out" / source.name).read_bytes()
        width, height = size_of(stored.read(page.thumb))
        assert height == 540 and abs(width - 337.5) < 1


def test_suspect_pages_have_the_reasons_of_the_gate(tmp_path: Path) -> None:
    for number in range(3):
        draw(tmp_path / "in" / f"{number}.png", number, size=(400, 640))
    stored = Stored(tmp_path, scale=1.5)
    # Noise enlarged to half as much again is not like its original.
    expected = {each.source: each.reasons for each in read_suspects(default_ledger(stored.output))}
    assert expected
    assert {page.name: page.suspect for page in stored.pages if page.suspect is not None} == expected


def test_pages_of_a_volume_are_found_inside_it(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "v 01.cbz", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in (1, 2, 10):
            archive.write(draw(tmp_path / f"{number}.png", number, size=(40, 60)), f"p/{number}.png")
        archive.writestr("p/3.png", b"\x89PNG\r\n\x1a\nbroken")
    stored = Stored(tmp_path, scale=2, format="webp")
    (volume,) = stored.results
    names = [page.name for page in stored.pages]
    assert [name.rsplit("/", 1)[-1] for name in names] == ["1.png", "2.png", "3.png", "10.png"]
    upscaled = [page for page in stored.pages if page.note is None]
    with zipfile.ZipFile(tmp_path / "out" / volume) as archive:
        for number, page in zip((1, 2, 10), upscaled, strict=True):
            assert page.after.result == 0
            assert stored.read(page.after) == archive.read(f"p/{number}.webp")
            assert stored.read(page.before) == (tmp_path / f"{number}.png").read_bytes()


def test_a_page_that_failed_keeps_its_place_and_its_number(tmp_path: Path) -> None:
    with Image.open(draw(tmp_path / "page.png", 1, size=(400, 640))) as image:
        image.save(tmp_path / "page.jpg", quality=90)
    whole = (tmp_path / "page.jpg").read_bytes()
    cut = whole[: len(whole) // 2]
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "broken.cbz", "w") as archive:
        for name, content in (
            ("001.jpg", whole),
            ("002.jpg", cut),
            ("003.jpg", b"\xff\xd8\xffnot"),
            ("004.jpg", whole),
        ):
            archive.writestr(name, content)
    stored = Stored(tmp_path, scale=2)
    assert [page.name for page in stored.pages] == [f"broken.cbz/00{number}.jpg" for number in (1, 2, 3, 4)]
    assert [page.note for page in stored.pages] == [None, FAILED, FAILED, None]
    _, early, unreadable, _ = stored.pages
    # A browser shows what there is of the first one. Of the second one, nothing can be shown but words.
    assert stored.read(early.after) == cut and early.size == (400, 640) and early.before is None
    assert unreadable.after == unreadable.thumb and size_of(stored.read(unreadable.after)) == unreadable.size
    assert size_of(stored.read(early.thumb)) == unreadable.size


def test_a_result_whose_original_has_changed_is_shown(tmp_path: Path) -> None:
    draw(tmp_path / "in" / "1.png", 1, size=(40, 60))
    stored = Stored(tmp_path, scale=2)
    draw(tmp_path / "in" / "1.png", 2, size=(50, 60))
    stored.files = dict(store_pictures(stored.store, "pictures/1/2", stored.output, stored.results))
    (page,) = stored.pages
    assert page.size == (80, 120) and page.note == NO_ORIGINAL
    assert stored.read(page.after) == (stored.output / "1.png").read_bytes()


@pytest.mark.parametrize(("format", "extension"), [("tiff", "tif"), ("jxl", "jxl")])
def test_a_format_that_browsers_do_not_show_gets_a_picture(
    tmp_path: Path, format: str, extension: str
) -> None:
    draw(tmp_path / "in" / "1.png", 1, size=(40, 60))
    stored = Stored(tmp_path, scale=2, format=format)
    (page,) = stored.pages
    assert stored.results == [f"1.{extension}"]
    assert page.after.result is None and page.after.media_type == "image/webp"
    assert size_of(stored.read(page.after)) == page.size == (80, 120)


def test_an_original_that_browsers_do_not_show_gets_a_picture(tmp_path: Path) -> None:
    draw(tmp_path / "1.png", 1, size=(40, 60))
    (tmp_path / "in").mkdir()
    with Image.open(tmp_path / "1.png") as image:
        image.save(tmp_path / "in" / "1.tif")
    (page,) = Stored(tmp_path, scale=2).pages
    assert page.before is not None and page.before.media_type == "image/webp" and page.before_size == (40, 60)


def test_unchanged_pages_of_a_volume_have_pictures_in_whatever_format_they_are(tmp_path: Path) -> None:
    formats = {"1.png": "PNG", "2.jfif": "JPEG", "3.jp2": "JPEG2000", "4.tga": "TGA", "5.jpg": "JPEG"}
    (tmp_path / "in").mkdir()
    with (
        zipfile.ZipFile(tmp_path / "in" / "v.cbz", "w") as archive,
        Image.new("RGB", (40, 60), "teal") as page,
    ):
        for name, format in formats.items():
            page.save(tmp_path / name, format)
            archive.write(tmp_path / name, name)
    stored = Stored(tmp_path, scale=2, skip_larger_than=Bounds(50, 50))
    assert [page.name for page in stored.pages] == [f"v.cbz/{name}" for name in formats]
    members = find_members(stored.output / "v.cbz")
    assert members is not None and [name for name, _, _ in members] == list(formats)
    for page, (name, start, size) in zip(stored.pages, members, strict=True):
        if page.after.result is not None:
            assert (page.after.offset, page.after.length) == (start, size)
            assert stored.read(page.after) == (tmp_path / name).read_bytes()
        assert size_of(stored.read(page.thumb)) == (40, 60)


def test_without_a_page_nothing_is_stored(tmp_path: Path) -> None:
    draw(tmp_path / "in" / "1.png", 1, size=(40, 60))
    stored = Stored(tmp_path, scale=2)
    empty = LocalFiles(tmp_path / "none")
    assert store_pictures(empty, "pictures/1/2", stored.output, []) == []
    assert list(empty.list()) == []


def test_types_are_told_by_content() -> None:
    assert media_type_of(b"<svg xmlns='http://www.w3.org/2000/svg'/>") is None
    assert media_type_of(b"\xff\xd8\xff\xe0") == "image/jpeg"
    assert media_type_of(b"RIFF\x00\x00\x00\x00WEBPVP8 ") == "image/webp"
