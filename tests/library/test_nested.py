"""An archive of comics is a folder of volumes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from comic_upscale.errors import InputError, PageError
from comic_upscale.library.discover import Discovery, discover
from comic_upscale.library.volume_reader import VolumeCache
from comic_upscale.settings.job import VolumeRules
from tests.archives import epub, make_7z, make_tar, make_zip, needs_libarchive, picture, pictures, smooth
from tests.rars import make_rar

pytestmark = needs_libarchive


@pytest.fixture(autouse=True)
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where volumes are unpacked to: a folder that is looked into afterwards."""
    folder = tmp_path / "room"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def comics(tmp_path: Path) -> dict[str, bytes]:
    """Volumes of every kind, by their names."""
    folder = tmp_path / "made"
    folder.mkdir()
    as_pdf = folder / "d.pdf"
    smooth((40, 60)).save(as_pdf, "PDF")
    return {
        "v2.cbz": make_zip(folder / "a.cbz", pictures(2, 2)).read_bytes(),
        "v10.cbr": make_rar(folder / "b.cbr", pictures(3, 10)).read_bytes(),
        "v1.cb7": make_7z(folder / "c.cb7", pictures(2, 1)).read_bytes(),
        "extra/p.pdf": as_pdf.read_bytes(),
        "extra/b.epub": make_zip(
            folder / "e.epub", epub([("a", "1.png")], {"OPS/1.png": picture(5)})
        ).read_bytes(),
    }


def read_all(found: Discovery) -> dict[str, bytes]:
    cache = VolumeCache(found.volumes, VolumeRules())
    try:
        return {
            page.source: cache.read(page.member.volume, page.member.index)
            for page in found.pages
            if page.member is not None
        }
    finally:
        cache.close()


@pytest.mark.parametrize(
    ("name", "make"),
    [("pack.zip", make_zip), ("pack.cbz", make_zip), ("pack.7z", make_7z), ("pack.tar", make_tar),
     ("pack.cbt", lambda path, inside: make_tar(path, inside, "w:gz")), ("pack.rar", make_rar)],
)  # fmt: skip
def test_every_volume_inside_is_one(
    tmp_path: Path, room: Path, name: str, make: Callable[[Path, dict[str, bytes]], Path]
) -> None:
    library = tmp_path / "in" / "series"
    library.mkdir(parents=True)
    make(library / name, {**comics(tmp_path), "readme.txt": b"x"})
    found = discover(tmp_path / "in", extension="png")
    around = f"series/{name}"
    assert [volume.entry.source for volume in found.volumes] == [
        f"{around}/{inside}" for inside in ("extra/b.epub", "extra/p.pdf", "v1.cb7", "v2.cbz", "v10.cbr")
    ]
    assert [volume.entry.output for volume in found.volumes] == [
        f"series/pack/{inside}" for inside in ("extra/b.cbz", "extra/p.cbz", "v1.cbz", "v2.cbz", "v10.cbz")
    ]
    assert {volume.failure for volume in found.volumes} == {None}
    pages = read_all(found)
    assert pages[f"{around}/v10.cbr/p03.png"] == pictures(3, 10)["p03.png"]
    assert pages[f"{around}/v1.cb7/p02.png"] == pictures(2, 1)["p02.png"]
    assert len(pages) == 2 + 3 + 2 + 1 + 1
    assert found.passed_over == {}
    assert list(room.iterdir()) == []
    # The archive may be the whole input, too.
    alone = discover(library / name, extension="png")
    assert len(alone.pages) == len(pages)
    assert alone.volumes[2].entry.output == "pack/v1.cbz"


def test_pages_beside_the_volumes_stay_a_volume_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    inside = make_zip(tmp_path / "v1.cbz", pictures(2)).read_bytes()
    make_zip(tmp_path / "in" / "pack.zip", {"cover.png": picture(7), "v1.cbz": inside, "notes.txt": b"x"})
    make_zip(tmp_path / "in" / "comic.cbz", {"1.png": picture(8), "bonus.cbz": inside})
    (tmp_path / "in" / "pack").mkdir()
    found = discover(tmp_path / "in", extension="png")
    assert [(volume.entry.source, volume.entry.output) for volume in found.volumes] == [
        ("comic.cbz", "comic.cbz"), ("pack.zip", "pack.cbz"), ("pack.zip/v1.cbz", "pack_2/v1.cbz")
    ]  # fmt: skip
    members = [
        [member.name for member in volume.contents.members] for volume in found.volumes if volume.contents
    ]
    # What a comic brings along stays in it.
    assert members == [["1.png", "bonus.cbz"], ["cover.png", "notes.txt"], ["p01.png", "p02.png"]]
    assert len(read_all(found)) == 4


def test_a_zip_of_zips(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    volume = make_zip(tmp_path / "v.zip", pictures(2)).read_bytes()
    fonts = make_zip(tmp_path / "f.zip", {"a.ttf": b"x"}).read_bytes()
    deeper = make_zip(tmp_path / "d.zip", {"v.zip": volume}).read_bytes()
    make_zip(tmp_path / "in" / "pack.zip", {"v1.zip": volume, "fonts.zip": fonts, "deeper.zip": deeper})
    make_zip(tmp_path / "in" / "fonts.zip", {"a.zip": fonts})
    found = discover(tmp_path / "in", extension="png")
    # Those inside of others inside are left: nobody packs so, but who wants to fill a disk.
    assert [volume.entry.source for volume in found.volumes] == ["pack.zip/v1.zip"]
    assert found.passed_over == {"archive without pages": 1}


@pytest.mark.parametrize("archive_output", ["cbz", "folder"])
def test_where_their_pages_go(tmp_path: Path, archive_output: str) -> None:
    (tmp_path / "in").mkdir()
    inside = make_zip(tmp_path / "v1.cbz", {**pictures(1), "p01.txt": b"caption"}).read_bytes()
    make_zip(tmp_path / "in" / "pack.zip", {"a/v1.cbz": inside, "a/v1.cbr": inside})
    found = discover(tmp_path / "in", extension="png", archive_output=archive_output)  # type: ignore[arg-type]
    outputs = sorted(page.output for page in found.pages)
    if archive_output == "folder":
        assert outputs == ["pack/a/v1/p01.png", "pack/a/v1_2/p01.png"]
        assert sorted(file.output for file in found.files) == ["pack/a/v1/p01.txt", "pack/a/v1_2/p01.txt"]
    else:
        assert outputs == [
            ".comic-upscale/volumes/pack/a/v1.cbz/00001.png",
            ".comic-upscale/volumes/pack/a/v1_cbr.cbz/00001.png",
        ]


def test_a_volume_inside_that_cannot_be_opened_is_a_failure_of_its_own(tmp_path: Path, room: Path) -> None:
    (tmp_path / "in").mkdir()
    good = make_zip(tmp_path / "v1.cbz", pictures(2)).read_bytes()
    path = make_zip(
        tmp_path / "in" / "pack.zip",
        {"a.cbz": good, "b.cbz": b"no archive", "c.cbz": b"", "d.cbr": b"Rar!\x1a\x07\x01\x00" + bytes(50)},
    )
    found = discover(tmp_path / "in", extension="png")
    assert {volume.entry.source: volume.failure and volume.failure[0] for volume in found.volumes} == {
        "pack.zip/a.cbz": None,
        "pack.zip/b.cbz": "damaged",
        "pack.zip/c.cbz": "empty",
        "pack.zip/d.cbr": "damaged",
    }
    # One that lies about its size is not unpacked any further.
    data = path.read_bytes()
    at = data.index(b"PK\1\2")
    path.write_bytes(data[: at + 24] + (50).to_bytes(4, "little") + data[at + 28 :])
    found = discover(tmp_path / "in", extension="png")
    assert found.volumes[0].failure is not None
    assert "more than the 50 bytes" in found.volumes[0].failure[1]
    assert list(room.iterdir()) == []


def test_bombs_inside_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    bomb = make_zip(tmp_path / "v1.cbz", {"1.png": bytes(80 << 20)}).read_bytes()
    make_zip(tmp_path / "in" / "pack.zip", {"a.cbz": bomb})
    (volume,) = discover(tmp_path / "in", extension="png").volumes
    assert volume.failure is not None
    assert volume.failure[0] == "bomb"


def test_an_archive_that_changed_meanwhile(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    inside = make_zip(tmp_path / "v1.cbz", pictures(2)).read_bytes()
    path = make_zip(tmp_path / "in" / "pack.zip", {"v1.cbz": inside, "v2.cbz": inside})
    found = discover(tmp_path / "in", extension="png")
    time = path.stat().st_mtime_ns
    make_zip(path, {"v1.cbz": inside + b"x", "v2.cbz": inside})
    for same_time in (False, True):
        if same_time:
            os.utime(path, ns=(time, time))
        cache = VolumeCache(found.volumes, VolumeRules())
        with pytest.raises(PageError) as caught:
            cache.read("pack.zip/v1.cbz", 0)
        assert caught.value.kind == "changed"
        cache.close()


def test_a_disk_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    inside = make_zip(tmp_path / "v1.cbz", pictures(2)).read_bytes()
    make_zip(tmp_path / "in" / "pack.zip", {"v1.cbz": inside})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    (volume,) = discover(tmp_path / "in", extension="png").volumes
    assert volume.failure is not None
    assert volume.failure[0] == "unreadable"


def test_an_archive_without_volumes_as_the_whole_input(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "pack.zip", {"a.txt": b"x", "fonts.zip": b"PK"})
    with pytest.raises(InputError, match="holds no image"):
        discover(path, extension="png")
