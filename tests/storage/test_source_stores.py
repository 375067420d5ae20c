"""What every source store promises: the same pages and volumes wherever they are, read by no more than is asked."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import sys
import zipfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from comic_upscale.errors import InputError, PageError
from comic_upscale.library.containers import list_volume
from comic_upscale.library.discover import discover
from comic_upscale.library.nested import find_volume
from comic_upscale.library.page import MemberOf, Page
from comic_upscale.library.source_reader import SourceReader
from comic_upscale.settings.job import VolumeRules
from comic_upscale.storage.base import GONE, MAX_SOURCE_BYTES
from comic_upscale.storage.local import LocalSourceStore
from tests.archives import as_jpeg_pdf, make_7z, make_tar, make_zip, picture, pictures, smooth
from tests.jobs.test_run import as_nobody, open_folder
from tests.rars import make_rar_parts
from tests.storage.conftest import MakeSources
from tests.storage.memory import MemorySourceStore

__all__ = ["open_folder"]


def as_bytes(maker: object, tmp_path: Path, *arguments: object) -> bytes:
    path = tmp_path / "made"
    maker(path, *arguments)  # type: ignore[operator]
    data = path.read_bytes()
    path.unlink()
    return data


def test_a_folder_lists_what_is_in_it(make_sources: MakeSources) -> None:
    store = make_sources({"a/1.png": b"one", "a/deep/2.png": b"two", "b.txt": b"b"})
    assert store.is_there()
    assert store.is_folder()
    entries = {entry.name: entry for entry in store.list(os.fspath(store.root))}
    assert {name: (entry.is_dir(), entry.is_file()) for name, entry in entries.items()} == {
        "a": (True, False),
        "b.txt": (False, True),
    }
    assert entries["b.txt"].stat().st_size == 1
    deeper = {entry.name: entry.path for entry in store.list(entries["a"].path)}
    assert deeper.keys() == {"1.png", "deep"}
    assert store.read_now(Path(deeper["1.png"])) == b"one"
    assert store.address("a/1.png") == Path(deeper["1.png"])


def test_a_source_is_read_whole_and_by_ranges(make_sources: MakeSources) -> None:
    store = make_sources({"a/1.png": b"0123456789"})
    path = store.address("a/1.png")
    assert asyncio.run(store.read(path)) == store.read_now(path) == b"0123456789"
    with store.open(path) as file:
        assert file.seek(-3, io.SEEK_END) == 7
        assert file.read(2) == b"78"
    with store.local_path(path) as here:
        assert here.read_bytes() == b"0123456789"
    assert store.stat(path).size == 10
    assert store.stat(path.parent).kind == "folder"
    assert store.exists(path)
    assert store.may_read(path)


def test_a_source_that_is_not_there(make_sources: MakeSources) -> None:
    store = make_sources({"1.png": b"x"})
    path = store.address("none.png")
    with pytest.raises(PageError) as caught:
        asyncio.run(store.read(path))
    assert caught.value.kind == "vanished"
    for ask in (store.open, store.stat):
        with pytest.raises(FileNotFoundError):
            ask(path)
    with pytest.raises(FileNotFoundError), store.local_path(path) as here:
        here.open("rb")
    assert not store.exists(path)
    assert not store.may_read(path)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", ""])
def test_a_ledger_names_no_source_outside(make_sources: MakeSources, name: str) -> None:
    with pytest.raises(PageError) as caught:
        make_sources({"1.png": b"x"}).address(name)
    assert caught.value.kind == GONE


def test_real_folders_tell_what_is_inside(make_sources: MakeSources) -> None:
    store = make_sources({"a/b/1.png": b"x"})
    assert store.real_folder(store.address("a/b/1.png")) == store.real_folder() / "a" / "b"


def test_discovery_finds_the_same_wherever_it_is(make_sources: MakeSources, tmp_path: Path) -> None:
    objects = {
        "v2/p10.JPG": picture(1, format="JPEG"), "v2/p2.jpg": picture(2, format="JPEG"), "cover.png": picture(3),
        "cover.txt": b"a caption", "notes.md": b"notes", "v2/.hidden.png": b"x", "done/.comic-upscale/x": b"",
        "done/1.png": picture(4), "b.cbz": b"",
        "a.cbz": as_bytes(make_zip, tmp_path, {"x.png": picture(1), "y.png": picture(2)}),
    }  # fmt: skip
    store = make_sources(objects)
    found = discover(store.root, extension="png", store=store)
    assert [page.source for page in found.pages] == [
        "a.cbz/x.png", "a.cbz/y.png", "cover.png", "v2/p2.jpg", "v2/p10.JPG",
    ]  # fmt: skip
    assert [page.output for page in found.pages][2:] == ["cover.png", "v2/p2.png", "v2/p10.png"]
    assert {file.source: file.pages for file in found.files} == {
        "cover.txt": ("cover.png",),
        "notes.md": (),
    }
    assert [volume.failure and volume.failure[0] for volume in found.volumes] == [None, "empty"]
    assert found.passed_over == {"not an image": 1, "output of comic-upscale": 1}


@pytest.mark.parametrize("kind", ["zip", "tar", "7z", "pdf"])
def test_volumes_of_every_kind_are_read_through_the_store(
    make_sources: MakeSources, tmp_path: Path, kind: str
) -> None:
    inside = pictures(3)
    if kind == "pdf":
        data = as_bytes(as_jpeg_pdf, tmp_path, *[smooth((40, 60)) for _ in range(3)])
    else:
        data = as_bytes({"zip": make_zip, "tar": make_tar, "7z": make_7z}[kind], tmp_path, inside)
    store = make_sources({f"v.{kind}": data})
    found = discover(store.root, extension="png", store=store)
    with closing(SourceReader(store, found.volumes, VolumeRules())) as reader:
        read = [reader.read_now(page) for page in found.pages]
        assert [asyncio.run(reader.read(page)) for page in found.pages] == read
        assert [reader.in_order(page) for page in found.pages] == [kind in ("7z", "pdf")] * 3
    assert len(read) == 3
    if kind != "pdf":
        assert read == list(inside.values())


@pytest.mark.parametrize("kind", ["rar", "7z", "zip", "tar", "nested"])
def test_archives_in_parts_and_in_archives_are_read_through_the_store(
    make_sources: MakeSources, tmp_path: Path, kind: str
) -> None:
    inside = pictures(6)
    if kind == "rar":
        parts = make_rar_parts(tmp_path, lambda number: f"v.part{number + 1}.rar", inside, 5000)
        objects = {part.name: part.read_bytes() for part in parts}
    elif kind == "nested":
        data = as_bytes(make_zip, tmp_path, inside)
        objects = {"v.zip": as_bytes(make_zip, tmp_path, {"a/v.cbz": data})}
    else:
        data = as_bytes({"zip": make_zip, "tar": make_tar, "7z": make_7z}[kind], tmp_path, inside)
        objects = {
            f"v.{kind}.{at + 1:03}": data[at * 5000 : (at + 1) * 5000] for at in range(-(-len(data) // 5000))
        }
    assert len(objects) > 2 or kind == "nested"
    store = make_sources({f"in/{name}": data for name, data in objects.items()})
    found = discover(store.root, extension="png", store=store)
    (volume,) = found.volumes
    assert volume.failure is None
    assert volume.entry.output == ("in/v/a/v.cbz" if kind == "nested" else "in/v.cbz")
    with closing(SourceReader(store, found.volumes, VolumeRules())) as reader:
        assert [reader.read_now(page) for page in found.pages] == list(inside.values())
    assert find_volume(volume.entry.source, VolumeRules(), store) == replace(volume.entry, output="")


def test_of_a_remote_zip_only_the_directory_and_the_page_are_fetched(tmp_path: Path) -> None:
    inside = {f"{number}.png": os.urandom(400_000) for number in range(20)}
    store = MemorySourceStore({"v.cbz": as_bytes(make_zip, tmp_path, inside)})
    path = store.address("v.cbz")
    contents = list_volume(path, VolumeRules(), extension="png", store=store)
    assert len(contents.pages) == 20
    assert store.fetched < 100_000
    with store.open(path) as file, zipfile.ZipFile(file) as archive:
        archive.read("7.png")
    assert 400_000 < store.fetched < 1_000_000


def test_a_broken_volume_leaves_no_file_open(make_sources: MakeSources) -> None:
    store = make_sources(
        {"v.cbz": b"no zip", "v.cbt": b"no tar", "v.pdf": b"%PDF-1.4 no", "v.7z": b"7z\xbc\xaf\x27\x1c"}
    )
    for name in ("v.cbz", "v.cbt", "v.pdf", "v.7z"):
        with pytest.raises(PageError) as caught:
            list_volume(store.address(name), VolumeRules(), extension="png", store=store)
        assert caught.value.kind == "damaged"


def test_an_input_that_is_gone_is_told_from_a_page_that_is(make_sources: MakeSources, tmp_path: Path) -> None:
    store = make_sources({"1.png": b"x"})
    gone = Page("2.png", store.address("2.png"), "2.png", 1, 1)
    with closing(SourceReader(store, (), VolumeRules())) as reader:
        with pytest.raises(PageError):
            asyncio.run(reader.read(gone))
        if isinstance(store, MemorySourceStore):
            store.answers = False
        elif isinstance(store, LocalSourceStore):
            store.root.rename(tmp_path / "unplugged")
        else:
            # A bucket that does not answer has tests of its own: test_buckets.py.
            return
        with pytest.raises(InputError, match="gone"):
            asyncio.run(reader.read(gone))
        with pytest.raises(InputError, match="gone"):
            reader.read_now(gone)


def test_a_reader_hashes_pages_and_members(make_sources: MakeSources, tmp_path: Path) -> None:
    inside = {"p.png": picture(1)}
    store = make_sources({"1.png": b"one", "v.cbz": as_bytes(make_zip, tmp_path, inside)})
    found = discover(store.root, extension="png", store=store)
    page = Page("1.png", store.address("1.png"), "1.png", 3, 1)
    member = Page("v.cbz/p.png", store.address("v.cbz"), "", 3, 1, MemberOf("v.cbz", 0))
    with closing(SourceReader(store, found.volumes, VolumeRules())) as reader:
        assert reader.sha256(page) == hashlib.sha256(b"one").hexdigest()
        assert reader.sha256(member) == hashlib.sha256(inside["p.png"]).hexdigest()
        with reader.open(member) as file:
            assert file.read() == inside["p.png"]
        assert reader.sha256(Page("2.png", store.address("2.png"), "", 3, 1)) is None


# Of folders of this machine alone


def test_a_file_that_nobody_may_read(open_folder: Path) -> None:
    path = open_folder / "1.png"
    path.write_bytes(b"x")
    path.chmod(0)
    store = LocalSourceStore(open_folder)
    with as_nobody():
        with pytest.raises(PageError) as caught:
            store.read_now(path)
        assert caught.value.kind == "permission"
        assert not store.may_read(path)


def test_a_file_too_large_for_memory_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "1.png").open("wb") as file:
        file.truncate(MAX_SOURCE_BYTES + 1)
    with pytest.raises(PageError) as caught:
        LocalSourceStore(tmp_path).read_now(tmp_path / "1.png")
    assert caught.value.kind == "too-large"


def test_a_folder_called_like_a_page_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "1.png").mkdir()
    with pytest.raises(PageError) as caught:
        LocalSourceStore(tmp_path).read_now(tmp_path / "1.png")
    assert caught.value.kind in ("unreadable", "permission")


def test_a_single_file_names_what_is_beside_it(tmp_path: Path) -> None:
    (tmp_path / "cover.png").write_bytes(b"x")
    store = LocalSourceStore(tmp_path / "cover.png")
    assert not store.is_folder()
    assert store.address("cover.txt") == tmp_path / "cover.txt"


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
def test_a_linked_folder_is_the_real_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    store = LocalSourceStore(tmp_path)
    assert store.identity(str(tmp_path / "link")) == store.identity(str(tmp_path / "real"))
    assert store.identity(str(tmp_path / "none")) is None
    assert store.real_folder(tmp_path / "link" / "1.png") == Path(os.path.realpath(tmp_path)) / "real"
