"""An output folder that somebody else has prepared, or that came with an archive: links under the names that we use."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from comic_upscale.errors import OutputError
from comic_upscale.jobs.run import run_job
from comic_upscale.settings.job import JobSettings
from tests.archives import make_zip, picture, pictures, read_cbz
from tests.conftest import MakeJob, draw
from tests.fakes import NearestEngine

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")


@pytest.fixture
def precious(tmp_path: Path) -> list[Path]:
    """Files of the user's, one for each link."""
    paths = [tmp_path / f"precious{number}.txt" for number in range(20)]
    for path in paths:
        path.write_bytes(b"precious")
    return paths


def run(settings: JobSettings) -> tuple[int, int]:
    finished = run_job(settings, open_engines=lambda *_: [NearestEngine()])
    return finished.done, finished.failed


def link(folder: Path, precious: list[Path]) -> None:
    """Put links under every name that an unfinished file of the job may have."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ["check", "carry", *map(str, range(1, 15))]
    for name, target in zip(names, precious, strict=False):
        (folder / f".comic-upscale-{name}.part").symlink_to(target)


def test_links_under_the_names_of_parts_are_not_followed(
    make_job: MakeJob, tmp_path: Path, precious: list[Path]
) -> None:
    for number in range(3):
        draw(tmp_path / "in" / f"p{number}.png", number)
    (tmp_path / "in" / "p0.txt").write_text("a caption")
    make_zip(tmp_path / "in" / "v.cbz", {**pictures(2), "ComicInfo.xml": b"<ComicInfo/>"})
    settings = make_job()
    link(settings.output, precious)
    assert run(settings) == (5, 0)
    assert {path.read_bytes() for path in precious} == {b"precious"}
    for number in range(3):
        path = settings.output / f"p{number}.png"
        assert not path.is_symlink()
        with Image.open(path) as image:
            assert image.size == (48, 64)
    assert (settings.output / "p0.txt").read_text() == "a caption"
    assert not (settings.output / "v.cbz").is_symlink()
    assert len(read_cbz(settings.output / "v.cbz")) == 3
    assert run(settings) == (5, 0)
    assert {path.read_bytes() for path in precious} == {b"precious"}


def test_links_where_pages_of_a_volume_wait_are_not_followed(
    make_job: MakeJob, tmp_path: Path, precious: list[Path]
) -> None:
    make_zip(tmp_path / "in" / "v.cbz", {"1.png": picture(1), "2.png": b"broken"})
    settings = make_job()
    link(settings.output / ".comic-upscale" / "volumes" / "v.cbz", precious)
    assert run(settings) == (1, 1)
    assert {path.read_bytes() for path in precious} == {b"precious"}


def test_a_marker_folder_that_is_a_link_is_not_trusted(make_job: MakeJob, tmp_path: Path) -> None:
    draw(tmp_path / "in" / "p.png", 1)
    settings = make_job()
    (tmp_path / "elsewhere").mkdir()
    settings.output.mkdir()
    (settings.output / ".comic-upscale").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="is a link"):
        run(settings)
    assert not list((tmp_path / "elsewhere").iterdir())
