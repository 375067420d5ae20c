"""What a page of a PDF is: turned, cut, masked, coloured, drawn and bounded as a viewer shows it."""

from __future__ import annotations

import hashlib
import io
import math
import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageDraw, features

from comic_upscale.errors import PageError
from comic_upscale.imaging.decode import decode
from comic_upscale.imaging.orientation import upright
from comic_upscale.imaging.pixels import Pixels
from comic_upscale.library import pdf as pdf_module
from comic_upscale.library.containers import list_volume, open_container
from comic_upscale.settings.job import VolumeRules
from tests.conftest import SHARED, pairs
from tests.pdfs import Pdf, Ref, sheet, strips

Samples = NDArray[np.uint8]

WIDTH, HEIGHT = 172.8, 259.2
"""Points of a page in `Pdf.show`."""


def noise(size: tuple[int, int], seed: int = 0, mode: str = "RGB") -> Image.Image:
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def read(pdf: Pdf, path: Path, **rules: int) -> list[bytes]:
    """The pages as the container gives them."""
    container = open_container(pdf.save(path / "v.pdf"), VolumeRules(**rules))
    try:
        return [container.read(index) for index in range(len(container.entries()))]
    finally:
        container.close()


def pages(pdf: Pdf, path: Path, **rules: int) -> list[Pixels]:
    """The pages as a run decodes them."""
    return [decode(data, max_pixels=1 << 26) for data in read(pdf, path, **rules)]


def page(pdf: Pdf, path: Path, **rules: int) -> Pixels:
    (one,) = pages(pdf, path, **rules)
    return one


def gray(pixels: Pixels) -> Samples:
    assert pixels.color.shape[2] == 1
    return pixels.color[:, :, 0]


def as_jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **{"quality": 90, **options})  # type: ignore[arg-type]
    return buffer.getvalue()


def samples_of(jpeg: bytes) -> Samples:
    return np.asarray(Image.open(io.BytesIO(jpeg)))


TITLE = sheet((240, 360), [(20, 30, 90, 40), (20, 50, 60, 60)])
"""A page that is nearly all white: its picture is near to itself turned."""

MATRICES = {
    1: "{w} 0 0 {h} 0 0", 2: "-{w} 0 0 {h} {w} 0", 3: "-{w} 0 0 -{h} {w} {h}", 4: "{w} 0 0 -{h} 0 {h}",
    5: "0 -{h} -{w} 0 {w} {h}", 6: "0 -{h} {w} 0 0 {h}", 7: "0 {h} {w} 0 0 0", 8: "0 {h} -{w} 0 {w} 0",
}  # fmt: skip
"""How a page of w x h shows an image in each of EXIF's orientations."""


@pytest.mark.parametrize("orientation", MATRICES)
@pytest.mark.parametrize("image", [TITLE, Image.eval(TITLE, lambda v: 255 - v), noise((24, 36), mode="L")])
def test_a_jpeg_that_its_matrix_turns_or_mirrors(
    tmp_path: Path, orientation: int, image: Image.Image
) -> None:
    pdf = Pdf()
    w, h = (WIDTH, HEIGHT) if orientation < 5 else (HEIGHT, WIDTH)
    jpeg = as_jpeg(image)
    ref = pdf.image(image, "", jpeg, "/DCTDecode")
    pdf.show(ref, MATRICES[orientation].format(w=w, h=h), box=f"0 0 {w} {h}")
    (data,) = read(pdf, tmp_path)
    # The JPEG itself, which now says how it lies: nothing is drawn or lost.
    assert data.startswith(b"\xff\xd8\xff")
    assert (data == jpeg) == (orientation == 1)
    shown = decode(data, max_pixels=1 << 20).color
    assert np.array_equal(shown, upright(samples_of(jpeg)[:, :, None], orientation))


@pytest.mark.parametrize(("turn", "orientation"), [(90, 6), (180, 3), (270, 8), (-90, 8), (450, 6)])
def test_a_jpeg_on_a_page_that_is_turned(tmp_path: Path, turn: int, orientation: int) -> None:
    pdf = Pdf()
    jpeg = as_jpeg(TITLE)
    pdf.show(pdf.image(TITLE, "", jpeg, "/DCTDecode"), entries=f"/Rotate {turn}")
    assert np.array_equal(page(pdf, tmp_path).color, upright(samples_of(jpeg)[:, :, None], orientation))


def test_a_mirrored_jpeg_on_a_turned_page_and_in_a_form(tmp_path: Path) -> None:
    pdf = Pdf()
    jpeg = as_jpeg(TITLE)
    ref = pdf.image(TITLE, "", jpeg, "/DCTDecode")
    # A form that is turned a quarter to the left shows it mirrored; the page is turned to the right.
    form = pdf.form("q -1 0 0 1 1 0 cm /A Do Q", "0 0 1 1", f"/XObject << /A {ref} >>")
    pdf.page(
        f"q 0 {WIDTH} -{HEIGHT} 0 {HEIGHT} 0 cm /F Do Q", f"/XObject << /F {form} >>",
        box=f"0 0 {HEIGHT} {WIDTH}", entries="/Rotate 90",
    )  # fmt: skip
    assert np.array_equal(gray(page(pdf, tmp_path)), samples_of(jpeg)[:, ::-1])


def test_what_the_exif_of_a_jpeg_says_of_its_turn_is_not_what_a_viewer_shows(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    jpeg = as_jpeg(TITLE, exif=tags.tobytes())
    pdf = Pdf()
    ref = pdf.image(TITLE, "", jpeg, "/DCTDecode")
    pdf.show(ref)
    pdf.show(ref, entries="/Rotate 90")
    upright_page, turned = read(pdf, tmp_path)
    assert np.array_equal(decode(upright_page, max_pixels=1 << 20).color[:, :, 0], samples_of(jpeg))
    # Here both say the same, so the file stays as it is.
    assert turned == jpeg


CROP = "/CropBox [12 18 228 342]"


@pytest.mark.parametrize("kind", ["jpeg", "raw"])
@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_a_crop_box_cuts_exactly(tmp_path: Path, kind: str, turn: int) -> None:
    proof = sheet((240, 360), [(0, 0, 8, 2), (30, 345, 90, 355), (40, 60, 60, 90)])
    pdf = Pdf()
    ref = pdf.jpeg(proof) if kind == "jpeg" else pdf.raw(proof)
    pdf.show(ref, "240 0 0 360 0 0", box="0 0 240 360", entries=f"{CROP} /Rotate {turn}")
    shown = gray(page(pdf, tmp_path))
    whole = samples_of(as_jpeg(proof)) if kind == "jpeg" else np.asarray(proof)
    assert np.array_equal(shown, np.rot90(whole[18:342, 12:228], -turn // 90))


@pytest.mark.parametrize("scale", [0.24, 1.0, 0.7331])
def test_a_spread_in_two_crop_boxes_is_cut_and_not_resampled(tmp_path: Path, scale: float) -> None:
    spread = noise((300, 200), 1)
    pdf = Pdf()
    ref = pdf.raw(spread)
    w, h = 300 * scale, 200 * scale
    for left, right in ((0.0, w / 2), (w / 2, w)):
        box = f"/CropBox [{left - 30:.4f} {-5:.4f} {right - 30:.4f} {h - 5:.4f}]"
        pdf.show(ref, f"{w:.4f} 0 0 {h:.4f} -30 -5", box=f"-30 -5 {w - 30:.4f} {h - 5:.4f}", entries=box)
    left_page, right_page = pages(pdf, tmp_path)
    assert np.array_equal(left_page.color, np.asarray(spread)[:, :150])
    assert np.array_equal(right_page.color, np.asarray(spread)[:, 150:])


def test_boxes_that_are_rounded_leave_a_jpeg_as_it_is(tmp_path: Path) -> None:
    image = noise((165, 234), 2)
    jpeg = as_jpeg(image)
    pdf = Pdf()
    ref = pdf.image(image, "", jpeg, "/DCTDecode")
    pdf.show(ref, "595.276 0 0 841.89 0 0", box="0 0 595 842")
    pdf.show(ref, "595.276 0 0 841.89 0 0", box="0 0 596 842")
    pdf.show(ref, "590 0 0 834.49 2.6 4", box="0 0 595.276 841.89")  # a margin that nobody sees
    assert read(pdf, tmp_path) == [jpeg] * 3


def test_an_image_that_reaches_well_beyond_its_sheet_is_cut(tmp_path: Path) -> None:
    image = noise((200, 300), 3)
    pdf = Pdf()
    pdf.show(pdf.raw(image), "200 0 0 300 -4 -4", box="0 0 192 292")
    assert np.array_equal(page(pdf, tmp_path).color, np.asarray(image)[4:296, 4:196])


def test_a_page_with_broad_margins_keeps_the_pixels_of_its_image(tmp_path: Path) -> None:
    image = noise((100, 120), 4)
    pdf = Pdf()
    pdf.show(pdf.raw(image), "50 0 0 60 20 30", box="0 0 90 120")
    shown = page(pdf, tmp_path).color
    assert shown.shape == (240, 180, 3)
    assert np.array_equal(shown[60:180, 40:140], np.asarray(image))
    assert (shown[:60] == 255).all()
    assert (shown[:, 140:] == 255).all()


FONT = "/Font << /T << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >>"


def numbered(content: str = "BT /T 5 Tf 80 4 Td (12) Tj ET") -> tuple[Pdf, Samples]:
    """A page of 300 dpi with a number over it, and the image on it."""
    image = noise((480, 720), 5, "L")
    pdf = Pdf()
    ref = pdf.raw(image)
    pdf.page(f"q {WIDTH / 1.5} 0 0 {HEIGHT / 1.5} 0 0 cm /A Do Q {content}", f"/XObject << /A {ref} >> {FONT}",
             box=f"0 0 {WIDTH / 1.5} {HEIGHT / 1.5}")  # fmt: skip
    return pdf, np.asarray(image)


def test_a_page_number_does_not_cost_half_of_the_pixels(tmp_path: Path) -> None:
    pdf, image = numbered()
    shown = page(pdf, tmp_path)
    assert gray(shown).shape == image.shape
    # Except for the number itself, no sample changed.
    assert np.array_equal(gray(shown)[:600], image[:600])
    assert not np.array_equal(gray(shown)[600:], image[600:])
    assert shown.notes == ("drawn at 300 dpi, the resolution of its images",)
    finer = page(pdf, tmp_path, pdf_dpi=600)
    assert gray(finer).shape == (1440, 960)
    assert finer.notes == ()


def test_a_scan_in_strips_is_put_together_pixel_by_pixel(tmp_path: Path) -> None:
    image = noise((481, 719), 6, "L")
    for count, width, height in ((4, 115.2, 172.8), (7, 595.28, 889.81), (50, 481.0, 719.0)):
        pdf = Pdf()
        strips(pdf, image, count, width=width, height=height)
        shown = page(pdf, tmp_path)
        assert np.array_equal(gray(shown), np.asarray(image)), (count, width)
        assert "dpi" in shown.notes[0]


def test_strips_in_turned_and_nested_forms(tmp_path: Path) -> None:
    image = noise((90, 60), 7)
    upper, lower = image.crop((0, 0, 90, 30)), image.crop((0, 30, 90, 60))
    pdf = Pdf()
    inner = pdf.form(
        "q 90 0 0 30 0 30 cm /U Do Q q 90 0 0 30 0 0 cm /L Do Q", "0 0 90 60",
        f"/XObject << /U {pdf.raw(upper)} /L {pdf.raw(lower)} >>", "/Matrix [1 0 0 1 -45 -30]",
    )  # fmt: skip
    outer = pdf.form("q 0 0.5 -0.5 0 30 45 cm /I Do Q", "-900 -900 900 900", f"/XObject << /I {inner} >>")
    pdf.page("q 1.44 0 0 1.44 7.2 -22.32 cm /O Do Q", f"/XObject << /O {outer} >>",
             box="28.8 10.08 72 74.88", entries="/Rotate 90")  # fmt: skip
    # Turned to the left by the form and to the right by the page.
    assert np.array_equal(page(pdf, tmp_path).color, np.asarray(image))


def test_a_jpeg_in_a_form_is_still_that_jpeg(tmp_path: Path) -> None:
    image = noise((480, 720), 8, "L")
    jpeg = as_jpeg(image)
    pdf = Pdf()
    ref = pdf.image(image, "", jpeg, "/DCTDecode")
    form = pdf.form("q 115.2 0 0 172.8 0 0 cm /A Do Q", "0 0 115.2 172.8", f"/XObject << /A {ref} >>")
    pdf.page("/F Do", f"/XObject << /F {form} >>", box="0 0 115.2 172.8")
    assert read(pdf, tmp_path) == [jpeg]


def test_a_form_that_cuts_its_image(tmp_path: Path) -> None:
    pdf = Pdf()
    ref = pdf.jpeg(Image.new("L", (240, 360), 0))
    form = pdf.form("q 240 0 0 360 0 0 cm /A Do Q", "0 180 240 360", f"/XObject << /A {ref} >>")
    pdf.page("/F Do", f"/XObject << /F {form} >>", box="0 0 240 360")
    shown = gray(page(pdf, tmp_path))
    assert shown.shape == (360, 240)
    assert (shown[:180] == 0).all()
    assert (shown[180:] == 255).all()


def test_what_is_below_outside_or_only_to_be_searched_does_not_count(tmp_path: Path) -> None:
    image = noise((240, 360), 9)
    jpeg = as_jpeg(image)
    pdf = Pdf()
    ref = pdf.image(image, "", jpeg, "/DCTDecode")
    below = "1 1 1 rg 0 0 300 400 re f BT /T 20 Tf 30 30 Td (below) Tj ET"
    above = (
        "BT 3 Tr /T 20 Tf 30 30 Td (searched) Tj ET 0 0 50 50 re n "
        "BT 0 Tr /T 20 Tf 300 30 Td (outside) Tj ET 0.25 w -20 -20 10 10 re S"
    )
    pdf.page(f"{below} q 240 0 0 360 0 0 cm /A Do Q {above}", f"/XObject << /A {ref} >> {FONT}",
             box="0 0 240 360")  # fmt: skip
    assert read(pdf, tmp_path) == [jpeg]


def test_a_small_finer_logo_does_not_decide_and_a_large_one_does(tmp_path: Path) -> None:
    image, logo = noise((240, 360), 10), noise((100, 50), 11)
    for width, dpi in ((6.0, 72), (50.0, 144)):
        pdf = Pdf()
        pdf.page(
            f"q 240 0 0 360 0 0 cm /A Do Q q {width} 0 0 {width / 2} 10 10 cm /B Do Q",
            f"/XObject << /A {pdf.raw(image)} /B {pdf.raw(logo)} >>", box="0 0 240 360",
        )  # fmt: skip
        shown = page(pdf, tmp_path)
        assert shown.color.shape == (360 * dpi // 72, 240 * dpi // 72, 3)


def test_pixels_that_are_not_square_are_drawn_as_the_page_shows_them(tmp_path: Path) -> None:
    pdf = Pdf()
    pdf.show(pdf.jpeg(noise((204, 98), 12)), "72 0 0 72 0 0", box="0 0 72 72")
    assert page(pdf, tmp_path).color.shape == (204, 204, 3)


def test_a_scan_that_is_put_straight_by_its_matrix(tmp_path: Path) -> None:
    angle = math.radians(3)
    cos, sin = math.cos(angle), math.sin(angle)
    pdf = Pdf()
    pdf.show(
        pdf.jpeg(noise((480, 720), 13)),
        f"{115.2 * cos:.4f} {115.2 * sin:.4f} {-172.8 * sin:.4f} {172.8 * cos:.4f} 4 -3", box="0 0 115.2 172.8",
    )  # fmt: skip
    shown = page(pdf, tmp_path)
    assert shown.color.shape == (720, 480, 3)
    assert "300 dpi" in shown.notes[0]


def test_as_many_pixels_as_are_allowed_and_no_more(tmp_path: Path) -> None:
    pdf, _ = numbered()
    shown = page(pdf, tmp_path, max_pixels=200_000)
    height, width = gray(shown).shape
    assert 190_000 < width * height <= 200_000
    assert shown.notes == ("drawn at 228 dpi instead of the 300 dpi of its images, because of --max-pixels",)
    with pytest.raises(PageError, match="--pdf-dpi") as caught:
        page(pdf, tmp_path, max_pixels=80_000)
    assert caught.value.kind == "too-large"


def test_no_stray_row(tmp_path: Path) -> None:
    pdf = Pdf()
    for box, _ in SIZES:
        pdf.page("0 0 m 50 50 l S", box=box)
    assert [shown.color.shape[1::-1] for shown in pages(pdf, tmp_path)] == [size for _, size in SIZES]


SIZES = [
    ("0 0 115.2 172.8", (240, 360)),
    ("0 0 612 792", (1275, 1650)),
    ("0 0 595.276 841.89", (1241, 1754)),
    ("-100 -50 15.2 122.8", (240, 360)),
    ("0 0 0.1 0.1", (1, 1)),
]
"""Boxes, and the pixels of these at 150 dpi; what is cut by a box is not lost, so the rest is rounded up."""


# ---- masks, spaces, and whatever else changes how an image looks


def line_art() -> Image.Image:
    art = Image.new("L", (480, 720), 0)
    draw = ImageDraw.Draw(art)
    for at in range(20, 700, 34):
        draw.line((20, at, 460, 720 - at), 255, 3)
    return art


@pytest.mark.parametrize("size", [(2, 2), (60, 90)])
@pytest.mark.parametrize("matrix", [1, 3, 6])
def test_art_in_the_mask_of_a_small_image(tmp_path: Path, size: tuple[int, int], matrix: int) -> None:
    art = line_art()
    pdf = Pdf()
    mask = pdf.raw(art)
    w, h = (115.2, 172.8) if matrix < 5 else (172.8, 115.2)
    pdf.show(
        pdf.raw(Image.new("RGB", size), f"/SMask {mask}"),
        MATRICES[matrix].format(w=w, h=h),
        box=f"0 0 {w} {h}",
    )
    shown = page(pdf, tmp_path)
    wanted = upright(255 - np.asarray(art)[:, :, None], matrix)
    assert shown.color.shape == wanted.shape
    assert np.abs(shown.color.astype(int) - wanted).max() <= 1


HIDDEN = sheet((240, 360), [(60, 100, 64, 104)])


def hiding(pdf: Pdf) -> dict[str, Callable[[], Ref]]:
    """Images that do not show their one mark, each for another reason."""
    mask = Image.new("L", (240, 360), 255)
    mask.paste(0, (55, 95, 70, 110))
    stencil = mask.point(lambda value: 255 if value == 0 else 0).convert("1")
    return {
        "soft mask": lambda: pdf.jpeg(HIDDEN, f"/SMask {pdf.raw(mask)}"),
        "mask": lambda: pdf.jpeg(HIDDEN, f"/Mask {pdf.raw(stencil, '/ImageMask true')}"),
        "color key": lambda: pdf.raw(HIDDEN, "/Mask [0 9]"),
        "mapping": lambda: pdf.raw(HIDDEN, "/Decode [1 1]"),
        "optional content": lambda: pdf.jpeg(HIDDEN, f"/OC {optional(pdf)}"),
    }


def optional(pdf: Pdf) -> Ref:
    """A layer that is switched off."""
    layer = pdf.add("<< /Type /OCG /Name (layer) >>")
    pdf.catalog = f"/OCProperties << /OCGs [{layer}] /D << /OFF [{layer}] >> >>"
    return layer


@pytest.mark.parametrize("reason", hiding(Pdf()))
def test_what_is_masked_or_switched_off_is_not_seen(tmp_path: Path, reason: str) -> None:
    pdf = Pdf()
    pdf.show(hiding(pdf)[reason](), "240 0 0 360 0 0", box="0 0 240 360")
    shown = gray(page(pdf, tmp_path))
    assert shown.shape == (360, 240)
    assert shown.min() >= 250


OVER = {
    "soft mask of the state": "/G gs",
    "transparency": "/H gs",
    "clip": "30 30 30 30 re W n",
    "odd clip": "0 0 m 240 0 l 240 120 l 0 60 l h W n",
    "clip by text": "BT 7 Tr /T 9 Tf 200 300 Td (i) Tj ET",
    "layer": "/OC /L BDC",
}


@pytest.mark.parametrize("reason", OVER)
def test_what_the_page_does_to_an_image(tmp_path: Path, reason: str) -> None:
    pdf = Pdf()
    group = pdf.form(
        "0 g 0 0 240 360 re f", "0 0 240 360", "", "/Group << /S /Transparency /CS /DeviceGray >>"
    )
    states = (
        f"/ExtGState << /G << /SMask << /S /Luminosity /G {group} >> >> /H << /ca 0.01 >> >> "
        f"/Properties << /L {optional(pdf)} >> {FONT}"
    )
    ref = pdf.jpeg(HIDDEN)
    pdf.page(f"q {OVER[reason]} q 240 0 0 360 0 0 cm /A Do Q Q", f"/XObject << /A {ref} >> {states}",
             box="0 0 240 360")  # fmt: skip
    shown = gray(page(pdf, tmp_path))
    assert shown.shape == (360, 240)
    assert shown[98:106, 58:66].min() >= 250


def test_a_form_that_is_switched_off_is_not_seen(tmp_path: Path) -> None:
    pdf = Pdf()
    ref = pdf.jpeg(HIDDEN)
    form = pdf.form(
        "q 240 0 0 360 0 0 cm /A Do Q", "0 0 240 360", f"/XObject << /A {ref} >>", f"/OC {optional(pdf)}"
    )
    pdf.page("/F Do", f"/XObject << /F {form} >>", box="0 0 240 360")
    assert gray(page(pdf, tmp_path)).min() == 255


def test_a_note_that_is_stuck_on_a_page_is_seen(tmp_path: Path) -> None:
    pdf = Pdf()
    ink = pdf.form("0 g 0 0 9 9 re f", "0 0 9 9")
    for flags in (4, 2):
        stamp = pdf.add(
            f"<< /Type /Annot /Subtype /Stamp /Rect [100 100 109 109] /F {flags} /AP << /N {ink} >> >>"
        )
        link = pdf.add("<< /Type /Annot /Subtype /Link /Rect [0 0 50 50] /Border [0 0 0] >>")
        pdf.show(pdf.jpeg(HIDDEN), "240 0 0 360 0 0", box="0 0 240 360", entries=f"/Annots [{link} {stamp}]")
    drawn, hidden = read(pdf, tmp_path, pdf_dpi=72)
    assert decode(drawn, max_pixels=1 << 20).color[255, 105, 0] == 0
    assert hidden.startswith(b"\xff\xd8\xff")


def test_inverted_samples(tmp_path: Path) -> None:
    image = noise((240, 360), 14, "L")
    inverted = 255 - np.asarray(image)
    pdf = Pdf()
    jpeg = as_jpeg(image)
    pdf.show(pdf.image(image, "/Decode [1 0]", jpeg, "/DCTDecode"), "240 0 0 360 0 0", box="0 0 240 360")
    pdf.show(pdf.raw(image, "/Decode [1 0]"), "240 0 0 360 0 0", box="0 0 240 360")
    by_jpeg, by_samples = read(pdf, tmp_path)
    pdf = Pdf()
    pdf.show(pdf.image(image, "/Decode [0 1.0]", jpeg, "/DCTDecode"), "240 0 0 360 0 0", box="0 0 240 360")
    (plain,) = read(pdf, tmp_path)
    assert np.array_equal(decode(by_jpeg, max_pixels=1 << 20).color[:, :, 0], 255 - samples_of(jpeg))
    assert np.array_equal(decode(by_samples, max_pixels=1 << 20).color[:, :, 0], inverted)
    assert plain == jpeg


def test_a_jpeg_whose_colours_are_transformed_in_an_odd_way_is_drawn(tmp_path: Path) -> None:
    pdf = Pdf()
    image = Image.new("RGB", (240, 360), "white")
    image.paste((250, 20, 20), (100, 100, 120, 110))
    pdf.show(pdf.jpeg(image, "/DecodeParms << /ColorTransform 0 >>"), "240 0 0 360 0 0", box="0 0 240 360")
    (drawn,) = read(pdf, tmp_path)
    pdf = Pdf()
    pdf.show(pdf.jpeg(image, "/DecodeParms [null]"), "240 0 0 360 0 0", box="0 0 240 360")
    (plain,) = read(pdf, tmp_path)
    assert drawn.startswith(b"P6")
    assert plain.startswith(b"\xff\xd8\xff")


def wide_profile() -> bytes:
    """A profile whose colours are far wider than sRGB's: that one with its columns exchanged for others."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for tag, values in (
        (b"rXYZ", (0.7977, 0.2880, 0.0)),
        (b"gXYZ", (0.1352, 0.7119, 0.0)),
        (b"bXYZ", (0.0313, 0.0001, 0.8249)),
    ):
        at = profile.index(tag)
        place = int.from_bytes(profile[at + 4 : at + 8], "big") + 8
        struct.pack_into(">3i", profile, place, *(round(value * 65536) for value in values))
    return bytes(profile)


def gray_profile(gamma: float) -> bytes:
    """A profile of gray, by its gamma."""
    curve = b"curv" + struct.pack(">IIH", 0, 1, round(gamma * 256)) + b"\0\0"
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    name = b"desc" + struct.pack(">II", 0, 2) + b"g\0" + bytes(78)
    name += bytes(-len(name) % 4)
    tags, body, at = [], b"", 128 + 4 + 3 * 12
    for tag, data in ((b"desc", name), (b"wtpt", white), (b"kTRC", curve)):
        tags.append(tag + struct.pack(">II", at + len(body), len(data)))
        body += data
    size = at + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"\0\0\0\0", 0x02400000, b"mntr", b"GRAY", b"XYZ ") + bytes(12)
    head += b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061) + bytes(48)
    return head + struct.pack(">I", 3) + b"".join(tags) + body


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SPOT = Image.new("RGB", (240, 360), "white")
SPOT.paste((30, 160, 60), (100, 100, 120, 110))


def profiled(profile: bytes, image: Image.Image, *, own: bytes | None = None) -> tuple[Pdf, bytes]:
    pdf = Pdf()
    space = pdf.stream(f"/N {len(image.getbands())}", profile, packed=True)
    jpeg = as_jpeg(image, icc_profile=own)
    ref = pdf.image(image, f"/ColorSpace [/ICCBased {space}]", jpeg, "/DCTDecode")
    pdf.show(ref, "240 0 0 360 0 0", box="0 0 240 360")
    return pdf, jpeg


@pytest.mark.parametrize(
    ("profile", "image"), [(wide_profile(), SPOT), (gray_profile(1.0), TITLE), (gray_profile(2.2), TITLE)]
)
def test_the_profile_of_the_pdf_goes_along_with_the_jpeg(
    tmp_path: Path, profile: bytes, image: Image.Image
) -> None:
    for own in (None, SRGB if image.mode == "RGB" else None, profile):
        pdf, jpeg = profiled(profile, image, own=own)
        (data,) = read(pdf, tmp_path)
        found = Image.open(io.BytesIO(data))
        assert found.info["icc_profile"] == profile
        assert np.array_equal(np.asarray(found), samples_of(jpeg))
        assert (data == jpeg) == (own == profile)
        decoded = decode(data, max_pixels=1 << 20)
        assert decoded.icc_profile == profile
        assert decoded.notes == ()


def test_a_profile_that_is_srgbs_changes_nothing(tmp_path: Path) -> None:
    for own in (None, SRGB):
        pdf, jpeg = profiled(SRGB, SPOT, own=own)
        assert read(pdf, tmp_path) == [jpeg]
    broken, jpeg = profiled(b"no profile" * 20, SPOT)
    assert read(broken, tmp_path) == [jpeg]


def test_the_profile_inside_a_jpeg_does_not_count_beside_the_space_of_the_pdf(tmp_path: Path) -> None:
    jpeg = as_jpeg(SPOT, icc_profile=wide_profile())
    pdf = Pdf()
    pdf.show(pdf.image(SPOT, "", jpeg, "/DCTDecode"), "240 0 0 360 0 0", box="0 0 240 360")
    (data,) = read(pdf, tmp_path)
    found = Image.open(io.BytesIO(data))
    assert "icc_profile" not in found.info
    assert np.array_equal(np.asarray(found), samples_of(jpeg))


CAL = "[/CalRGB << /WhitePoint [0.9505 1 1.089] /Gamma [1 1 1] >>]"
TINT = "<< /FunctionType 2 /Domain [0 1] /C0 [1 1 1] /C1 [1 0 0] /N 1 >>"
SPACES = {
    "calibrated": (CAL, SPOT),
    "a spot colour": (f"[/Separation /Red /DeviceRGB {TINT}]", TITLE),
    "a palette": ("[/Indexed /DeviceRGB 255 <" + "ff0000" * 256 + ">]", TITLE),
    "Lab": ("[/Lab << /WhitePoint [0.9505 1 1.089] >>]", SPOT),
}


@pytest.mark.parametrize("name", SPACES)
def test_spaces_that_are_no_plain_ones_are_drawn(tmp_path: Path, name: str) -> None:
    space, image = SPACES[name]
    pdf = Pdf()
    pdf.show(pdf.jpeg(image, f"/ColorSpace {pdf.add(space)}"), "240 0 0 360 0 0", box="0 0 240 360")
    (data,) = read(pdf, tmp_path)
    assert data.startswith(b"P6")
    assert decode(data, max_pixels=1 << 20).color.shape == (360, 240, 3)


def test_what_the_resources_of_a_page_do_to_the_colours_of_an_image(tmp_path: Path) -> None:
    inverted = "<< /FunctionType 2 /Domain [0 1] /C0 [1] /C1 [0] /N 1 >>"
    pdf = Pdf()
    ref = pdf.jpeg(SPOT)
    states = f"/ColorSpace << /DefaultRGB {pdf.add(CAL)} >>"
    pdf.page("q 240 0 0 360 0 0 cm /A Do Q", f"/XObject << /A {ref} >> {states}", box="0 0 240 360")
    pdf.page(
        "/G gs q 240 0 0 360 0 0 cm /A Do Q",
        f"/XObject << /A {pdf.jpeg(TITLE)} >> /ExtGState << /G << /TR {pdf.add(inverted)} >> >>",
        box="0 0 240 360",
    )
    calibrated, turned_round = read(pdf, tmp_path)
    assert calibrated.startswith(b"P6")
    assert np.median(decode(turned_round, max_pixels=1 << 20).color) == 0


def test_cmyk_is_drawn_at_the_size_of_its_image(tmp_path: Path) -> None:
    pdf = Pdf()
    pdf.show(pdf.jpeg(noise((240, 360), 15).convert("CMYK")), "240 0 0 360 0 0", box="0 0 240 360")
    (data,) = read(pdf, tmp_path)
    assert Image.open(io.BytesIO(data)).size == (240, 360)
    assert data.startswith(b"P6")


# ---- kinds of images


def group_4(image: Image.Image) -> bytes:
    """The samples of a 1-bit image, packed as fax machines do."""
    buffer = io.BytesIO()
    # In fax, black is what is written.
    black = Image.fromarray(~np.asarray(image))
    black.save(buffer, "TIFF", compression="group4", strip_size=1 << 30)
    file = Image.open(io.BytesIO(buffer.getvalue()))
    at, length = file.tag_v2[273][0], file.tag_v2[279][0]  # type: ignore[attr-defined]
    return buffer.getvalue()[at : at + length]


def jbig2(image: Image.Image) -> bytes:
    """The same in the frame of JBIG2, as a PDF holds it: a page, and one region of it."""
    size = struct.pack(">II", image.width, image.height)
    page_facts = size + struct.pack(">IIBH", 0, 0, 0, 0)
    region = size + struct.pack(">IIB", 0, 0, 0) + b"\x01" + group_4(image)
    return (
        struct.pack(">IBBBI", 0, 48, 0, 1, len(page_facts)) + page_facts
        + struct.pack(">IBBBI", 1, 38, 0, 1, len(region)) + region
    )  # fmt: skip


def lines(size: tuple[int, int]) -> Image.Image:
    image = Image.new("1", size, 1)
    draw = ImageDraw.Draw(image)
    for at in range(3, min(size), 7):
        draw.line((at, 0, size[0] - at, size[1] - 1), 0)
    return image


def kinds(pdf: Pdf) -> dict[str, tuple[Callable[[], Ref], Samples]]:
    bits = lines((240, 360))
    black = np.asarray(bits).astype(np.uint8) * 255
    samples = noise((240, 360), 16)
    high = np.asarray(noise((240, 360), 17, "L"))
    wide = high * np.uint16(257)
    palette = samples.quantize(16)
    found = {
        "rgb": (lambda: pdf.raw(samples), np.asarray(samples)),
        "gray": (lambda: pdf.raw(samples.convert("L")), np.asarray(samples.convert("L"))),
        "bits": (lambda: pdf.raw(bits), black),
        "stencil": (lambda: pdf.raw(bits, "/ImageMask true /ColorSpace null"), black),
        "fax": (
            lambda: pdf.image(
                bits, "/DecodeParms << /K -1 /Columns 240 /Rows 360 >>", group_4(bits), "/CCITTFaxDecode"
            ),
            black,
        ),
        "jbig2": (lambda: pdf.image(bits, "", jbig2(bits), "/JBIG2Decode"), black),
        "palette": (
            lambda: pdf.image(
                palette,
                "/ColorSpace [/Indexed /DeviceRGB 15 <" + bytes(palette.getpalette()[:48]).hex() + ">]",  # type: ignore[index]
                zlib.compress(palette.tobytes()), "/FlateDecode",
            ),
            np.asarray(palette.convert("RGB")),
        ),
        "16 bits": (
            lambda: pdf.image(
                samples.convert("L"), "/BitsPerComponent 16", zlib.compress(wide.tobytes()), "/FlateDecode"
            ),
            high,
        ),
    }  # fmt: skip
    if features.check("jpg_2000"):
        buffer = io.BytesIO()
        samples.save(buffer, "JPEG2000", irreversible=False)
        found["jpx"] = (lambda: pdf.image(samples, "", buffer.getvalue(), "/JPXDecode"), np.asarray(samples))
    return found


@pytest.mark.parametrize(("kind", "turn"), pairs(kinds(Pdf()), [0, 270]))
def test_an_image_of_any_kind_is_drawn_pixel_by_pixel(tmp_path: Path, kind: str, turn: int) -> None:
    for width in (240.0, 115.2, 33.33):
        pdf = Pdf()
        make, wanted = kinds(pdf)[kind]
        height = width * 1.5
        pdf.show(
            make(),
            f"{width} 0 0 {height:.4f} 0 0",
            box=f"0 0 {width} {height:.4f}",
            entries=f"/Rotate {turn}",
        )
        shown = page(pdf, tmp_path)
        difference = np.abs(shown.color.squeeze().astype(int) - np.rot90(wanted, -turn // 90))
        assert difference.max() <= (kind == "16 bits"), (kind, width)
        assert shown.notes == ()


def test_an_image_in_the_midst_of_the_content(tmp_path: Path) -> None:
    samples = noise((12, 18), 18, "L")
    packed = samples.tobytes().hex()
    pdf = Pdf()
    pdf.page(f"q 24 0 0 36 0 0 cm BI /W 12 /H 18 /CS /G /BPC 8 /F /AHx ID {packed}> EI Q", box="0 0 24 36")
    assert np.array_equal(gray(page(pdf, tmp_path)), np.asarray(samples))


PAD = bytes.fromhex("28bf4e5e4e758a4164004e56fffa01082e2e00b6d0683e802f0ca9fe6453697a")


def rc4(key: bytes, data: bytes) -> bytes:
    state, j, out = list(range(256)), 0, bytearray()
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    i = j = 0
    for byte in data:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)


def locked(pdf: Pdf, path: Path) -> Path:
    """The file as shops sell it: encrypted, by a password that nobody needs for reading (standard handler, 40 bits)."""
    owner = rc4(hashlib.md5(PAD).digest()[:5], PAD)
    name = b"0123456789abcdef"
    key = hashlib.md5(PAD + owner + struct.pack("<i", -4) + name).digest()[:5]
    for at, body in enumerate(pdf.objects[2:], 2):
        head, mark, rest = body.partition(b"\nstream\n")
        if mark:
            data = rest.removesuffix(b"\nendstream")
            one = hashlib.md5(key + struct.pack("<I", at + 1)[:3] + b"\0\0").digest()[:10]
            pdf.objects[at] = head + mark + rc4(one, data) + b"\nendstream"
    lock = f"/Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <{owner.hex()}> /U <{rc4(key, PAD).hex()}> >>"
    whole = pdf.bytes().replace(
        b"/Root 1 0 R", f"/Root 1 0 R {lock} /ID [<{name.hex()}> <{name.hex()}>]".encode()
    )
    path.write_bytes(whole)
    return path


def test_an_encrypted_file_is_read_like_another(tmp_path: Path) -> None:
    image = noise((240, 360), 19)
    jpeg = as_jpeg(image)
    for mask in (None, Image.new("L", (240, 360), 0)):
        pdf = Pdf()
        entries = "" if mask is None else f"/SMask {pdf.raw(mask)}"
        pdf.show(pdf.image(image, entries, jpeg, "/DCTDecode"), "240 0 0 360 0 0", box="0 0 240 360")
        container = open_container(locked(pdf, tmp_path / "v.pdf"), VolumeRules())
        data = container.read(0)
        container.close()
        assert (data == jpeg) == (mask is None)
        assert mask is None or decode(data, max_pixels=1 << 20).color.min() == 255


def test_names_in_dictionaries_may_be_written_in_other_ways(tmp_path: Path) -> None:
    pdf = Pdf()
    mask = pdf.raw(Image.new("L", (240, 360), 0))
    odd = "/Note (a \\) >> /Mask [ ) % >> /Width 3\n /Odd << /SMask null /A [1 (]) <AB>] >>"
    pdf.show(
        pdf.jpeg(HIDDEN, f"{odd} /S#4Dask {mask}"), "240 0 0 360 0 0", box="0 0 240 360"
    )  # fmt: skip
    assert gray(page(pdf, tmp_path)).min() == 255


def test_of_the_states_of_a_file_the_last_one_counts(tmp_path: Path) -> None:
    """A program that adds a mask writes the image once more behind the end; the mask counts then."""
    pdf = Pdf()
    jpeg = as_jpeg(HIDDEN)
    ref = pdf.image(HIDDEN, "", jpeg, "/DCTDecode")
    mask = pdf.raw(Image.new("L", (240, 360), 0))
    pdf.show(ref, "240 0 0 360 0 0", box="0 0 240 360")
    assert read(pdf, tmp_path) == [jpeg]
    before = pdf.bytes()
    later = Pdf()
    later.objects = list(pdf.objects)
    again = later.image(HIDDEN, f"/SMask {mask}", jpeg, "/DCTDecode")
    body = later.objects[again.number - 1]
    at = len(before)
    update = f"{ref.number} 0 obj\n".encode() + body + b"\nendobj\n"
    start = before[before.rindex(b"startxref") :].split()[1].decode()
    update += (
        f"xref\n{ref.number} 1\n{at:010d} 00000 n \ntrailer\n<< /Size {len(pdf.objects) + 1} /Root 1 0 R "
        f"/Prev {start} >>\nstartxref\n{at + len(update)}\n%%EOF\n"
    ).encode()
    path = tmp_path / "later.pdf"
    path.write_bytes(before + update)
    container = open_container(path, VolumeRules())
    assert np.asarray(Image.open(io.BytesIO(container.read(0)))).min() == 255
    container.close()


# ---- the volume


def test_the_reading_direction_of_a_pdf_goes_into_comicinfo(tmp_path: Path) -> None:
    pdf = Pdf()
    pdf.show(pdf.jpeg(TITLE))
    pdf.catalog = "/ViewerPreferences << /Direction /R2L >>"
    made = list_volume(pdf.save(tmp_path / "v.pdf"), VolumeRules(), extension="png").members[-1]
    assert made.name == "ComicInfo.xml"
    assert made.content is not None
    assert [(element.tag, element.text) for element in ET.fromstring(made.content)] == [
        ("Manga", "YesAndRightToLeft")
    ]
    pdf.catalog = "/ViewerPreferences << /Direction /L2R >>"
    plain = list_volume(pdf.save(tmp_path / "v.pdf"), VolumeRules(), extension="png")
    assert [member.name for member in plain.members] == ["0001.png"]


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names are text here")
def test_a_pdf_whose_name_is_no_text(tmp_path: Path) -> None:
    pdf = Pdf()
    pdf.show(pdf.jpeg(TITLE))
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/v \xff%20.pdf"))
    container = open_container(pdf.save(path), VolumeRules())
    assert container.read(0).startswith(b"\xff\xd8\xff")
    container.close()


def forms(levels: int) -> Pdf:
    """Forms that draw each other ten times over."""
    pdf = Pdf()
    form = pdf.form("0 0 9 9 re f", "0 0 99 99")
    for _ in range(levels):
        form = pdf.form("/F Do " * 10, "0 0 99 99", f"/XObject << /F {form} >>")
    pdf.page("/F Do", f"/XObject << /F {form} >>", box="0 0 99 99")
    pdf.show(pdf.jpeg(TITLE))
    return pdf


def test_a_page_without_end_fails_and_the_others_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pdf_module, "SECONDS", 1.0)
    container = open_container(forms(7).save(tmp_path / "v.pdf"), VolumeRules())
    for _ in range(2):
        with pytest.raises(PageError) as caught:
            container.read(0)
        assert caught.value.kind == "bomb"
        assert container.read(1).startswith(b"\xff\xd8\xff")
    with pytest.raises(PageError):
        container.read(0)
    # After three times nothing more of the file is tried.
    with pytest.raises(PageError, match="not tried"):
        container.read(1)
    container.close()
    other = open_container(forms(1).save(tmp_path / "w.pdf"), VolumeRules())
    assert other.read(0).startswith(b"P5")
    other.close()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux bounds the memory of a process")
def test_a_page_that_takes_too_much_memory_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf_module, "_DRAWING_MEMORY", 8 << 20)
    monkeypatch.setattr(pdf_module, "_BYTES_PER_PIXEL", 1)
    pdf = Pdf()
    pdf.page("0 0 m 9 9 l S", box="0 0 2000 2000")
    pdf.page("0 0 m 9 9 l S", box="0 0 20 20")
    container = open_container(pdf.save(tmp_path / "v.pdf"), VolumeRules())
    with pytest.raises(PageError) as caught:
        container.read(0)
    assert caught.value.kind in ("out-of-memory", "bomb")
    assert container.read(1).startswith(b"P5")
    container.close()


def test_a_child_that_was_killed_is_replaced(tmp_path: Path) -> None:
    pdf = Pdf()
    pdf.show(pdf.jpeg(TITLE))
    container = open_container(pdf.save(tmp_path / "v.pdf"), VolumeRules())
    first = container.read(0)
    child = pdf_module.HELPER._child
    assert child is not None
    child.kill()
    child.wait()
    assert container.read(0) == first
    container.close()


@pytest.mark.parametrize("name", ["black90", "rot90s", "rot180s", "title180", "flips"])
def test_shared_pages_that_are_turned(name: str) -> None:
    path = shared(f"pdf-turned/{name}.pdf")
    assert_as_drawn(path)


SHARED_PAGES = (
    "pdf-cropbox/crop", "pdf-150dpi/form", "pdf-150dpi/number", "pdf-150dpi/strips",
    "pdf-small-base-large-mask/smask_2x2", "pdf-small-base-large-mask/smask_60x90",
)  # fmt: skip


@pytest.mark.parametrize("name", SHARED_PAGES)
def test_shared_pages_that_were_cut_short_or_wrong(name: str) -> None:
    wanted = {"crop": (216, 324)}.get(name.rpartition("/")[2], (480, 720))
    assert assert_as_drawn(shared(f"{name}.pdf")) == wanted


def shared(name: str) -> Path:
    path = SHARED / "faults" / name
    if not path.is_file():
        pytest.skip(f"{name} is not here")
    return path


def assert_as_drawn(path: Path) -> tuple[int, int]:
    """Compare a page with what PDFium draws of it, at the size that it came out; return that."""
    import pypdfium2

    container = open_container(path, VolumeRules())
    color = decode(container.read(0), max_pixels=1 << 24).color
    container.close()
    height, width = color.shape[:2]
    pdf = pypdfium2.PdfDocument(path)
    across, up = pdf[0].get_size()
    drawn = pdf[0].render(scale=(width - 0.25) / across).to_pil().convert("L").resize((width, height))
    pdf.close()
    assert abs(width / across - height / up) < 0.01 * width / across
    difference = np.asarray(drawn).astype(int) - color[:, :, 0]
    # There it is resampled by a hair, here it is not; by blocks they are the same.
    blocks = difference[: height // 8 * 8, : width // 8 * 8].reshape(height // 8, 8, width // 8, 8)
    assert abs(blocks.mean((1, 3))).max() < 40
    return width, height
