"""Images that every e-reader and PDF viewer shows: any other is written anew, without loss."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from io import BytesIO

from PIL import Image

from comic_upscale.imaging.decode import decode
from comic_upscale.imaging.encode import encode
from comic_upscale.imaging.formats import recognise
from comic_upscale.imaging.orientation import orientation_of
from comic_upscale.imaging.pixels import Pixels
from comic_upscale.imaging.reader import open_image, page_errors
from comic_upscale.imaging.screen import on_white

_MODES = ("1", "L", "RGB", "P", "RGBA", "LA", "I;16")


@dataclass(frozen=True, slots=True)
class BookImage:
    """An image for a book."""

    data: bytes
    """Its file."""
    kind: str
    """``png``, ``jpeg`` or ``webp``."""
    is_own: bool
    """Whether the file is the one that was given."""


def book_image(data: bytes, kinds: Collection[str], *, alpha: bool) -> BookImage:
    """Return an image in one of the given kinds: itself, if it is one, stands upright and has common samples.

    Args:
        data: the file.
        kinds: of ``png``, ``jpeg`` and ``webp``; an image of another kind becomes a PNG.
        alpha: whether it may be transparent. Otherwise it is laid on white.

    Raises:
        PageError: it cannot be decoded.
    """
    kind = (recognise(data[:64]) or "").lower()
    with page_errors(data):
        image = open_image(BytesIO(data), header_only=True)
        if (
            kind in kinds
            and image.mode in _MODES
            and (alpha or not _has_alpha(image))
            and (kind != "jpeg" or orientation_of(image) == 1)
            and not getattr(image, "is_animated", False)
        ):
            return BookImage(data, kind, is_own=True)
    return BookImage(encode(_decoded(data, alpha=alpha), format="png"), "png", is_own=False)


def _decoded(data: bytes, *, alpha: bool) -> Pixels:
    page = decode(data, max_pixels=1 << 62)
    return page if alpha or page.alpha is None else replace(page, color=on_white(page), alpha=None)


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("LA", "RGBA") or "transparency" in image.info
