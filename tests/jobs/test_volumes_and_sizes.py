"""Where volumes meet sizes, bounds, sidecars and the export: pages inside are pages like any others."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from PIL import Image

from comic_upscale.execution.events import JobFinished
from comic_upscale.jobs.run import run_job
from comic_upscale.planning.preview import preview
from comic_upscale.reporting.export import as_text, read_export
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.sizes import Bounds, LongSide
from tests.archives import make_zip, picture, pictures, read_cbz
from tests.fakes import NearestEngine
from tests.pdfs import Pdf

MakeJob = Callable[..., JobSettings]

COMICINFO = b'<ComicInfo><Pages><Page Image="0"/><Page Image="1"/></Pages></ComicInfo>'


@pytest.fixture
def make_job(tmp_path: Path, tiny_weights: Path) -> MakeJob:
    def make(**changes: object) -> JobSettings:
        values: dict[str, object] = {
            "input": tmp_path / "in", "output": tmp_path / "out", "model": str(tiny_weights), "workers": 2,
        }  # fmt: skip
        return JobSettings(**{**values, **changes})  # type: ignore[arg-type]

    return make


def run(settings: JobSettings) -> JobFinished:
    return run_job(settings, open_engines=lambda *_: [NearestEngine(limit=4)])


def run_without_engine(settings: JobSettings) -> JobFinished:
    def none_needed(*_: object) -> list[NearestEngine]:
        raise AssertionError("no page is left to do")

    return run_job(settings, open_engines=none_needed)


def sizes(cbz: Path) -> dict[str, tuple[int, int]]:
    return {
        name: Image.open(io.BytesIO(data)).size
        for name, data in read_cbz(cbz).items()
        if not name.endswith((".xml", ".txt"))
    }


def sizes_in_comicinfo(cbz: Path) -> list[tuple[str, str]]:
    root = ET.fromstring(read_cbz(cbz)["ComicInfo.xml"])
    return [(page.attrib["ImageWidth"], page.attrib["ImageHeight"]) for page in root.iter("Page")]


def test_every_page_of_a_volume_has_its_own_factor(make_job: MakeJob, tmp_path: Path) -> None:
    inside = {"a.png": picture(1, (24, 32)), "b.png": picture(2, (80, 40)), "ComicInfo.xml": COMICINFO}
    make_zip(tmp_path / "in" / "v.cbz", inside)
    settings = make_job(size=LongSide(64))
    assert [page.target_size for page in preview(settings).pages] == [(48, 64), (64, 32)]
    assert run(settings).volumes_done == 1
    cbz = tmp_path / "out" / "v.cbz"
    assert sizes(cbz) == {"a.png": (48, 64), "b.png": (64, 32)}
    assert sizes_in_comicinfo(cbz) == [("48", "64"), ("64", "32")]
    assert run_without_engine(settings).done == 2


def test_a_page_that_is_large_enough_goes_into_its_volume_untouched(
    make_job: MakeJob, tmp_path: Path
) -> None:
    large = picture(2, (80, 40), format="JPEG")
    make_zip(tmp_path / "in" / "v.cbz", {"a.png": picture(1), "b.jpg": large, "ComicInfo.xml": COMICINFO})
    bounded = make_job(scale=2.0, skip_larger_than=Bounds.parse("50"), copy_others=True)
    seen = preview(bounded)
    assert [page.action for page in seen.pages] == ["do", "skip"]
    assert "goes into its volume unchanged" in (seen.pages[1].note or "")
    finished = run(bounded)
    assert (finished.done, finished.skipped, finished.failed, finished.volumes_done) == (1, 1, 0, 1)
    assert (finished.carried_now, finished.warnings) == (0, ())
    cbz = tmp_path / "out" / "v.cbz"
    assert read_cbz(cbz)["b.jpg"] == large
    assert sizes(cbz) == {"a.png": (48, 64), "b.jpg": (80, 40)}
    assert sizes_in_comicinfo(cbz) == [("48", "64"), ("80", "40")]
    first = cbz.read_bytes()
    finished = run_without_engine(bounded)
    assert (finished.done, finished.skipped, finished.volumes_done) == (1, 1, 1)
    assert cbz.read_bytes() == first
    # Without the bound it is a page to be done, and the others are taken from the CBZ that stands.
    finished = run(make_job(scale=2.0))
    assert (finished.done, finished.done_now, finished.skipped, finished.volumes_done) == (2, 1, 0, 1)
    assert sizes(cbz) == {"a.png": (48, 64), "b.png": (160, 80)}


def test_a_volume_of_nothing_but_large_pages(make_job: MakeJob, tmp_path: Path) -> None:
    make_zip(tmp_path / "in" / "v.cbz", pictures(3))
    settings = make_job(scale=2.0, skip_larger_than=Bounds.parse("10"))
    finished = run(settings)
    assert (finished.done, finished.skipped, finished.volumes_done) == (0, 3, 1)
    assert read_cbz(tmp_path / "out" / "v.cbz") == pictures(3)
    assert run_without_engine(settings).volumes_done == 1


def test_a_moved_input_keeps_the_large_pages_of_volumes(make_job: MakeJob, tmp_path: Path) -> None:
    make_zip(tmp_path / "in" / "v.cbz", {"a.png": picture(1), "b.png": picture(2, (80, 40))})
    bound = Bounds.parse("50")
    run(make_job(scale=2.0, skip_larger_than=bound))
    (tmp_path / "in").rename(tmp_path / "moved")
    finished = run_without_engine(make_job(input=tmp_path / "moved", scale=2.0, skip_larger_than=bound))
    assert (finished.done, finished.skipped, finished.volumes_done) == (1, 1, 1)


def test_a_folder_of_pages_is_without_the_large_ones(make_job: MakeJob, tmp_path: Path) -> None:
    make_zip(tmp_path / "in" / "v.cbz", {"a.png": picture(1), "b.png": picture(2, (80, 40))})
    settings = make_job(
        scale=2.0, archive_output="folder", skip_larger_than=Bounds.parse("50"), copy_others=True
    )
    finished = run(settings)
    assert (finished.done, finished.skipped, finished.volumes_done, finished.warnings) == (1, 1, 1, ())
    assert [path.name for path in (tmp_path / "out").rglob("*.png")] == ["a.png"]
    assert run_without_engine(settings).volumes_done == 1


def test_files_beside_a_volume_and_in_it(make_job: MakeJob, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    make_zip(folder / "v.cbz", {**pictures(2), "p01.txt": b"inside"})
    make_zip(folder / "fonts.zip", {"a.ttf": b"no comic"})
    (folder / "cover.png").write_bytes(picture(9))
    (folder / "cover.txt").write_text("a cover")
    (folder / "v.txt").write_text("about the volume")
    finished = run(make_job(scale=2.0))
    assert (finished.volumes_done, finished.carried_now, finished.warnings) == (1, 1, ())
    out = tmp_path / "out"
    assert read_cbz(out / "v.cbz")["p01.txt"] == b"inside"
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == [
        "cover.png", "cover.txt", "v.cbz",
    ]  # fmt: skip
    others = make_job(scale=2.0, copy_others=True)
    assert (preview(others).sidecars, preview(others).others) == (1, 2)
    finished = run_without_engine(others)
    assert (finished.carried_now, finished.warnings) == (2, ())
    assert (out / "v.txt").read_text() == "about the volume"
    # An archive without pages is a file like any other; one with pages has become an output.
    assert (out / "fonts.zip").read_bytes() == (folder / "fonts.zip").read_bytes()
    assert zipfile.is_zipfile(out / "v.cbz")


def test_the_export_names_pages_in_volumes(make_job: MakeJob, tmp_path: Path) -> None:
    # Two pages alike, and one whose name changes with its format.
    make_zip(
        tmp_path / "in" / "v.zip",
        {"p1.jpg": picture(1, format="JPEG"), "p2.png": picture(2), "p3.png": picture(2)},
    )
    (tmp_path / "in" / "cover.png").write_bytes(picture(9))
    settings = make_job(scale=2.0)
    run(settings)
    found = read_export(settings.ledger_path)
    assert [row.file for row in found.files] == ["cover.png"]
    assert [row.volume for row in found.rows] == [None, "v.cbz", "v.cbz", "v.cbz"]
    made = read_cbz(tmp_path / "out" / "v.cbz")
    for row in found.rows[1:]:
        name = row.file.removeprefix("v.cbz/")
        assert hashlib.sha256(made[name]).hexdigest() == row.sha256
    assert [row.file for row in found.rows[1:]] == ["v.cbz/p1.png", "v.cbz/p2.png", "v.cbz/p3.png"]
    assert json.loads(as_text(found.rows, "jsonl").splitlines()[1])["volume"] == "v.cbz"
    (tmp_path / "out" / "v.cbz").unlink()
    assert read_export(settings.ledger_path).missing == 3


def test_a_drawn_page_that_is_large_enough_goes_in_as_readers_know_it(
    make_job: MakeJob, tmp_path: Path
) -> None:
    pdf = Pdf()
    pdf.show(pdf.raw(Image.linear_gradient("L").resize((24, 36))), "24 0 0 36 0 0", box="0 0 24 36")
    pdf.show(pdf.raw(Image.linear_gradient("L").resize((90, 60))), "90 0 0 60 0 0", box="0 0 90 60")
    pdf.save(tmp_path / "in" / "v.pdf")
    finished = run(make_job(scale=2.0, skip_larger_than=Bounds.parse("50")))
    assert (finished.done, finished.volumes_done) == (1, 1)
    path = tmp_path / "out" / "v.cbz"
    assert sizes(path) == {"0001.png": (48, 72), "0002.png": (90, 60)}
    assert read_cbz(path)["0002.png"].startswith(b"\x89PNG")
