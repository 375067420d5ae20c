"""Write a page: from samples to the bytes of a PNG, WebP or JPEG file, and prove that they can be read."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from comic_upscale.errors import PageError
from comic_upscale.pages.color import gray_to_srgb
from comic_upscale.pages.page import Pixels, UInt8Array
from comic_upscale.pages.reader import open_image
from comic_upscale.settings import OutputFormat

DEFAULT_JPEG_QUALITY = 95
# zlib's Z_RLE: matches at distance one only, which is what filtered, smooth pixels have. Measured on upscaled
# pages of 1280 x 1920 with the zlib-ng of Pillow's wheels: flat colour 0.21 s 2.67 MB, against 0.22 s 2.97 MB
# at level 1, 0.29 s 2.83 MB at level 3 and 0.62 s 2.50 MB at level 6; night gradients 0.21 s 2.10 MB, against
# 0.30 s 2.29 MB at level 3; gray screentone 0.08 s 1.23 MB, against 0.11 s 1.31 MB. Half of it is the filters.
_PNG_STRATEGY = 3
# Newsprint as above: method 0 0.38 s 1.68 MB, method 1 1.44 s 1.37 MB.
_WEBP_LOSSLESS_METHOD = 0
# At quality 90: method 2 0.32 s, method 4 (the default) 0.63 s for a file 1 % smaller.
_WEBP_LOSSY_METHOD = 2

_EXTENSIONS: dict[OutputFormat, str] = {"png": "png", "webp": "webp", "jpeg": "jpg"}
_NAMES: dict[OutputFormat, str] = {"png": "PNG", "webp": "WebP", "jpeg": "JPEG"}
# PNG's own limit is 2**31 - 1.
_LONGEST_SIDE: dict[OutputFormat, int] = {"png": 2**31 - 1, "webp": 16383, "jpeg": 65535}


def extension(format: OutputFormat) -> str:
    """Return the extension of the files of a format, without the dot: ``"jpg"`` for ``"jpeg"``."""
    return _EXTENSIONS[format]


def check_target(width: int, height: int, format: OutputFormat) -> None:
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
    pixels: Pixels, *, format: OutputFormat, quality: int | None = None, dpi: float | None = None
) -> bytes:
    """Encode a page as a file.

    PNG and lossless WebP keep every sample, alpha and the colour under transparent pixels; gray stays one
    channel in PNG and JPEG. JPEG has no transparency: the page is laid on white.

    Args:
        pixels: the page.
        format: of the file.
        quality: 1 to 100. WebP is lossless without it; JPEG then takes ``DEFAULT_JPEG_QUALITY``; PNG, always
            lossless, ignores it.
        dpi: dots per inch that the file shall say it is to be printed at, both ways; None for nothing said.

    Returns:
        The whole file, the page's ICC profile in it.

    Raises:
        PageError: ``"too-large-for-format"``; ``"out-of-memory"``; ``"encode"`` for any other failure.
        ValueError: ``quality`` is out of its range.
    """
    if quality is not None and not 1 <= quality <= 100:
        raise ValueError(f"quality must be from 1 to 100, not {quality}")
    check_target(pixels.width, pixels.height, format)
    try:
        if format == "png":
            return _save(
                _image(pixels),
                pixels.icc_profile,
                "PNG",
                compress_level=1,
                compress_type=_PNG_STRATEGY,
                **density_options("PNG", dpi),
            )
        if format == "webp":
            return _webp(pixels, quality, dpi)
        return _jpeg(pixels, DEFAULT_JPEG_QUALITY if quality is None else quality, dpi)
    except MemoryError:
        raise PageError(
            "out-of-memory", "The machine's memory was not enough to encode the page: use fewer --workers."
        ) from None
    except Exception as error:
        raise PageError("encode", f"The page could not be encoded as {_NAMES[format]}: {error}") from None


def density_options(format: str, dpi: float | None) -> dict[str, Any]:
    """Return what to hand to Pillow so that a file says how densely it is to be printed.

    Args:
        format: Pillow's name of it. PNG, JPEG and TIFF have a place for it; the others say it in EXIF.
        dpi: dots per inch; None for nothing said.
    """
    if dpi is None:
        return {}
    if format in ("PNG", "JPEG", "TIFF"):
        return {"dpi": (dpi, dpi)}
    exif = Image.Exif()
    exif[ExifTags.Base.XResolution] = exif[ExifTags.Base.YResolution] = TiffImagePlugin.IFDRational(dpi)
    exif[ExifTags.Base.ResolutionUnit] = 2  # the inch
    return {"exif": exif}


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
        with io.BytesIO(data) as file:
            image = open_image(file)
            image.load()
            found = (image.size, image.mode)
    except Exception as error:
        raise PageError("encode", f"The written page does not decode: {error}") from None
    if not _has_its_end(data):
        raise PageError("encode", "The written page decodes, but its end is missing.")
    if found[0] != size:
        raise PageError("encode", f"The written page is {found[0]} in size and not {size}.")
    if mode is not None and found[1] != mode:
        raise PageError("encode", f"The written page is of mode {found[1]} and not {mode}.")


def _has_its_end(data: bytes) -> bool:
    # Decoders are content with all the samples; what we wrote ourselves must be whole.
    if data.startswith(b"RIFF"):
        return len(data) == 8 + int.from_bytes(data[4:8], "little")
    return data.endswith((b"IEND\xaeB`\x82", b"\xff\xd9"))


def _most_pixels(format: OutputFormat) -> int | None:
    # Pillow's own guard in its WebP plugin, which stands for the whole process: a larger file could be
    # written and then not be checked.
    if format == "webp" and Image.MAX_IMAGE_PIXELS is not None:
        return 2 * Image.MAX_IMAGE_PIXELS
    return None


def _image(pixels: Pixels) -> Image.Image:
    return _from_array(pixels.color, pixels.alpha)


def _from_array(color: UInt8Array, alpha: UInt8Array | None) -> Image.Image:
    if alpha is not None:
        return Image.fromarray(np.dstack((color, alpha)))
    return Image.fromarray(np.ascontiguousarray(color[:, :, 0] if color.shape[2] == 1 else color))


def _webp(pixels: Pixels, quality: int | None, dpi: float | None) -> bytes:
    image, profile = _image(pixels), pixels.icc_profile
    if pixels.color.shape[2] == 1:
        image, profile = _gray_as_rgb(image, profile), None
    options = density_options("WEBP", dpi)
    if quality is None:
        options |= {"lossless": True, "exact": True, "method": _WEBP_LOSSLESS_METHOD, "quality": 0}
    else:
        options |= {"quality": quality, "alpha_quality": 100, "method": _WEBP_LOSSY_METHOD}
    return _save(image, profile, "WEBP", **options)


def _gray_as_rgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Spread gray over three channels, which is all that WebP has.

    A gray profile would not fit them, so what it says about the shades is worked into these.
    """
    gray = image.getchannel("L")
    colored = gray_to_srgb(gray, profile) if profile is not None else None
    if colored is None:
        colored = gray.convert("RGB")
    if image.mode == "LA":
        colored.putalpha(image.getchannel("A"))
    return colored


def _jpeg(pixels: Pixels, quality: int, dpi: float | None) -> bytes:
    color = pixels.color if pixels.alpha is None else _on_white(pixels.color, pixels.alpha)
    # 4:4:4: halved colour would smear the edges of flat areas, which is what comics are made of.
    density = density_options("JPEG", dpi)
    return _save(
        _from_array(color, None), pixels.icc_profile, "JPEG", quality=quality, subsampling=0, **density
    )


def _on_white(color: UInt8Array, alpha: UInt8Array) -> UInt8Array:
    weight = alpha[:, :, None].astype(np.uint16)
    mixed = color * weight + 255 * (255 - weight)  # at most 255 * 255: fits 16 bits
    return ((mixed + np.uint32(127)) // 255).astype(np.uint8)


def _save(image: Image.Image, profile: bytes | None, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, icc_profile=profile, **options)
    return buffer.getvalue()
