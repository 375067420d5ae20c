"""ZIPs from reports of other readers of comics: each came out wrong somewhere."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from comic_upscale.errors import PageError
from tests.archives import make_zip, picture, pictures
from tests.volumes import contents, read_all


def local_header(name: bytes, data: bytes) -> bytes:
    fields = struct.pack("<5H3L2H", 20, 0, 0, 0, 0, zlib.crc32(data), len(data), len(data), len(name), 0)
    return b"PK\3\4" + fields + name


def central_header(name: bytes, data: bytes, offset: int, extra: bytes = b"") -> bytes:
    fields = struct.pack(
        "<6H3L5H2L", 20, 20, 0, 0, 0, 0, zlib.crc32(data), len(data), len(data), len(name), len(extra),
        0, 0, 0, 0, offset,
    )  # fmt: skip
    return b"PK\1\2" + fields + name + extra


def test_a_name_with_a_leading_slash_is_a_page(tmp_path: Path) -> None:
    # Archive.org and others pack "/001.jpg"; programs on Windows pack "C:\Scans\002.jpg".
    path = make_zip(tmp_path / "v.cbz", {"/001.png": picture(1), "C:\\Scans\\002.png": picture(2)})
    assert read_all(path) == {"001.png": picture(1), "Scans/002.png": picture(2)}
    assert contents(path).notes == ()


def test_a_name_that_ends_with_a_space_or_a_dot_is_a_page(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "v.cbz", {"1.png": picture(1), "2.png ": picture(2), "a /3.PNG.": picture(3)})
    assert sorted(page.target or "" for page in contents(path).pages) == ["1.png", "2.png", "a /3.png"]


def test_a_name_that_climbs_out_is_still_left_out(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "v.cbz", {"1.png": picture(1), "/../2.png": picture(2), "a/../../3.png": b"x"})
    assert list(read_all(path)) == ["1.png"]
    assert contents(path).notes == ("2 member(s) whose names lead outside were left out",)


def test_offsets_beyond_four_gibibytes_without_zip64(tmp_path: Path) -> None:
    # The Archive Utility of macOS writes the lower 32 bits of each offset. The file is sparse.
    path = tmp_path / "v.cbz"
    pages = pictures(4)
    places = (0, 5000, (1 << 32) + 100, (1 << 32) + 9000)
    central = b""
    with path.open("wb") as file:
        for place, (name, data) in zip(places, pages.items(), strict=True):
            file.seek(place)
            file.write(local_header(name.encode(), data) + data)
            central += central_header(name.encode(), data, place % (1 << 32))
        start = (1 << 32) + 20_000
        file.seek(start)
        file.write(
            central + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 4, 4, len(central), start % (1 << 32), 0)
        )
    assert read_all(path) == pages
    assert contents(path).notes == ()


def test_an_end_record_without_numbers_before_a_zip64(tmp_path: Path) -> None:
    # PHPZipStreamer, and so ownCloud and Nextcloud: every number of the short record is -1.
    path = tmp_path / "v.cbz"
    data = picture(1)
    extra = struct.pack("<2H2QQ", 1, 24, len(data), len(data), 0)
    head = bytearray(central_header(b"1.png", data, 0xFFFFFFFF, extra))
    head[20:28] = b"\xff" * 8
    local = local_header(b"1.png", data) + data
    end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, len(head), len(local))
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(local) + len(head), 1)
    path.write_bytes(local + head + end + locator + b"PK\5\6" + b"\xff" * 16 + b"\0\0")
    assert read_all(path) == {"1.png": data}


def test_a_member_that_the_directory_has_twice(tmp_path: Path) -> None:
    # Some versions of `zipfile` call it a bomb. It is one page, and a copy of it.
    path = tmp_path / "v.cbz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in pictures(2).items():
            archive.writestr(name, data)
        archive.filelist.append(archive.filelist[0])
    data = pictures(2)
    assert read_all(path) == {**data, "p01_2.png": data["p01.png"]}
    assert contents(path).notes == ("1 member(s) of a name that another has were given a number",)


def test_a_flag_for_encryption_that_lies_loses_no_page(tmp_path: Path) -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = make_zip(tmp_path / "v.cbz", {**pictures(3), "empty.txt": b""}, method)
        data = bytearray(path.read_bytes())
        with zipfile.ZipFile(path) as archive:
            starts = [info.header_offset for info in archive.infolist()]
        for start in starts:
            data[start + 6] |= 1
        at = data.find(b"PK\1\2")
        while at >= 0:
            data[at + 8] |= 1
            at = data.find(b"PK\1\2", at + 4)
        path.write_bytes(bytes(data))
        assert read_all(path) == {**pictures(3), "empty.txt": b""}
        assert contents(path).notes == ()


def test_odd_attributes_lose_no_page(tmp_path: Path) -> None:
    # A folder, a device, a link, and no mode at all: each holds a page.
    path = tmp_path / "v.cbz"
    pages = pictures(6)
    odd = [0o040755 << 16, 0o020644 << 16, 0o120777 << 16, 0, 0x10, (0o040000 << 16) | 0x10]
    with zipfile.ZipFile(path, "w") as archive:
        for (name, data), attributes in zip(pages.items(), odd, strict=True):
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, attributes
            archive.writestr(info, data)
            # What `writestr` makes of no attributes is undone.
            info.external_attr = attributes
    assert read_all(path) == pages


def test_members_that_share_their_data_are_a_bomb(tmp_path: Path) -> None:
    # The kernel of a "better zip bomb": thousands of members, all of one block of data.
    path = tmp_path / "v.cbz"
    real = zlib.compress(bytes(1 << 20))[2:-4]
    head = struct.pack("<5H3L2H", 20, 0, 8, 0, 0, zlib.crc32(bytes(1 << 20)), len(real), 1 << 20, 5, 0)
    local = b"PK\3\4" + head + b"0.png" + real
    one = bytearray(central_header(b"0.png", b"", 0))
    one[10:12] = b"\x08\0"
    one[16:28] = struct.pack("<3L", zlib.crc32(bytes(1 << 20)), len(real), 1 << 20)
    central = bytes(one) * 5000
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 5000, 5000, len(central), len(local), 0)
    path.write_bytes(local + central + end)
    with pytest.raises(PageError) as caught:
        contents(path)
    assert caught.value.kind == "bomb"


def test_bytes_before_and_after_a_zip(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "v.cbz", pictures(3))
    path.write_bytes(b"#!/bin/sh\nexit\n" * 50 + path.read_bytes() + b"\0" * 5000)
    assert read_all(path) == pictures(3)
    assert contents(path).notes == ()


def test_a_cut_zip_of_zips_is_not_taken_for_the_one_inside(tmp_path: Path) -> None:
    inner = make_zip(tmp_path / "i.cbz", pictures(2, 7)).read_bytes()
    pages = pictures(3)
    path = make_zip(
        tmp_path / "v.cbz", {**pages, "bonus.cbz": inner, "z.png": picture(9)}, zipfile.ZIP_STORED
    )
    data = path.read_bytes()
    # Right after the whole file inside, and its end record.
    path.write_bytes(data[: data.index(inner) + len(inner) + 40])
    assert [member.name for member in contents(path).pages] == list(pages)
    assert [nested.name for nested in contents(path).nested] == ["bonus.cbz"]
    assert "cut short after 4 file(s)" in contents(path).notes[0]


def test_local_headers_with_other_names_than_the_directory(tmp_path: Path) -> None:
    # Pages in a folder: slashes in the directory, backslashes before the files.
    path = make_zip(tmp_path / "v.cbz", {"chapter/1.png": picture(1), "chapter/2.png": picture(2)})
    data = path.read_bytes()
    path.write_bytes(data.replace(b"chapter/", b"chapter\\", 2))
    with zipfile.ZipFile(path) as archive, pytest.raises(zipfile.BadZipFile, match="differ"):
        archive.read("chapter/1.png")
    assert read_all(path) == {"chapter/1.png": picture(1), "chapter/2.png": picture(2)}


def test_local_headers_without_sizes_or_with_wrong_ones(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "v.cbz", pictures(2))
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        starts = [info.header_offset for info in archive.infolist()]
    for start, wrong in zip(starts, (0, 0xFFFFFFFF), strict=True):
        data[start + 14 : start + 26] = struct.pack("<3L", wrong, wrong, wrong)
    path.write_bytes(bytes(data))
    assert read_all(path) == pictures(2)


def test_broken_extra_fields_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "v.cbz"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        info = zipfile.ZipInfo("1.png")
        info.extra = struct.pack("<2H", 0xCAFE, 4) + b"data"
        archive.writestr(info, picture(1))
    path.write_bytes(file.getvalue().replace(struct.pack("<2H", 0xCAFE, 4), struct.pack("<2H", 0xCAFE, 4000)))
    assert read_all(path) == {"1.png": picture(1)}
