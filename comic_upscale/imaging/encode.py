"""Write a page: from samples to the bytes of an image file, and prove that they can be read."""

from __future__ import annotations

import io
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from comic_upscale.errors import PageError
from comic_upscale.imaging.codecs.jxl import decode_jxl, encode_jxl
from comic_upscale.imaging.codecs.libjxl import carries
from comic_upscale.imaging.codecs.png import check_png, with_chunks, write_png, write_png_at_once
from comic_upscale.imaging.codecs.tiff import write_tiff
from comic_upscale.imaging.color import gray_to_srgb, to_srgb
from comic_upscale.imaging.gray import eight_bits
from comic_upscale.imaging.metadata import read_density, sized_exif, with_density
from comic_upscale.imaging.pixels import Metadata, Pixels, SampleArray, UInt8Array
from comic_upscale.imaging.reader import open_image
from comic_upscale.settings.job import FormatName

DEFAULT_JPEG_QUALITY = 95
DEFAULT_AVIF_QUALITY = 90
DEFAULT_LOSSY_WEBP_QUALITY = 90
"""For a page that was lossy before and shall keep its format."""
LARGE_PAGE = 48_000_000
"""Pixels from which a PNG is written strip by strip: at once its rows would stand beside the samples. That
is the faster way, and that of every page of usual size."""
# Newsprint: method 0 0.38 s 1.68 MB, method 1 1.44 s 1.37 MB.
_WEBP_LOSSLESS_METHOD = 0
# At quality 90: method 2 0.32 s, method 4 (the default) 0.63 s for a file 1 % smaller.
_WEBP_LOSSY_METHOD = 2

# Of 10. An upscaled page of 2480 x 3508: 8 takes a third of the default's 6 time for files 5 % larger.
_AVIF_SPEED = 8
# Bytes that a segment of a JPEG holds.
_LARGEST_SEGMENT = 65533

_NAMES: dict[FormatName, str] = {
    "png": "PNG", "webp": "WebP", "jpeg": "JPEG", "avif": "AVIF", "jxl": "JPEG XL", "tiff": "TIFF",
}  # fmt: skip
# PNG's own limit is 2**31 - 1; a TIFF holds 4 GiB, and libtiff's sides are as long as may be.
_LONGEST_SIDE: dict[FormatName, int] = {
    "png": 2**31 - 1, "webp": 16383, "jpeg": 65535, "avif": 65536, "jxl": 2**30, "tiff": 2**31 - 1,
}  # fmt: skip
_MOST_PIXELS: dict[FormatName, int] = {"avif": 2**28, "tiff": 2**32 // 16}
_DEEP_FORMATS = frozenset(("png", "tiff", "jxl"))
_DENSITY_IN_EXIF = frozenset(("webp", "avif", "jxl"))


def check_target(width: int, height: int, format: FormatName) -> None:
    """Make sure that a format can hold a page, before any work goes into it.

    Args:
        width: of the page to be written, pixels.
        height: of the page to be written, pixels.
        format: of the file to be written.

    Raises:
        PageError: ``"too-large-for-format"``; the reason names the limit and formats that hold the page.
    """
    limit = _LONGEST_SIDE[format]
    pixels = _most_pixels(format)
    if max(width, height) <= limit and (pixels is None or width * height <= pixels):
        return
    what = f"{limit} pixels a side" if max(width, height) > limit else f"{pixels} pixels in all"
    wider = [
        _NAMES[other]
        for other in _NAMES
        if max(width, height) <= _LONGEST_SIDE[other]
        and ((most := _most_pixels(other)) is None or width * height <= most)
    ]
    instead = f"choose {' or '.join(wider)}, or a smaller scale" if wider else "choose a smaller scale"
    raise PageError(
        "too-large-for-format",
        f"The page would be {width} x {height} pixels, and {_NAMES[format]} holds at most {what}: {instead}.",
    )


def encode(
    pixels: Pixels,
    *,
    format: FormatName,
    quality: int | None = None,
    png_level: int | None = None,
    dpi: float | None = None,
) -> bytes:
    """Encode a page as a file, with its profile, EXIF, XMP and resolution as far as the format holds them.

    PNG, TIFF and lossless WebP and JPEG XL keep every sample, alpha and the colour under transparent pixels;
    gray stays one channel in all but WebP. PNG, TIFF and JPEG XL keep 16 bits. JPEG has no transparency: the
    page is laid on white. Where `libjxl` cannot be reached, a page that is meant for JPEG XL is converted to sRGB.

    Args:
        pixels: the page.
        format: of the file, not ``auto``.
        quality: 1 to 100. Without it WebP and JPEG XL are lossless, JPEG takes ``DEFAULT_JPEG_QUALITY`` and
            AVIF ``DEFAULT_AVIF_QUALITY``; PNG and TIFF, always lossless, ignore it.
        png_level: 0 to 9; None for the fast way.
        dpi: dots per inch that the file shall say it is to be printed at, both ways, whatever the page's own
            file said; None for that.

    Returns:
        The whole file.

    Raises:
        PageError: ``"too-large-for-format"``; ``"out-of-memory"``; ``"encode"`` for any other failure.
        ValueError: ``quality`` is out of its range, or the format is ``auto``.
    """
    if quality is not None and not 1 <= quality <= 100:
        raise ValueError(f"quality must be from 1 to 100, not {quality}")
    check_target(pixels.width, pixels.height, format)
    metadata = _metadata(pixels, format, dpi)
    if format not in _DEEP_FORMATS:
        pixels = _at_eight_bits(pixels)
    pixels = replace(pixels, metadata=metadata)
    try:
        if format == "png":
            return _png(pixels, png_level)
        if format == "webp":
            return _webp(pixels, quality)
        if format == "avif":
            return _avif(pixels, DEFAULT_AVIF_QUALITY if quality is None else quality)
        if format == "jxl":
            return _jxl(pixels, quality)
        if format == "tiff":
            return _tiff(pixels)
        return _jpeg(pixels, DEFAULT_JPEG_QUALITY if quality is None else quality)
    except MemoryError:
        raise PageError(
            "out-of-memory", "The machine's memory was not enough to encode the page: use fewer --workers."
        ) from None
    except Exception as error:
        raise PageError("encode", f"The page could not be encoded as {_NAMES[format]}: {error}") from None


def _metadata(pixels: Pixels, format: FormatName, dpi: float | None) -> Metadata:
    """Return what is written beside the pixels: EXIF with the page's size now, and with the density asked for."""
    metadata, exif = pixels.metadata, pixels.metadata.exif
    if exif is not None:
        exif = sized_exif(exif, pixels.width, pixels.height)
    density = metadata.dpi if dpi is None else (dpi, dpi)
    # Where EXIF is the only place for it, and where it would say something else.
    if density is not None and (format in _DENSITY_IN_EXIF or (dpi is not None and exif is not None)):
        exif = exif if exif is not None and read_density(exif) == density else with_density(exif, density)
    return replace(metadata, exif=exif, dpi=density)


def lossy_quality(pixels: Pixels, format: FormatName, asked: FormatName, quality: int | None) -> int | None:
    """Return the quality for ``encode``, such that with ``auto`` a lossless page stays lossless and a lossy one lossy.

    Args:
        pixels: the page.
        format: that it is written in.
        asked: by the user, perhaps ``auto``.
        quality: asked for by the user.
    """
    if asked != "auto" or format not in ("webp", "jxl"):
        return quality
    if pixels.lossless:
        return None
    return DEFAULT_LOSSY_WEBP_QUALITY if quality is None else quality


def left_out(pixels: Pixels, format: FormatName, asked: FormatName) -> tuple[str, ...]:
    """Tell what of a page its file will not hold, a sentence each.

    Args:
        pixels: the page.
        format: that it is written in.
        asked: by the user, perhaps ``auto``.
    """
    notes = []
    if asked == "auto" and pixels.lossless and format == "jpeg":
        # The name is given before the file is read, and decides.
        notes.append("lossless inside: written as the JPEG that its name says it is")
    if pixels.bits > 8 and format not in _DEEP_FORMATS:
        notes.append(f"16-bit samples: written at 8 bits, all that {_NAMES[format]} is written with")
    if pixels.alpha is not None and format == "jpeg":
        notes.append("transparency: laid on white, since JPEG has none")
    if pixels.icc_profile is not None and format == "jxl" and not carries(pixels.icc_profile):
        notes.append("ICC profile: converted to sRGB for JPEG XL")
    if pixels.metadata.text and format != "png":
        names = ", ".join(keyword for keyword, _ in pixels.metadata.text)
        notes.append(f"texts of the PNG left out ({names}): {_NAMES[format]} has no place for them")
    if format == "jpeg":
        notes += [f"{name.upper()} left out: JPEG holds 64 kB" for name in _too_long(pixels.metadata)]
    return tuple(notes)


def check_encoded(data: bytes, size: tuple[int, int], mode: str | None = None) -> None:
    """Prove that a page that ``encode`` wrote can be read: decode all of it and compare.

    Args:
        data: the file as written.
        size: (width, height) in pixels that it must have.
        mode: Pillow's mode that it must have; None if any will do.

    Raises:
        PageError: ``"encode"``.
    """
    try:
        found = _read_again(data)
    except Exception as error:
        raise PageError("encode", f"The written page does not decode: {error}") from None
    if not _has_its_end(data):
        raise PageError("encode", "The written page decodes, but its end is missing.")
    if found[0] != size:
        raise PageError("encode", f"The written page is {found[0]} in size and not {size}.")
    if mode is not None and found[1] not in (mode, ""):
        raise PageError("encode", f"The written page is of mode {found[1]} and not {mode}.")


def _read_again(data: bytes) -> tuple[tuple[int, int], str]:
    """Decode a file, and return its size and Pillow's mode (empty for a PNG of 16 bits)."""
    if data.startswith(b"\x89PNG"):
        return check_png(data)
    with io.BytesIO(data) as file:
        image = open_image(file)
        if image.format == "JXL":
            decode_jxl(data)
        image.load()
        return image.size, image.mode


def _has_its_end(data: bytes) -> bool:
    # Decoders are content with all the samples; what we wrote ourselves must be whole.
    if data.startswith(b"RIFF"):
        return len(data) == 8 + int.from_bytes(data[4:8], "little")
    if not data.startswith((b"\x89PNG", b"\xff\xd8")):
        # The others' decoders miss what is missing.
        return True
    return data.endswith((b"IEND\xaeB`\x82", b"\xff\xd9"))


def _most_pixels(format: FormatName) -> int | None:
    # Pillow's own guard in its WebP plugin, which stands for the whole process: a larger file could be
    # written and then not be checked.
    if format == "webp" and Image.MAX_IMAGE_PIXELS is not None:
        return 2 * Image.MAX_IMAGE_PIXELS
    return _MOST_PIXELS.get(format)


def _at_eight_bits(pixels: Pixels) -> Pixels:
    alpha = None if pixels.alpha is None else eight_bits(pixels.alpha)
    return replace(pixels, color=eight_bits(pixels.color), alpha=alpha)


def _image(pixels: Pixels) -> Image.Image:
    return _from_array(pixels.color, pixels.alpha)


def _from_array(color: SampleArray, alpha: SampleArray | None) -> Image.Image:
    if alpha is not None:
        return Image.fromarray(_together(color, alpha))
    return Image.fromarray(np.ascontiguousarray(color[:, :, 0] if color.shape[2] == 1 else color))


def _png(pixels: Pixels, level: int | None) -> bytes:
    way: dict[str, Any] = {"profile": pixels.icc_profile, "metadata": pixels.metadata}
    if pixels.width * pixels.height > LARGE_PAGE:
        if level is not None:
            way |= {"level": level, "strategy": zlib.Z_DEFAULT_STRATEGY}
        return write_png(pixels.color, pixels.alpha, **way)
    if level is None:
        return write_png_at_once(pixels.color, pixels.alpha, **way)
    import imagecodecs

    samples = _together(pixels.color, pixels.alpha)
    if samples.shape[2] == 1:
        samples = samples[:, :, 0]
    png = bytes(imagecodecs.png_encode(np.ascontiguousarray(samples), level=level))
    return with_chunks(png, pixels.icc_profile, pixels.metadata)


def _webp(pixels: Pixels, quality: int | None) -> bytes:
    image, profile = _image(pixels), pixels.icc_profile
    if pixels.color.shape[2] == 1:
        image, profile = _gray_as_rgb(image, profile), None
    options = _beside(pixels.metadata, profile)
    if quality is None:
        return _save(
            image, "WEBP", lossless=True, exact=True, method=_WEBP_LOSSLESS_METHOD, quality=0, **options
        )
    return _save(image, "WEBP", quality=quality, alpha_quality=100, method=_WEBP_LOSSY_METHOD, **options)


def _avif(pixels: Pixels, quality: int) -> bytes:
    image, profile, subsampling = _image(pixels), pixels.icc_profile, "4:4:4"
    if pixels.color.shape[2] == 1:
        image, profile, subsampling = _gray_as_rgb(image, profile), None, "4:0:0"
    return _save(
        image, "AVIF", quality=quality, subsampling=subsampling, speed=_AVIF_SPEED, max_threads=1,
        **_beside(pixels.metadata, profile),
    )  # fmt: skip


def _jxl(pixels: Pixels, quality: int | None) -> bytes:
    color = pixels.color
    profile = pixels.icc_profile
    if profile is not None and not carries(profile):
        converted = to_srgb(color, profile)
        color, profile = (color if converted is None else converted), None
    return encode_jxl(_together(color, pixels.alpha), quality, pixels.metadata, profile)


def _together(color: SampleArray, alpha: SampleArray | None) -> SampleArray:
    return color if alpha is None else np.dstack((color, alpha))


def _tiff(pixels: Pixels) -> bytes:
    color, profile = pixels.color, pixels.icc_profile
    if pixels.bits > 8 and pixels.alpha is not None and color.shape[2] == 1:
        # Gray with alpha of 16 bits is a TIFF that hardly any program opens.
        converted = None if profile is None else to_srgb(color, profile)
        color, profile = np.repeat(color if converted is None else converted, 3, axis=2), None
    return write_tiff(color, pixels.alpha, profile=profile, metadata=pixels.metadata)


def _gray_as_rgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Spread gray over three channels, which is all that WebP has and that Pillow takes for AVIF.

    A gray profile would not fit them, so what it says about the shades is worked into these.
    """
    gray = image.getchannel("L")
    colored = gray_to_srgb(gray, profile) if profile is not None else None
    if colored is None:
        colored = gray.convert("RGB")
    # Else Pillow's AVIF writer finds sRGB's, which is none for one channel.
    colored.info.pop("icc_profile", None)
    if image.mode == "LA":
        colored.putalpha(image.getchannel("A"))
    return colored


def _jpeg(pixels: Pixels, quality: int) -> bytes:
    color: SampleArray = pixels.color
    if pixels.alpha is not None:
        color = _on_white(eight_bits(color), eight_bits(pixels.alpha))
    options = _beside(pixels.metadata, pixels.icc_profile)
    if pixels.metadata.dpi is not None:
        options["dpi"] = tuple(round(value) for value in pixels.metadata.dpi)
    for name in _too_long(pixels.metadata):
        del options[name]
    # 4:4:4: halved colour would smear the edges of flat areas, which is what comics are made of.
    return _save(_from_array(color, None), "JPEG", quality=quality, subsampling=0, **options)


def _too_long(metadata: Metadata) -> list[str]:
    """Return what of the metadata a segment of a JPEG, which begins with a name, has no room for."""
    parts = (("exif", metadata.exif, _LARGEST_SEGMENT - 12), ("xmp", metadata.xmp, _LARGEST_SEGMENT - 29))
    return [name for name, part, most in parts if part is not None and len(part) > most]


def _on_white(color: UInt8Array, alpha: UInt8Array) -> UInt8Array:
    weight = alpha[:, :, None].astype(np.uint16)
    mixed = color * weight + 255 * (255 - weight)  # at most 255 * 255: fits 16 bits
    return ((mixed + np.uint32(127)) // 255).astype(np.uint8)


def _beside(metadata: Metadata, profile: bytes | None) -> dict[str, Any]:
    """What Pillow's writers take beside the pixels. No key for what there is not: some take None amiss."""
    beside = {
        "icc_profile": profile,
        "exif": None if metadata.exif is None else b"Exif\0\0" + metadata.exif,
        "xmp": metadata.xmp,
    }
    return {name: value for name, value in beside.items() if value is not None}


def _save(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()
