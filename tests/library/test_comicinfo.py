from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from comic_upscale.library.comicinfo import OddComicInfoError, PageFacts, is_comicinfo, update_page_sizes

XML = b"""<?xml version="1.0" encoding="utf-8"?>
<ComicInfo xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
  xsi:noNamespaceSchemaLocation="https://example.org/ComicInfo.xsd">
  <!-- kept -->
  <Series>\xe3\x83\x8f\xe3\x83\xab\xe3\x82\xb3 &amp; co</Series>
  <Pages>
    <Page Image="0" Type="FrontCover" ImageSize="1" ImageWidth="2" ImageHeight="3" />
    <Page Image="1" Bookmark="start"/>
    <Page Image="7" ImageWidth="5"/>
    <Page Image="x" ImageWidth="5"/>
  </Pages>
</ComicInfo>"""


def test_sizes_are_brought_up_to_date_and_all_else_stays() -> None:
    new = update_page_sizes(XML, [PageFacts(10, 20, 30), PageFacts(40, 50, 60)])
    pages = [page.attrib for page in ET.fromstring(new).iter("Page")]
    assert pages == [
        {"Image": "0", "Type": "FrontCover", "ImageSize": "30", "ImageWidth": "10", "ImageHeight": "20"},
        {"Image": "1", "Bookmark": "start", "ImageSize": "60", "ImageWidth": "40", "ImageHeight": "50"},
        {"Image": "7", "ImageWidth": "5"},
        {"Image": "x", "ImageWidth": "5"},
    ]
    for kept in ("<!-- kept -->", "ハルコ &amp; co", "xsi:noNamespaceSchemaLocation="):
        assert kept in new.decode()


@pytest.mark.parametrize(
    "xml", [b"", b"<ComicInfo><Series>x</Series></ComicInfo>", b"<not closed", b"\xff\xfe\0"]
)
def test_what_lists_no_pages_comes_back_as_it_is(xml: bytes) -> None:
    assert update_page_sizes(xml, [PageFacts(1, 2, 3)]) == xml


@pytest.mark.parametrize("prefix", ["", "c:"])
def test_a_file_with_a_namespace_is_brought_up_to_date_and_keeps_it(prefix: str) -> None:
    where = f"xmlns{prefix and ':c'}='urn:comics' xmlns:xsi='http://www.w3.org/2001/XMLSchema-instance'"
    inside = "<Series>S</Series><!-- kept --><Pages><Page Image='0' ImageWidth='1'/></Pages></ComicInfo>"
    xml = f"<ComicInfo {where} xsi:schemaLocation='x y'>{inside}".replace("</", f"</{prefix}")
    for name in ("ComicInfo ", "Series", "Pages", "Page "):
        xml = xml.replace(f"<{name}", f"<{prefix}{name}")
    new = update_page_sizes(xml.encode(), [PageFacts(10, 20, 30)])
    (page,) = ET.fromstring(new).findall("./{urn:comics}Pages/{urn:comics}Page")
    assert page.attrib == {"Image": "0", "ImageSize": "30", "ImageWidth": "10", "ImageHeight": "20"}
    assert ET.fromstring(new).findtext("{urn:comics}Series") == "S"
    assert b"ns0" not in new
    assert b"<!-- kept -->" in new
    assert b'xsi:schemaLocation="x y"' in new


def test_what_is_not_known_of_a_page_stays_as_it_stood() -> None:
    new = update_page_sizes(XML, [None, PageFacts(40, 50, 60)])
    old_pages, pages = ([page.attrib for page in ET.fromstring(xml).iter("Page")] for xml in (XML, new))
    assert pages[0] == old_pages[0]
    assert pages[1]["ImageWidth"] == "40"


def test_entities_do_not_grow_without_end() -> None:
    lol = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    bomb = (
        f'<!DOCTYPE x [<!ENTITY l0 "lol">{lol}]><ComicInfo><Pages><Page Image="0"/></Pages>&l9;</ComicInfo>'
    )
    with pytest.raises(OddComicInfoError, match="entities"):
        update_page_sizes(bomb.encode(), [PageFacts(1, 2, 3)])


def test_its_name_is_written_in_several_ways() -> None:
    assert is_comicinfo("a/comicinfo.XML")
    assert not is_comicinfo("ComicInfo.xml.bak")


LISTED = "<Pages><Page Image='0' ImageWidth='1'/></Pages>"
ODD = {
    "nested": f"<ComicInfo>{LISTED}{'<a>' * 3000}{'</a>' * 3000}</ComicInfo>",
    "nested and never closed": f"<ComicInfo>{LISTED}{'<a>' * 3000}",
    "bytes": f"<ComicInfo>{LISTED}<Notes>{'x' * (8 << 20)}</Notes></ComicInfo>",
    "elements": f"<ComicInfo>{LISTED}{'<a/>' * 200_001}</ComicInfo>",
    "entities": f"<!DOCTYPE a [<!ENTITY b 'c'>]><ComicInfo>{LISTED}<Notes>&b;</Notes></ComicInfo>",
}


@pytest.mark.parametrize("reason", ODD)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_what_no_program_writes_is_refused_before_a_tree_is_made_of_it(reason: str, encoding: str) -> None:
    with pytest.raises(OddComicInfoError) as caught:
        update_page_sizes(ODD[reason].encode(encoding), [PageFacts(1, 2, 3)])
    assert reason.split()[0] in caught.value.reason


def test_as_many_pages_as_a_volume_may_have_are_brought_up_to_date() -> None:
    listed = "".join(
        f'<Page Image="{at}" Type="Story" DoublePage="false" ImageSize="1" Key="" Bookmark="" ImageWidth="1"/>'
        for at in range(20_000)
    )
    new = update_page_sizes(
        f"<ComicInfo><Pages>{listed}</Pages></ComicInfo>".encode(), [PageFacts(40, 50, 60)] * 20_000
    )
    assert new.count(b'ImageWidth="40"') == 20_000
