"""PDFs whose images do not decode, which PDFium draws as blank pages; form fields; attached files."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from comic_upscale.errors import PageError
from comic_upscale.imaging.decode import decode
from comic_upscale.library.containers import list_volume
from comic_upscale.settings.job import VolumeRules
from tests.library.test_pdf import jbig2, noise, page, read
from tests.pdfs import Pdf, Ref, strips

SIZE = (240, 360)
ART = noise(SIZE, 70)
GRAY = noise(SIZE, 71, "L")


def packed(image: Image.Image, name: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name)
    return buffer.getvalue()


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


BROKEN: dict[str, Callable[[Pdf], Ref]] = {
    "samples cut short": lambda pdf: pdf.image(ART, "", half(zlib.compress(ART.tobytes())), "/FlateDecode"),
    "too few samples": lambda pdf: pdf.image(ART, "", zlib.compress(half(ART.tobytes())), "/FlateDecode"),
    "gray samples cut short": lambda pdf: pdf.image(
        GRAY, "", half(zlib.compress(GRAY.tobytes())), "/FlateDecode"
    ),
    "no samples": lambda pdf: pdf.image(ART, "", b"not compressed" * 20, "/FlateDecode"),
    "JPEG cut short": lambda pdf: pdf.image(ART, "", half(packed(ART, "JPEG")), "/DCTDecode"),
    "packed JPEG cut short": lambda pdf: pdf.image(
        ART, "", zlib.compress(half(packed(ART, "JPEG"))), "[/FlateDecode /DCTDecode]"
    ),
    "no JPEG": lambda pdf: pdf.image(ART, "", b"no JPEG" * 90, "/DCTDecode"),
    "no JBIG2": lambda pdf: pdf.image(GRAY.convert("1"), "", b"no JBIG2" * 90, "/JBIG2Decode"),
    "JBIG2 cut short": lambda pdf: pdf.image(
        GRAY.convert("1"), "", half(jbig2(GRAY.convert("1"))), "/JBIG2Decode"
    ),
    "no JPEG 2000": lambda pdf: pdf.image(ART, "", b"no JPEG 2000" * 90, "/JPXDecode"),
    "JPEG 2000 cut short": lambda pdf: pdf.image(ART, "", half(packed(ART, "JPEG2000")), "/JPXDecode"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_page_whose_image_does_not_decode_fails_and_is_not_blank(tmp_path: Path, kind: str) -> None:
    if "2000" in kind and not features.check("jpg_2000"):
        pytest.skip("needs Pillow with JPEG 2000")
    pdf = Pdf()
    pdf.show(BROKEN[kind](pdf))
    with pytest.raises(PageError) as error:
        page(pdf, tmp_path)
    assert error.value.kind in ("damaged", "truncated")


def test_a_broken_image_below_text_or_beside_others_fails_too(tmp_path: Path) -> None:
    pdf = Pdf()
    ref, good = BROKEN["no JPEG 2000"](pdf), pdf.raw(GRAY)
    # Its number in black covers less than a tenth of the page; the other half is art.
    pdf.page("q 172.8 0 0 129.6 0 129.6 cm /B Do Q q 172.8 0 0 129.6 0 0 cm /A Do Q 0 g 9 9 40 20 re f",
             f"/XObject << /A {ref} /B {good} >>")  # fmt: skip
    with pytest.raises(PageError, match="an image on it cannot be decoded"):
        read(pdf, tmp_path)


def test_a_broken_ornament_does_not_cost_the_page(tmp_path: Path) -> None:
    pdf = Pdf()
    broken, good = BROKEN["no JPEG"](pdf), pdf.raw(GRAY)
    pdf.page("q 172.8 0 0 259.2 0 0 cm /B Do Q q 9 0 0 9 3 3 cm /A Do Q",
             f"/XObject << /A {broken} /B {good} >>")  # fmt: skip
    assert np.array_equal(page(pdf, tmp_path).color[:300, :, 0], np.asarray(GRAY)[:300])


def test_many_small_broken_images_are_more_than_an_ornament(tmp_path: Path) -> None:
    pdf = Pdf()
    broken, good = BROKEN["no samples"](pdf), pdf.raw(GRAY)
    small = "".join(f"q 9 0 0 9 {9 * at} 3 cm /A Do Q " for at in range(12))
    pdf.page(f"q 172.8 0 0 259.2 0 0 cm /B Do Q {small}", f"/XObject << /A {broken} /B {good} >>")
    with pytest.raises(PageError, match="an image on it lacks"):
        read(pdf, tmp_path)


def test_a_strip_that_is_cut_short(tmp_path: Path) -> None:
    pdf = Pdf()
    strips(pdf, ART, 4, width=172.8, height=259.2)
    strip = ART.crop((0, 90, 240, 180))
    number = next(at for at, body in enumerate(pdf.objects) if zlib.compress(strip.tobytes()) in body)
    short = zlib.compress(half(strip.tobytes()))
    head, _, _ = pdf.objects[number].partition(b"/Length")
    pdf.objects[number] = head + b"/Length %d >>\nstream\n" % len(short) + short + b"\nendstream"
    with pytest.raises(PageError, match="an image on it lacks 45 of its 90 rows"):
        read(pdf, tmp_path)


@pytest.mark.parametrize("space", ["white", "black", (30, 60, 90)])
def test_an_image_of_one_colour_is_whole(tmp_path: Path, space: str | tuple[int, int, int]) -> None:
    if not features.check("jpg_2000"):
        pytest.skip("needs Pillow with JPEG 2000")
    image = Image.new("RGB", SIZE, space)
    pdf = Pdf()
    pdf.show(pdf.image(image, "", packed(image, "JPEG2000"), "/JPXDecode"))
    pdf.show(pdf.raw(image))
    for data in read(pdf, tmp_path):
        shown = decode(data, max_pixels=1 << 20).color
        assert np.array_equal(np.broadcast_to(shown, (360, 240, 3)), np.asarray(image))


def test_a_row_too_few_and_a_jpeg_without_its_end_are_still_drawn(tmp_path: Path) -> None:
    pdf = Pdf()
    pdf.show(pdf.image(GRAY, "", zlib.compress(GRAY.tobytes()[: -SIZE[0]]), "/FlateDecode"))
    jpeg = packed(GRAY, "JPEG")
    pdf.show(pdf.image(GRAY, "", jpeg[:-2], "/DCTDecode"))
    few, endless = (decode(data, max_pixels=1 << 20).color[:, :, 0] for data in read(pdf, tmp_path))
    assert np.array_equal(few[:359], np.asarray(GRAY)[:359])
    assert np.array_equal(endless, np.asarray(Image.open(io.BytesIO(jpeg))))


def test_a_stamp_that_is_a_field_of_a_form_is_seen(tmp_path: Path) -> None:
    pdf = Pdf()
    ink = pdf.form("1 0 0 rg 0 0 50 50 re f", "0 0 50 50")
    field = pdf.add(
        "<< /Type /Annot /Subtype /Widget /FT /Btn /Ff 65536 /T (stamp) /Rect [100 100 150 150] /F 4 "
        f"/AP << /N {ink} >> >>"
    )
    empty = pdf.add("<< /Type /Annot /Subtype /Widget /FT /Tx /T (name) /Rect [10 10 90 30] /F 4 >>")
    pdf.catalog = f"/AcroForm << /Fields [{field} {empty}] >>"
    pdf.page("", box="0 0 240 360", entries=f"/Annots [{field} {empty}]")
    shown = page(pdf, tmp_path, pdf_dpi=72).color
    assert shown.shape == (360, 240, 3)
    assert (shown[210:260, 100:150] == (255, 0, 0)).all()
    # Nothing else: viewers color the fields to fill in, but print them without.
    assert int((shown == 255).all(axis=2).sum()) == 360 * 240 - 2500


def test_attached_files_are_noted(tmp_path: Path) -> None:
    pdf = Pdf()
    inside = pdf.stream("/Type /EmbeddedFile", b"%PDF-1.7")
    file = pdf.add(f"<< /Type /Filespec /F (v1.pdf) /UF (v1.pdf) /EF << /F {inside} >> >>")
    pdf.catalog = f"/Names << /EmbeddedFiles << /Names [(v1.pdf) {file}] >> >> /Collection << /View /D >>"
    pdf.page("0 g 9 9 40 20 re f")
    listed = list_volume(pdf.save(tmp_path / "v.pdf"), VolumeRules(), extension="png")
    assert listed.notes == ("1 file(s) attached to the PDF were left out",)


def form_without_image(pdf: Pdf) -> Ref:
    return pdf.form("q 172.8 0 0 259.2 0 0 cm /B Do Q", "0 0 172.8 259.2", "/XObject << /B 98 0 R >>")


SHOW = "q 172.8 0 0 259.2 0 0 cm /A Do Q"
MISSING: dict[str, Callable[[Pdf], object]] = {
    "no such object": lambda pdf: pdf.page(SHOW, "/XObject << /A 99 0 R >>"),
    "an object that is null": lambda pdf: pdf.page(SHOW, f"/XObject << /A {pdf.add('null')} >>"),
    "no such name": lambda pdf: pdf.page(SHOW),
    "no such name among others": lambda pdf: pdf.page(SHOW, f"/XObject << /Other {pdf.raw(GRAY)} >>"),
    "a page number beside it": lambda pdf: pdf.page(
        f"{SHOW} 0 g 9 9 40 20 re f", "/XObject << /A 99 0 R >>"
    ),
    "in a form": lambda pdf: pdf.page("/A Do", f"/XObject << /A {form_without_image(pdf)} >>"),
    "content that is not packed": lambda pdf: page_with(pdf, b"not compressed" * 9),
    "content cut short": lambda pdf: page_with(pdf, zlib.compress(bytes(range(256)) * 9)[:20]),
}  # fmt: skip


def page_with(pdf: Pdf, content: bytes) -> None:
    stream = pdf.stream("/Filter /FlateDecode", content)
    pdf.pages.append(
        pdf.add(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 172.8 259.2] /Resources << >> /Contents {stream} >>"
        )
    )


@pytest.mark.parametrize("kind", MISSING)
def test_a_page_whose_art_is_not_in_the_file_fails_and_is_not_blank(tmp_path: Path, kind: str) -> None:
    pdf = Pdf()
    MISSING[kind](pdf)
    with pytest.raises(
        PageError, match=r"missing from the file|its content (cannot be decoded|is cut short)"
    ) as error:
        read(pdf, tmp_path)
    assert error.value.kind == "damaged"


def test_pages_without_an_image_that_lack_nothing_are_drawn(tmp_path: Path) -> None:
    pdf = Pdf()
    drawn = pdf.form("0 g 0 0 50 50 re f", "0 0 50 50")
    loop = pdf.form("/Again Do", "0 0 50 50", f"/XObject << /Again {len(pdf.objects) + 1} 0 R >>")
    pdf.page("")
    pdf.page("q Q")
    pdf.page("q 1 0 0 1 9 9 cm /A Do Q", f"/XObject << /A {drawn} >>")
    pdf.page("/A Do", f"/XObject << /A {loop} >>")
    # The resources are those of the tree; the content is in two parts, one of them empty.
    parts = f"[{pdf.stream('', b'/A')} {pdf.stream('', b' Do', packed=True)} {pdf.stream('', b'')}]"
    pdf.pages.append(
        pdf.add(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 100 100] /Contents {parts} "
            f"/Resources << /XObject << /A {drawn} >> >> >>"
        )
    )
    pdf.pages.append(pdf.add("<< /Type /Page /Parent 2 0 R /MediaBox [0 0 100 100] >>"))
    shown = [decode(data, max_pixels=1 << 20).color for data in read(pdf, tmp_path, pdf_dpi=72)]
    assert [bool((one < 255).any()) for one in shown] == [False, False, True, False, True, False]
