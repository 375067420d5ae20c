"""Write a page: encode samples as an image file, and check that the file can be read."""

from __future__ import annotations

import io
from dataclasses import replace

from comic_upscale.errors import PageError
from comic_upscale.imaging.codecs import FORMATS
from comic_upscale.imaging.codecs.base import EncodeOptions, OutputFormat
from comic_upscale.imaging.formats import find_format
from comic_upscale.imaging.gray import eight_bits
from comic_upscale.imaging.metadata import read_density, sized_exif, with_density
from comic_upscale.imaging.pixels import Metadata, Pixels, UInt8Array
from comic_upscale.imaging.reader import open_image
from comic_upscale.settings.job import FormatName
from comic_upscale.settings.processing import ProcessingSettings

LOST_TEXTS = "texts of the PNG left out"
"""The beginning of a note of a page whose texts, such as prompts, its format cannot hold."""


def check_target(width: int, height: int, format: FormatName) -> None:
    """Check that a format can hold a page, before any work is done.

    Args:
        width: of the output page, in pixels.
        height: of the output page, in pixels.
        format: of the output file.

    Raises:
        PageError: ``"too-large-for-format"``; the reason names the limit and formats that hold the page.
    """
    written = FORMATS[format]
    if written.holds(width, height):
        return
    sides = max(width, height) > written.longest_side
    what = f"{written.longest_side} pixels a side" if sides else f"{written.pixel_limit()} pixels in all"
    wider = [other.title for other in FORMATS.values() if other.holds(width, height)]
    instead = f"choose {', '.join(wider)} or a smaller scale" if wider else "choose a smaller scale"
    raise PageError(
        "too-large-for-format",
        f"The page would be {width} x {height} pixels, and {written.title} holds at most {what}: {instead}",
    )


def encode(
    pixels: Pixels,
    *,
    format: FormatName,
    quality: int | None = None,
    dpi: float | None = None,
    settings: ProcessingSettings | None = None,
    png_rows: UInt8Array | None = None,
) -> bytes:
    """Encode a page as a file, with its profile, EXIF, XMP and resolution as far as the format holds them.

    A lossless file keeps every sample, alpha, and the colour under transparent pixels. A page is laid on white if
    the format has no transparency, brought to 8 bits if it has no 16, and converted to sRGB if it cannot store the
    profile. The `OutputFormat` says what a format can do.

    Args:
        pixels: the page.
        format: of the file, not ``auto``.
        quality: 1 to 100; formats that are always lossless ignore it. None: lossless if the format can be, otherwise
            its ``default_quality``.
        dpi: the print resolution to record, across and down, in dots per inch. None keeps the resolution of the
            page's own file.
        settings: of the job, for the options of single formats, such as ``png_level``; None for the defaults.
        png_rows: `DeviceWork.png_rows` of the page, where they are known. Other formats do without them.

    Returns:
        The whole file.

    Raises:
        PageError: ``"too-large-for-format"``; ``"out-of-memory"``; ``"encode"`` for any other failure.
        ValueError: ``quality`` is out of its range, or the format is ``auto``.
    """
    if quality is not None and not 1 <= quality <= 100:
        raise ValueError(f"quality must be from 1 to 100, not {quality}")
    if format not in FORMATS:
        raise ValueError(f"a page cannot be written in the format {format!r}")
    check_target(pixels.width, pixels.height, format)
    written = FORMATS[format]
    metadata = _metadata(pixels, written, dpi)
    if pixels.bits not in written.bits:
        pixels = _to_eight_bits(pixels)
    pixels = replace(pixels, metadata=metadata)
    if written.lossless == "never" and quality is None:
        quality = written.default_quality
    try:
        options = EncodeOptions(quality=quality, settings=settings or ProcessingSettings(), png_rows=png_rows)
        return written.encode(pixels, options)
    except MemoryError:
        raise PageError(
            "out-of-memory", "The machine's memory was not enough to encode the page: use fewer --workers"
        ) from None
    except Exception as error:
        raise PageError("encode", f"The page could not be encoded as {written.title}: {error}") from None


def _metadata(pixels: Pixels, format: OutputFormat, dpi: float | None) -> Metadata:
    """Return the metadata to write: EXIF gets the page's new size and the requested resolution."""
    metadata, exif = pixels.metadata, pixels.metadata.exif
    if exif is not None:
        exif = sized_exif(exif, pixels.width, pixels.height)
    density = metadata.dpi if dpi is None else (dpi, dpi)
    # Where EXIF is the only place for the resolution, and where EXIF has another one.
    if density is not None and (format.density_in_exif or (dpi is not None and exif is not None)):
        exif = exif if exif is not None and read_density(exif) == density else with_density(exif, density)
    return replace(metadata, exif=exif, dpi=density)


def lossy_quality(pixels: Pixels, format: FormatName, asked: FormatName, quality: int | None) -> int | None:
    """Return the quality for ``encode``. With ``auto``, lossless pages stay lossless and lossy pages lossy.

    Args:
        pixels: the page.
        format: the format of the output.
        asked: the format that the user requested, which may be ``auto``.
        quality: the quality that the user requested.
    """
    return quality_for(format, asked, quality, lossless=pixels.lossless)


def quality_for(format: FormatName, asked: FormatName, quality: int | None, *, lossless: bool) -> int | None:
    """Return the quality of an output, like `lossy_quality`.

    Args:
        format: the format of the output.
        asked: the format that the user requested, which may be ``auto``.
        quality: the quality that the user requested.
        lossless: whether the page's own file is lossless.
    """
    written = FORMATS[format]
    if asked != "auto" or written.lossless != "without-quality":
        return quality
    if lossless:
        return None
    return written.default_quality if quality is None else quality


def list_omissions(pixels: Pixels, format: FormatName, asked: FormatName) -> tuple[str, ...]:
    """List the parts of a page that its output cannot hold, one sentence each.

    Args:
        pixels: the page.
        format: the format of the output.
        asked: the format that the user requested, which may be ``auto``.
    """
    written, title = FORMATS[format], FORMATS[format].title
    notes = []
    if asked == "auto" and pixels.lossless and written.lossless == "never":
        # The output gets its name, and with it its format, before the file is read.
        notes.append(f"lossless inside: written as the {title} that its name says it is")
    if pixels.bits not in written.bits:
        notes.append(f"16-bit samples: written at 8 bits, all that {title} is written with")
    if pixels.alpha is not None and not written.alpha:
        notes.append(f"transparency: laid on white, since {title} has none")
    profile = pixels.icc_profile
    if profile is not None and written.carries_profile is not None and not written.carries_profile(profile):
        notes.append(f"ICC profile: converted to sRGB for {title}")
    if pixels.metadata.text and not written.texts:
        names = ", ".join(keyword for keyword, _ in pixels.metadata.text)
        notes.append(f"{LOST_TEXTS} ({names}): {title} has no place for them")
    if written.list_omissions is not None:
        notes += written.list_omissions(pixels)
    return tuple(notes)


def check_encoded(data: bytes, size: tuple[int, int], mode: str | None = None) -> None:
    """Check that a page that ``encode`` wrote can be read: decode it completely and compare size and mode.

    Args:
        data: the file as written.
        size: (width, height) in pixels that it must have.
        mode: Pillow's mode that it must have; None allows any.

    Raises:
        PageError: ``"encode"``.
    """
    format = find_format(data)
    try:
        found = _read_back(data, format)
    except Exception as error:
        raise PageError("encode", f"The written page does not decode: {error}") from None
    # Decoders accept a file without its end if all samples are there. Our own file must be complete.
    if format is not None and format.is_whole is not None and not format.is_whole(data):
        raise PageError("encode", "The written page decodes, but its end is missing")
    if found[0] != size:
        raise PageError("encode", f"The written page has the size {found[0]} instead of {size}")
    if mode is not None and found[1] not in (mode, ""):
        raise PageError("encode", f"The written page has the mode {found[1]} instead of {mode}")


def _read_back(data: bytes, format: OutputFormat | None) -> tuple[tuple[int, int], str]:
    """Decode a file, and return its size and Pillow's mode (empty if Pillow has no mode for it)."""
    if format is not None and format.read_back is not None:
        return format.read_back(data)
    with io.BytesIO(data) as file:
        image = open_image(file)
        image.load()
        return image.size, image.mode


def _to_eight_bits(pixels: Pixels) -> Pixels:
    alpha = None if pixels.alpha is None else eight_bits(pixels.alpha)
    return replace(pixels, color=eight_bits(pixels.color), alpha=alpha)
