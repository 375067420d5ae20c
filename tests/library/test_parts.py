"""Archives in several parts are one volume, or one clear reason."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from comic_upscale.errors import InputError, PageError
from comic_upscale.library import libarchive_archive
from comic_upscale.library.containers import list_volume, open_container
from comic_upscale.library.discover import discover
from comic_upscale.library.libarchive_archive import LibarchiveContainer
from comic_upscale.library.parts import JoinedFile, group_parts, is_part_name, whole_name
from comic_upscale.library.rar_headers import read_rar_facts
from comic_upscale.library.volume_reader import VolumeCache
from comic_upscale.settings.job import VolumeRules
from tests.archives import make_7z, make_tar, make_zip, needs_libarchive, pictures
from tests.rars import make_rar, make_rar_parts
from tests.volumes import read_pages

pytestmark = needs_libarchive

PAGES = pictures(6)


def new_style(number: int) -> str:
    return f"book.part{number + 1:02}.cbr"


def old_style(number: int) -> str:
    return "book.cbr" if number == 0 else f"book.r{number - 1:02}"


def cut(path: Path, count: int) -> list[Path]:
    """Cut a file into ``.001``, ``.002`` and so on, and remove it."""
    data = path.read_bytes()
    path.unlink()
    size = -(-len(data) // count)
    parts = [path.with_name(f"{path.name}.{number + 1:03}") for number in range(count)]
    for number, part in enumerate(parts):
        part.write_bytes(data[number * size : (number + 1) * size])
    return parts


@pytest.mark.parametrize("name", [new_style, old_style])
@pytest.mark.parametrize("version", [4, 5])
def test_the_parts_of_a_rar_are_one_book(tmp_path: Path, name: Callable[[int], str], version: int) -> None:
    parts = make_rar_parts(tmp_path, name, PAGES, 4000, version)
    assert len(parts) > 3
    found = discover(tmp_path, extension="png")
    (volume,) = found.volumes
    assert volume.failure is None
    assert volume.entry.source == parts[0].name
    assert volume.entry.output == "book.cbz"
    assert volume.entry.size == sum(part.stat().st_size for part in parts)
    assert read_pages(found) == {f"{parts[0].name}/{page}": data for page, data in PAGES.items()}
    assert (found.passed_over, found.files, found.warnings) == ({}, (), ())
    # The first part alone is the book, too; any other one is a mistake.
    assert read_pages(discover(parts[0], extension="png")) == read_pages(found)
    with pytest.raises(InputError, match=f"one of several parts.*{parts[0].name}"):
        discover(parts[1], extension="png")


@pytest.mark.parametrize("name", [new_style, old_style])
@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("missing", [0, 1, -1])
def test_a_part_that_is_missing_is_the_one_reason(
    tmp_path: Path, name: Callable[[int], str], version: int, missing: int
) -> None:
    parts = make_rar_parts(tmp_path, name, PAGES, 4000, version)
    parts[missing].unlink()
    found = discover(tmp_path, extension="png")
    (volume,) = found.volumes
    assert found.pages == ()
    assert volume.failure is not None
    kind, reason = volume.failure
    assert kind == "missing-part"
    assert f"part {len(parts) if missing == -1 else missing + 1} is missing" in reason
    assert "put all parts into one folder" in reason


def test_a_part_whose_name_says_nothing_is_refused(tmp_path: Path) -> None:
    parts = make_rar_parts(tmp_path, new_style, PAGES, 4000)
    for number, part in enumerate(parts):
        folder = tmp_path / str(number)
        folder.mkdir()
        shutil.move(part, folder / "scan.cbr")
    # The name may even be that of another kind of archive.
    shutil.move(tmp_path / "1" / "scan.cbr", tmp_path / "1" / "scan.cbz")
    found = discover(tmp_path, extension="png")
    assert len(found.volumes) == len(parts)
    assert {volume.failure[0] for volume in found.volumes if volume.failure} == {"missing-part"}
    assert "part 1 is missing (scan.cbr is part 3)" in (found.volumes[2].failure or ("", ""))[1]
    assert found.pages == ()


def test_comics_that_are_only_called_parts_are_two(tmp_path: Path) -> None:
    make_rar(tmp_path / "Saga.part1.cbr", {"1.png": PAGES["p01.png"]})
    make_rar(tmp_path / "Saga.part2.cbr", {"2.png": PAGES["p02.png"]})
    make_rar(tmp_path / "Other.cbr", {"1.png": PAGES["p03.png"]})
    (tmp_path / "Other.r00").write_bytes(b"not a RAR")
    found = discover(tmp_path, extension="png")
    assert [volume.entry.output for volume in found.volumes] == [
        "Other.cbz",
        "Saga.part1.cbz",
        "Saga.part2.cbz",
    ]
    assert [volume.failure for volume in found.volumes[1:]] == [None, None]
    # What is called like a part of a whole RAR is left alone.
    assert found.volumes[0].failure is None


def test_two_sets_beside_each_other_and_a_book_of_the_same_name(tmp_path: Path) -> None:
    make_rar_parts(tmp_path, new_style, PAGES, 4000)
    make_rar_parts(tmp_path, lambda number: f"Other.part{number + 1}.rar", PAGES, 9000)
    make_zip(tmp_path / "book.cbz", {"1.png": PAGES["p01.png"]})
    found = discover(tmp_path, extension="png")
    outputs = [volume.entry.output for volume in found.volumes]
    assert len(set(outputs)) == 3
    assert "Other.cbz" in outputs
    assert {volume.failure for volume in found.volumes} == {None}


@pytest.mark.parametrize("archive_output", ["cbz", "folder"])
def test_the_pages_of_a_book_in_parts_go_where_those_of_a_whole_one_would(
    tmp_path: Path, archive_output: str
) -> None:
    make_rar_parts(tmp_path, new_style, PAGES, 4000)
    found = discover(tmp_path, extension="png", archive_output=archive_output)  # type: ignore[arg-type]
    folder = "book/" if archive_output == "folder" else ".comic-upscale/volumes/book.cbz/"
    assert all(page.output.startswith(folder) for page in found.pages)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("book.7z", make_7z),
        ("book.cb7", make_7z),
        ("book.cbz", make_zip),
        ("book.zip", make_zip),
        ("book.cbt", make_tar),
        ("book.tar", lambda path, inside: make_tar(path, inside, "w:gz")),
    ],
)
def test_archives_that_were_cut_into_pieces(tmp_path: Path, name: str, make: Callable[..., Path]) -> None:
    parts = cut(make(tmp_path / name, PAGES), 4)
    found = discover(tmp_path, extension="png")
    (volume,) = found.volumes
    assert volume.failure is None
    assert volume.entry.output == "book.cbz"
    assert list(read_pages(found).values()) == list(PAGES.values())
    assert found.passed_over == {}
    assert len(discover(parts[0], extension="png").pages) == len(PAGES)
    parts[2].unlink()
    (volume,) = discover(tmp_path, extension="png").volumes
    assert volume.failure is not None
    assert volume.failure[0] == "missing-part"
    assert "part 3 is missing" in volume.failure[1]


@pytest.mark.skipif(shutil.which("zip") is None, reason="zip is not here: apt-get install zip")
def test_a_zip_in_parts_as_the_program_makes_it(tmp_path: Path) -> None:
    pages = {f"p{at}.png": data for at, data in enumerate(pictures(60).values())}
    for name, data in pages.items():
        (tmp_path / name).write_bytes(data)
    inside = tmp_path / "in"
    inside.mkdir()
    subprocess.run(
        ["zip", "-q", "-s", "64k", str(inside / "book.zip"), *pages],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    names = sorted(path.name for path in inside.iterdir())
    assert names == ["book.z01", "book.z02", "book.zip"]
    found = discover(inside, extension="png")
    assert {source.rpartition("/")[2]: data for source, data in read_pages(found).items()} == pages
    assert found.volumes[0].entry.output == "book.cbz"
    assert found.passed_over == {}
    with pytest.raises(InputError, match=r"book\.zip"):
        discover(inside / "book.z01", extension="png")
    (inside / "book.z01").unlink()
    (volume,) = discover(inside, extension="png").volumes
    assert volume.failure is not None
    assert volume.failure[0] == "missing-part"
    (inside / "book.z02").unlink()
    (volume,) = discover(inside, extension="png").volumes
    assert volume.failure is not None
    assert volume.failure[0] == "missing-part"
    assert "3 parts" in volume.failure[1]


def test_a_book_in_parts_that_changed_is_seen(tmp_path: Path) -> None:
    parts = make_rar_parts(tmp_path, new_style, PAGES, 4000)
    found = discover(tmp_path, extension="png")
    cache = VolumeCache(found.volumes, VolumeRules())
    parts[-1].write_bytes(parts[-1].read_bytes() + b"more")
    with pytest.raises(PageError) as caught:
        cache.read(parts[0].name, 0)
    assert caught.value.kind == "changed"
    cache.close()


@pytest.mark.parametrize("version", [4, 5])
def test_a_rar_that_is_cut_short_says_so(tmp_path: Path, version: int) -> None:
    path = make_rar(tmp_path / "v.cbr", PAGES, version)
    data = path.read_bytes()
    starts = [data.index(page) for page in PAGES.values()]
    for end, count in ((starts[3] + 100, 3), (starts[4] - 5, 4), (starts[5] + len(PAGES["p06.png"]) - 1, 5)):
        path.write_bytes(data[:end])
        contents = list_volume(path, VolumeRules(), extension="png")
        assert [member.name for member in contents.pages] == list(PAGES)[:count]
        assert contents.notes == (
            f"the archive is cut short after {count} file(s), and the rest is missing: copy or download it again",
        )
    path.write_bytes(data[: starts[0] + 10])
    with pytest.raises(PageError):
        list_volume(path, VolumeRules(), extension="png")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_a_tar_that_is_cut_short_says_so(tmp_path: Path, mode: str) -> None:
    # Large enough for libarchive, which unpacks some 100 kB ahead.
    inside = pictures(200)
    path = make_tar(tmp_path / "v.cbt", inside, mode)
    whole = path.read_bytes()
    ends = [len(whole) * 3 // 4]
    if mode == "w":
        with tarfile.open(path) as archive:
            ends += [archive.getmembers()[100].offset + part for part in (0, 100, 512, 700)]
    for end in ends:
        path.write_bytes(whole[:end])
        contents = list_volume(path, VolumeRules(), extension="png")
        count = len(contents.pages)
        assert 50 < count < 200
        assert [member.name for member in contents.pages] == list(inside)[:count]
        assert contents.notes == (
            f"the archive is cut short after {count} file(s), and the rest is missing: copy or download it again",
        )
        container = open_container(path, VolumeRules())
        assert [container.read(member.index) for member in contents.pages] == list(inside.values())[:count]
        container.close()


def test_a_tar_that_is_damaged_in_its_midst_says_so(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "v.cbt", PAGES)
    data = bytearray(path.read_bytes())
    at = data.index(b"p04.png")
    data[at : at + 512] = b"x" * 512
    path.write_bytes(bytes(data))
    contents = list_volume(path, VolumeRules(), extension="png")
    assert [member.name for member in contents.pages] == ["p01.png", "p02.png", "p03.png"]
    assert contents.notes == (
        "the archive is damaged after 3 file(s), and the rest cannot be found: copy or download it again",
    )


def test_names_of_parts() -> None:
    names = ["a.part1.rar", "A.PART2.RAR", "b.rar", "b.r00", "b.r01", "c.rar", "d.7z.001", "d.7z.002", "e.zip", "e.z01",
             "f.part2.rar", "g.zip", "h.txt", "i.r00", "j.s01"]  # fmt: skip
    groups = {(parts.way, parts.names, parts.gaps) for parts in group_parts(names)}
    assert groups == {
        ("rar", ("a.part1.rar", "A.PART2.RAR"), ()),
        ("rar", ("b.rar", "b.r00", "b.r01"), ()),
        ("cut", ("d.7z.001", "d.7z.002"), ()),
        ("zip", ("e.z01", "e.zip"), ()),
        ("rar", ("f.part2.rar",), (1,)),
        ("rar", ("i.r00",), (1,)),
        ("rar", ("j.s01",), tuple(range(1, 103))),
    }
    assert [is_part_name(name) for name in ("a.7z.001", "a.r00", "a.z01", "a.rar", "a.part1.rar")] == [
        True, True, True, False, False
    ]  # fmt: skip
    assert [whole_name(name) for name in ("a.cbz.001", "a.part1.cbr", "a.cbz")] == ["a.cbz", "a.cbr", "a.cbz"]


def test_hostile_headers_of_a_rar_end() -> None:
    for start in (b"Rar!\x1a\x07\0", b"Rar!\x1a\x07\1\0"):
        for rest in (b"", b"\0" * 100, b"\xff" * 100, bytes(range(256)) * 50):
            facts = read_rar_facts(io.BytesIO(start + rest))
            assert not facts.more_follow or facts.is_part


def test_a_joined_file(tmp_path: Path) -> None:
    paths = []
    for number, data in enumerate((b"abc", b"", b"defgh", b"i")):
        paths.append(tmp_path / str(number))
        paths[-1].write_bytes(data)
    with io.BufferedReader(JoinedFile([path.open("rb") for path in paths])) as file:
        assert file.read() == b"abcdefghi"
        assert file.seek(-4, io.SEEK_END) == 5
        assert file.read(2) == b"fg"
        assert file.seek(2) == 2
        assert file.read(4) == b"cdef"
        assert file.seek(99) == 99
        assert file.read() == b""


def test_a_plain_zip_costs_no_look_at_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_zip(tmp_path / "v.cbz", PAGES, zipfile.ZIP_STORED)
    monkeypatch.setattr(os, "scandir", lambda path: pytest.fail("the folder was listed"))
    assert len(list_volume(path, VolumeRules(), extension="png").pages) == 6


def test_files_that_came_out_wrong_once(faults_dir: Path) -> None:
    found = discover(faults_dir / "rar-parts", extension="png")
    (volume,) = found.volumes
    assert volume.entry.output == "book.cbz"
    assert list(read_pages(found)) == [f"book.part1.rar/{number}.png" for number in range(3)]


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Paths as libarchive takes them on a Windows of western Europe."""

    def find(name: str) -> codecs.CodecInfo | None:
        return codecs.lookup("cp1252") if name == "mbcs" else None

    codecs.register(find)
    monkeypatch.setattr(libarchive_archive, "os", SimpleNamespace(**{**vars(os), "name": "nt"}))
    yield
    codecs.unregister(find)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every name is Unicode")
@pytest.mark.usefixtures("windows")
def test_the_parts_of_a_rar_have_names_in_the_encoding_of_windows(tmp_path: Path) -> None:
    parts = make_rar_parts(tmp_path, lambda number: f"Asterix é.part{number + 1}.rar", PAGES, 4000)
    for part in parts:
        # Where Linux looks for the bytes that Windows takes for this name.
        shutil.copyfile(part, os.fsdecode(str(part).encode("cp1252")))
    for part in parts[1:]:
        part.write_bytes(bytes(part.stat().st_size))
    with contextlib.closing(LibarchiveContainer(parts, VolumeRules(), are_volumes=True)) as container:
        # Not `read`, which compares with the headers that this program reads itself.
        found = [container.salvage(index) for index in range(len(container.entries()))]
    assert found == list(PAGES.values())


@pytest.mark.usefixtures("windows")
def test_parts_whose_names_windows_cannot_pass_on_are_refused(tmp_path: Path) -> None:
    parts = make_rar_parts(tmp_path, lambda number: f"漫画.part{number + 1}.rar", PAGES, 4000)
    with (
        contextlib.closing(LibarchiveContainer(parts, VolumeRules(), are_volumes=True)) as container,
        pytest.raises(PageError, match="names of plain letters") as caught,
    ):
        container.entries()
    assert caught.value.kind == "unsupported"
