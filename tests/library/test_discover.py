import os
import socket
import sys
from pathlib import Path

import pytest

from comic_upscale.errors import InputError
from comic_upscale.library.discover import Discovery, discover
from comic_upscale.library.page import MemberOf
from comic_upscale.library.sorting import natural_key
from tests.archives import make_zip

needs_links = pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")


def plant(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def sources(found: Discovery) -> list[str]:
    return [page.source for page in found.pages]


def outputs(found: Discovery) -> dict[str, str]:
    return {page.source: page.output for page in found.pages}


def test_pages_come_in_natural_order_with_their_tree(tmp_path: Path) -> None:
    plant(tmp_path, "v10/1.png", "v2/p10.JPG", "v2/p2.jpg", "v2/a/1.webp", "cover.jpeg")
    found = discover(tmp_path, extension="png")
    assert outputs(found) == {
        "cover.jpeg": "cover.png",
        "v2/a/1.webp": "v2/a/1.png",
        "v2/p2.jpg": "v2/p2.png",
        "v2/p10.JPG": "v2/p10.png",
        "v10/1.png": "v10/1.png",
    }
    assert sources(found) == sorted(sources(found), key=natural_key)
    assert list(outputs(found)) == ["cover.jpeg", "v2/a/1.webp", "v2/p2.jpg", "v2/p10.JPG", "v10/1.png"]
    page = found.pages[0]
    assert page.path == tmp_path / "cover.jpeg"
    assert (page.size, page.mtime_ns) == (1, page.path.stat().st_mtime_ns)


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    plant(tmp_path, "ComicInfo.xml", "README", "1.heic", "2.jxl")
    make_zip(tmp_path / "sources.zip", {"main.c": b"int main;"})
    found = discover(tmp_path, extension="png")
    assert found.passed_over == {"not an image": 2, "archive without pages": 1}
    assert sources(found) == ["1.heic", "2.jxl"]


def test_a_volume_that_cannot_be_opened_is_a_failure_and_not_passed_over(tmp_path: Path) -> None:
    plant(tmp_path, "a.cbz", "b.PDF", "c.zip")
    make_zip(tmp_path / "empty.cbz", {})
    found = discover(tmp_path, extension="png")
    assert found.pages == ()
    assert [volume.failure and volume.failure[0] for volume in found.volumes] == [
        "damaged",
        "damaged",
        "damaged",
        "no-pages",
    ]


def test_the_pages_of_volumes_stand_among_the_others_in_the_order_of_their_volume(tmp_path: Path) -> None:
    plant(tmp_path, "a/1.png", "z.png")
    make_zip(tmp_path / "a" / "v10.cbz", {"2.png": b"x", "1.png": b"xy", "read.me": b""})
    make_zip(tmp_path / "a" / "v2.zip", {"sub/1.jpg": b"x", "sub/1.png": b"x"})
    if sys.platform != "win32":
        (tmp_path / "link").symlink_to(tmp_path / "a")  # makes the walk sort again
    found = discover(tmp_path, extension="png")
    assert sources(found) == [
        "a/1.png",
        "a/v2.zip/sub/1.jpg",
        "a/v2.zip/sub/1.png",
        "a/v10.cbz/2.png",
        "a/v10.cbz/1.png",
        "z.png",
    ]
    assert [volume.entry.output for volume in found.volumes] == ["a/v2.cbz", "a/v10.cbz"]
    page = found.pages[4]
    assert page.output == ".comic-upscale/volumes/a/v10.cbz/00002.png"
    assert (page.size, page.path, page.member) == (2, tmp_path / "a" / "v10.cbz", MemberOf("a/v10.cbz", 1))
    assert found.volumes[0].contents is not None
    assert [member.target for member in found.volumes[0].contents.members] == ["sub/1_jpg.png", "sub/1.png"]


def test_volumes_of_one_name_and_folders_in_their_way(tmp_path: Path) -> None:
    inside = {"1.png": b"x"}
    plant(tmp_path, "v.cbz/1.png", "w/2.png")
    for name in ("v.zip", "w.cbz", "w.zip", "W.CBR"):
        make_zip(tmp_path / name, inside)
    found = discover(tmp_path, extension="png")
    assert {volume.entry.source: volume.entry.output for volume in found.volumes} == {
        "v.zip": "v_zip.cbz",
        "w.cbz": "w.cbz",
        "w.zip": "w_zip.cbz",
        "W.CBR": "W_cbr.cbz",
    }
    found = discover(tmp_path, extension="png", archive_output="folder")
    assert outputs(found) == {
        "v.cbz/1.png": "v.cbz/1.png",
        "v.zip/1.png": "v/1.png",
        "w/2.png": "w/2.png",
        "W.CBR/1.png": "W_2/1.png",
        "w.cbz/1.png": "w_3/1.png",
        "w.zip/1.png": "w_4/1.png",
    }


def test_one_volume(tmp_path: Path) -> None:
    make_zip(tmp_path / "v.cbz", {"1.png": b"x"})
    found = discover(tmp_path / "v.cbz", extension="png")
    assert outputs(found) == {"v.cbz/1.png": ".comic-upscale/volumes/v.cbz/00001.png"}
    assert found.volumes[0].entry.output == "v.cbz"


def test_litter_is_passed_over_without_a_word(tmp_path: Path) -> None:
    plant(tmp_path, "._1.png", ".hidden/1.png", "__MACOSX/1.png", "@eaDir/1.jpg", "Thumbs.db", ".DS_Store")
    plant(tmp_path, "#recycle/1.png", "@Recycle/1.png", "$RECYCLE.BIN/1.png", ".Trash-1000/files/1.png")
    assert discover(tmp_path, extension="png") == Discovery(())


def test_an_empty_folder_is_empty(tmp_path: Path) -> None:
    assert discover(tmp_path, extension="png") == Discovery(())


def test_one_file(tmp_path: Path) -> None:
    plant(tmp_path, "p.b.JPG")
    found = discover(tmp_path / "p.b.JPG", extension="webp")
    assert outputs(found) == {"p.b.JPG": "p.b.webp"}


@pytest.mark.parametrize(
    ("name", "advice"), [("none.png", "check the path"), ("a.txt", "image"), ("a.cbz", "damaged")]
)
def test_an_input_that_cannot_be(tmp_path: Path, name: str, advice: str) -> None:
    plant(tmp_path, "a.txt", "a.cbz")
    with pytest.raises(InputError, match=advice):
        discover(tmp_path / name, extension="png")


def test_outputs_are_not_taken_for_pages(tmp_path: Path) -> None:
    plant(tmp_path, "1.png", "out/1.png", "old/1.png", "old/.comic-upscale/ledger.db")
    found = discover(tmp_path, extension="png", exclude=[tmp_path / "v" / ".." / "out", tmp_path / "none"])
    assert sources(found) == ["1.png", "out/1.png"]  # "v" does not exist, so neither does the first path
    found = discover(tmp_path, extension="png", exclude=[tmp_path / "out"])
    assert sources(found) == ["1.png"]
    assert found.passed_over == {"output of comic-upscale": 1}


def test_clashes_are_settled_in_the_tree(tmp_path: Path) -> None:
    plant(tmp_path, "x.png/1.png", "x.jpg", "1.jpg", "1.webp")
    assert outputs(discover(tmp_path, extension="png")) == {
        "1.jpg": "1_jpg.png",
        "1.webp": "1_webp.png",
        "x.jpg": "x_jpg.png",
        "x.png/1.png": "x.png/1.png",
    }


def test_folders_that_differ_by_case_alone(tmp_path: Path) -> None:
    plant(tmp_path, "Vol/1.png", "vol/1.png")
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("this file system does not tell upper from lower case")
    assert outputs(discover(tmp_path, extension="png")) == {
        "Vol/1.png": "Vol/1.png",
        "vol/1.png": "vol_2/1.png",
    }


@needs_links
def test_links_never_hang_and_no_folder_is_entered_twice(tmp_path: Path) -> None:
    plant(tmp_path, "in/b/1.png", "far/9.png", "far/deep/8.png")
    root = tmp_path / "in"
    (root / "a").symlink_to(root / "b")  # sorts before what it points to
    (root / "b" / "up").symlink_to(root)
    (root / "z").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "back").symlink_to(root)
    assert sources(discover(root, extension="png")) == ["b/1.png", "z/9.png", "z/deep/8.png"]


@needs_links
def test_links_to_files_are_pages_and_broken_ones_too(tmp_path: Path) -> None:
    plant(tmp_path, "1.png")
    (tmp_path / "2.png").symlink_to("1.png")
    (tmp_path / "3.png").symlink_to("gone.png")
    (tmp_path / "4.png").symlink_to("4.png")
    (tmp_path / "5.txt").symlink_to("gone.txt")
    found = discover(tmp_path, extension="png")
    assert [(page.source, page.size) for page in found.pages] == [
        ("1.png", 1),
        ("2.png", 1),
        ("3.png", 0),
        ("4.png", 0),
    ]
    assert found.pages[2].mtime_ns == 0
    assert found.passed_over == {"not an image": 1}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_called_like_an_image_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "1.png")
    with socket.socket(socket.AF_UNIX) as server:
        where = Path(os.path.relpath(tmp_path / "2.png"))  # addresses are short
        try:
            server.bind(str(where))
        except OSError:
            pytest.skip("the path is too long for a socket")
        found = discover(tmp_path, extension="png")
    assert found == Discovery((), {"not a regular file": 2})


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps such names")
def test_names_that_are_no_unicode(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"d\xfe")
    folder.mkdir()
    (folder / os.fsdecode(b"p\xff.jpg")).write_bytes(b"x")
    (page,) = discover(tmp_path, extension="png").pages
    assert (page.source, page.output) == ("d%FE/p%FF.jpg", "d%FE/p%FF.png")
    assert page.path.read_bytes() == b"x"


def test_a_folder_that_cannot_be_listed_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, "1.png", "locked/2.png")
    real = os.scandir

    # Root may list anything, and tests run as root in places: so the refusal is made here.
    def refuse(path: str) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = discover(tmp_path, extension="png")
    assert sources(found) == ["1.png"]
    assert found.passed_over == {"unreadable folder": 1}
    assert "locked" in found.warnings[0]
    with pytest.raises(InputError, match="permissions"):
        discover(tmp_path / "locked", extension="png")
