"""A page of a PDF as a viewer shows it: its JPEG, or the page rendered on the pixel grid of its finest image.

The objects and boxes of the page decide which. A rendered page has one pixel for each pixel of its image, so nothing
is resampled. Other images of the page that fit the same grid are not resampled either.
"""

from __future__ import annotations

import ctypes
import functools
import io
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image, ImageChops
from pypdfium2 import raw

from comic_upscale.errors import PageError
from comic_upscale.imaging.drawn import Drawn, with_note
from comic_upscale.library.archives import damaged
from comic_upscale.library.pdf_damage import find_damage
from comic_upscale.library.pdf_images import ImageDictionaries, ImageFacts
from comic_upscale.library.pdf_jpeg import embedded_jpeg, small_jpeg, with_turn
from comic_upscale.library.pdf_missing import find_missing
from comic_upscale.library.pdf_objects import Box, Matrix, PageObjects, PlacedImage, read_objects
from comic_upscale.settings.job import VolumeRules

_POINTS = 72.0
_SMALL, _BLOCK = 96, 8
"""Longer side of the thumbnails by which a JPEG is compared with its page, and side of a block in them, pixels."""
_SAME = 16
"""Largest difference of a block in gray levels. Real pages differ by at most 13, and by at least 19 from the same page
turned or mirrored."""
_MARGIN = 0.02
"""Blank margin, relative to the page's longer side, with which an image still counts as the whole page."""
_ROUNDING = 1.0
"""Points by which an image may extend beyond its page, because boxes are often rounded to whole points."""
_STRETCHED = 0.02
"""Relative difference of the resolutions across and down that still counts as square pixels."""
_COUNTS = 0.01
"""Share of the page that images must cover for their resolution to count. A small logo does not count."""
_INSET = 0.02
"""Pixels by which an image is placed smaller on each side, because PDFium rounds outwards to whole pixels."""
_ON_GRID = 0.3
"""Pixels by which an image may be off the grid of another image and still be aligned to it."""
_HAIR = 1e-3
_LEAST = 36 / _POINTS
"""Pixels per point below which even a page of images alone is rendered at ``pdf_dpi``."""


@dataclass(frozen=True, slots=True)
class KnownImage:
    """An image on a page, with its size and the facts of its dictionary."""

    shown: PlacedImage
    size: tuple[int, int]
    """Width and height in pixels, of its mask if that is larger."""
    samples: tuple[int, int]
    """Width and height without its mask, pixels."""
    facts: ImageFacts | None
    """None if its dictionary was not found."""
    data: bytes
    """Its compressed data."""

    @property
    def is_straight(self) -> bool:
        """Whether it is turned by multiples of 90 degrees only, within half a pixel."""
        a, b, c, d, _, _ = self.shown.matrix
        across, down = self.size
        upright = abs(b) * down <= abs(d) / 2 and abs(c) * across <= abs(a) / 2
        lying = abs(a) * down <= abs(c) / 2 and abs(d) * across <= abs(b) / 2
        return upright or lying

    @property
    def orientation(self) -> int:
        """Its EXIF orientation on the displayed page."""
        a, b, c, d, _, _ = self.shown.matrix
        if abs(a) >= abs(b):
            return {(True, True): 1, (False, True): 2, (False, False): 3, (True, False): 4}[a > 0, d > 0]
        return {(False, False): 5, (False, True): 6, (True, True): 7, (True, False): 8}[b > 0, c > 0]

    @property
    def shown_size(self) -> tuple[int, int]:
        """Width and height as displayed, pixels."""
        return self.size if self.orientation < 5 else self.size[::-1]

    @property
    def resolution(self) -> tuple[float, float]:
        """Pixels per point, across and down as displayed, or along its own sides if it is not straight."""
        if self.is_straight:
            box = self.shown.box
            return self.shown_size[0] / max(box.width, 1e-6), self.shown_size[1] / max(box.height, 1e-6)
        a, b, c, d, _, _ = self.shown.matrix
        return self.size[0] / max(math.hypot(a, b), 1e-6), self.size[1] / max(math.hypot(c, d), 1e-6)

    @property
    def finest(self) -> float:
        """The higher of its resolutions, pixels per point."""
        return max(*self.resolution, 1e-6)

    @property
    def has_square_pixels(self) -> bool:
        """Whether its pixels are displayed as squares, approximately."""
        across, down = self.resolution
        return abs(across - down) <= _STRETCHED * max(across, down)

    @property
    def hides(self) -> bool:
        """Whether nothing below it is visible."""
        known = self.facts is not None and self.facts.is_opaque
        return known and self.shown.is_certain and self.is_straight


@dataclass(frozen=True, slots=True)
class Drawing:
    """The size of a rendered page, and the places of its images."""

    width: int
    """Pixels."""
    height: int
    """Pixels."""
    places: tuple[tuple[KnownImage, tuple[int, int, int, int]], ...]
    """Images that are aligned to whole pixels: left, upper, right and lower edge."""
    note: Drawn | None
    """The note of the page."""


class PdfPage:
    """One page.

    Args:
        document: of pypdfium2.
        index: of the page.
        dictionaries: returns the dictionaries of the file's images. Called only for pages with images.
        rules: the resolution and the most pixels of rendered pages.

    Raises:
        PdfiumError: it cannot be loaded.
    """

    def __init__(
        self,
        document: Any,
        index: int,
        dictionaries: Callable[[], ImageDictionaries | None],
        rules: VolumeRules,
    ) -> None:
        self._page = document[index]
        self._find_missing = functools.partial(find_missing, document, index)
        self._dictionaries, self._rules = dictionaries, rules

    def close(self) -> None:
        """Close the page."""
        self._page.close()

    def content(self, before_drawing: Callable[[int], None]) -> bytes:
        """Return the page as a JPEG, or rendered as PPM or PGM.

        Args:
            before_drawing: called with the pixels of the rendered page and its images.

        Raises:
            PageError: ``"too-large"``; ``"damaged"``: an image on it cannot be decoded completely or is missing, or
                its content cannot be decoded.
        """
        objects = read_objects(self._page)
        images = [known for shown in objects.images if all((known := self._known(shown)).samples)]
        cover = next((image for image in reversed(images) if _hides_all(image, objects)), None)
        below = -1 if cover is None else cover.shown.order
        images = [image for image in images if image.shown.order >= below]
        # With an image, a missing one is an ornament, or is seen by what is left.
        if not images and (problem := self._find_missing()):
            raise damaged("page", problem)
        # This does not matter without an image.
        has_others = not images or objects.has_others(self._page, below)
        whole = len(images) == 1 and not has_others and _is_whole(images[0], objects)
        if whole:
            jpeg = self._jpeg(images[0])
            if jpeg is not None and self._looks_like(images[0], *jpeg, objects):
                return with_turn(jpeg[0], images[0].orientation)
            drawing = _plan_whole(images[0], self._rules)
        else:
            drawing = _plan(objects, images, self._rules, only_images=not has_others)
        before_drawing(drawing.width * drawing.height + sum(math.prod(image.samples) for image in images))
        picture = self._draw(drawing, objects)
        self._check(images, picture, objects)
        return with_note(_as_file(picture), drawing.note)

    def _known(self, shown: PlacedImage) -> KnownImage:
        size = _pixel_size(shown.handle)
        dictionaries = self._dictionaries()
        if dictionaries is not None and dictionaries.may_hide_forms and shown.is_in_form:
            shown = replace(shown, is_certain=False)
        data = b"" if dictionaries is None else _raw_data(shown.handle)
        facts = dictionaries.find(size, data) if dictionaries is not None and data else None
        mask = (0, 0) if facts is None else facts.mask_size
        return KnownImage(shown, mask if math.prod(mask) > math.prod(size) else size, size, facts, data)

    def _jpeg(self, image: KnownImage) -> tuple[bytes, bytes | None] | None:
        """Return an image's JPEG and profile, if it is shown unchanged."""
        if image.facts is None or not image.facts.is_plain:
            return None
        return embedded_jpeg(image.shown.handle, self._page, image.data, image.samples)

    def _looks_like(
        self, image: KnownImage, jpeg: bytes, profile: bytes | None, objects: PageObjects
    ) -> bool:
        """Compare a thumbnail of the page with the JPEG, to find effects that the objects do not show."""
        scale = min(1.0, _SMALL / max(image.shown_size))
        width, height = (max(1, round(side * scale)) for side in image.shown_size)
        own = small_jpeg(jpeg, profile, image.orientation, 2 * _SMALL)
        if own is None:
            return False
        shown = self._draw(Drawing(width, height, ((image, (0, 0, width, height)),), None), objects)
        # Block means do not depend on how each side resamples fine detail.
        blocks = own.resize(shown.size, Image.Resampling.BOX).reduce(_BLOCK)
        difference = ImageChops.difference(blocks, shown.reduce(_BLOCK))
        worst: Any = max(band.getextrema()[1] for band in difference.split())
        return bool(worst < _SAME)

    def _check(self, images: list[KnownImage], picture: Image.Image, objects: PageObjects) -> None:
        """Refuse a rendered page if more than an ornament is missing, because PDFium leaves out what is damaged.

        Raises:
            PageError: ``"damaged"``.
        """
        across, up = picture.width / objects.width, picture.height / objects.height
        area = 0.0
        for image in images:
            seen = image.shown.seen.intersect(objects.box)
            place = (
                math.floor(seen.left * across), math.floor((objects.height - seen.top) * up),
                math.ceil(seen.right * across), math.ceil((objects.height - seen.bottom) * up),
            )  # fmt: skip
            problem = find_damage(
                image.shown.handle, self._page, size=image.samples,
                bits=0 if image.facts is None else image.facts.bits,
                shown=picture.crop(place), max_pixels=self._rules.max_pixels,
            )  # fmt: skip
            area += seen.area if problem else 0.0
            if problem and area >= _COUNTS * objects.box.area:
                raise damaged("page", problem)

    def _draw(self, drawing: Drawing, objects: PageObjects) -> Image.Image:
        for image, place in drawing.places:
            _put(image, place, drawing, objects)
        return _render(self._page, drawing.width, drawing.height)


def _pixel_size(handle: Any) -> tuple[int, int]:
    width, height = ctypes.c_uint(), ctypes.c_uint()
    raw.FPDFImageObj_GetImagePixelSize(handle, width, height)
    return width.value, height.value


def _raw_data(handle: Any) -> bytes:
    """Return the compressed data of an image."""
    length = raw.FPDFImageObj_GetImageDataRaw(handle, None, 0)
    buffer = ctypes.create_string_buffer(length)
    raw.FPDFImageObj_GetImageDataRaw(handle, buffer, length)
    return buffer.raw


def _hides_all(image: KnownImage, objects: PageObjects) -> bool:
    """Return whether an image covers the page, so that nothing below it is visible."""
    page = objects.box.grown(-0.5 / image.finest)
    return image.hides and page.intersect(image.shown.seen) == page


def _is_whole(image: KnownImage, objects: PageObjects) -> bool:
    """Return whether an image is the whole page: displayed completely, undistorted, and up to the edges."""
    if not (image.is_straight and image.has_square_pixels and image.shown.is_certain):
        return False
    box, page = image.shown.box, objects.box
    beyond = (-box.left, -box.bottom, box.right - page.right, box.top - page.top)
    slack, hair = _MARGIN * max(objects.width, objects.height), 0.5 / image.finest
    for reach, is_cropped in zip(beyond, objects.is_cropped, strict=True):
        rounding = hair if is_cropped else max(hair, min(_ROUNDING, slack))
        if not -slack <= reach <= rounding:
            return False
    seen, open_to = image.shown.seen.intersect(page), box.intersect(page)
    return all(abs(own - whole) <= hair for own, whole in zip(seen, open_to, strict=True))


def _plan_whole(image: KnownImage, rules: VolumeRules) -> Drawing:
    """Plan to render a page that is one image, pixel by pixel.

    Raises:
        PageError: ``"too-large"``.
    """
    width, height = image.shown_size
    _check_size(width * height, rules, "raise --max-pixels")
    return Drawing(width, height, ((image, (0, 0, width, height)),), None)


def _plan(
    objects: PageObjects, images: list[KnownImage], rules: VolumeRules, *, only_images: bool
) -> Drawing:
    """Choose the size of a rendered page, and the images that are aligned to its pixels.

    Raises:
        PageError: ``"too-large"``.
    """
    asked = rules.pdf_dpi / _POINTS
    finest = _finest(images, objects)
    # Rendering images alone larger than they are gains nothing.
    least = _LEAST if only_images else asked
    if finest is None or finest.finest <= least * (1 + _HAIR):
        _check_size(objects.box.area * asked**2, rules, "lower --pdf-dpi, or raise --max-pixels")
        return Drawing(*_round_up(objects, asked), (), None)
    scale = finest.finest
    if objects.box.area * scale**2 > rules.max_pixels:
        _check_size(
            objects.box.area * min(asked, scale) ** 2, rules, "lower --pdf-dpi, or raise --max-pixels"
        )
        bounded = math.sqrt(rules.max_pixels / objects.box.area)
        width, height = (max(1, math.floor(side * bounded)) for side in (objects.width, objects.height))
        return Drawing(width, height, (), Drawn(_dpi(bounded), _dpi(scale)))
    note = Drawn(_dpi(scale), _dpi(scale))
    if finest.is_straight and finest.has_square_pixels:
        return _on_grid(objects, images, finest, note)
    return Drawing(*_round_up(objects, scale), (), note)


def _check_size(pixels: float, rules: VolumeRules, advice: str) -> None:
    if not 0 < pixels <= rules.max_pixels:
        raise PageError(
            "too-large",
            f"The page would be rendered with {pixels:,.0f} pixels, and the limit is {rules.max_pixels:,}: {advice}",
        )


def _dpi(scale: float) -> int:
    return min(999_999, round(scale * _POINTS))


def _round_up(objects: PageObjects, scale: float) -> tuple[int, int]:
    # A rounding error must not add a row: 172.8 points are 360 pixels at 150 dpi, not 361.
    width, height = (max(1, math.ceil(side * scale - _HAIR)) for side in (objects.width, objects.height))
    return width, height


def _finest(images: list[KnownImage], objects: PageObjects) -> KnownImage | None:
    """Return the image whose resolution counts: the finest one that is more than an ornament."""
    area = 0.0
    for image in sorted(images, key=lambda image: image.finest, reverse=True):
        area += image.shown.seen.intersect(objects.box).area
        if area >= _COUNTS * objects.box.area:
            return image
    return None


def _on_grid(objects: PageObjects, images: list[KnownImage], finest: KnownImage, note: Drawn) -> Drawing:
    """Plan to render a page on the pixel grid of an image, with all images that fit the grid."""
    across, down = finest.resolution
    corner = finest.shown.box

    def edges(box: Box) -> tuple[float, float, float, float]:
        """A box in pixels: left, upper, right, lower edge."""
        return (
            (box.left - corner.left) * across, (corner.top - box.top) * down,
            (box.right - corner.left) * across, (corner.top - box.bottom) * down,
        )  # fmt: skip

    left, upper, right, lower = (round(edge) for edge in edges(objects.box))
    places = []
    for image in images:
        exact = edges(image.shown.box)
        at, down_at = round(exact[0]), round(exact[1])
        width, height = image.shown_size
        whole = (at, down_at, at + width, down_at + height)
        fits = all(abs(edge - pixel) <= _ON_GRID for edge, pixel in zip(exact, whole, strict=True))
        if fits and image.is_straight:
            places.append((image, (at - left, down_at - upper, whole[2] - left, whole[3] - upper)))
    return Drawing(max(1, right - left), max(1, lower - upper), tuple(places), note)


def _put(image: KnownImage, place: tuple[int, int, int, int], drawing: Drawing, objects: PageObjects) -> None:
    """Move an image on its page so that it covers exactly these pixels."""
    across, up = objects.width / drawing.width, objects.height / drawing.height
    left, right = (place[0] + _INSET) * across, (place[2] - _INSET) * across
    top, bottom = objects.height - (place[1] + _INSET) * up, objects.height - (place[3] - _INSET) * up
    width, height = right - left, top - bottom
    matrix = {
        1: Matrix(width, 0, 0, height, left, bottom),
        2: Matrix(-width, 0, 0, height, right, bottom),
        3: Matrix(-width, 0, 0, -height, right, top),
        4: Matrix(width, 0, 0, -height, left, top),
        5: Matrix(0, -height, -width, 0, right, top),
        6: Matrix(0, -height, width, 0, left, top),
        7: Matrix(0, height, width, 0, left, bottom),
        8: Matrix(0, height, -width, 0, right, bottom),
    }[image.orientation]
    back = image.shown.parent.inverse()
    if back is not None:
        raw.FPDFPageObj_SetMatrix(image.shown.handle, raw.FS_MATRIX(*matrix.then(back)))


def _render(page: Any, width: int, height: int) -> Image.Image:
    """Render a page on white, in RGB."""
    buffer = (ctypes.c_ubyte * (3 * width * height))()
    bitmap = raw.FPDFBitmap_CreateEx(width, height, raw.FPDFBitmap_BGR, buffer, 3 * width)
    if not bitmap:
        raise MemoryError
    try:
        raw.FPDFBitmap_FillRect(bitmap, 0, 0, width, height, 0xFFFFFFFF)
        place = (bitmap, page, 0, 0, width, height, 0, raw.FPDF_ANNOT | raw.FPDF_REVERSE_BYTE_ORDER)
        raw.FPDF_RenderPageBitmap(*place)
        if page.formenv:
            # Fields of a form, such as a stamp or a signature, are drawn separately.
            raw.FPDF_FFLDraw(page.formenv, *place)
    finally:
        raw.FPDFBitmap_Destroy(bitmap)
    return Image.frombuffer("RGB", (width, height), memoryview(buffer).cast("B"), "raw", "RGB", 0, 1)  # type: ignore[arg-type]


def _as_file(picture: Image.Image) -> bytes:
    """Return a PPM, or a PGM if the image has no colour. Both are quick to write and to read."""
    red, green, blue = picture.split()
    is_gray = not (
        ImageChops.difference(red, green).getbbox() or ImageChops.difference(green, blue).getbbox()
    )
    buffer = io.BytesIO()
    (red if is_gray else picture).save(buffer, "PPM")
    return buffer.getvalue()
