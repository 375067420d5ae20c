"""Colour profiles: which one fits a page, and conversions from other colour spaces to sRGB."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageCms

from comic_upscale.imaging.pixels import SampleArray, UInt8Array

_SPACES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION


def profile_space(profile: object) -> str | None:
    """Return the colour space that an ICC profile is for (``"RGB"``, ``"GRAY"``, ``"CMYK"``).

    Only the header is read, because lcms cannot describe some valid profiles.

    Args:
        profile: the profile's bytes. Any other value is allowed.

    Returns:
        The name without padding; None if this is not a profile.
    """
    if not isinstance(profile, bytes) or len(profile) < 128 or profile[36:40] != b"acsp":
        return None
    return profile[16:20].decode("latin-1").strip()


def cmyk_to_rgb(image: Image.Image) -> Image.Image:
    """Convert a CMYK image to sRGB by its own profile if lcms accepts it, otherwise by plain arithmetic."""
    profile = image.info.get("icc_profile")
    if isinstance(profile, bytes) and profile_space(profile) == "CMYK":
        converted = _to_srgb(image, profile)
        if converted is not None:
            return converted
    return image.convert("RGB")


def lab_to_rgb(image: Image.Image) -> Image.Image:
    """Convert a CIELab image (white point D50) to sRGB."""
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(lab, srgb, "LAB", "RGB", _INTENT, _FLAGS)
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # only with inPlace
    return converted


def is_usable(profile: bytes) -> bool:
    """Return whether the profile is valid, which means that lcms can convert from it to sRGB."""
    return _transform(profile) is not None


def to_srgb(color: SampleArray, profile: bytes) -> SampleArray | None:
    """Convert samples from a profile that fits them (RGB or gray) to sRGB.

    White of the profile becomes white and its black black (relative colorimetric, black point compensated).

    Args:
        color: uint8 or uint16, height x width x 3 or 1.
        profile: for RGB, or for gray.

    Returns:
        The same shape and type: gray stays one channel. None if lcms cannot use the profile.
    """
    if color.dtype == np.uint16:
        return _deep_to_srgb(color, profile)
    transform = _transform(profile)
    if transform is None:
        return None
    if color.shape[2] == 1:
        # There are only 256 shades of gray, so a table of them converts the page.
        return _convert(np.arange(256, dtype=np.uint8)[None, :, None], transform)[0, :, 1][color]
    return _convert(color, transform)


def neutral_to_srgb(gray: SampleArray, profile: bytes) -> SampleArray | None:
    """Convert gray samples to sRGB's shades, if they were the equal channels of a page with an RGB profile.

    A profile for RGB does not fit one channel, but its tone curve is applied.

    Args:
        gray: uint8 or uint16, height x width x 1.
        profile: for RGB.

    Returns:
        The same shape and type; ``gray`` itself if the profile's shades are within one grey level of sRGB's;
        None if lcms cannot use the profile.
    """
    transform = _transform(profile)
    if transform is None:
        return None
    ramp = np.arange(256, dtype=np.uint8)
    shades = _convert(np.repeat(ramp[None, :, None], 3, axis=2), transform)[0, :, 1]
    if np.abs(shades.astype(int) - ramp).max() <= 1:
        return gray
    if gray.dtype == np.uint8:
        return shades[gray]
    steps = np.interp(np.arange(65536), ramp * 257.0, shades * 257.0)
    deep: SampleArray = np.rint(steps).astype(np.uint16)[gray]
    return deep


def gray_to_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """Convert a gray image (mode L) with a gray profile to sRGB (mode RGB); None if lcms cannot."""
    return _to_srgb(image, profile)


def _convert(color: SampleArray, transform: ImageCms.ImageCmsTransform) -> UInt8Array:
    picture = np.ascontiguousarray(color[:, :, 0] if color.shape[2] == 1 else color)
    converted = ImageCms.applyTransform(Image.fromarray(picture), transform)
    assert converted is not None  # only with inPlace
    return np.array(converted)


def _deep_to_srgb(color: SampleArray, profile: bytes) -> SampleArray | None:
    """Convert 16-bit samples, which Pillow's ImageCms cannot."""
    import imagecodecs

    space: Literal["gray", "rgb"] = "gray" if color.shape[2] == 1 else "rgb"
    options: dict[str, Any] = {"colorspace": space, "outcolorspace": "rgb", "outdtype": np.uint16}
    picture = np.ascontiguousarray(color[:, :, 0] if space == "gray" else color)
    try:
        converted = imagecodecs.cms_transform(
            picture, profile, _srgb_bytes(), intent=int(_INTENT), flags=int(_FLAGS), **options
        )
    except MemoryError:
        raise
    except Exception:
        return None
    deep = np.asarray(converted, np.uint16)
    return np.ascontiguousarray(deep[:, :, 1:2] if space == "gray" else deep)


@lru_cache(maxsize=1)
def _srgb_bytes() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@lru_cache(maxsize=16)
def _transform(profile: bytes) -> ImageCms.ImageCmsTransform | None:
    """Build the conversion from a profile to sRGB, once for all pages that share it; None if the profile is broken."""
    mode = _SPACES.get(profile_space(profile) or "")
    if mode is None:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB", _INTENT, _FLAGS)
    except MemoryError:
        raise
    except Exception:
        # lcms rejects many profiles in the wild. That is no reason to lose a page.
        return None


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    transform = _transform(profile)
    if transform is None:
        return None
    try:
        return ImageCms.applyTransform(image, transform)
    except ImageCms.PyCMSError:
        return None
