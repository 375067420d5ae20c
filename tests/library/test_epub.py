"""EPUBs: every page that a reader shows, in order, whatever way it is put on its page; and no book without end."""

from __future__ import annotations

import base64
import io
import unicodedata
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from comic_upscale.errors import PageError
from comic_upscale.library.containers import list_volume, open_container
from comic_upscale.library.epub_documents import DocumentReader, decode_text
from comic_upscale.library.markup import Budget, Start, read_css, tokens
from comic_upscale.library.volume import Contents
from comic_upscale.settings.job import VolumeRules
from tests.archives import EPUB_CONTAINER, make_zip, picture
from tests.conftest import LONG, SHARED

RULES = VolumeRules()
XHTML = "<html xmlns='http://www.w3.org/1999/xhtml'><head>{head}</head><body {of_body}>{body}</body></html>"


def page(body: str = "", head: str = "", of_body: str = "") -> bytes:
    return XHTML.format(head=head, body=body, of_body=of_body).encode()


def book(
    path: Path,
    documents: Mapping[str, bytes],
    files: Mapping[str, bytes] | None = None,
    *,
    spine: Sequence[str] | None = None,
    items: str = "",
    metadata: str = "",
    after: str = "",
    of_spine: str = "",
) -> Path:
    """An EPUB.

    Args:
        path: of the file.
        documents: by name in ``OPS/``; all in the spine, unless ``spine`` names those that are.
        files: other files, by name in ``OPS/`` or, with a slash before, in the archive.
        spine: names of documents.
        items: further lines of the manifest.
        metadata: in the package.
        after: behind the spine.
        of_spine: attributes of the spine.
    """
    listed = "".join(f'<item id="d-{name}" href="{quote(name)}"/>' for name in documents)
    order = "".join(f'<itemref idref="d-{name}"/>' for name in (documents if spine is None else spine))
    package = (
        f"<package xmlns='http://www.idpf.org/2007/opf'><metadata>{metadata}</metadata>"
        f"<manifest>{listed}{items}</manifest><spine {of_spine}>{order}</spine>{after}</package>"
    )
    inside = {
        "mimetype": b"application/epub+zip",
        "META-INF/container.xml": EPUB_CONTAINER,
        "OPS/package.opf": package.encode(),
        **{f"OPS/{name}": data for name, data in documents.items()},
        **{name[1:] if name.startswith("/") else f"OPS/{name}": data for name, data in (files or {}).items()},
    }
    return make_zip(path / "v.epub", inside)


def contents(path: Path) -> Contents:
    return list_volume(path, RULES, extension="png")


def shown(path: Path) -> list[bytes]:
    """The pages, in the order in which a reader of the CBZ shows them."""
    listed = contents(path)
    container = open_container(path, RULES)
    try:
        pages = {member.name: container.read(member.index) for member in listed.pages}
    finally:
        container.close()
    assert [member.size for member in listed.pages] == [len(data) for data in pages.values()]
    # By name: what reads a CBZ sorts by name.
    assert sorted(pages) == list(pages) or all(name[:4].isdecimal() for name in pages)
    return list(pages.values())


A, B, C, D = (picture(seed) for seed in range(4))
IMAGES = {"a.png": A, "b.png": B, "c.png": C, "d.png": D}


def one_page(tmp_path: Path, document: bytes, files: Mapping[str, bytes] | None = None) -> list[bytes]:
    return shown(book(tmp_path, {"p.xhtml": document}, {**IMAGES, **(files or {})}))


WAYS = {
    "img": page("<img src='a.png'/>"),
    "svg": page("<svg xmlns:xlink='x'><image xlink:href='a.png'/></svg>"),
    "svg with another prefix": page("<svg:svg><svg:image l:href='a.png'/></svg:svg>"),
    "svg without a prefix": page("<svg><image href='a.png'></image></svg>"),
    "object": page("<object type='image/png' data='a.png'></object>"),
    "object with a fallback": page("<object data='a.png'><img src='b.png'/></object>"),
    "object that is not there": page("<object data='none.png'><p><img src='a.png'/></p></object>"),
    "embed": page("<embed src='a.png'/>"),
    "picture": page("<picture><source srcset='b.png'/><img src='a.png'/></picture>"),
    "picture of what is there": page("<picture><source srcset='a.png'/><img src='none.png'/></picture>"),
    "srcset": page("<img srcset='b.png 300w, a.png 900w' src='c.png'/>"),
    "srcset of densities": page("<img srcset='b.png, a.png 2x' src='c.png'/>"),
    "srcset that is not there": page("<img srcset='none.png 2x' src='a.png'/>"),
    "style": page("<div style='background-image: url(a.png)'></div>"),
    "style of the body": page(of_body='style="background:#fff url(&quot;a.png&quot;) no-repeat"'),
    "attribute": page(of_body="background='a.png'"),
    "style element": page(
        "<div class='x p'>&#160;</div>", "<style>div.p { background: url('a.png') }</style>"
    ),
    "style in a section": page(
        "<p id='p'/>", "<style><![CDATA[ /* } */ #p{background:url( a.png )} ]]></style>"
    ),
    "style for everything": page(head="<style>*{margin:0} body{background-image:url(a.png)}</style>"),
    "style by media": page("<i/>", "<style>@media screen{@supports(x:y){i{background:url(a.png)}}}</style>"),
    "not the style for print": page(
        "<i/>", "<style>i{background:url(a.png)} @media print{i{background:url(b.png)}}</style>"
    ),
    "not the style of a state": page(
        "<i/>", "<style>i{background:url(a.png)} i:hover{background:url(b.png)}</style>"
    ),
    "the more specific style": page(
        "<i id='i' class='c'/>", "<style>#i{background:url(a.png)} i.c{background:url(b.png)}</style>"
    ),
    "the later style": page("<i/>", "<style>i{background:url(b.png)} i{background:url(a.png)}</style>"),
    "the insisting style": page(
        "<i style='background:url(b.png)'/>", "<style>i{background:url(a.png) !important}</style>"
    ),
    "the style around": page(
        "<div class='y'><i/></div>",
        "<style>.y > i{background:url(a.png)} .x i{background:url(b.png)}</style>",
    ),
    "content": page("<i/>", "<style>i::before{content:url(a.png)}</style>"),
    "case of tags": b"<HTML><BODY><IMG SRC=a.png></BODY></HTML>",
    "blanks": page("<img src=' a.png\n'/>"),
    "fragment": page("<img src='a.png?x=1#xywh=1'/>"),
    "from the top": page("<img src='/OPS/a.png'/>"),
    "beyond the top": page("<img src='../../../OPS/./a.png'/>"),
    "backslashes": page("<img src='..\\OPS\\a.png'/>"),
    "base": page("<img src='a.png'/>", "<base href='../OPS/'/>"),
    "reference": page("<img src='&#97;.png'/>"),
    "broken reference": page(f"<img src='a.png' alt='&#{'9' * 5000};'/>"),
    "not closed": b"<html><body><p><img src='a.png'><b></i>",
    "comment": page("<!-- <img src='b.png'/> --><img src='a.png'/>"),
    "script": page("<script>document.write(\"<img src='b.png'/>\")</script><img src='a.png'/>"),
    "template": page("<template><img src='b.png'/></template><img src='a.png'/>"),
    "twice in one": page("<img src='a.png'/><div><img src='a.png'/></div>"),
    "marked section": page("<![<><![if x]><img src='a.png'/>"),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_image_is_found_however_it_is_put_on_its_page(tmp_path: Path, way: str) -> None:
    assert one_page(tmp_path, WAYS[way]) == [A]


def test_backgrounds_by_linked_sheets(tmp_path: Path) -> None:
    sheets = {
        "css/all.css": b"@import 'more.css'; .p{background-image:url(../b.png)} #p9{background:url(../d.png)}",
        "css/more.css": b"\xef\xbb\xbf@import url(all.css); /* round */ #p1{background-image:url(../a.png)}",
        "pi.css": b"i{background:url(c.png)}",
    }
    head = "<link rel='stylesheet' href='css/all.css'/><link rel='alternate stylesheet' href='pi.css'/>"
    documents = {
        "1.xhtml": page("<i id='p1' class='p'/>", head),
        "2.xhtml": page("<i class='p'/>", head),
        "3.xhtml": b"<?xml version='1.0'?><?xml-stylesheet href='pi.css'?>" + page("<i/>"),
    }
    assert shown(book(tmp_path, documents, {**IMAGES, **sheets})) == [A, B, C]


def test_backgrounds_behind_images_count_where_they_are_pages(tmp_path: Path) -> None:
    art = {name: picture(at, (90, 120)) for at, name in enumerate(("art1.png", "art2.png"), 50)}
    paper, bubble = picture(60, (200, 200)), picture(61, (30, 30))
    documents = {
        # A page with a small thing over its art; then pages on paper.
        "1.xhtml": page("<img src='bubble.png'/>", of_body="style='background:url(art1.png)'"),
        "2.xhtml": page("<img src='a.png'/>", of_body="style='background:url(paper.png)'"),
        "3.xhtml": page("<img src='art2.png'/>", of_body="style='background:url(paper.png)'"),
    }
    path = book(tmp_path, documents, {**IMAGES, **art, "paper.png": paper, "bubble.png": bubble})
    assert shown(path) == [art["art1.png"], bubble, A, art["art2.png"]]
    assert "2 background(s) behind other images were left out" in contents(path).notes


def as_uri(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def test_images_that_stand_in_documents(tmp_path: Path) -> None:
    drawing = f"<svg><image href='{as_uri(C)}'/></svg>"
    documents = {
        "1.xhtml": page("<img src='a.png'/>"),
        "2.xhtml": page(f"<img src='{as_uri(B)}'/>"),
        "3.xhtml": page(f"<img src='data:image/svg+xml,{quote(drawing)}'/>"),
        "4.xhtml": page(head=f"<style>body{{background:url({as_uri(D)})}}</style>"),
        "5.xhtml": page(f"<img src='{as_uri(B, 'x').replace('+', '-').replace('/', '_').rstrip('=')}'/>"),
        "6.xhtml": page("<img src='data:image/png;base64,!!!'/><img src='data:image/png'/>"),
    }
    path = book(tmp_path, documents, IMAGES)
    assert shown(path) == [A, B, C, D, B]
    names = [member.name for member in contents(path).pages]
    assert names[:2] == ["0001_a.png", "0002_embedded_0001.png"]
    assert contents(path).notes == (
        "3 image(s) that the spine of the EPUB does not hold were left out",
        "1 document(s) in the spine show no image and were left out",
    )


def test_an_image_in_a_document_of_an_epub_without_its_suffix(tmp_path: Path) -> None:
    path = book(tmp_path, {"1.xhtml": page(f"<img src='{as_uri(B)}'/>")})
    assert shown(path.rename(tmp_path / "v.zip")) == [B]


def test_the_same_image_on_two_pages_is_two_pages(tmp_path: Path) -> None:
    blank = page("<img src='d.png'/><p>\n</p>")
    documents = {
        "1.xhtml": page("<img src='a.png'/>"), "2.xhtml": blank, "3.xhtml": page("<img src='b.png'/>"),
        "4.xhtml": blank, "5.xhtml": page("<img src='c.png'/><img src='d.png'/>"),
        "6.xhtml": page("<img src='d.png'/>" + "<p>many words of a chapter</p>" * 20),
    }  # fmt: skip
    path = book(tmp_path, documents, IMAGES)
    # Beside another image, or beside words, an image that came before is an ornament.
    assert shown(path) == [A, D, B, D, C]
    # A document that is named twice is shown twice.
    assert shown(book(tmp_path, documents, IMAGES, spine=["2.xhtml", "1.xhtml", "2.xhtml"])) == [D, A, D]


def renamed(path: Path, change: dict[str, str]) -> Path:
    """The same EPUB with other names of its files."""
    with zipfile.ZipFile(path) as archive:
        inside = {change.get(name, name): archive.read(name) for name in archive.namelist()}
    return make_zip(path, inside)


@pytest.mark.parametrize(
    ("stored", "address"),
    [
        (unicodedata.normalize("NFD", "é ü.png"), quote("é ü.png")),
        (unicodedata.normalize("NFD", "é ü.png"), "é ü.png"),
        (unicodedata.normalize("NFC", "が.png"), quote(unicodedata.normalize("NFD", "が.png"))),
        ("A.PNG", "a.png"),
        ("Images/A.png", "images/a.PNG"),
        ("a%20b.png", "a%20b.png"),
        ("a b.png", "a%20b.png"),
        ("a+b.png", "a+b.png"),
        ("a:b.png", "a:b.png"),
    ],
)
def test_names_are_found_as_readers_find_them(tmp_path: Path, stored: str, address: str) -> None:
    path = book(tmp_path, {"p.xhtml": page(f"<img src='{address}'/>")}, {stored: A})
    assert shown(path) == [A]


def test_of_two_names_in_two_cases_the_exact_one_counts(tmp_path: Path) -> None:
    path = book(tmp_path, {"p.xhtml": page("<img src='b.PNG'/>")}, {"B.png": A, "b.PNG": B})
    assert shown(path) == [B]


def test_images_without_a_suffix_or_with_that_of_something_else(tmp_path: Path) -> None:
    jpeg = picture(8, format="JPEG")
    documents = {
        "1": page("<img src='image'/>"),
        "2.html": page("<img src='x.bin'/><img src='words'/>"),
        "3.dat": A,
    }
    path = book(tmp_path, documents, {"image": jpeg, "x.bin": B, "words": b"no image"})
    assert shown(path) == [jpeg, B, A]
    assert [member.name for member in contents(path).pages] == ["0001_image.jpg", "0002_x.png", "0003_3.png"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "cp932", "latin-1"])
def test_documents_in_other_encodings(tmp_path: Path, encoding: str) -> None:
    said = {"cp932": "Shift_JIS", "latin-1": "ISO-8859-1"}.get(encoding, "UTF-16")
    name = {"cp932": "表.png", "latin-1": "é.png"}.get(encoding, "é表.png")
    head = "" if encoding == "utf-8-sig" else f"<?xml version='1.0' encoding='{said}'?>"
    document = f"{head}<html><body><img src='{name}'/></body></html>".encode(encoding)
    assert one_page(tmp_path, document, {name: A}) == [A]


def test_an_encoding_that_is_none_of_the_web_is_not_asked_for() -> None:
    for name in ("punycode", "rot13", "zip", "unicode_escape", "nonsense"):
        text = f"<?xml version='1.0' encoding='{name}'?><p>é</p>"
        assert decode_text(text.encode()) == text


def test_svg_and_documents_in_documents(tmp_path: Path) -> None:
    documents = {
        "1.svg": b"<svg xmlns:xlink='x'><image xlink:href='a.png'/></svg>",
        "2.xhtml": page("<img src='in.svg'/>"),
        "3.xhtml": page("<object data='in.svg'/>"),
        "4.xhtml": page("<iframe src='round.xhtml'></iframe>"),
    }
    files = {
        "in.svg": b"<svg><image href='b.png'/></svg>",
        "round.xhtml": page("<iframe src='round.xhtml'></iframe><img src='c.png'/>"),
    }
    assert shown(book(tmp_path, documents, {**IMAGES, **files})) == [A, B, B, C]


def test_fallbacks_and_documents_beside_the_line(tmp_path: Path) -> None:
    items = (
        '<item id="odd" href="odd.xyz" media-type="x/y" fallback="odd2"/>'
        '<item id="odd2" href="none.pdf" fallback="good"/><item id="good" href="p.xhtml" fallback="odd"/>'
        '<item id="loop" href="none.xhtml" fallback="loop"/>'
    )
    documents = {"1.xhtml": page("<img src='b.png'/>")}
    files = {**IMAGES, "p.xhtml": page("<img src='a.png'/>"), "odd.xyz": b"odd"}
    path = book(tmp_path, documents, files, items=items)
    with zipfile.ZipFile(path) as archive:
        package = archive.read("OPS/package.opf").decode()
    package = package.replace(
        "</spine>",
        "<itemref idref='odd' linear='no'/><itemref idref='loop'/><itemref idref='nothing'/></spine>",
    )
    path = make_zip(path, {**inside(path), "OPS/package.opf": package.encode()})
    assert shown(path) == [B, A]
    assert "2 document(s) in the spine are missing from the EPUB" in contents(path).notes


def inside(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


# ---- covers


COVER = picture(70, (60, 90), "JPEG")
COVERS = {
    "by the name of its item": {
        "metadata": '<meta name="cover" content="c"/>',
        "items": '<item id="c" href="c.jpg"/>',
    },
    "by a property": {"items": '<item id="x" properties="cover-image" href="c.jpg"/>'},
    "by its path": {"metadata": '<meta content="c.jpg" name="Cover"/>'},
    "by the guide": {"after": "<guide><reference type='cover' href='cover.xhtml'/></guide>"},
}


@pytest.mark.parametrize("way", COVERS)
def test_a_cover_beside_the_spine_comes_first(tmp_path: Path, way: str) -> None:
    documents = {"1.xhtml": page("<img src='a.png'/>")}
    files = {**IMAGES, "c.jpg": COVER, "cover.xhtml": page("<img src='c.jpg'/>")}
    path = book(tmp_path, documents, files, **COVERS[way])  # type: ignore[arg-type]
    assert shown(path) == [COVER, A]
    assert contents(path).notes[-1] == "the cover is not in the spine and was added as the first page"
    # Where the spine holds it, it stays in its place.
    documents["2.xhtml"] = page("<img src='c.jpg'/>")
    assert shown(book(tmp_path, documents, files, **COVERS[way])) == [A, COVER]  # type: ignore[arg-type]


def test_a_cover_that_is_the_first_page_in_small_is_left_out(tmp_path: Path) -> None:
    art = Image.linear_gradient("L").resize((300, 450)).rotate(20)
    art.paste(0, (40, 60, 160, 200))
    buffers = {}
    for name, size in (("page.png", (300, 450)), ("cover.png", (100, 150))):
        buffers[name] = io.BytesIO()
        art.resize(size).save(buffers[name], "PNG")
    files = {name: buffer.getvalue() for name, buffer in buffers.items()}
    settings = {"items": '<item id="x" properties="cover-image" href="cover.png"/>'}
    path = book(tmp_path, {"1.xhtml": page("<img src='page.png'/>")}, files, **settings)  # type: ignore[arg-type]
    assert shown(path) == [files["page.png"]]
    assert contents(path).notes[-1] == "the cover was left out, because the first page is the same image"
    broken = book(
        tmp_path,
        {"1.xhtml": page("<img src='page.png'/>")},
        {**files, "cover.png": b"\x89PNG\r\n\x1a\n"},
        **settings,
    )  # type: ignore[arg-type]
    # A cover that cannot be read is like nothing: it is a page, and fails as one.
    assert len(shown(broken)) == 2


def test_a_novel_with_a_cover_is_no_comic(tmp_path: Path) -> None:
    settings = {"items": '<item id="x" properties="cover-image" href="a.png"/>'}
    path = book(tmp_path, {"1.xhtml": page("<p>words</p>")}, {"a.png": A}, **settings)  # type: ignore[arg-type]
    with pytest.raises(PageError, match="the EPUB holds 1") as caught:
        contents(path)
    assert caught.value.kind == "unsupported"


# ---- what is told


def test_what_gives_no_page_is_counted(tmp_path: Path) -> None:
    documents = {
        "toc.xhtml": page("<nav><ol><li>1</li></ol></nav>"),
        "1.xhtml": page("<img src='a.png'/>"),
        "2.xhtml": page("<img src='gone1.png'/><img src='http://example.org/x.png'/>"),
        "3.svg": b"<svg><path d='M0 0'/></svg>",
    }
    path = book(tmp_path, documents, IMAGES, spine=[*documents, "4.xhtml"])
    assert contents(path).notes == (
        "3 image(s) that the spine of the EPUB does not hold were left out",
        "2 document(s) in the spine show no image and were left out",
        "1 document(s) in the spine are missing from the EPUB",
        "2 image(s) used by its documents are missing from the EPUB: gone1.png, http://example.org/x.png",
    )


def test_that_a_volume_holds_no_image_is_said_only_where_it_is_true(tmp_path: Path) -> None:
    for files, kind in ((IMAGES, "unsupported"), ({}, "no-pages")):
        path = book(tmp_path, {"1.xhtml": page("<p>words</p>")}, files)
        with pytest.raises(PageError) as caught:
            contents(path)
        assert caught.value.kind == kind
        assert ("holds no image" in caught.value.reason) == (kind == "no-pages")
    # An EPUB that is called a ZIP is not passed over for being without pages.
    assert (
        contents_kind(book(tmp_path, {"1.xhtml": page()}, IMAGES).rename(tmp_path / "v.zip")) == "unsupported"
    )


def contents_kind(path: Path) -> str:
    with pytest.raises(PageError) as caught:
        contents(path)
    return caught.value.kind


@pytest.mark.parametrize(
    ("of_spine", "metadata", "is_manga"),
    [
        ("page-progression-direction='rtl'", "", True),
        (
            "page-progression-direction='ltr'",
            '<meta name="primary-writing-mode" content="horizontal-rl"/>',
            False,
        ),
        (
            "page-progression-direction='default'",
            '<meta name="primary-writing-mode" content="vertical-rl"/>',
            True,
        ),
        ("toc='ncx'", '<meta name="primary-writing-mode" content="horizontal-lr"/>', False),
    ],
)
def test_the_direction_of_reading(tmp_path: Path, of_spine: str, metadata: str, is_manga: bool) -> None:
    path = book(
        tmp_path, {"1.xhtml": page("<img src='a.png'/>")}, IMAGES, of_spine=of_spine, metadata=metadata
    )
    made = [member.content for member in contents(path).members if not member.is_page]
    assert any(b"<Manga>YesAndRightToLeft</Manga>" in (content or b"") for content in made) == is_manga


# ---- packages


def test_a_package_that_is_not_well_formed_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = book(
        tmp_path, {"1.xhtml": page("<img src='a.png'/>")}, IMAGES, metadata="<title>A & B&nbsp;</title><br>"
    )
    assert shown(path) == [A]
    cut = inside(path)
    cut["OPS/package.opf"] = cut["OPS/package.opf"].partition(b"</spine>")[0]
    assert contents_kind(make_zip(path, cut)) == "damaged"


def test_a_package_without_a_container_is_found_if_it_is_the_only_one(tmp_path: Path) -> None:
    files = inside(book(tmp_path, {"1.xhtml": page("<img src='a.png'/>")}, IMAGES))
    del files["META-INF/container.xml"]
    assert shown(make_zip(tmp_path / "v.epub", files)) == [A]
    assert (
        contents_kind(make_zip(tmp_path / "v.epub", {**files, "OPS/other.opf": b"<package/>"})) == "damaged"
    )


def test_a_book_that_also_contains_itself_in_another_format(tmp_path: Path) -> None:
    files = inside(book(tmp_path, {"1.xhtml": page("<img src='a.png'/>")}, IMAGES))
    other = b"<rootfiles><rootfile full-path='book.pdf' media-type='application/pdf'/>"
    files["META-INF/container.xml"] = files["META-INF/container.xml"].replace(b"<rootfiles>", other)
    files["book.pdf"] = b"%PDF-1.7"
    assert shown(make_zip(tmp_path / "v.epub", files)) == [A]


@pytest.mark.parametrize(
    "container",
    [
        b"", b"<container/>", b"no XML", EPUB_CONTAINER.replace(b"OPS/package.opf", b"OEBPS/content.opf"),
        EPUB_CONTAINER.replace(b"OPS/package.opf", b""),
    ],
)  # fmt: skip
def test_a_container_that_leads_nowhere_does_not_hide_the_only_package(
    tmp_path: Path, container: bytes
) -> None:
    files = inside(book(tmp_path, {"1.xhtml": page("<img src='a.png'/>")}, IMAGES))
    files["META-INF/container.xml"] = container
    assert shown(make_zip(tmp_path / "v.epub", files)) == [A]
    assert (
        contents_kind(make_zip(tmp_path / "v.epub", {**files, "OPS/other.opf": b"<package/>"})) == "damaged"
    )


def test_entities_are_not_expanded(tmp_path: Path) -> None:
    bomb = (
        "<!DOCTYPE package [<!ENTITY a 'aaaaaaaaaa'>"
        + "".join(
            f"<!ENTITY {name} '{f'&{before};' * 60}'>"
            for name, before in zip("bcdefg", "abcdef", strict=True)
        )
        + "]>"
    )
    files = inside(
        book(tmp_path, {"1.xhtml": page("<img src='a.png'/>")}, IMAGES, metadata="<title>&g;</title>")
    )
    for encoding in ("utf-8", "utf-16"):
        files["OPS/package.opf"] = (
            bomb + files["OPS/package.opf"].decode("utf-8", "ignore").lstrip("\ufeff")
        ).encode(encoding)
        path = make_zip(tmp_path / "v.epub", files)
        assert shown(path) == [A]
        made = [member.content for member in contents(path).members if member.name == "ComicInfo.xml"]
        assert all(len(content or b"") < 1000 for content in made)
        files["OPS/package.opf"] = inside(book(tmp_path, {"1.xhtml": page("<img src='a.png'/>")}, IMAGES))[
            "OPS/package.opf"
        ]


def test_locked_documents(tmp_path: Path) -> None:
    lock = b"<e><CipherReference URI='OPS/1.xhtml'/></e>"
    files = {**IMAGES, "/META-INF/encryption.xml": lock}
    assert contents_kind(book(tmp_path, {"1.xhtml": b"\0locked"}, files)) == "encrypted"
    font = b"<e><CipherReference URI='OPS/font.otf'/></e>"
    path = book(
        tmp_path, {"1.xhtml": page("<img src='a.png'/>")}, {**IMAGES, "/META-INF/encryption.xml": font}
    )
    assert shown(path) == [A]


# ---- without end


MEGABYTE = 1_000_000 if LONG else 250_000
"""Characters of a document, which is large enough to show time that grows by their square."""
ENDLESS = {
    "comments": "<!-- " * (MEGABYTE // 5),
    "tags": "<a " * (MEGABYTE // 3),
    "quotes": "<a b=\"' " * (MEGABYTE // 8),
    "single quotes": "<a b='\" <c d=" * (MEGABYTE // 13),
    "sections": "<![CDATA[ " * (MEGABYTE // 10),
    "marked sections": "<![ " * (MEGABYTE // 4),
    "declarations": "<!DOCTYPE [ <!ENTITY " * (MEGABYTE // 21),
    "instructions": "<?x " * (MEGABYTE // 4),
    "ends": "</a " * (MEGABYTE // 4),
    "scripts": "<script>" * (MEGABYTE // 8),
    "styles": '<style>a{b:url("x' * (MEGABYTE // 17),
    "brackets": "<" * MEGABYTE,
    "depth": "<a>" * (MEGABYTE // 3),
    "references": "<a b='" + "&#x" * (MEGABYTE // 3) + "'>",
    "classes": "<a class='" + "x " * (MEGABYTE // 2) + "'>",
    "css comments": "<style>" + "/* " * (MEGABYTE // 3) + "</style>",
    "css addresses": "<style>a{b:" + "url( " * (MEGABYTE // 5) + "</style>",
    "css quoted addresses": "<style>a{background:" + "url('x' " * (MEGABYTE // 8) + "</style>",
    "css braces": "<style>" + "a{" * (MEGABYTE // 2) + "</style>",
    "css selectors": "<style>" + "a>" * (MEGABYTE // 2) + "{background:url(x)}</style><a></a>",
    "css backslashes": "<style>a{b:'" + "\\" * MEGABYTE + "'}</style>",
    "srcset": "<img srcset='" + "x, " * (MEGABYTE // 3) + "'/>",
}
"""Much of what is never closed, or is closed too late."""


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_document_without_end_is_read_in_bounded_time(tmp_path: Path, kind: str) -> None:
    documents = {"0.xhtml": page("<img src='a.png'/>"), "1.xhtml": ENDLESS[kind].encode()}
    path = book(tmp_path, documents, IMAGES)
    try:
        assert shown(path)[0] == A
    except PageError as error:
        assert error.kind == "bomb"


def test_rules_times_elements_are_bounded(tmp_path: Path) -> None:
    rules = "".join(f"a.x{at % 7}{{background:url(b.png)}}" for at in range(9000))
    classes = " ".join(f"x{at}" for at in range(7))
    body = f"<a class='{classes}'></a>" * 9000
    path = book(tmp_path, {"1.xhtml": page(body, f"<style>{rules}</style>")}, IMAGES)
    assert contents_kind(path) == "bomb"


def test_a_large_document_is_read_once_however_often_it_is_named(tmp_path: Path) -> None:
    text = "<p>words <b>and</b> more</p>" * 2000
    path = book(tmp_path, {"1.xhtml": page(text + "<img src='a.png'/>")}, IMAGES, spine=["1.xhtml"] * 5000)
    # An image beside this much text counts once. To read the document 5,000 times would be 50 million tokens.
    assert shown(path) == [A]
    blank = book(tmp_path, {"1.xhtml": page("<img src='a.png'/>")}, IMAGES, spine=["1.xhtml"] * 25_000)
    with pytest.raises(PageError, match="--max-members") as caught:
        contents(blank)
    assert caught.value.kind == "bomb"


def test_a_document_that_unpacks_to_more_than_any_has(tmp_path: Path) -> None:
    path = book(tmp_path, {"1.xhtml": b" " * (65 << 20)}, IMAGES)
    with pytest.raises(PageError, match="far too large"):
        list_volume(path, VolumeRules(max_ratio=1e6), extension="png")


@given(st.text(alphabet="<>/!-[]'\"= abimgsrc?&;{}:(),#.", max_size=200))
def test_any_text_is_read(text: str) -> None:
    budget = Budget()
    list(tokens(text, budget))
    read_css(text, budget)
    DocumentReader(lambda paths: None, budget).read(text, "a/b.xhtml")


@given(st.text(alphabet="abc>/=&; !-[]:{}()", max_size=100))
def test_an_image_behind_any_text_is_found(text: str) -> None:
    (image,) = [
        token for token in tokens(f"{text}<img src='x.png'/>{text}", Budget()) if isinstance(token, Start)
    ]
    assert (image.name, image.attributes, image.is_empty) == ("img", {"src": "x.png"}, True)


SHARED_BOOKS = {
    "epub-background/bg_inline": 3, "epub-background/bg_mixed": 3, "epub-cover/covermeta": 3,
    "epub-data-uri/data": 3, "epub-nfd/nfd": 2, "hostile-epub/smallest-marked-section": 1,
    "hostile-epub/quadratic-comment": 1, "hostile-epub/quadratic-lt": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", SHARED_BOOKS)
def test_shared_books(name: str) -> None:
    path = SHARED / "faults" / f"{name}.epub"
    if not path.is_file():
        pytest.skip(f"{name}.epub is not here")
    assert len(shown(path)) == SHARED_BOOKS[name]
