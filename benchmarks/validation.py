"""The validation pages: real comic pages that no model of ours was trained on, and their shrunk copies.

They are the CC BY-SA pages of the shared set. What is made from them stays BY-SA, so no picture made
here is ever committed; scores are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from comic_upscale.evaluation.shrunk import Track, crop_middle, spread, without_needless_color

REPOSITORY = Path(__file__).resolve().parents[1]
CROP = (640, 960)
"""Largest width and height of an original."""
MULTIPLE = 10
"""Sides of an original are multiples of this, so that a half and two fifths of them are whole numbers."""
USER_PAGE = (512, 768)
"""Width and height of the page that the project was made for."""


class AbsentError(Exception):
    """Something that the benchmark stands on is not on this machine; the message says what to do."""


@dataclass(frozen=True, slots=True)
class ValidationPage:
    """One real page, by name."""

    name: str
    """The bare file name."""
    path: Path
    """Where the file is."""
    kind: str
    """What is drawn, in words."""
    licence: str
    """The licence in words; begins with ``CC BY-SA``."""
    attribution: str
    """Whom to credit."""


TRACKS = (
    Track("x2-clean", 2, None),
    Track("x2-jpeg75", 2, 75),
    Track("x2.5-clean", 2.5, None),
    Track("x2.5-jpeg75", 2.5, 75),
)


def validation_pages() -> list[ValidationPage]:
    """Return the pages in the order of their list, sets together.

    They are looked for in ``COMIC_UPSCALE_COMICS``, else in ``../shared/comics``.

    Raises:
        AbsentError: the pages are not on this machine.
    """
    named = os.environ.get("COMIC_UPSCALE_COMICS")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "comics"
    listing = folder / "dev.json"
    if not listing.is_file():
        raise AbsentError(
            f"{listing} is not there: set COMIC_UPSCALE_COMICS to the folder of the real pages."
        )
    return [
        ValidationPage(
            row["file"], folder / "dev" / row["file"], row["kind"], row["licence"], row["attribution"]
        )
        for row in json.loads(listing.read_text(encoding="utf-8"))
        if row["licence"].startswith("CC BY-SA")
    ]


def refuse_in_repository(folder: Path) -> None:
    """Refuse a folder for pictures that are made from the pages.

    Raises:
        AbsentError: the folder is inside the repository.
    """
    if folder.resolve().is_relative_to(REPOSITORY):
        raise AbsentError(f"{folder} is in the repository, where pictures of BY-SA pages must not be.")


def open_original(page: ValidationPage, size: tuple[int, int] = CROP) -> Image.Image:
    """Return the middle of a page as mode L (where it has no colour) or RGB, transparency on white.

    Args:
        page: the page.
        size: the largest width and height; both sides of the result are multiples of `MULTIPLE`.
    """
    with Image.open(page.path) as image:
        width, height = (
            min(limit, side) // MULTIPLE * MULTIPLE for limit, side in zip(size, image.size, strict=True)
        )
        return flatten_page(crop_middle(image, width, height))


def open_user_pages(pages: Sequence[ValidationPage], count: int) -> list[Image.Image]:
    """Return this number of cuts of `USER_PAGE` pixels, at full size, from different pages that are large enough."""
    large = []
    for page in pages:
        with Image.open(page.path) as image:
            if image.width >= USER_PAGE[0] and image.height >= USER_PAGE[1]:
                large.append(page)
    cuts = []
    for page in spread(large, count):
        with Image.open(page.path) as image:
            cuts.append(flatten_page(crop_middle(image, *USER_PAGE)))
    return cuts


def flatten_page(image: Image.Image) -> Image.Image:
    """Return an image as mode L (where it has no colour) or RGB, transparency on white."""
    white = Image.new("RGBA", image.size, "white")
    return without_needless_color(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))
