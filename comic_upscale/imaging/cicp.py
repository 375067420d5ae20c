"""Build an ICC profile for a file that describes its colour space by numbers instead of a profile.

Source: the PNG specification, third edition (gAMA, cHRM, cICP); ITU-T H.273 (the numbers of cICP and nclx).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

_SRGB_POINTS = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
"""x and y of white, red, green and blue."""
_POINTS = {
    1: _SRGB_POINTS,
    9: (0.3127, 0.329, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046),
    12: (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
}
_UNKNOWN = 2
_SRGB_LIKE_POINTS = (1, _UNKNOWN, 5, 6, 7)
"""The primaries of old television standards. They differ from sRGB's by less than the eye can see."""
_SRGB_LIKE_CURVES = (1, _UNKNOWN, 6, 13, 14, 15)
_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}
_SRGB_GAMMA, _NEAR_GAMMA, _NEAR_POINT = 1 / 2.2, 0.03, 0.006
_PLAUSIBLE = (0.1, 2.0)
_DATE = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
_HEAD = 65536


def named_profile(format: str | None, info: Mapping[Any, Any], data: bytes) -> bytes | None:
    """Build a profile for a file that has none but describes its colours by numbers.

    Args:
        format: Pillow's name of the file's format. Only PNG, AVIF and HEIF have such numbers.
        info: Pillow's ``Image.info`` of the file.
        data: the file.

    Returns:
        A profile for RGB, with the same bytes for the same numbers; None if the file describes nothing, or sRGB.

    Raises:
        ValueError: no profile can be built for this space, for example HDR. The message is a note for the page.
    """
    numbers = _find_numbers(format, data)
    if numbers is not None:
        points, curve = numbers
        if points in _SRGB_LIKE_POINTS and curve in _SRGB_LIKE_CURVES:
            return None
        if points in _SRGB_LIKE_POINTS:
            points = 1
        if points not in _POINTS or not (curve in _GAMMAS or curve in _SRGB_LIKE_CURVES):
            raise ValueError(
                f"colour space left out: that of primaries {points} and curve {curve} (H.273) is not read, "
                f"the colours are taken for sRGB's"
            )
        return _build_profile(_POINTS[points], _GAMMAS.get(curve))
    gamma = info.get("gamma")
    if format != "PNG" or "srgb" in info or not isinstance(gamma, float):
        return None
    found = info.get("chromaticity", _SRGB_POINTS)
    usual = np.abs(np.subtract(found, _SRGB_POINTS)).max() < _NEAR_POINT
    if not _PLAUSIBLE[0] <= gamma <= _PLAUSIBLE[1] or (usual and abs(gamma - _SRGB_GAMMA) < _NEAR_GAMMA):
        return None
    return _build_profile(_SRGB_POINTS if usual else tuple(found), 1 / gamma)


def _find_numbers(format: str | None, data: bytes) -> tuple[int, int] | None:
    """Return H.273's numbers for primaries and curve, or None if the file has none."""
    if format == "PNG":
        at = data.find(b"cICP", 0, data.find(b"IDAT"))
        return (data[at + 4], data[at + 5]) if at >= 0 else None
    if format in ("AVIF", "HEIF"):
        at = data.find(b"colrnclx", 0, _HEAD)
        if 0 <= at <= len(data) - 12:
            points, curve = struct.unpack_from(">HH", data, at + 8)
            return points, curve
    return None


@lru_cache(maxsize=16)
def _build_profile(points: Sequence[float], gamma: float | None) -> bytes | None:
    """Build a profile from the points of white, red, green and blue, and a gamma (None: sRGB's curve)."""
    import imagecodecs

    white, red, green, blue = (tuple(points[at : at + 2]) for at in (0, 2, 4, 6))
    options: dict[str, Any] = {"gamma": gamma}
    if gamma is None:
        shade = np.linspace(0, 1, 1024)
        light = np.where(shade <= 0.04045, shade / 12.92, ((shade + 0.055) / 1.055) ** 2.4)
        options = {"transferfunction": np.rint(light * 65535).astype(np.uint16)}
    try:
        profile = imagecodecs.cms_profile(
            "rgb", whitepoint=(*white, 1.0), primaries=[*red, 1.0, *green, 1.0, *blue, 1.0], **options
        )
    except MemoryError:
        raise
    except Exception:
        # Points on one line span no gamut.
        return None
    # lcms writes the current time into the profile, but the same page must give the same bytes.
    return bytes(profile[:24]) + _DATE + bytes(profile[36:])
