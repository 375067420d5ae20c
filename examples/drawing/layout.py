"""Panels: each is drawn on a sheet of its own, so that nothing in it reaches over its frame."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from drawing.lettering import letter
from drawing.paint import INK, PAPER, Colour
from drawing.pen import HEIGHT, WIDTH, Sheet, box, line


def panel(
    page: Sheet,
    frame: np.ndarray,
    scene: Callable[[Sheet], None],
    *,
    paper: Colour = PAPER,
    edge: Colour = INK,
    width: float = 2.1,
) -> None:
    """Draw a scene, in the page's coordinates, and keep what lies inside the frame."""
    sheet = Sheet(paper)
    scene(sheet)
    page.inset(sheet, frame)
    page.pen().inked(edge).frame(frame, width)


def quad(x0: float, y0: float, x1: float, y1: float, *, slant: tuple[float, float] = (0, 0)) -> np.ndarray:
    """A panel's frame; `slant` moves the foot of its left and of its right side sideways."""
    return line((x0, y0), (x1, y0), (x1 + slant[1], y1), (x0 + slant[0], y1))


def rows(*feet: float, margin: float = 16, gutter: float = 8) -> list[np.ndarray]:
    """Frames as wide as the page, one above the other, each down to one of the feet."""
    tops = [margin, *(foot + gutter for foot in feet[:-1])]
    return [box(margin, top, WIDTH - margin, foot) for top, foot in zip(tops, feet, strict=True)]


def page_number(page: Sheet, number: int, ink: Colour = (120, 112, 120)) -> None:
    """The number at the foot of the page."""
    letter(page, WIDTH / 2, HEIGHT - 7.5, str(number), 8.5, ink)
