"""Colour profiles: which one fits a page, and the way from other colour spaces to sRGB."""

from __future__ import annotations

import io

from PIL import Image, ImageCms

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


def gray_to_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """Convert a gray image (mode L) with a gray profile to sRGB (mode RGB); None if lcms cannot."""
    return _to_srgb(image, profile)


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, target, image.mode, "RGB", _INTENT, _FLAGS)
        return ImageCms.applyTransform(image, transform)
    except MemoryError:
        raise
    except Exception:
        # lcms finds fault with many profiles in the wild; none of them is a reason to lose a page.
        return None
