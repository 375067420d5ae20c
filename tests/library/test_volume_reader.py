"""Volumes of all kinds, good, odd and hostile: what is listed, what is read, what is refused and how."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
import zlib
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from comic_upscale.errors import PageError
from comic_upscale.imaging.decode import decode
from comic_upscale.library import archives, naming, volume_contents
from comic_upscale.library import member_names as members
from comic_upscale.library.containers import open_container
from comic_upscale.library.libarchive_archive import LibarchiveContainer
from comic_upscale.library.name_encodings import decode_names
from comic_upscale.library.page import Page
from comic_upscale.library.volume import Volume
from comic_upscale.library.volume_reader import VolumeCache
from comic_upscale.library.zip_archive import name_beside
from comic_upscale.settings.job import VolumeRules
from tests.archives import (
    as_jpeg_pdf,
    encrypt_flags,
    epub,
    make_7z,
    make_tar,
    make_zip,
    needs_libarchive,
    picture,
    pictures,
    rename_in_zip,
    smooth,
)
from tests.conftest import REPOSITORY
from tests.volumes import RULES, contents, read_all

pytestmark = needs_libarchive


def targets(path: Path) -> dict[str, str | None]:
    return {member.name: member.target for member in contents(path).members}


def refusal(path: Path, rules: VolumeRules = RULES) -> PageError:
    with pytest.raises(PageError) as caught:
        contents(path, rules)
    return caught.value


MAKERS = {
    "zip": make_zip,
    "tar": make_tar,
    "gz": lambda path, inside: make_tar(path, inside, "w:gz"),
    "xz": lambda path, inside: make_tar(path, inside, "w:xz"),
    "7z": make_7z,
}


@pytest.mark.parametrize("kind", MAKERS)
def test_every_kind_gives_the_same_members_in_their_order(tmp_path: Path, kind: str) -> None:
    inside = {**pictures(5), "ComicInfo.xml": b"<ComicInfo/>", "extra/z.jpg": picture(9, format="JPEG")}
    # The wrong name on purpose: what a volume is, is seen inside.
    path = MAKERS[kind](tmp_path / "volume.cbr", inside)
    assert read_all(path) == inside
    assert list(read_all(path)) == list(inside)
    assert targets(path)["extra/z.jpg"] == "extra/z.png"
    assert targets(path)["ComicInfo.xml"] is None
    assert contents(path).in_order == (kind in ("gz", "xz", "7z"))


def test_a_solid_volume_is_read_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_7z(tmp_path / "v.cb7", pictures(12))
    container = open_container(path, RULES)
    rewinds = []
    monkeypatch.setattr(
        LibarchiveContainer, "_rewind",
        lambda self, rewind=LibarchiveContainer._rewind: (rewinds.append(1), rewind(self)),
    )  # fmt: skip
    wanted = list(pictures(12).values())
    assert [container.read(index) for index in (0, 1, 5, 11)] == [wanted[at] for at in (0, 1, 5, 11)]
    assert len(rewinds) == 1
    assert container.read(3) == wanted[3]  # backwards: from the front again
    assert len(rewinds) == 2
    container.close()


def test_names_of_old_japanese_zips(tmp_path: Path) -> None:
    names = ["ソ表/ページ1.png", "ソ表/ページ2.png"]  # some of these have a backslash as their second byte
    raw = [name.encode("cp932") for name in names]
    path = make_zip(tmp_path / "v.cbz", {f"{at}{'a' * (len(raw[at]) - 1)}": picture(at) for at in range(2)})
    for at, name in enumerate(raw):
        rename_in_zip(path, str(at).encode() + b"a" * (len(name) - 1), name)
    assert list(targets(path)) == names
    assert list(read_all(path).values()) == [picture(0), picture(1)]


def test_the_unicode_name_beside_the_plain_one_counts_where_it_belongs_to_it(tmp_path: Path) -> None:
    def info(name: str, unicode_name: bytes, of: bytes) -> zipfile.ZipInfo:
        field = b"\1" + zlib.crc32(of).to_bytes(4, "little") + unicode_name
        member = zipfile.ZipInfo(name)
        member.extra = b"UT\5\0\1abcd" + struct.pack("<HH", 0x7075, len(field)) + field
        return member

    with zipfile.ZipFile(tmp_path / "v.cbz", "w") as archive:
        archive.writestr(info("__1.png", "第一1.png".encode(), b"__1.png"), picture(1))
        archive.writestr(info("2.png", "第二2.png".encode(), b"was renamed"), picture(2))
        archive.writestr(info("3.png", "第三3.png".encode(), b"3.png"), picture(3))
        archive.writestr(info("4.png", b"../../4.png", b"4.png"), picture(4))
    assert read_all(tmp_path / "v.cbz") == {
        "第一1.png": picture(1),
        "2.png": picture(2),
        "第三3.png": picture(3),
    }
    # Newer versions of Python refuse a whole archive for this one.
    assert name_beside(info("5.png", b"\xff.png", b"5.png").extra, b"5.png") is None


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("ハルコ.jpg".encode("cp932"), "ハルコ.jpg"),
        ("ハルコ.jpg".encode(), "ハルコ.jpg"),
        ("表1.jpg".encode("cp932"), "表1.jpg"),
        ("Köln.jpg".encode("cp437"), "Köln.jpg"),
        ("hôtel été.jpg".encode("cp437"), "hôtel été.jpg"),
        ("Astérix.jpg".encode("cp437"), "Astérix.jpg"),
        (b"plain.jpg", "plain.jpg"),
    ],
)
def test_encodings_are_told_apart(raw: bytes, name: str) -> None:
    assert decode_names([raw]) == [name]


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../evil.jpg", None),
        ("a/../../evil.jpg", None),
        ("/abs.jpg", "abs.jpg"),
        ("\\\\server\\share.jpg", "server/share.jpg"),
        ("C:\\win.jpg", "win.jpg"),
        ("c:/win.jpg", "win.jpg"),
        ("/", None),
        ("c:win.jpg", "c_win.jpg"),
        ("a: intro.png", "a_ intro.png"),
        ("b/a:b?.png", "b/a_b?.png"),
        ("12: intro.png", "12: intro.png"),
        ("..", None),
        ("", None),
        ("./a//b/./1.jpg", "a/b/1.jpg"),
        ("a\\1.jpg", "a/1.jpg"),
        ("a\n\x1b[2J.jpg", "a__[2J.jpg"),
        ("\udcff.jpg", "\udcff.jpg"),
        ("\ud800.jpg", "?.jpg"),
    ],
)
def test_names_stay_inside(name: str, safe: str | None) -> None:
    assert members.safe_name(name) == safe


def test_a_name_that_no_file_system_holds_is_cut(tmp_path: Path) -> None:
    name = members.safe_name("ハ" * 300 + ".jpeg")
    assert name is not None
    assert len(name.encode()) <= 240
    assert name.endswith("ハ.jpeg")


def test_members_that_lead_outside_are_left_out_and_said(tmp_path: Path) -> None:
    path = make_zip(
        tmp_path / "v.cbz", {"../x.png": picture(1), "a/../../y.png": picture(2), "ok.png": picture(3)}
    )
    assert list(targets(path)) == ["ok.png"]
    assert "2 member(s) whose names lead outside were left out" in contents(path).notes


def test_a_member_without_a_name(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "v.cbz", {"1.png": picture(1)})
    with zipfile.ZipFile(path, "a") as archive:
        # As an entry made before: from a name alone, some versions of Python stumble over an empty one.
        archive.writestr(zipfile.ZipInfo(""), b"x")
    assert list(targets(path)) == ["1.png"]


def test_links_and_devices_are_left_out_and_said(tmp_path: Path) -> None:
    path = tmp_path / "v.cbt"
    with tarfile.open(path, "w") as archive:
        for name, kind in (
            ("a.png", tarfile.SYMTYPE),
            ("b.png", tarfile.LNKTYPE),
            ("c.png", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("page.png")
        info.size = len(picture(1))
        archive.addfile(info, io.BytesIO(picture(1)))
    assert list(targets(path)) == ["page.png"]
    assert "3 member(s) that are links or devices were left out" in contents(path).notes


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_hard_links_inside_a_tar_are_the_pages_that_they_name(tmp_path: Path, mode: str) -> None:
    path = make_tar(tmp_path / "v.cbt", {"a/1.png": picture(1), "a/2.png": picture(2)}, mode)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name in ("a/1.png", "a/2.png"):
            info = tarfile.TarInfo(name)
            info.size = len(picture(int(name[2])))
            archive.addfile(info, io.BytesIO(picture(int(name[2]))))
        for name, target in (
            ("a/3.png", "a/1.png"),
            ("a/4.png", "./a/3.png"),
            ("a/5.png", "a/6.png"),  # a file that comes later: no archiver writes that
            ("a/6.png", "a/2.png"),
            ("a/7.png", "../../etc/passwd"),
            ("a/8.png", "a/8.png"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.LNKTYPE, target
            archive.addfile(info)
    wanted = {"a/1.png": 1, "a/2.png": 2, "a/3.png": 1, "a/4.png": 1, "a/6.png": 2}
    assert read_all(path) == {name: picture(number) for name, number in wanted.items()}
    assert "3 member(s) that are links or devices were left out" in contents(path).notes
    container = open_container(path, RULES)
    backwards = {member.name: container.read(member.index) for member in reversed(contents(path).members)}
    container.close()
    assert backwards == read_all(path)


def test_hard_links_count_towards_a_bomb(tmp_path: Path) -> None:
    for mode in ("w", "w:gz"):
        path = tmp_path / "v.cbt"
        with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
            info = tarfile.TarInfo("1.png")
            info.size = 1000
            archive.addfile(info, io.BytesIO(bytes(1000)))
            for number in range(9):
                info = tarfile.TarInfo(f"l{number}.png")
                info.type, info.linkname = tarfile.LNKTYPE, "1.png"
                archive.addfile(info)
        assert "--max-unpacked" in refusal(path, VolumeRules(max_unpacked=9999)).reason
        assert len(contents(path, VolumeRules(max_unpacked=10_000)).pages) == 10


def test_hidden_images_are_left_out_and_said(tmp_path: Path) -> None:
    hidden = (".hidden.png", "a/.b/1.png", "._1.png", "__MACOSX/.2.png", ".DS_Store")
    path = make_zip(tmp_path / "v.cbz", {**dict.fromkeys(hidden, picture(2)), "1.png": picture(1)})
    assert list(targets(path)) == ["1.png"]
    assert contents(path).notes == (
        "2 member(s) that are hidden images (their names begin with a dot) were left out",
    )


def test_a_link_in_a_zip(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("link.png")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "v.cbz", "w") as archive:
        archive.writestr(info, "/etc/passwd")
        archive.writestr("page.png", picture(1))
    assert list(targets(tmp_path / "v.cbz")) == ["page.png"]


def test_litter_is_left_out_without_a_word(tmp_path: Path) -> None:
    litter = ("__MACOSX/._1.png", "._2.png", "Thumbs.db", "a/.DS_Store", "@eaDir/1.png", "desktop.ini")
    path = make_zip(tmp_path / "v.cbz", {**dict.fromkeys(litter, b"x"), "1.png": picture(1)})
    assert list(targets(path)) == ["1.png"]
    assert contents(path).notes == ()


def test_two_members_of_one_name_are_both_read(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = make_zip(
            tmp_path / "v.cbz", [("1.png", picture(1)), ("1.png", picture(2)), ("1.PNG", picture(3))]
        )
    assert read_all(path) == {"1.png": picture(1), "1_2.png": picture(2), "1.PNG": picture(3)}
    outputs = [str(target) for target in targets(path).values()]
    assert len({output.lower() for output in outputs}) == 3


def test_thousands_of_members_of_one_name_are_named_in_linear_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = make_zip(tmp_path / "v.cbz", [("p.png", b"x")] * 3000, zipfile.ZIP_STORED)
    calls = []
    for module in (volume_contents, naming):
        monkeypatch.setattr(module, "fold", lambda name, fold=module.fold: (calls.append(1), fold(name))[1])
    listed = contents(path)
    assert [member.name for member in listed.members[:3]] == ["p.png", "p_2.png", "p_3.png"]
    assert listed.members[-1].name == "p_3000.png"
    assert len(calls) < 10 * 3000


def test_comics_inside_are_volumes_and_other_archives_are_carried_along(tmp_path: Path) -> None:
    inner = make_zip(tmp_path / "inner.zip", pictures(2)).read_bytes()
    path = make_zip(tmp_path / "v.cbz", {"1.png": picture(1), "bonus.cbz": inner, "extras.zip": inner})
    assert targets(path) == {"1.png": "1.png", "extras.zip": None}
    assert [nested.name for nested in contents(path).nested] == ["bonus.cbz"]
    assert "1 archive(s) inside were not opened" in contents(path).notes[0]


def test_bombs_are_refused_by_their_directory(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "v.cbz", {"1.png": bytes(80 << 20)})
    assert refusal(path).kind == "bomb"
    assert "--max-ratio" in refusal(path).reason
    assert "--max-unpacked" in refusal(path, VolumeRules(max_unpacked=1 << 20)).reason
    many = make_zip(tmp_path / "many.cbz", dict.fromkeys(map(str, range(30)), b""))
    assert "--max-members" in refusal(many, VolumeRules(max_members=29)).reason
    gz = make_tar(tmp_path / "v.cbt", {"1.png": bytes(80 << 20)}, "w:gz")
    assert refusal(gz).kind == "bomb"


def test_a_member_that_lies_about_its_size(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "v.cbz", {"1.png": bytes(5000)})
    data = bytearray(path.read_bytes())
    entry = data.find(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = (100).to_bytes(4, "little")  # the directory says 100 bytes
    path.write_bytes(bytes(data))
    with pytest.raises(PageError) as caught:
        read_all(path)
    assert caught.value.kind == "damaged"


def test_a_member_too_large_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 1000)
    for path in (
        make_zip(tmp_path / "v.cbz", {"1.png": bytes(1001)}),
        make_tar(tmp_path / "v.cbt", {"1.png": bytes(1001)}),
        make_7z(tmp_path / "v.cb7", {"1.png": bytes(1001)}),
    ):
        with pytest.raises(PageError) as caught:
            read_all(path)
        assert caught.value.kind == "too-large"


def test_encrypted_volumes_are_refused(tmp_path: Path) -> None:
    path = encrypt_flags(make_zip(tmp_path / "v.cbz", pictures(2)))
    assert refusal(path).kind == "encrypted"
    assert "password" in refusal(path).reason


def test_an_encrypted_member_that_is_no_page_is_left_out_and_said(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "v.cbz", {**pictures(2), "info.txt": b"secret"})
    assert list(targets(encrypt_flags(path, "info.txt"))) == ["p01.png", "p02.png"]
    assert contents(path).notes == ("1 member(s) that are protected by a password were left out",)
    assert refusal(encrypt_flags(path, "p02.png")).kind == "encrypted"


def test_encrypted_7z(tmp_path: Path) -> None:
    py7zr = pytest.importorskip("py7zr", reason="py7zr is not installed: pip install py7zr")
    for hide_names in (False, True):
        path = tmp_path / f"{hide_names}.cb7"
        with py7zr.SevenZipFile(path, "w", password="secret") as archive:
            archive.set_encrypted_header(hide_names)
            archive.writestr(picture(1), "1.png")
        kind = None
        try:
            read_all(path)
        except PageError as error:
            kind = error.kind
        assert kind == "encrypted", hide_names


def test_a_7z_that_is_cut_is_damaged(tmp_path: Path) -> None:
    # Its directory is at its end. Of other archives, the pages before the cut are read.
    path = make_7z(tmp_path / "v.cbz", pictures(4))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(PageError) as caught:
        read_all(path)
    assert caught.value.kind == "damaged"


def test_a_wrong_checksum_is_damage(tmp_path: Path) -> None:
    path = make_7z(tmp_path / "v.cb7", pictures(3), options="compression=store")
    data = path.read_bytes()
    at = data.index(pictures(3)["p02.png"]) + 200
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    container = open_container(path, RULES)
    assert container.read(0) == pictures(3)["p01.png"]
    with pytest.raises(PageError, match="checksum is wrong"):
        container.read(1)
    assert container.read(2) == pictures(3)["p03.png"]
    container.close()


def test_after_the_break_of_a_solid_volume_every_page_fails_at_once(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "v.cbt", pictures(6), "w:gz")
    listed = contents(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    path.write_bytes(bytes(data))
    container = open_container(path, RULES)
    good, bad = [], []
    for member in listed.pages:
        try:
            good.append(container.read(member.index))
        except PageError as error:
            bad.append(error.kind)
    assert good == list(pictures(6).values())[: len(good)]
    assert bad
    assert set(bad) == {"damaged"}


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("v.cbz", b"", "empty"),
        ("v.cbz", b"hello" * 200, "damaged"),
        ("v.cbr", b"Rar!\x1a\x07\x01\x00" + bytes(50), "damaged"),
        ("v.cb7", b"7z\xbc\xaf\x27\x1c" + b"\xff" * 50, "damaged"),
        ("v.cbt", bytes(10240), "no-pages"),
        ("v.pdf", b"%PDF-1.7\n", "damaged"),
        ("v.epub", None, "damaged"),
    ],
)
def test_files_that_are_no_volumes(tmp_path: Path, name: str, data: bytes | None, kind: str) -> None:
    path = tmp_path / name
    if data is None:
        make_zip(path, pictures(1))
    else:
        path.write_bytes(data)
    assert refusal(path).kind == kind


def test_a_volume_that_is_not_there_or_may_not_be_read(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.cbz").kind == "vanished"
    assert refusal(tmp_path).kind in ("unreadable", "permission")


def test_an_epub_gives_its_pages_in_the_order_of_its_spine(tmp_path: Path) -> None:
    files = {
        "OPS/images/a.png": picture(1),
        "OPS/images/b c.png": picture(2),
        "OPS/images/z.png": picture(3),
        "OPS/thumbnail.png": picture(4),
        "OPS/1.xhtml": b"<html><body><img src='images/z.png'></body>",  # not well-formed
        "OPS/2.xhtml": b"<svg xmlns:xlink='x'><image xlink:href='images/b%20c.png#x'/></svg>",
    }
    spine = [("one", "1.xhtml"), ("two", "2.xhtml"), ("three", "images/a.png"), ("gone", "9.xhtml")]
    path = make_zip(tmp_path / "v.epub", epub(spine, files))
    listed = contents(path)
    assert [member.name for member in listed.members] == ["0001_z.png", "0002_b c.png", "0003_a.png"]
    assert [read_all(path)[member.name] for member in listed.members] == [picture(3), picture(2), picture(1)]
    assert "1 image(s) that the spine" in listed.notes[0]


def test_the_comicinfo_of_an_epub_goes_along_and_else_one_is_made_of_its_package(tmp_path: Path) -> None:
    pages = {"OPS/2.png": picture(1), "OPS/1.png": picture(2)}
    spine = [("b", "2.png"), ("a", "1.png")]
    words = {
        "metadata": "<dc:title>Haruko &amp; \n co</dc:title><dc:title>Second</dc:title><dc:language>ja</dc:language>",
        "direction": "rtl",
    }
    own = {"META-INF/comicinfo.xml": b"<ComicInfo><Title>own</Title></ComicInfo>"}
    path = make_zip(tmp_path / "own.epub", epub(spine, {**pages, **own}, **words))
    assert read_all(path) == {
        "ComicInfo.xml": own["META-INF/comicinfo.xml"], "0001_2.png": picture(1), "0002_1.png": picture(2)
    }  # fmt: skip
    made = contents(make_zip(tmp_path / "v.epub", epub(spine, pages, **words))).members[-1]
    assert (made.name, made.is_page) == ("ComicInfo.xml", False)
    assert made.content is not None
    assert [(element.tag, element.text) for element in ET.fromstring(made.content)] == [
        ("Title", "Haruko & co"), ("LanguageISO", "ja"), ("Manga", "YesAndRightToLeft")
    ]  # fmt: skip
    silent = contents(make_zip(tmp_path / "silent.epub", epub(spine, pages)))
    assert [member.content for member in silent.members] == [None, None]


def test_an_epub_whose_pages_are_encrypted(tmp_path: Path) -> None:
    files = epub([("one", "1.png")], {"OPS/1.png": picture(1)})
    files["META-INF/encryption.xml"] = b"<e><CipherReference URI='OPS/1.png'/></e>"
    assert refusal(make_zip(tmp_path / "v.epub", files)).kind == "encrypted"


def test_a_page_of_a_pdf_that_is_one_jpeg_stays_as_it_is(tmp_path: Path) -> None:
    import pypdfium2

    path = as_jpeg_pdf(tmp_path / "v.pdf", smooth((300, 420)), smooth((280, 400)))
    pages = read_all(path)
    assert list(pages) == ["0001.png", "0002.png"]
    assert all(page.startswith(b"\xff\xd8\xff") for page in pages.values())
    pdf = pypdfium2.PdfDocument(path)
    inside = bytes(next(iter(pdf[0].get_objects())).get_data())
    pdf.close()
    assert pages["0001.png"] == inside


def test_a_page_of_a_pdf_that_is_turned_is_its_jpeg_turned(tmp_path: Path) -> None:
    import pypdfium2

    path = as_jpeg_pdf(tmp_path / "v.pdf", smooth((300, 420)))
    pdf = pypdfium2.PdfDocument(path)
    pdf[0].set_rotation(90)
    pdf.save(tmp_path / "turned.pdf")
    pdf.close()
    before, turned = (
        decode(read_all(tmp_path / name)["0001.png"], max_pixels=1 << 20).color
        for name in ("v.pdf", "turned.pdf")
    )
    assert np.array_equal(turned, np.rot90(before, -1))


def test_a_page_of_a_pdf_without_an_image_is_drawn_at_the_dpi(tmp_path: Path) -> None:
    import pypdfium2

    pdf = pypdfium2.PdfDocument.new()
    pdf.new_page(144, 72).close()
    pdf.save(tmp_path / "v.pdf")
    pdf.close()
    for dpi, size in ((150, (300, 150)), (72, (144, 72))):
        container = open_container(tmp_path / "v.pdf", VolumeRules(pdf_dpi=dpi))
        assert Image.open(io.BytesIO(container.read(0))).size == size
        container.close()
    container = open_container(tmp_path / "v.pdf", VolumeRules(max_pixels=100))
    with pytest.raises(PageError, match="--pdf-dpi"):
        container.read(0)
    container.close()


def test_without_libarchive_only_what_needs_it_fails(tmp_path: Path) -> None:
    make_7z(tmp_path / "v.cb7", pictures(1))
    make_zip(tmp_path / "v.cbz", pictures(1))
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from comic_upscale.library.discover import discover\n"
        "found = discover(Path(sys.argv[1]), extension='png')\n"
        "print(len(found.pages), [volume.failure for volume in found.volumes])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "LIBARCHIVE": "/nowhere/libarchive.so"},
        capture_output=True, text=True, cwd=REPOSITORY, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("1 ")
    assert "'library'" in done.stdout
    assert "apt-get install libarchive13" in done.stdout


def volume_of(path: Path, source: str) -> Volume:
    status = path.stat()
    return Volume(Page(source, path, "", status.st_size, status.st_mtime_ns), contents(path))


def test_a_cache_keeps_a_few_volumes_open_and_sees_that_one_changed(tmp_path: Path) -> None:
    volumes = [volume_of(make_zip(tmp_path / f"{at}.cbz", pictures(2, at)), str(at)) for at in range(8)]
    cache = VolumeCache(volumes, RULES)
    for _ in range(2):
        for at in range(8):
            assert cache.read(str(at), 1) == pictures(2, at)["p02.png"]
    make_zip(tmp_path / "0.cbz", pictures(3, 5))
    with pytest.raises(PageError) as caught:
        cache.read("0", 0)
    assert caught.value.kind == "changed"
    cache.close()


EXPECTED = {
    "comicbox__Captain Science #001-cix-cbi.cbr": (5, 1),
    "comicbox__Captain Science #001-cix.cbt": (5, 2),
    "comicbox__Captain Science #001.cb7": (5, 2),
    "comicbox__macos_resource_fork.cbz": (2, 0),
    "comicbox__pdf_0.pdf": (1, 0),
    "comicbox__test_pdf.pdf": (4, 0),
    "made__cp932_names.cbz": (2, 0),
    "made__page-blanche.epub": (7, 1),
    "made__unicode_nested_ハルコ.cbz": (4, 0),
    "made__zipslip.cbz": (3, 0),
    "stump__book-complex-tree.rar": (15, 1),
    "stump__book-complex-tree.zip": (15, 1),
    "stump__book-image-format-test.zip": (5, 1),
    "stump__science_comics_001.cbz": (36, 0),
    "stump__tall.pdf": (1, 0),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_real_volumes(comics_dir: Path, name: str) -> None:
    path = comics_dir / "odd" / name
    if not path.is_file():
        pytest.skip(f"{name} is not in {comics_dir}")
    listed = contents(path)
    assert (len(listed.pages), len(listed.members) - len(listed.pages)) == EXPECTED[name]
    container = open_container(path, RULES)
    assert len(container.read(listed.pages[-1].index)) > 100
    container.close()


def test_a_real_volume_with_japanese_names(comics_dir: Path) -> None:
    path = comics_dir / "odd" / "made__cp932_names.cbz"
    assert list(targets(path)) == ["ハルコ/ページ1.jpg", "ハルコ/ページ2.jpg"]
