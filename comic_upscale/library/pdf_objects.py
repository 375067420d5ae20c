"""The objects on a page of a PDF in painting order, with their positions on the displayed page."""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pypdfium2 import raw

_MOST_OBJECTS = 20_000
_DEEPEST = 12
_MOST_ANNOTATIONS = 1_000
_INVISIBLE_TEXT = (3, 7)
"""Render modes of invisible text: searchable text of scanners, and text that only clips."""
_STRAIGHT = 1e-3
"""Slant of an axis, relative to its length, that still counts as straight."""


class Matrix(NamedTuple):
    """A transformation as PDF writes it: ``x' = ax + cy + e``, ``y' = bx + dy + f``."""

    a: float
    b: float
    c: float
    d: float
    e: float
    f: float

    def then(self, other: Matrix) -> Matrix:
        """Return the transformation that applies this one and then another."""
        return Matrix(
            self.a * other.a + self.b * other.c,
            self.a * other.b + self.b * other.d,
            self.c * other.a + self.d * other.c,
            self.c * other.b + self.d * other.d,
            self.e * other.a + self.f * other.c + other.e,
            self.e * other.b + self.f * other.d + other.f,
        )

    def inverse(self) -> Matrix | None:
        """Return the inverse; None if there is none."""
        area = self.a * self.d - self.b * self.c
        if not math.isfinite(area) or abs(area) < 1e-12:
            return None
        return Matrix(
            self.d / area, -self.b / area, -self.c / area, self.a / area,
            (self.c * self.f - self.d * self.e) / area, (self.b * self.e - self.a * self.f) / area,
        )  # fmt: skip

    def of(self, x: float, y: float) -> tuple[float, float]:
        """Return the image of a point."""
        return self.a * x + self.c * y + self.e, self.b * x + self.d * y + self.f

    def bounds(self, box: Box) -> Box:
        """Return the bounding box of a transformed box."""
        corners = [self.of(x, y) for x in (box.left, box.right) for y in (box.bottom, box.top)]
        across, up = zip(*corners, strict=True)
        return Box(min(across), min(up), max(across), max(up))

    @property
    def is_straight(self) -> bool:
        """Return whether upright rectangles stay upright rectangles."""
        upright = abs(self.b) <= _STRAIGHT * abs(self.a) and abs(self.c) <= _STRAIGHT * abs(self.d)
        lying = abs(self.a) <= _STRAIGHT * abs(self.b) and abs(self.d) <= _STRAIGHT * abs(self.c)
        return upright or lying


class Box(NamedTuple):
    """An upright rectangle, points."""

    left: float
    bottom: float
    right: float
    top: float

    @property
    def width(self) -> float:
        """Across."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Up."""
        return self.top - self.bottom

    def intersect(self, other: Box) -> Box:
        """Return the intersection with another box, which may be inside out."""
        return Box(
            max(self.left, other.left), max(self.bottom, other.bottom),
            min(self.right, other.right), min(self.top, other.top),
        )  # fmt: skip

    def grown(self, margin: float) -> Box:
        """Return a box that is larger on each side."""
        return Box(self.left - margin, self.bottom - margin, self.right + margin, self.top + margin)

    @property
    def area(self) -> float:
        """Area in square points, 0 if the box is inside out."""
        return max(0.0, self.width) * max(0.0, self.height)


IDENTITY = Matrix(1, 0, 0, 1, 0, 0)
UNIT = Box(0, 0, 1, 1)


@dataclass(frozen=True, slots=True)
class PlacedImage:
    """An image on a page, as PDFium describes it."""

    handle: Any
    """PDFium's."""
    order: int
    """Its number in the order of painting."""
    matrix: Matrix
    """From its unit square to the displayed page, in points from the lower left."""
    parent: Matrix
    """From the form or page that contains it to the displayed page."""
    clip: Box | None
    """The part of the page it may paint on, None for all of it."""
    is_certain: bool
    """Nothing known changes its appearance: only rectangular clips, no transparency, no optional content."""
    is_in_form: bool

    @property
    def box(self) -> Box:
        """Return its bounding box."""
        return self.matrix.bounds(UNIT)

    @property
    def seen(self) -> Box:
        """Return the part of its box inside the clip."""
        return self.box if self.clip is None else self.box.intersect(self.clip)


@dataclass(frozen=True, slots=True)
class _Place:
    """A form or the page itself, whose objects are still to visit."""

    handle: Any
    """None for the page."""
    matrix: Matrix
    clip: Box | None
    is_certain: bool
    depth: int


@dataclass(slots=True)
class PageObjects:
    """The objects of a page."""

    width: float
    """Points, as displayed."""
    height: float
    """Points, as displayed."""
    is_cropped: tuple[bool, bool, bool, bool]
    """Whether a crop box cuts the left, bottom, right and top side, as displayed."""
    images: list[PlacedImage] = field(default_factory=list)
    """Images inside the page, in painting order."""
    _others: list[tuple[int, Any, int, _Place]] = field(default_factory=list)
    """Other objects: number in painting order, handle, kind and place."""
    _is_cut_short: bool = False
    """There are too many objects, and not all were visited."""

    @property
    def box(self) -> Box:
        """The page as displayed."""
        return Box(0, 0, self.width, self.height)

    def has_others(self, page: Any, above: int = -1) -> bool:
        """Return whether the page shows anything other than images.

        Args:
            page: of pypdfium2.
            above: number of an image that covers the page. Objects below it are not visible.
        """
        if self._is_cut_short or _has_annotations(page):
            return True
        for order, handle, kind, place in reversed(self._others):
            if order < above:
                return False
            if _is_painted(handle, kind):
                clip, _ = _clip(handle, place)
                box = place.matrix.bounds(_bounds(handle)).intersect(self.box)
                seen = box if clip is None else box.intersect(clip)
                if seen.width >= 0 and seen.height >= 0:
                    return True
        return False


def read_objects(page: Any) -> PageObjects:
    """List the objects of a page.

    Args:
        page: of pypdfium2.
    """
    width, height = page.get_size()
    box = Box(*page.get_bbox())
    turn = page.get_rotation()
    found = PageObjects(width, height, _find_cropped_sides(page, box, turn))
    _walk(page, _display(box, turn), found)
    return found


def _display(box: Box, turn: int) -> Matrix:
    """Return the transformation from the page's coordinates to the displayed page."""
    return {
        90: Matrix(0, -1, 1, 0, -box.bottom, box.right),
        180: Matrix(-1, 0, 0, -1, box.right, box.top),
        270: Matrix(0, 1, -1, 0, box.top, -box.left),
    }.get(turn, Matrix(1, 0, 0, 1, -box.left, -box.bottom))


def _find_cropped_sides(page: Any, box: Box, turn: int) -> tuple[bool, bool, bool, bool]:
    media = page.get_mediabox(fallback_ok=False)
    if page.get_cropbox(fallback_ok=False) is None or media is None:
        return (False, False, False, False)
    sheet = Box(
        min(media[0], media[2]), min(media[1], media[3]), max(media[0], media[2]), max(media[1], media[3])
    )
    left, bottom, right, top = (abs(own - of_sheet) > 1e-2 for own, of_sheet in zip(box, sheet, strict=True))
    return {
        90: (bottom, right, top, left), 180: (right, top, left, bottom), 270: (top, left, bottom, right)
    }.get(turn, (left, bottom, right, top))  # fmt: skip


def _children(page: Any, place: _Place) -> Iterator[tuple[_Place, Any]]:
    if place.handle is None:
        count = raw.FPDFPage_CountObjects(page)
        return ((place, raw.FPDFPage_GetObject(page, at)) for at in range(count))
    count = raw.FPDFFormObj_CountObjects(place.handle)
    return ((place, raw.FPDFFormObj_GetObject(place.handle, at)) for at in range(count))


def _walk(page: Any, display: Matrix, found: PageObjects) -> None:
    """Visit every object of a page and of the forms on it."""
    # A stack instead of recursion, because forms can be nested to any depth.
    stack = [_children(page, _Place(None, display, None, True, 0))]
    order = 0
    while stack:
        pair = next(stack[-1], None)
        if pair is None:
            stack.pop()
            continue
        place, handle = pair
        order += 1
        kind = raw.FPDFPageObj_GetType(handle) if handle else raw.FPDF_PAGEOBJ_UNKNOWN
        if order > _MOST_OBJECTS or (kind == raw.FPDF_PAGEOBJ_FORM and place.depth >= _DEEPEST):
            found._is_cut_short = True
            return
        if kind not in (raw.FPDF_PAGEOBJ_FORM, raw.FPDF_PAGEOBJ_IMAGE):
            found._others.append((order, handle, kind, place))
            continue
        clip, is_certain = _clip(handle, place)
        is_certain = is_certain and not raw.FPDFPageObj_HasTransparency(handle) and not _may_hide(handle)
        matrix = _matrix(handle).then(place.matrix)
        if kind == raw.FPDF_PAGEOBJ_FORM:
            stack.append(_children(page, _Place(handle, matrix, clip, is_certain, place.depth + 1)))
            continue
        is_in_form = place.handle is not None
        image = PlacedImage(handle, order, matrix, place.matrix, clip, is_certain, is_in_form)
        if all(map(math.isfinite, matrix)) and image.seen.intersect(found.box).area > 0:
            found.images.append(image)


def _is_painted(handle: Any, kind: int) -> bool:
    if kind == raw.FPDF_PAGEOBJ_TEXT:
        return raw.FPDFTextObj_GetTextRenderMode(handle) not in _INVISIBLE_TEXT
    if kind == raw.FPDF_PAGEOBJ_UNKNOWN:
        return False
    if kind == raw.FPDF_PAGEOBJ_PATH:
        fill, stroke = ctypes.c_int(), ctypes.c_int()
        known = raw.FPDFPath_GetDrawMode(handle, fill, stroke)
        return not known or bool(fill.value or stroke.value)
    return True


def _matrix(handle: Any) -> Matrix:
    found = raw.FS_MATRIX()
    if not raw.FPDFPageObj_GetMatrix(handle, found):
        return IDENTITY
    return Matrix(found.a, found.b, found.c, found.d, found.e, found.f)


def _bounds(handle: Any) -> Box:
    sides = [ctypes.c_float() for _ in range(4)]
    if not raw.FPDFPageObj_GetBounds(handle, *sides):
        return Box(-math.inf, -math.inf, math.inf, math.inf)
    width = ctypes.c_float()
    raw.FPDFPageObj_GetStrokeWidth(handle, width)
    return Box(*(side.value for side in sides)).grown(max(0.0, width.value))


def _clip(handle: Any, place: _Place) -> tuple[Box | None, bool]:
    """Return the bounding box of an object's clip, and whether the clip is that box."""
    path = raw.FPDFPageObj_GetClipPath(handle)
    count = raw.FPDFClipPath_CountPaths(path) if path else -1
    clip, is_certain = place.clip, place.is_certain
    if count < 0:
        return clip, is_certain
    # A clip without a path is a text clip.
    is_certain = is_certain and count > 0 and place.matrix.is_straight
    for at in range(count):
        box, is_box = _path_box(path, at)
        is_certain = is_certain and is_box
        box = place.matrix.bounds(box)
        clip = box if clip is None else clip.intersect(box)
    return clip, is_certain


def _path_box(path: Any, at: int) -> tuple[Box, bool]:
    """Return the bounding box of a path of a clip, and whether the path is that box."""
    count = raw.FPDFClipPath_CountPathSegments(path, at)
    points: list[tuple[float, float]] = []
    is_box = 4 <= count <= 6
    for number in range(max(0, min(count, _MOST_OBJECTS))):
        segment = raw.FPDFClipPath_GetPathSegment(path, at, number)
        across, up = ctypes.c_float(), ctypes.c_float()
        raw.FPDFPathSegment_GetPoint(segment, across, up)
        points.append((across.value, up.value))
        is_box = is_box and raw.FPDFPathSegment_GetType(segment) != raw.FPDF_SEGMENT_BEZIERTO
    if not points:
        return Box(0, 0, 0, 0), False
    all_across, all_up = zip(*points, strict=True)
    box = Box(min(all_across), min(all_up), max(all_across), max(all_up))
    corners = [(box.left, box.bottom), (box.left, box.top), (box.right, box.top), (box.right, box.bottom)]
    path_is_box = set(points) == set(corners) and all(
        one[0] == other[0] or one[1] == other[1] for one, other in itertools.pairwise(points)
    )
    return box, is_box and path_is_box


def _may_hide(handle: Any) -> bool:
    """Return whether an object is optional content, which may be hidden."""
    for at in range(min(raw.FPDFPageObj_CountMarks(handle), 100)):
        mark = raw.FPDFPageObj_GetMark(handle, at)
        name, length = (ctypes.c_ushort * 8)(), ctypes.c_ulong()
        raw.FPDFPageObjMark_GetName(mark, name, ctypes.sizeof(name), length)
        if bytes(name).startswith("OC\0".encode("utf-16-le")):
            return True
    return False


def _has_annotations(page: Any) -> bool:
    """Return whether visible annotations are drawn over a page."""
    for at in range(min(raw.FPDFPage_GetAnnotCount(page), _MOST_ANNOTATIONS)):
        annotation = raw.FPDFPage_GetAnnot(page, at)
        if not annotation:
            continue
        kind, flags = raw.FPDFAnnot_GetSubtype(annotation), raw.FPDFAnnot_GetFlags(annotation)
        raw.FPDFPage_CloseAnnot(annotation)
        is_hidden = flags & (raw.FPDF_ANNOT_FLAG_HIDDEN | raw.FPDF_ANNOT_FLAG_NOVIEW)
        if kind not in (raw.FPDF_ANNOT_LINK, raw.FPDF_ANNOT_POPUP) and not is_hidden:
            return True
    return False
