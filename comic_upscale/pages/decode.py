"""Read a page: from the bytes of an image file to upright 8-bit samples."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from PIL.ImageFile import ImageFile

from comic_upscale.errors import PageError
from comic_upscale.pages.orientation import orientation_of, read_tag, upright
from comic_upscale.pages.page import Pixels
from comic_upscale.pages.reader import count_frames, open_image, page_errors
from comic_upscale.pages.samples import depth_of, to_samples

_PICTURES_IN_MPF = 0xB001
# Fewer zero bytes than this may be the padding of a program.
_BLANK_TAIL = 64


@dataclass(frozen=True, slots=True)
class Header:
    """What the first bytes of an image file say."""

    width: int
    """Pixels, upright."""
    height: int
    """Pixels, upright."""
    mode: str
    """Pillow's mode, such as ``"RGB"``."""
    format: str
    """Pillow's name of the format, such as ``"PNG"``."""
    frames: int
    """Frames or pages in the file, at least 1."""


def read_header(source: bytes | Path) -> Header:
    """Read the header of an image, not its pixels.

    Args:
        source: the file's bytes, or where it is.

    Returns:
        The header. The size is that of ``decode``'s result, unless a PNG says only after its pixels how
        they lie.

    Raises:
        PageError: as ``decode``, for what the header shows; ``"unreadable"`` if the file cannot be read.
    """
    with (
        page_errors(source if isinstance(source, bytes) else b""),
        io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file,
    ):
        image = open_image(file)
        width, height = image.size
        if orientation_of(image) >= 5:
            width, height = height, width
        return Header(width, height, image.mode, image.format or "", _frames(image))


def decode(data: bytes, *, max_pixels: int) -> Pixels:
    """Decode an image file to upright 8-bit samples.

    Gray stays one channel; palettes and all other colours become RGB; transparency of any kind becomes
    alpha. Of an animated or multi-page file the first frame is read. Nothing outside is read or changed,
    so any number of threads may decode at once.

    Args:
        data: the whole file.
        max_pixels: the largest width x height to decode.

    Returns:
        The page, its arrays contiguous and writable; ``notes`` say what was left out.

    Raises:
        PageError: ``"empty"``, ``"not-an-image"``, ``"unsupported"`` (HEIC, JPEG XL), ``"truncated"``,
            ``"damaged"``, ``"too-large"``, ``"out-of-memory"``.
    """
    with page_errors(data), io.BytesIO(data) as file:
        image = open_image(file, max_pixels=max_pixels)
        if image.format == "JPEG":
            _check_tail(data, file.tell())
        image.load()
        # After loading: some formats keep their metadata behind the pixels.
        samples = to_samples(image, depth_of(image, data))
        orientation = orientation_of(image)
        frames = _frames(image)
        notes = samples.notes
        if frames > 1:
            kind = "multi-page" if image.format in ("TIFF", "JPEG") else "animated"
            notes = (f"{kind}: first of {frames} frames", *notes)
        return Pixels(
            color=upright(samples.color, orientation),
            alpha=None if samples.alpha is None else upright(samples.alpha, orientation),
            icc_profile=samples.icc_profile,
            notes=notes,
        )


def _frames(image: ImageFile) -> int:
    if image.format == "JPEG":
        # Read as a plain JPEG, a multi-picture file (MPO) still tells how many pictures follow.
        pictures = read_tag(image.info.get("mp", b""), _PICTURES_IN_MPF)
        return pictures or 1
    return count_frames(image)


def _check_tail(data: bytes, start: int) -> None:
    """Refuse a JPEG whose end is missing and made up with zero bytes.

    That is what a download or a copy leaves behind that reserved the space and then stopped. libjpeg
    takes the zeros for flat gray and finishes without a word.

    Args:
        data: the file.
        start: where the compressed samples begin; a thumbnail before has an end of its own.
    """
    if data.endswith(bytes(_BLANK_TAIL)) and data.find(b"\xff\xd9", start) < 0:
        raise PageError(
            "truncated", "The file is cut short: its end is only zero bytes. Copy or download it again."
        )
