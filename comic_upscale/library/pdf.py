"""Read the pages of a PDF: the image that a page is, as it is, or else the page drawn.

PDFium is not safe between threads, not even on different files: one lock covers every call.
"""

from __future__ import annotations

import contextlib
import io
import threading
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops, ImageStat

from comic_upscale.errors import PageError
from comic_upscale.library.archives import (
    MAX_MEMBER_BYTES,
    Entry,
    Tally,
    closing_on_error,
    damaged,
    encrypted,
    volume_errors,
)
from comic_upscale.settings.job import VolumeRules

_PDFIUM = threading.RLock()

_POINTS = 72.0
_INVISIBLE = 3
# A page and the JPEG on it, both this small, differ by less than so many gray levels on average.
_SMALL, _SAME = 96, 8.0


class PdfContainer:
    """A PDF whose members are its pages.

    A page that is nothing but one upright JPEG gives that file, byte for byte; text over it that is not
    shown, which scanners add to be searched, does not count. A page that is one image of another kind is
    drawn at the image's own size; any other page at ``rules.pdf_dpi``.

    Args:
        path: a file of this machine.
        rules: the limits.
        held: closed with the container, also where this raises.

    Raises:
        PageError: it cannot be opened.
    """

    in_order = True
    comment = b""

    def __init__(self, path: Path, rules: VolumeRules, held: contextlib.ExitStack | None = None) -> None:
        self._path, self._rules = path, rules
        self._held = held or contextlib.ExitStack()
        with _PDFIUM, volume_errors(), closing_on_error(self._held):
            self._pdf = _open(path)

    def entries(self) -> list[Entry]:
        """One for each page, ``0001.png``; of what format it is shows when it is read."""
        with _PDFIUM, volume_errors():
            tally = Tally(self._path.stat().st_size, self._rules)
            count = len(self._pdf)
        for _ in range(count):
            tally.add(0)
        digits = max(4, len(str(count)))
        return [Entry(f"{number:0{digits}d}.png", 0) for number in range(1, count + 1)]

    def read(self, index: int) -> bytes:
        """A page as a JPEG, or as a PPM or PGM of what was drawn."""
        with _PDFIUM, volume_errors("page"):
            page = self._load(index)
            try:
                return self._content(page)
            finally:
                page.close()

    def salvage(self, index: int) -> bytes:
        """The same: a PDF has no checksums."""
        return self.read(index)

    def _load(self, index: int) -> Any:
        from pypdfium2 import PdfiumError

        try:
            return self._pdf[index]
        except PdfiumError as error:
            raise damaged("page", error) from None

    def _content(self, page: Any) -> bytes:
        image = _only_image(page)
        if image is None:
            return _as_file(self._draw(page, self._rules.pdf_dpi / _POINTS))
        jpeg = _embedded_jpeg(image)
        if jpeg is not None and _is_the_page(jpeg, page):
            return jpeg
        width, height = image.get_px_size()
        # As many pixels as the image has, whichever way up it lies. PDFium rounds sizes up.
        scale = (max(width, height) - 0.25) / max(page.get_size())
        return _as_file(self._draw(page, scale))

    def _draw(self, page: Any, scale: float) -> Image.Image:
        width, height = page.get_size()
        pixels = width * scale * (height * scale)
        if not 0 < pixels <= self._rules.max_pixels:
            raise PageError(
                "too-large",
                f"The page would be drawn with {pixels:,.0f} pixels, and the limit is {self._rules.max_pixels:,}: "
                "lower --pdf-dpi, or raise --max-pixels.",
            )
        return _drawn(page, scale)

    def close(self) -> None:
        """Close the file."""
        with _PDFIUM:
            self._pdf.close()
        self._held.close()


def _open(path: Path) -> Any:
    try:
        import pypdfium2
    except ImportError:
        raise PageError(
            "library", "PDF is read by pypdfium2, which is missing: pip install pypdfium2."
        ) from None
    with path.open("rb"):
        # For the system's own words about a file that is not there or may not be read.
        pass
    try:
        return pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        if "assword" in str(error):
            raise encrypted() from None
        raise damaged("volume", error) from None


def _only_image(page: Any) -> Any:
    """The one image that a page shows and that covers it, or None."""
    from pypdfium2 import raw

    image = None
    for shown in page.get_objects(max_depth=1):
        if shown.type == raw.FPDF_PAGEOBJ_TEXT and raw.FPDFTextObj_GetTextRenderMode(shown.raw) == _INVISIBLE:
            continue
        if shown.type != raw.FPDF_PAGEOBJ_IMAGE or image is not None:
            return None
        image = shown
    return image if image is not None and _covers(image, page) else None


def _covers(image: Any, page: Any) -> bool:
    box, bounds = page.get_bbox(), image.get_bounds()
    slack = 0.02 * max(box[2] - box[0], box[3] - box[1])
    return bool(
        bounds[0] <= box[0] + slack
        and bounds[1] <= box[1] + slack
        and bounds[2] >= box[2] - slack
        and bounds[3] >= box[3] - slack
    )


def _embedded_jpeg(image: Any) -> bytes | None:
    if image.get_filters() != ["DCTDecode"]:
        return None
    data = bytes(image.get_data())
    return data if data.startswith(b"\xff\xd8\xff") and len(data) <= MAX_MEMBER_BYTES else None


def _is_the_page(jpeg: bytes, page: Any) -> bool:
    """Whether a page shows a JPEG as any viewer would: not turned, cropped, inverted, masked or tinted."""
    try:
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
            if image.mode not in ("L", "RGB"):
                return False
            image.draft(image.mode, (2 * _SMALL, 2 * _SMALL))
            own = image.convert("RGB")
    except Exception:
        # Pillow has many; that the JPEG does not decode is then for the drawing to find out.
        return False
    shown = _drawn(page, _SMALL / max(page.get_size()))
    own = own.resize(shown.size, Image.Resampling.BOX)
    return max(ImageStat.Stat(ImageChops.difference(own, shown)).mean) < _SAME


def _drawn(page: Any, scale: float) -> Image.Image:
    picture: Image.Image = page.render(scale=scale, rev_byteorder=True, may_draw_forms=False).to_pil()
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _as_file(picture: Image.Image) -> bytes:
    """A PPM, or a PGM where the picture has no colour: quick to write and to read."""
    red, green, blue = picture.split()
    is_gray = not (
        ImageChops.difference(red, green).getbbox() or ImageChops.difference(green, blue).getbbox()
    )
    buffer = io.BytesIO()
    (red if is_gray else picture).save(buffer, "PPM")
    return buffer.getvalue()
