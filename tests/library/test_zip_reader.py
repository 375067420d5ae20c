"""ZIPs as programs write them: read as `unzip` and libarchive do, and never beyond what they claim."""

from __future__ import annotations

import bz2
import errno
import io
import lzma
import resource
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comic_upscale.errors import PageError
from comic_upscale.library.containers import open_container
from comic_upscale.library.zip_packing import BadZipError, unpack
from comic_upscale.library.zip_reader import ZipReader
from tests.archives import make_zip, needs_libarchive, picture, pictures
from tests.conftest import REPOSITORY
from tests.volumes import RULES, contents, read_all

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
ZSTANDARD_FRAME = b"\x28\xb5\x2f\xfd"
PACKINGS = [*METHODS, 95, *(pytest.param(method, marks=needs_libarchive) for method in (93, 20))]
"""The methods that are read. XZ and the two numbers of Zstandard are not in `zipfile`."""


def patched(path: Path, where: bytes, offset: int, value: bytes) -> Path:
    """Overwrite bytes behind every occurrence of a signature."""
    data = bytearray(path.read_bytes())
    at = data.find(where)
    while at >= 0:
        data[at + offset : at + offset + len(value)] = value
        at = data.find(where, at + 4)
    path.write_bytes(bytes(data))
    return path


def streamed(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A ZIP that was written into a pipe: sizes stand behind the files."""

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: int) -> int:
            raise io.UnsupportedOperation

        def tell(self) -> int:
            raise io.UnsupportedOperation

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return pipe.getvalue()


# --- the same as the standard library


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.text(st.characters(codec="utf-8"), min_size=1, max_size=9), st.binary(max_size=300)),
             max_size=6, unique_by=lambda pair: pair[0]),
    st.sampled_from(METHODS), st.binary(max_size=9), st.binary(max_size=30),
)  # fmt: skip
def test_what_zipfile_writes_is_read(
    members: list[tuple[str, bytes]], method: int, before: bytes, comment: bytes
) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.comment = comment
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, method)
    file = io.BytesIO(before + file.getvalue())
    reader = ZipReader(file)
    found = list(reader.members())
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        assert [(member.size, member.packed, member.checksum) for member in found] == [
            (info.file_size, info.compress_size, info.CRC) for info in infos
        ]
        assert [b"".join(reader.unpack(member)) for member in found] == [data for _, data in members]
    assert reader.comment == comment
    assert reader.ending == "directory"


def test_a_zip64(tmp_path: Path) -> None:
    path = tmp_path / "v.cbz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in pictures(3).items():
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as member:
                member.write(data)
    data = path.read_bytes()
    at = data.rindex(b"PK\5\6")
    size, offset = struct.unpack_from("<LL", data, at + 12)
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 3, 3, size, offset)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, at, 1)
    end = data[at : at + 8] + b"\xff" * 12 + data[at + 20 :]
    path.write_bytes(data[:at] + record + locator + end)
    with zipfile.ZipFile(path) as archive:
        assert len(archive.namelist()) == 3
    assert read_all(path) == pictures(3)
    path.write_bytes(b"MZ before" + path.read_bytes())
    assert read_all(path) == pictures(3)


# --- names


@pytest.mark.parametrize(
    ("central", "local"),
    [
        (b"a/1.png", b"a\\1.png"),
        (b"a\\1.png", b"a/1.png"),
        ("é1.png".encode(), b"\x82_1.png"),
        (b"a/1.png", b"b/2.png"),
        (b"a/1.png", b"\xff\xfe\xfd/1.p"),
    ],
)
def test_a_name_that_is_another_before_the_file(tmp_path: Path, central: bytes, local: bytes) -> None:
    path = make_zip(tmp_path / "v.cbz", {"a" * len(central): picture(1), "2.png": picture(2)})
    data = path.read_bytes()
    plain = b"a" * len(central)
    first = data.index(plain)
    data = data[:first] + local[: len(plain)] + data[first + len(plain) :]
    path.write_bytes(data.replace(plain, central))
    wanted = central.decode().replace("\\", "/")
    assert read_all(path) == {wanted: picture(1), "2.png": picture(2)}


def test_a_name_of_another_length_before_the_file(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "v.cbz", {"folder/1.png": picture(1)}, zipfile.ZIP_STORED)
    data = path.read_bytes()
    # Before the file the name is "1.png", and seven bytes of extra fields follow.
    changed = data[:26] + struct.pack("<HH", 5, 7) + b"1.png" + b"\0\0\3\0abc" + data[42:]
    assert len(changed) == len(data)
    path.write_bytes(changed)
    assert read_all(path) == {"folder/1.png": picture(1)}


# --- attributes


@pytest.mark.parametrize("system", [0, 3, 10, 19])
@pytest.mark.parametrize(
    "attributes",
    [
        0x10,
        0xFFFFFFFF,
        0o040755 << 16,
        0o120777 << 16,
        0o010644 << 16,
        0o020644 << 16,
        0o140644 << 16,
        0x4000 << 16,
    ],
)
def test_odd_attributes_do_not_lose_a_page(tmp_path: Path, system: int, attributes: int) -> None:
    path = tmp_path / "v.cbz"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("1.png", "info.txt"):
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = system, attributes
            archive.writestr(info, picture(1) if name == "1.png" else picture(2))
    assert read_all(path) == {"1.png": picture(1), "info.txt": picture(2)}


def test_links_folders_and_devices_are_still_none(tmp_path: Path) -> None:
    path = tmp_path / "v.cbz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, mode, content in (
            ("link.png", 0o120777, "1.png"),
            ("far.png", 0o120777, "../../../etc/passwd"),
            ("pipe.png", 0o010644, ""),
            ("folder.png/", 0o040755, ""),
            ("windows.png\\", 0, ""),
            ("1.png", 0o100644, picture(1)),
        ):
            info = zipfile.ZipInfo("x")
            info.filename = name
            info.create_system, info.external_attr = 3, mode << 16
            archive.writestr(info, content)
    assert read_all(path) == {"1.png": picture(1)}
    assert contents(path).notes == ("3 member(s) that are links or devices were left out",)


# --- cut short


@pytest.mark.parametrize("kind", ["plain", "streamed", "stored and streamed", "bzip2"])
def test_a_cut_zip_gives_the_pages_before_the_cut(tmp_path: Path, kind: str) -> None:
    inside = {**pictures(6), "ComicInfo.xml": b"<ComicInfo/>"}
    path = tmp_path / "v.cbz"
    if kind in ("plain", "bzip2"):
        make_zip(path, inside, zipfile.ZIP_BZIP2 if kind == "bzip2" else zipfile.ZIP_DEFLATED)
    else:
        path.write_bytes(streamed(inside, zipfile.ZIP_STORED if "stored" in kind else zipfile.ZIP_DEFLATED))
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        starts = [info.header_offset for info in archive.infolist()]
    assert read_all(path) == inside
    for cut, count in (
        (starts[3] + 600, 3),
        (starts[4], 4),
        (starts[1] + 10, 1),
        (starts[1] + 2, 1),
    ):
        path.write_bytes(whole[:cut])
        assert read_all(path) == dict(list(inside.items())[:count])
        assert contents(path).notes == (
            f"the archive is cut short after {count} file(s), and the rest is missing: copy or download it again",
        )
    path.write_bytes(whole[: starts[0] + 700])
    with pytest.raises(PageError) as caught:
        contents(path)
    assert caught.value.kind == "damaged"


@pytest.mark.parametrize("cut", [5, 22, 60, 120])
def test_a_zip_whose_directory_is_cut_loses_no_page(tmp_path: Path, cut: int) -> None:
    path = make_zip(tmp_path / "v.cbz", pictures(4))
    path.write_bytes(path.read_bytes()[:-cut])
    assert read_all(path) == pictures(4)
    assert contents(path).notes == (
        "the directory of the archive is damaged: its 4 file(s) were found without it",
    )


def test_a_zip_whose_directory_is_damaged_loses_no_page(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "v.cbz", pictures(5))
    data = bytearray(path.read_bytes())
    at = [at for at in range(len(data)) if data.startswith(b"PK\1\2", at)][2]
    data[at : at + 4] = b"\0\0\0\0"
    path.write_bytes(bytes(data))
    assert read_all(path) == pictures(5)
    assert contents(path).notes == (
        "the directory of the archive is damaged: its 5 file(s) were found without it",
    )


def test_a_zip_that_is_damaged_in_its_midst_and_has_no_directory(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "v.cbz", pictures(5))
    data = bytearray(path.read_bytes()[:-40])
    at = [at for at in range(len(data)) if data.startswith(b"PK\3\4", at)][3]
    data[at : at + 4] = b"\0\0\0\0"
    path.write_bytes(bytes(data))
    assert read_all(path) == dict(list(pictures(5).items())[:3])
    assert contents(path).notes == (
        "the archive is damaged after 3 file(s), and the rest cannot be found: copy or download it again",
    )


# --- lies


def lying(path: Path, method: int, real: bytes, claimed: int) -> Path:
    """A ZIP of one member, which unpacks to more than its directory and its header say."""
    packed = {
        zipfile.ZIP_STORED: lambda: real,
        zipfile.ZIP_DEFLATED: lambda: zlib.compress(real)[2:-4],
        zipfile.ZIP_BZIP2: lambda: bz2.compress(real),
        zipfile.ZIP_LZMA: lambda: b"\x10\2\5\0]\0\0\x80\0" + lzma.compress(
            real, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA1, "preset": 6, "dict_size": 1 << 23}]
        ),
        95: lambda: lzma.compress(real),
        93: lambda: bytes(imagecodecs.zstd_encode(real)),
        20: lambda: bytes(imagecodecs.zstd_encode(real)),
    }[method]()  # fmt: skip
    name = b"001.png"
    common = struct.pack("<4H3L", 0, method, 0, 0, zlib.crc32(real), len(packed), claimed)
    local = b"PK\3\4" + struct.pack("<H", 20) + common + struct.pack("<2H", len(name), 0) + name + packed
    central = (
        b"PK\1\2"
        + struct.pack("<2H", 20, 20)
        + common
        + struct.pack("<5H2L", len(name), 0, 0, 0, 0, 0, 0)
        + name
    )
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(central), len(local), 0)
    path.write_bytes(local + central + end)
    return path


@pytest.mark.parametrize("method", PACKINGS)
def test_every_packing_is_read_to_what_it_says(tmp_path: Path, method: int) -> None:
    real = picture(1) * 3
    path = lying(tmp_path / "v.cbz", method, real, len(real))
    assert read_all(path) == {"001.png": real}
    for claimed in (0, 1, 1000, len(real) - 1, len(real) + 1, 1 << 20):
        lying(path, method, real, claimed)
        with pytest.raises(PageError) as caught:
            read_all(path)
        assert caught.value.kind == "damaged"
        assert "bytes" in caught.value.reason or "broken" in caught.value.reason


@pytest.mark.parametrize("method", PACKINGS)
def test_a_bomb_that_lies_takes_no_memory(tmp_path: Path, method: int) -> None:
    """In a process of its own, whose peak tells."""
    real = bytes(100 << 20) if method != zipfile.ZIP_STORED else bytes(30 << 20)
    path = lying(tmp_path / "v.cbz", method, real, 1000)
    del real
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from comic_upscale.errors import PageError\n"
        "from comic_upscale.library.containers import open_container\n"
        "from comic_upscale.settings.job import VolumeRules\n"
        "container = open_container(Path(sys.argv[1]), VolumeRules())\n"
        "container.entries()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n"
        "    container.read(0)\n"
        "except PageError as error:\n"
        "    print(error.reason)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    reason, megabytes = done.stdout.splitlines()
    assert "more than the 1,000 bytes that it claims" in reason
    assert int(megabytes) < 24


def test_a_dictionary_of_four_gibibytes_is_not_made(tmp_path: Path) -> None:
    real = picture(1)
    path = lying(tmp_path / "v.cbz", zipfile.ZIP_LZMA, real, len(real))
    data = path.read_bytes().replace(b"\x10\2\5\0]\0\0\x80\0", b"\x10\2\5\0]\xff\xff\xff\xff")
    path.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_all(path) == {"001.png": real}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


@needs_libarchive
def test_zstandard_that_is_broken_is_damaged(tmp_path: Path) -> None:
    real = picture(1)
    path = lying(tmp_path / "v.cbz", 93, real, len(real))
    data = path.read_bytes()
    at = data.index(ZSTANDARD_FRAME)
    # A frame that needs a window of 2 GiB, data that is no frame, and a frame with a byte that is wrong.
    huge = ZSTANDARD_FRAME + b"\0\xa8"
    for where, other in ((at, huge), (at, bytes(4)), (at + len(data) // 2, bytes(64))):
        path.write_bytes(data[:where] + other + data[where + len(other) :])
        with pytest.raises(PageError) as caught:
            read_all(path)
        assert caught.value.kind == "damaged"
        assert "packed data" in caught.value.reason or "checksum" in caught.value.reason


@needs_libarchive
def test_a_fault_of_the_file_below_zstandard_keeps_its_words() -> None:
    def chunks() -> Iterator[bytes]:
        yield bytes(imagecodecs.zstd_encode(picture(1)))[:100]
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        list(unpack(chunks(), 93, len(picture(1))))


def test_what_is_packed_in_a_way_that_is_not_read_is_named(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "v.cbz", {"1.png": picture(1)})
    for method, words in ((9, "Deflate64"), (98, "PPMd"), (77, "method 77")):
        patched(path, b"PK\1\2", 10, struct.pack("<H", method))
        with pytest.raises(PageError, match=words) as caught:
            read_all(path)
        assert caught.value.kind == "unsupported"


def test_a_wrong_checksum_is_found_and_left_for_who_wants_the_bytes(tmp_path: Path) -> None:
    path = patched(make_zip(tmp_path / "v.cbz", {"1.png": picture(1)}), b"PK\1\2", 16, b"\1\2\3\4")
    container = open_container(path, RULES)
    with pytest.raises(PageError, match="its checksum is wrong"):
        container.read(0)
    assert container.salvage(0) == picture(1)
    container.close()


def test_no_zip() -> None:
    for data in (b"", b"PK", b"hello" * 100, b"PK\5\6" + bytes(17)):
        with pytest.raises(BadZipError):
            ZipReader(io.BytesIO(data))


def test_a_file_that_came_out_wrong_once(faults_dir: Path) -> None:
    path = faults_dir / "hostile-zip" / "bz2-1GiB-says-1000.cbz"
    with pytest.raises(PageError, match="more than the 1,000 bytes that it claims") as caught:
        read_all(path)
    assert caught.value.kind == "damaged"
