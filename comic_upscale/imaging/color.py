"""Colour profiles: which one fits a page, and the ways from other colour spaces to sRGB."""

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
    """Return the colour space that an ICC profile says it is for (``"RGB"``, ``"GRAY"``, ``"CMYK"``).

    Only the header is read: a profile that lcms cannot describe may be a good one.

    Args:
        profile: the profile's bytes, or whatever stands in their place.

    Returns:
        The name without padding; None if this is no profile.
    """
    if not isinstance(profile, bytes) or len(profile) < 128 or profile[36:40] != b"acsp":
        return None
    return profile[16:20].decode("latin-1").strip()


def cmyk_to_rgb(image: Image.Image) -> Image.Image:
    """Convert a CMYK image to sRGB through its own profile if that can be used, else by plain arithmetic."""
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
    """Tell whether lcms can convert from a profile to sRGB, that is, whether the profile is a sound one."""
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
        # The shades of gray are 256: converting these is converting the page.
        return _converted(np.arange(256, dtype=np.uint8)[None, :, None], transform)[0, :, 1][color]
    return _converted(color, transform)


def neutral_to_srgb(gray: SampleArray, profile: bytes) -> SampleArray | None:
    """Convert gray samples that were the equal channels of a page with an RGB profile to sRGB's shades.

    A profile for RGB does not fit one channel, but what it says about the shades need not be lost.

    Args:
        gray: uint8 or uint16, height x width x 1.
        profile: for RGB.

    Returns:
        The same shape and type, ``gray`` itself where the profile's shades are sRGB's within a grey level;
        None if lcms cannot use the profile.
    """
    transform = _transform(profile)
    if transform is None:
        return None
    ramp = np.arange(256, dtype=np.uint8)
    shades = _converted(np.repeat(ramp[None, :, None], 3, axis=2), transform)[0, :, 1]
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


def _converted(color: SampleArray, transform: ImageCms.ImageCmsTransform) -> UInt8Array:
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
    """Build the way from a profile to sRGB, once for the many pages of a book that share it; None if broken."""
    mode = _SPACES.get(profile_space(profile) or "")
    if mode is None:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB", _INTENT, _FLAGS)
    except MemoryError:
        raise
    except Exception:
        # lcms finds fault with many profiles in the wild; none of them is a reason to lose a page.
        return None


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    transform = _transform(profile)
    if transform is None:
        return None
    try:
        return ImageCms.applyTransform(image, transform)
    except ImageCms.PyCMSError:
        return None
