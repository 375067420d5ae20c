"""Read a page: from the bytes of an image file to upright samples of 8 or 16 bits."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from PIL.ImageFile import ImageFile

from comic_upscale.errors import ANIMATED, PageError
from comic_upscale.imaging.drawn import notes_of
from comic_upscale.imaging.formats import HEAD_BYTES, is_lossless
from comic_upscale.imaging.metadata import read_metadata
from comic_upscale.imaging.missing_end import LACKS_END, complete_jpeg, complete_jpeg2000
from comic_upscale.imaging.orientation import orientation_of, read_tag, upright
from comic_upscale.imaging.pixels import Pixels, UInt8Array
from comic_upscale.imaging.plain_png import read_plain_png
from comic_upscale.imaging.reader import (
    SoundPngFile,
    SoundWebpFile,
    count_frames,
    count_pages,
    open_image,
    page_errors,
)
from comic_upscale.imaging.samples import convert_samples, depth_of, to_samples
from comic_upscale.settings.job import AnimatedMode, GrayMode, IccMode

_PICTURES_IN_MPF = 0xB001
_SAMPLES_PER_PIXEL = 277


@dataclass(frozen=True, slots=True)
class Header:
    """The header of an image file."""

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
    lossless: bool
    """Whether the file's compression is lossless."""
    samples: int = 0
    """Samples of a pixel, at least 1."""


def read_header(source: bytes | Path | Callable[[], IO[bytes]]) -> Header:
    """Read the header of an image, not its pixels.

    Args:
        source: the file's bytes, its path, or a function that opens it.

    Returns:
        The header. The size is that of ``decode``'s result, unless a PNG has its orientation only after its
        pixels.

    Raises:
        PageError: as ``decode``, for errors that the header shows; ``"unreadable"`` if the file cannot be read.
    """
    with (
        page_errors(source if isinstance(source, bytes) else b""),
        _open(source) as file,
    ):
        image = open_image(file, header_only=True)
        width, height = image.size
        if orientation_of(image) >= 5:
            width, height = height, width
        frames = _frames(image)
        file.seek(0)
        lossless = is_lossless(file.read(HEAD_BYTES))
        return Header(width, height, image.mode, image.format or "", frames, lossless, _samples(image))


def _samples(image: ImageFile) -> int:
    """Return the samples of a pixel. Pillow's mode does not tell those of a TIFF that it cannot read itself."""
    claimed = getattr(image, "tag_v2", {}).get(_SAMPLES_PER_PIXEL, 0)
    return max(len(image.getbands()), claimed if isinstance(claimed, int) else 0)


def _open(source: bytes | Path | Callable[[], IO[bytes]]) -> IO[bytes]:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    return source.open("rb") if isinstance(source, Path) else source()


def decode(
    data: bytes,
    *,
    max_pixels: int,
    gray: GrayMode = "keep",
    icc: IccMode = "keep",
    animated: AnimatedMode = "first",
) -> Pixels:
    """Decode an image file to upright samples, with 16 bits if the file has more than 8.

    Palettes and all other colour spaces become RGB; transparency of any kind becomes alpha. The function uses no
    global state, so any number of threads may decode at once.

    Args:
        data: the whole file.
        max_pixels: the largest width x height to decode.
        gray: ``keep`` leaves a gray file one channel and an RGB one three; ``auto`` makes pages without
            colour one channel too; ``off`` makes all three.
        icc: ``keep`` leaves the samples in the space of the file's profile and returns the profile; ``srgb``
        converts them.
        animated: for an animation or a multi-page TIFF, read the ``first`` image or ``skip`` the file.

    Returns:
        The page. Its arrays are contiguous and writable. ``notes`` name the parts of the file that were left out.

    Raises:
        PageError: ``"empty"``, ``"not-an-image"``, ``"truncated"``, ``"damaged"``, ``"too-large"``,
            ``"unsupported"``, ``"out-of-memory"``, and ``"animated"`` if ``animated`` is ``skip``.
    """
    with page_errors(data):
        image, data, file_notes = _open_whole(data, max_pixels)
        plain = _load(image, data)
        frames = _frames(image)
        multi_page = image.format in ("TIFF", "JPEG", "HEIF")
        if frames > 1 and not multi_page and animated == "skip":
            raise PageError(
                ANIMATED, f"The page is an animation of {frames} frames: --animated first takes one"
            )
        if frames > 1 and image.format == "TIFF" and animated == "skip" and (pages := count_pages(image)) > 1:
            # The other images in a phone's JPEG or HEIC do not count: they show the same page.
            raise PageError(ANIMATED, f"The file holds {pages} pages: --animated first takes the first")
        # After loading, because some formats store metadata after the pixels.
        samples = to_samples(image, depth_of(image, data), data, plain)
        orientation = orientation_of(image)
        metadata, notes = read_metadata(image)
        # The samples were copied, and a large image takes hundreds of megabytes.
        image.close()
        samples = convert_samples(samples, gray, icc)
        notes = (*file_notes, *notes_of(data), *samples.notes, *notes)
        if frames > 1:
            kind = "multi-page" if multi_page else "animated"
            notes = (f"{kind}: first of {frames} frames", *notes)
        return Pixels(
            color=upright(samples.color, orientation),
            alpha=None if samples.alpha is None else upright(samples.alpha, orientation),
            icc_profile=samples.icc_profile,
            notes=notes,
            metadata=metadata,
            lossless=is_lossless(data),
        )


def _load(image: ImageFile, data: bytes) -> UInt8Array | None:
    """Load an image; return its samples if they were read without Pillow: height x width x 1 or 3."""
    plain = read_plain_png(data) if isinstance(image, SoundPngFile) else None
    if plain is None or plain.shape[1::-1] != image.size or not isinstance(image, SoundPngFile):
        image.load()
        return None
    image.load_beside()
    return plain


def _open_whole(data: bytes, max_pixels: int) -> tuple[ImageFile, bytes, tuple[str, ...]]:
    """Open an image, even if only its end is missing or Pillow would refuse it for its metadata.

    Returns:
        The image, not loaded; the file in a form that Pillow reads; and notes.
    """
    file = io.BytesIO(data)
    image = open_image(file, max_pixels=max_pixels)
    completed = None
    if image.format == "JPEG":
        completed = complete_jpeg(data, file.tell())
    elif image.format == "JPEG2000":
        completed = complete_jpeg2000(data)
    elif isinstance(image, SoundPngFile | SoundWebpFile):
        return image, image.repaired or data, image.notes
    if completed is None:
        return image, data, ()
    return open_image(io.BytesIO(completed), max_pixels=max_pixels), completed, (LACKS_END,)


def _frames(image: ImageFile) -> int:
    if image.format == "JPEG":
        # A multi-picture file (MPO) that is read as a plain JPEG still has the number of images that follow.
        pictures = read_tag(image.info.get("mp", b""), _PICTURES_IN_MPF)
        return pictures or 1
    return count_frames(image)
