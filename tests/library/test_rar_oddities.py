"""RARs from reports of other readers of comics: each came out wrong somewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from comic_upscale.errors import PageError
from comic_upscale.library.containers import list_volume, open_container
from comic_upscale.settings.job import VolumeRules
from tests.archives import needs_libarchive, picture, pictures
from tests.rars import make_rar, make_rar_parts

pytestmark = needs_libarchive

RULES = VolumeRules()


@pytest.mark.parametrize("version", [4, 5])
def test_one_page_with_a_wrong_checksum_costs_no_other(tmp_path: Path, version: int) -> None:
    pages = pictures(5)
    path = make_rar(tmp_path / "v.cbr", pages, version)
    data = bytearray(path.read_bytes())
    data[data.index(pages["p03.png"]) + 500] ^= 0xFF
    path.write_bytes(bytes(data))
    assert [page.name for page in list_volume(path, RULES, extension="png").pages] == list(pages)
    container = open_container(path, RULES)
    for index, page in enumerate(pages.values()):
        if index == 2:
            with pytest.raises(PageError) as caught:
                container.read(index)
            assert caught.value.kind == "damaged"
            # Whoever wants the bytes as they are can have them.
            assert len(container.salvage(index)) == len(page)
        else:
            assert container.read(index) == page
    container.close()


@pytest.mark.parametrize(("version", "method"), [(4, 6), (5, 7)])
def test_a_method_that_libarchive_does_not_read_is_called_unsupported(
    tmp_path: Path, version: int, method: int
) -> None:
    path = make_rar(tmp_path / "v.cbr", {"1.png": picture(1)}, version, method=method)
    container = open_container(path, RULES)
    container.entries()
    with pytest.raises(PageError) as caught:
        container.read(0)
    assert caught.value.kind == "unsupported"
    assert "pack it again as CBZ" in caught.value.reason
    container.close()


@pytest.mark.parametrize(
    ("encoding", "names"),
    [
        ("gbk", ["第01话/封面.png", "第01话/001.png"]),
        ("cp932", ["第01話/ページ1.png", "表1.png"]),
        ("cp1252", ["Astérix/été.png", "página 01.png"]),
        ("utf-8", ["第01話/ページ1.png", "été.png"]),
    ],
)
def test_names_without_unicode_in_an_old_rar(tmp_path: Path, encoding: str, names: list[str]) -> None:
    path = make_rar(
        tmp_path / "v.cbr", {name: picture(at) for at, name in enumerate(names)}, 4, encoding=encoding
    )
    assert [page.name for page in list_volume(path, RULES, extension="png").pages] == names


@pytest.mark.parametrize("version", [4, 5])
def test_a_wrong_checksum_in_a_rar_in_parts(tmp_path: Path, version: int) -> None:
    # Of a file in several parts, only the last header has the checksum of the whole.
    pages = pictures(6)
    parts = make_rar_parts(tmp_path, lambda number: f"b.part{number + 1}.rar", pages, 4000, version)
    container = open_container(parts[0], RULES)
    assert [container.read(index) for index in range(6)] == list(pages.values())
    container.close()
    data = bytearray(parts[1].read_bytes())
    data[200] ^= 0xFF
    parts[1].write_bytes(bytes(data))
    container = open_container(parts[0], RULES)
    wrong = []
    for index in range(6):
        try:
            container.read(index)
        except PageError as error:
            wrong.append(error.kind)
    assert wrong == ["damaged"]
    container.close()
