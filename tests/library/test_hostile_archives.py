"""Archives that would take all time or memory: refused in words, at once."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from comic_upscale.errors import PageError
from comic_upscale.library.containers import list_volume, open_container
from comic_upscale.settings.job import VolumeRules
from tests.archives import make_7z, make_tar, needs_libarchive, picture
from tests.rars import make_rar

RULES = VolumeRules()


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE, pax: dict[str, str] | None = None) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    info.pax_headers = pax or {}
    return info.tobuf(tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT)


def member(name: str, data: bytes, pax: dict[str, str] | None = None) -> bytes:
    return header(name, len(data), pax=pax) + data + bytes(-len(data) % 512)


def refusal(path: Path) -> PageError:
    before = time.monotonic()
    with pytest.raises(PageError) as caught:
        list_volume(path, RULES, extension="png")
    assert time.monotonic() - before < 20
    return caught.value


@pytest.mark.parametrize("number", ["-1536", "-512", "-2048"])
def test_a_tar_whose_next_header_is_before_this_one(tmp_path: Path, number: str) -> None:
    path = tmp_path / "v.cbt"
    path.write_bytes(
        member("1.png", picture(1)) + member("2.png", b"x", {"size": number}) + member("3.png", picture(3))
    )
    error = refusal(path)
    assert error.kind == "damaged"


def test_a_tar_with_a_negative_size_in_binary(tmp_path: Path) -> None:
    path = tmp_path / "v.cbt"
    odd = bytearray(header("2.png", 0))
    odd[124:136] = (-1024).to_bytes(12, "big", signed=True)
    odd[148:156] = b" " * 8
    odd[148:156] = b"%06o\0 " % sum(odd)
    path.write_bytes(member("1.png", picture(1)) + bytes(odd) + member("3.png", picture(3)) + bytes(1024))
    try:
        contents = list_volume(path, RULES, extension="png")
    except PageError as error:
        assert error.kind == "damaged"
    else:
        # Newer versions of Python take it for no header: then what is before it is read, and said.
        assert [page.name for page in contents.pages] == ["1.png"]
        assert contents.notes


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_a_tar_whose_extensions_are_endless(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "v.cbt"
    for extension in (
        header("h", 3 << 20, kind) + bytes(3 << 20),
        header("h", 1 << 40, kind),
        header("h", 9000, kind) + b"1" * 9000 + bytes(-9000 % 512),
        20 * (header("h", 10, kind) + b"10 a=bcde\n" + bytes(502)),
    ):
        for before in (b"", member("1.png", picture(1))):
            path.write_bytes(before + extension + member("2.png", picture(2)) + bytes(1024))
            assert refusal(path).kind == "damaged"


def test_a_sparse_file_of_a_pebibyte(tmp_path: Path) -> None:
    path = tmp_path / "v.cbt"
    pax = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "2.png",
           "GNU.sparse.realsize": str(1 << 50)}  # fmt: skip
    path.write_bytes(
        member("1.png", picture(1)) + member("x", b"1\n0\n1\n".ljust(513, b"\0"), pax) + bytes(1024)
    )
    assert refusal(path).kind in ("bomb", "damaged")


@needs_libarchive
@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_hostile_tar_that_is_compressed(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "v.cbt"
    good = member("1.png", picture(1))
    for odd in (
        member("2.png", b"x", {"size": "-1536"}) + member("3.png", picture(3)),
        header("h", 3 << 20, b"x") + bytes(3 << 20) + member("2.png", picture(2)) + bytes(1024),
        header("h", 1 << 40, b"x") + bytes(4096),
    ):
        path.write_bytes(pack(good + odd))
        contents = list_volume(path, RULES, extension="png")
        assert [page.name for page in contents.pages] == ["1.png"]
        assert "after 1 file(s), and the rest" in contents.notes[0]
    path.write_bytes(pack(good + header("2.png", 8 << 30) + bytes(1 << 20)))
    assert refusal(path).kind == "bomb"
    # Zeros are the end of a tar, however many there are.
    path.write_bytes(pack(good + bytes(50 << 20)))
    assert [page.name for page in list_volume(path, RULES, extension="png").pages] == ["1.png"]


@needs_libarchive
def test_members_of_other_archives_are_bounded_by_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import libarchive.entry

    data = picture(1)
    for path in (
        make_rar(tmp_path / "v.cbr", {"1.png": data}),
        make_7z(tmp_path / "v.cb7", {"1.png": data}),
        make_tar(tmp_path / "v.cbt", {"1.png": data}, "w:gz"),
    ):
        container = open_container(path, RULES)
        container.entries()
        with monkeypatch.context() as patch:
            # As if the directory said less than there is; libarchive itself is seldom to be fooled.
            patch.setattr(libarchive.entry.ArchiveEntry, "size", property(lambda self: 100))
            with pytest.raises(PageError, match="more than the 100 bytes that it claims"):
                container.read(0)
        with monkeypatch.context() as patch:
            patch.setattr(libarchive.entry.ArchiveEntry, "size", property(lambda self: None))
            assert container.read(0) == data
        container.close()
        small = open_container(path, VolumeRules(max_unpacked=100))
        with monkeypatch.context() as patch:
            patch.setattr(libarchive.entry.ArchiveEntry, "size", property(lambda self: None))
            small.entries()
            with pytest.raises(PageError, match="more than the 100 bytes that it claims"):
                small.read(0)
        small.close()


def test_files_that_came_out_wrong_once(faults_dir: Path) -> None:
    for name in ("neg.cbt", "neg.tar"):
        error = refusal(faults_dir / "hostile-remote" / name)
        assert error.kind == "damaged"
        assert "-1,536 bytes" in error.reason


def test_a_tar_in_memory_is_what_the_helpers_make(tmp_path: Path) -> None:
    path = tmp_path / "v.cbt"
    path.write_bytes(member("1.png", picture(1)) + bytes(1024))
    with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as archive:
        assert archive.getnames() == ["1.png"]
    assert len(list_volume(path, RULES, extension="png").pages) == 1
