"""Convert any of Pillow's modes to gray or RGB with 8 or 16 bits, and separate alpha."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from comic_upscale.imaging.alpha import meaningful_alpha
from comic_upscale.imaging.cicp import named_profile
from comic_upscale.imaging.codecs.jxl import decode_jxl, lost_profile
from comic_upscale.imaging.color import (
    cmyk_to_rgb,
    is_usable,
    lab_to_rgb,
    neutral_to_srgb,
    profile_space,
    to_srgb,
)
from comic_upscale.imaging.gray import is_gray, to_gray
from comic_upscale.imaging.high_bit_depth import fit, read_deep, wide_bits
from comic_upscale.imaging.pixels import SampleArray, UInt8Array
from comic_upscale.settings.job import GrayMode, IccMode

_BITS_PER_SAMPLE = 258
_PHOTOMETRIC = 262
_SAMPLE_FORMAT = 339
_WIDE = "samples of more than 8 bits: read at 8 bits"
_LARGEST_PROFILE = 1 << 20
"""The most bytes of a profile in an output. Programs that use Pillow refuse a PNG with a larger one."""
_LARGE_PROFILE = "ICC profile left out: it is larger than 1 MiB, the colours were converted to sRGB"
_NOT_SRGB = (
    "ICC profile left out: this machine cannot read that of a JPEG XL, its colours are treated as sRGB"
)


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """The content of ``Pixels``, before rotation to upright."""

    color: SampleArray
    alpha: SampleArray | None
    icc_profile: bytes | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Depth:
    """The file's storage of samples, as far as Pillow's mode does not show it."""

    bits: int = 8
    gray: bool = False
    """The file is gray, with or without alpha."""
    inverted: bool = False
    """White is 0, and Pillow has not inverted it."""


def png_depth(data: bytes) -> Depth:
    """Read a PNG's bit depth and colour type from its first chunk."""
    if len(data) < 26 or data[12:16] != b"IHDR":
        return Depth()
    return Depth(bits=data[24], gray=data[25] in (0, 4))


def depth_of(image: Image.Image, data: bytes) -> Depth:
    """Return how a file stores its samples.

    Args:
        image: opened from ``data``, loaded or not.
        data: the file.
    """
    if image.format == "PNG":
        return png_depth(data)
    tags = getattr(image, "tag_v2", None)
    if image.format != "TIFF" or tags is None:
        return Depth(bits=wide_bits(image.format, data))
    bits = tags.get(_BITS_PER_SAMPLE, (8,))
    most = max(bits) if isinstance(bits, tuple) else int(bits)
    return Depth(bits=most, inverted=image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == 0)


def to_samples(
    image: Image.Image, depth: Depth, data: bytes = b"", plain: UInt8Array | None = None
) -> Samples:
    """Convert a loaded image to gray or RGB, with 16 bits if the file has more than 8.

    Args:
        image: of any mode.
        depth: of its file.
        data: its file, for samples that Pillow cannot hold.
        plain: the samples, height x width x 1 or 3, where they are known without Pillow; they are not copied.

    Returns:
        Contiguous arrays with their own memory, of one type. The profile is kept only if it fits the result
        and lcms can use it.
    """
    notes: list[str] = []
    profile: bytes | None = image.info.get("icc_profile") or None
    color: SampleArray
    alpha: SampleArray | None
    if plain is not None:
        color, alpha = plain, None
    elif image.format == "JXL":
        together, profile = decode_jxl(data)
        color, alpha = _split_array(together)
        if profile is None and lost_profile(data):
            notes.append(_NOT_SRGB)
    elif (deep := read_deep(image, data, depth.bits)) is not None:
        color, alpha = _split_array(deep)
    elif image.mode in ("CMYK", "LAB"):
        color, alpha = np.array(cmyk_to_rgb(image) if image.mode == "CMYK" else lab_to_rgb(image)), None
        notes.append(f"{image.mode}: converted to sRGB")
        if depth.bits > 8:
            notes.append(_WIDE)
        profile = None
    elif image.mode in ("I", "F") or image.mode.startswith("I;16"):
        color, alpha = _convert_wide(image, depth)
    else:
        color, alpha = _convert_narrow(image, depth)
        if depth.bits > 8:
            notes.append(_WIDE)
    if profile is None and image.mode not in ("CMYK", "LAB"):
        color, profile, problem = _apply_named_profile(color, image, data)
    else:
        color, profile, problem = _check_profile(color, profile)
    if problem:
        notes.append(problem)
    if alpha is not None:
        alpha, problem = meaningful_alpha(image, alpha, data)
        if problem:
            notes.append(problem)
    return Samples(color, alpha, profile, tuple(notes))


def convert_samples(samples: Samples, gray: GrayMode, icc: IccMode) -> Samples:
    """Convert samples to the channels and the colour space that the user requested.

    Args:
        samples: of the file.
        gray: ``auto`` makes pages without colour one channel, ``off`` makes every page three.
        icc: ``srgb`` converts to sRGB, after which there is no profile.
    """
    color, profile, notes = samples.color, samples.icc_profile, samples.notes
    if profile is not None and icc == "srgb":
        converted = to_srgb(color, profile)
        color, profile = (color if converted is None else converted), None
    # If nothing is visible, all pixels decide.
    visible = samples.alpha if samples.alpha is not None and samples.alpha.any() else None
    if color.shape[2] == 3 and gray == "auto" and is_gray(color, visible):
        color = to_gray(color)
        if profile is not None:
            # The channels are equal but the space is not sRGB. One channel cannot have a profile for RGB.
            converted = neutral_to_srgb(color, profile)
            color, profile = (color if converted is None else converted), None
    elif color.shape[2] == 1 and gray == "off":
        if profile is not None:
            converted = to_srgb(color, profile)
            color, profile = (color if converted is None else converted), None
        color = np.repeat(color, 3, axis=2)
    return Samples(color, samples.alpha, profile, notes)


def _apply_named_profile(
    color: SampleArray, image: Image.Image, data: bytes
) -> tuple[SampleArray, bytes | None, str | None]:
    """Return the samples with the profile that their file describes by numbers, if any, and a note about it."""
    try:
        profile = named_profile(image.format, image.info, data)
    except ValueError as error:
        return color, None, str(error)
    if profile is None:
        return color, None, None
    if color.shape[2] == 3:
        return color, profile, "colour space named by numbers: written as an ICC profile"
    converted = neutral_to_srgb(color, profile)
    return (color if converted is None else converted), None, "gamma of the file: worked into the shades"


def _check_profile(color: SampleArray, profile: bytes | None) -> tuple[SampleArray, bytes | None, str | None]:
    """Return the samples, their profile if it fits them, and a note if it was left out."""
    if profile is None:
        return color, None, None
    fitting = "GRAY" if color.shape[2] == 1 else "RGB"
    space = profile_space(profile)
    if space is None or (space == fitting and not is_usable(profile)):
        return color, None, f"ICC profile left out: it is broken, the page is {fitting}"
    if space == fitting:
        if len(profile) > _LARGEST_PROFILE and (converted := to_srgb(color, profile)) is not None:
            return converted, None, _LARGE_PROFILE
        return color, profile, None
    note = f"ICC profile left out: it is for {space}, the page is {fitting}"
    if (space, fitting) == ("RGB", "GRAY"):
        # Some programs convert a JPEG to gray and keep its RGB profile. Its tone curve is still right.
        converted = neutral_to_srgb(color, profile)
        color = color if converted is None else converted
    return color, None, note


def _split_array(samples: SampleArray) -> tuple[SampleArray, SampleArray | None]:
    if samples.shape[2] in (1, 3):
        return samples, None
    return np.ascontiguousarray(samples[:, :, :-1]), np.ascontiguousarray(samples[:, :, -1])


def _convert_narrow(image: Image.Image, depth: Depth) -> tuple[UInt8Array, UInt8Array | None]:
    """Convert a mode with at most 8 bits per sample."""
    mode = image.mode
    key = image.info.get("transparency")
    if mode in ("1", "L"):
        if key is not None and not isinstance(key, int):
            return _split_image(image.convert("LA"))
        gray = np.array(image.convert("L") if mode == "1" else image)
        # PNG stores the transparent shade in the file's own depth. Pillow expands the samples to 8
        # bits, but not the shade of a file with 2 or 4 bits.
        if key is not None and image.format == "PNG" and depth.bits in (2, 4):
            key = key * 255 // (2**depth.bits - 1)
        return gray[:, :, None], None if key is None else _to_alpha(gray != key)
    if mode == "RGB":
        if key is None:
            return np.array(image), None
        if not isinstance(key, tuple):
            return _split_image(image.convert("RGBA"))
        # Pillow keeps only the upper byte of 16-bit samples, but both bytes of the transparent colour.
        shift = depth.bits - 8 if depth.bits > 8 else 0
        color = np.array(image)
        wanted = np.array([value >> shift for value in key])
        return color, _to_alpha((color != wanted).any(axis=2))
    if mode == "RGBA" and depth.gray:
        # Pillow returns 16-bit gray with alpha as RGBA with three equal channels.
        return _split_image(image.convert("LA"))
    if mode in ("LA", "RGBA"):
        return _split_image(image)
    if mode == "La":
        return _split_image(image.convert("LA"))
    if mode in ("PA", "RGBa") or (mode == "P" and image.has_transparency_data):
        return _split_image(image.convert("RGBA"))
    return np.array(image.convert("RGB")), None


def _convert_wide(image: Image.Image, depth: Depth) -> tuple[SampleArray, SampleArray | None]:
    """Convert one channel with more than 8 bits."""
    values = np.asarray(image)
    key = image.info.get("transparency")
    gray: SampleArray
    if image.mode.startswith("I;16"):
        top = 2**depth.bits - 1 if 8 < depth.bits < 16 else 65535
        deep = np.minimum(values, top).astype(np.uint32)
        gray = ((deep * 65535 + top // 2) // top).astype(np.uint16)
        if depth.inverted:
            gray = (65535 - gray).astype(np.uint16)
    else:
        if values.dtype == np.int32 and _is_unsigned(image):
            # Pillow stores them as signed numbers, so the lighter half would be negative.
            values = values.view(np.uint32)
        gray = fit(values, 65535 if image.format == "PPM" else None)
    alpha = None
    if isinstance(key, int):
        alpha = np.where(values != key, np.iinfo(gray.dtype).max, 0).astype(gray.dtype)
    return gray[:, :, None], alpha


def _is_unsigned(image: Image.Image) -> bool:
    tags = getattr(image, "tag_v2", None)
    return image.format == "TIFF" and tags is not None and tags.get(_SAMPLE_FORMAT, (1,))[0] == 1


def _split_image(image: Image.Image) -> tuple[UInt8Array, UInt8Array]:
    together = np.asarray(image)
    return np.ascontiguousarray(together[:, :, :-1]), np.ascontiguousarray(together[:, :, -1])


def _to_alpha(where: NDArray[np.bool_]) -> UInt8Array:
    return np.where(where, np.uint8(255), np.uint8(0))
