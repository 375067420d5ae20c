"""Names of archives that do not say their encoding: recognised, or left as the bytes that they are."""

from __future__ import annotations

import unicodedata
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comic_upscale.library.containers import list_volume
from comic_upscale.library.name_encodings import decode_names
from comic_upscale.settings.job import VolumeRules
from tests.archives import make_tar, make_zip, needs_libarchive, picture, rename_in_zip

ALONE = {
    "gbk": [
        "第01话.jpg", "海贼王/第1卷/001.jpg", "火影忍者 第700话/01.png", "封面.jpg", "进击的巨人/第一卷.jpg",
        "死神 彩色版 01.jpg", "名侦探柯南 第100卷.jpg", "妖精的尾巴/番外篇.png", "北斗神拳 05.jpg", "灌篮高手.jpg",
        "人物介绍.jpg", "目录.jpg",
    ],
    "big5": ["第01話.jpg", "海賊王/第1卷/001.jpg", "進擊的巨人/第一卷.jpg", "名偵探柯南 第100卷.jpg", "後記.png"],
    "cp932": [
        "ハルコ/ページ1.jpg", "表1.jpg", "第01巻.jpg", "進撃の巨人 01巻/001.jpg", "ソ表/ページ1.png", "目次.jpg",
        "鋼の錬金術師.jpg", "第一話.jpg", "奥付.png",
    ],
    "euc_jp": ["ハルコ/ページ1.jpg"],
    "cp949": ["원피스 01권.jpg", "나루토/제1화.jpg", "진격의 거인 1권/001.png", "표지.jpg", "신의 탑 12화.jpg"],
    "cp1252": [
        "Astérix et Cléopâtre.jpg", "Köln.jpg", "À l\N{RIGHT SINGLE QUOTATION MARK}ombre.jpg", "página 01.jpg",
        "Spirou à Bruxelles.jpg", "São Paulo.jpg", "Übersicht.jpg", "El Niño.jpg", "Bjørn og Åse.jpg", "été.jpg",
        "Die Abenteuer \N{EN DASH} Der Schatz.jpg",
    ],
    "cp437": ["Köln.jpg", "hôtel été.jpg", "Astérix.jpg", "página 01.jpg", "Übersicht.jpg", "El Niño.jpg"],
    "cp850": ["Köln.jpg", "São Paulo.jpg"],
    "cp1250": [
        "Kajko i Kokosz - Szkoła latania.jpg", "Čtyřlístek 001.jpg", "Příběhy.jpg", "Łódź.jpg", "Rychlé šípy.jpg",
        "żółw.jpg", "příšera.jpg", "Asterix a Kleopatra - česky.jpg",
    ],
    "cp852": ["Szkoła.jpg", "Čtyřlístek.jpg", "Příběhy.jpg"],
    "cp1251": ["Страница 01.jpg", "Обложка.jpg", "Наруто.jpg"],
    "cp866": ["Страница 01.jpg", "Том 1/глава 2.png", "Обложка.jpg"],
}  # fmt: skip
UNCLEAR = [("hős - kép.jpg", "cp1250"), ("進撃の巨人.jpg", "euc_jp")]


@pytest.mark.parametrize(
    ("encoding", "name"), [(key, name) for key, names in ALONE.items() for name in names]
)
def test_a_name_alone_is_recognised(encoding: str, name: str) -> None:
    assert decode_names([name.encode(encoding)]) == [name]
    assert decode_names([name.encode()]) == [name]


@pytest.mark.parametrize("encoding", ALONE)
def test_the_names_of_an_archive_are_recognised_together(encoding: str) -> None:
    names = [*ALONE[encoding], "plain.png"]
    assert decode_names([name.encode(encoding) for name in names]) == names


@pytest.mark.parametrize(
    "name",
    [
        "Ōkami \N{EN DASH} 1¼.jpg",
        "İstanbul.jpg",
        "Đặng.jpg",
        "é́.jpg",
        "Ελλάδα.jpg",
        "שלום.jpg",
        "٢.jpg",
        "😀.png",
        "naïve.jpg",
    ],
)
def test_utf_8_is_taken_at_its_word(name: str) -> None:
    for form in ("NFC", "NFD"):
        written = unicodedata.normalize(form, name)
        assert decode_names([written.encode()]) == [written]


@pytest.mark.parametrize(("name", "encoding"), UNCLEAR)
def test_what_is_not_clear_stays_bytes(name: str, encoding: str) -> None:
    raw = name.encode(encoding)
    (decoded,) = decode_names([raw])
    assert decoded.encode("utf-8", "surrogateescape") == raw
    assert decoded != name


@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=4))
def test_the_bytes_can_always_be_had_again(raw: list[bytes]) -> None:
    names = decode_names(raw)
    assert len(names) == len(raw)
    encodings = ("utf-8", "cp932", "gbk", "big5", "cp949", "euc_jp", "cp437", "cp1252", "cp1250", "cp850", "cp852",
                 "cp1251", "cp866")  # fmt: skip

    def encoded(encoding: str) -> list[bytes] | None:
        try:
            return [name.encode(encoding, "surrogateescape") for name in names]
        except UnicodeError:
            return None

    assert any(encoded(encoding) == raw for encoding in encodings)


def members(path: Path) -> tuple[list[str], tuple[str, ...]]:
    listed = list_volume(path, VolumeRules(), extension="png")
    return [member.name for member in listed.members], listed.notes


def with_raw_names(path: Path, names: list[bytes]) -> Path:
    plain = {f"{at}{'a' * (len(name) - 1)}": picture(at) for at, name in enumerate(names)}
    make_zip(path, plain)
    for at, name in enumerate(names):
        rename_in_zip(path, str(at).encode() + b"a" * (len(name) - 1), name)
    return path


def test_a_zip_with_names_in_gbk_and_one_that_nobody_can_read(tmp_path: Path) -> None:
    names = ["第01话/封面.png", "第01话/001.png"]
    path = with_raw_names(tmp_path / "a.cbz", [name.encode("gbk") for name in names])
    assert members(path) == (names, ())
    path = with_raw_names(tmp_path / "b.cbz", [b"p\xe8\xf8\x81.png", b"\xff%\xfe.png"])
    found, notes = members(path)
    assert found == ["p%E8%F8%81.png", "%FF%25%FE.png"]
    assert notes == ("2 member(s) have names in an unknown encoding: their bytes are written as %XX",)


def test_a_zip_that_says_utf_8_and_has_another_encoding(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "v.cbz", {"第AA話.png": picture(1), "plain.png": picture(2)})
    raw, other = "第AA話.png".encode(), "第01話頁.png".encode("cp932")
    rename_in_zip(path, raw, other)
    with pytest.raises(UnicodeDecodeError):
        zipfile.ZipFile(path)
    assert members(path) == (["第01話頁.png", "plain.png"], ())


@needs_libarchive
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_with_names_in_an_old_encoding(tmp_path: Path, mode: str) -> None:
    names = ["第01話/ページ1.png", "第01話/ページ2.png", "plain.txt"]
    raw = [name.encode("cp932").decode("utf-8", "surrogateescape") for name in names]
    path = make_tar(tmp_path / "v.cbt", {name: picture(at) for at, name in enumerate(raw)}, mode)
    assert members(path) == (names, ())
