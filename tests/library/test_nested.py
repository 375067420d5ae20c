"""An archive of comics is a folder of volumes."""

from __future__ import annotations

import errno
import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from comic_upscale.errors import InputError, PageError
from comic_upscale.library.containers import list_volume
from comic_upscale.library.discover import discover
from comic_upscale.library.nested import find_volume
from comic_upscale.library.volume_reader import VolumeCache
from comic_upscale.settings.job import VolumeRules
from comic_upscale.storage.local import LocalSourceStore
from tests.archives import (
    break_checksum,
    epub,
    make_7z,
    make_tar,
    make_zip,
    needs_libarchive,
    picture,
    pictures,
    smooth,
)
from tests.rars import make_rar, make_rar_parts
from tests.volumes import read_pages

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
    pages = read_pages(found)
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
        ("comic.cbz", "comic.cbz"), ("comic.cbz/bonus.cbz", "comic/bonus.cbz"),
        ("pack.zip", "pack.cbz"), ("pack.zip/v1.cbz", "pack_2/v1.cbz"),
    ]  # fmt: skip
    members = [
        [member.name for member in volume.contents.members] for volume in found.volumes if volume.contents
    ]
    assert members == [["1.png"], ["p01.png", "p02.png"], ["cover.png", "notes.txt"], ["p01.png", "p02.png"]]
    assert len(read_pages(found)) == 6


def test_a_zip_of_zips(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    volume = make_zip(tmp_path / "v.zip", pictures(2)).read_bytes()
    fonts = make_zip(tmp_path / "f.zip", {"a.ttf": b"x"}).read_bytes()
    deeper = make_zip(tmp_path / "d.zip", {"v.zip": volume}).read_bytes()
    make_zip(tmp_path / "in" / "pack.zip", {"v1.zip": volume, "fonts.zip": fonts, "deeper.zip": deeper})
    make_zip(tmp_path / "in" / "fonts.zip", {"a.zip": fonts})
    found = discover(tmp_path / "in", extension="png")
    assert [(volume.entry.source, volume.entry.output) for volume in found.volumes] == [
        ("pack.zip/deeper.zip/v.zip", "pack/deeper/v.cbz"), ("pack.zip/v1.zip", "pack/v1.cbz")
    ]  # fmt: skip
    assert len(read_pages(found)) == 4
    assert found.passed_over == {"archive without pages": 1}


def test_volumes_that_are_deep_inside(tmp_path: Path, room: Path) -> None:
    (tmp_path / "in").mkdir()
    archives = [make_zip(tmp_path / "0.cbz", pictures(2)).read_bytes()]
    for depth in range(1, 5):
        inside = {f"level{depth - 1}.cbz": archives[-1], "page.png": picture(depth)}
        archives.append(make_zip(tmp_path / f"{depth}.cbz", inside).read_bytes())
    (tmp_path / "in" / "level3.cbz").write_bytes(archives[3])
    found = discover(tmp_path / "in", extension="png")
    assert [volume.failure for volume in found.volumes] == [None] * 4
    deepest = "level3.cbz/level2.cbz/level1.cbz/level0.cbz"
    assert [volume.entry.source for volume in found.volumes][-1] == deepest
    assert [volume.entry.output for volume in found.volumes] == [
        "level3.cbz", "level3/level2.cbz", "level3/level2/level1.cbz", "level3/level2/level1/level0.cbz"
    ]  # fmt: skip
    pages = read_pages(found)
    assert pages[f"{deepest}/p02.png"] == pictures(2)["p02.png"]
    assert pages["level3.cbz/level2.cbz/level1.cbz/page.png"] == picture(1)
    assert len(pages) == 5
    assert list(room.iterdir()) == []
    # Each is found again by its name alone.
    store = LocalSourceStore(tmp_path / "in")
    for volume in found.volumes:
        again = find_volume(volume.entry.source, VolumeRules(), store)
        assert again is not None
        assert (again.path, again.size, again.member) == (
            volume.entry.path, volume.entry.size, volume.entry.member
        )  # fmt: skip
    assert find_volume(f"{deepest}/none.cbz", VolumeRules(), store) is None
    # One more around them is one too many, and says so.
    (tmp_path / "in" / "level3.cbz").unlink()
    (tmp_path / "in" / "level4.cbz").write_bytes(archives[4])
    *whole, refused = discover(tmp_path / "in", extension="png").volumes
    assert [volume.failure for volume in whole] == [None] * 4
    assert refused.entry.source == f"level4.cbz/{deepest}"
    assert refused.failure is not None
    assert "inside 3 others" in refused.failure[1]


def test_all_volumes_inside_together_are_no_bomb(tmp_path: Path, room: Path) -> None:
    # Each archive alone is within the limits; unpacked one after the other, they are not.
    (tmp_path / "in").mkdir()
    innermost = make_zip(tmp_path / "i.cbz", pictures(1), zipfile.ZIP_STORED).read_bytes()
    middle = make_zip(tmp_path / "m.zip", {f"{at}.cbz": innermost for at in range(6)}).read_bytes()
    make_zip(tmp_path / "in" / "pack.zip", {f"{at}.zip": middle for at in range(6)})
    found = discover(tmp_path / "in", extension="png", rules=VolumeRules(max_members=20))
    failures = [volume.failure for volume in found.volumes if volume.failure]
    assert {kind for kind, _ in failures} == {"bomb"}
    assert "--max-members" in failures[0][1]
    assert 0 < sum(volume.failure is None for volume in found.volumes) < 20
    assert list(room.iterdir()) == []


def test_an_archive_that_holds_itself(tmp_path: Path) -> None:
    # As deep as a quine that unpacks to itself, as far as anybody looks.
    (tmp_path / "in").mkdir()
    data = make_zip(tmp_path / "x.zip", {"x.zip": b"PK"}).read_bytes()
    for _ in range(40):
        data = make_zip(tmp_path / "x.zip", {"x.zip": data}).read_bytes()
    (tmp_path / "in" / "x.zip").write_bytes(data)
    (volume,) = discover(tmp_path / "in", extension="png").volumes
    assert volume.failure is not None
    assert volume.failure[0] == "unsupported"


def test_parts_inside_an_archive_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    parts = make_rar_parts(tmp_path, lambda number: f"b.part{number + 1}.rar", pictures(6), 4000)
    make_zip(tmp_path / "in" / "pack.zip", {part.name: part.read_bytes() for part in parts})
    found = discover(tmp_path / "in", extension="png")
    assert found.pages == ()
    assert {volume.failure and volume.failure[0] for volume in found.volumes} == {"missing-part"}
    assert all("unpack that first" in (volume.failure or ("", ""))[1] for volume in found.volumes)


@pytest.mark.parametrize("name", ["v.cbr", "v.cb7"])
def test_an_archive_whose_last_file_is_a_zip_is_what_it_is(tmp_path: Path, name: str) -> None:
    # libarchive takes it for the ZIP whose end it finds at the end of the file.
    fonts = make_zip(tmp_path / "f.zip", {"a.ttf": b"x"}).read_bytes()
    inside = {**pictures(3), "fonts.zip": fonts}
    if name == "v.cbr":
        path = make_rar(tmp_path / name, inside)
    else:
        path = make_7z(tmp_path / name, inside, "compression=store")
    listed = list_volume(path, VolumeRules(), extension="png")
    assert [member.name for member in listed.members] == list(inside)


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
    fonts = make_zip(tmp_path / "f.zip", {"a.ttf": b"x"}).read_bytes()
    path = make_zip(tmp_path / "pack.zip", {"a.txt": b"x", "fonts.zip": fonts})
    with pytest.raises(InputError, match="holds no image"):
        discover(path, extension="png")
    path = make_zip(tmp_path / "broken.zip", {"a.txt": b"x", "a.cbz": b"PK"})
    with pytest.raises(InputError, match=r"broken\.zip/a\.cbz cannot be upscaled\. The volume is damaged"):
        discover(path, extension="png")


def test_a_file_that_cannot_be_unpacked_is_removed_once_it_is_closed(
    tmp_path: Path, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows removes no open file."""
    inner = make_zip(tmp_path / "made" / "v.cbz", pictures(2)).read_bytes()
    outer = make_zip(tmp_path / "pack.zip", {"v.cbz": inner}, zipfile.ZIP_STORED)
    break_checksum(outer, "v.cbz")
    opened: dict[Path, IO[Any]] = {}
    open_path, unlink = Path.open, Path.unlink

    def open_and_note(path: Path, *args: Any, **options: Any) -> IO[Any]:
        opened[path] = open_path(path, *args, **options)
        return opened[path]

    def refuse_open(path: Path, missing_ok: bool = False) -> None:
        if path in opened and not opened[path].closed:
            raise PermissionError(errno.EACCES, "it is being used by another process", str(path))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "open", open_and_note)
    monkeypatch.setattr(Path, "unlink", refuse_open)
    with pytest.raises(InputError, match="its checksum is wrong"):
        discover(outer, extension="png")
    assert any(path.is_relative_to(room) for path in opened)
    assert list(room.iterdir()) == []
