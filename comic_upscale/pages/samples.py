"""From any of Pillow's modes to 8-bit gray or RGB, with alpha apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from comic_upscale.pages.color import cmyk_to_rgb, lab_to_rgb, profile_space
from comic_upscale.pages.page import UInt8Array

_BITS_PER_SAMPLE = 258
_PHOTOMETRIC = 262
_WIDE = "samples of more than 8 bits: read at 8 bits"


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """What ``Pixels`` holds, before it is turned upright."""

    color: UInt8Array
    alpha: UInt8Array | None
    icc_profile: bytes | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Depth:
    """How the file stores its samples, where Pillow's mode does not tell."""

    bits: int = 8
    gray: bool = False
    """The file is gray, with or without alpha."""
    inverted: bool = False
    """White is 0, and Pillow has left it so."""


def png_depth(data: bytes) -> Depth:
    """Read a PNG's bit depth and colour type from its first chunk."""
    if len(data) < 26 or data[12:16] != b"IHDR":
        return Depth()
    return Depth(bits=data[24], gray=data[25] in (0, 4))


def depth_of(image: Image.Image, data: bytes) -> Depth:
    """Find out how a file stores its samples.

    Args:
        image: opened from ``data``, loaded or not.
        data: the file.
    """
    if image.format == "PNG":
        return png_depth(data)
    tags = getattr(image, "tag_v2", None)
    if image.format != "TIFF" or tags is None:
        return Depth()
    bits = tags.get(_BITS_PER_SAMPLE, (8,))
    most = max(bits) if isinstance(bits, tuple) else int(bits)
    return Depth(bits=most, inverted=image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == 0)


def to_samples(image: Image.Image, depth: Depth) -> Samples:
    """Convert a loaded image to 8-bit gray or RGB.

    Args:
        image: of any mode.
        depth: of the file it comes from.

    Returns:
        Contiguous arrays of their own memory. The profile is kept only if it fits the result.
    """
    mode = image.mode
    notes: list[str] = []
    profile: bytes | None = image.info.get("icc_profile") or None
    if mode in ("CMYK", "LAB"):
        color, alpha = np.array(cmyk_to_rgb(image) if mode == "CMYK" else lab_to_rgb(image)), None
        notes.append(f"{mode}: converted to sRGB")
        profile = None
    elif mode in ("I", "F") or mode.startswith("I;16"):
        color, alpha = _wide(image, depth)
        notes.append(_WIDE)
    else:
        color, alpha = _narrow(image, depth)
        if depth.bits > 8:
            notes.append(_WIDE)
    fitting = "GRAY" if color.shape[2] == 1 else "RGB"
    if profile is not None and (space := profile_space(profile)) != fitting:
        kind = f"for {space}" if space else "broken"
        notes.append(f"ICC profile left out: it is {kind}, the page is {fitting}")
        profile = None
    return Samples(color, alpha, profile, tuple(notes))


def _narrow(image: Image.Image, depth: Depth) -> tuple[UInt8Array, UInt8Array | None]:
    """Convert a mode of 8 bits a sample or fewer."""
    mode = image.mode
    key = image.info.get("transparency")
    if mode in ("1", "L"):
        if key is not None and not isinstance(key, int):
            return _split(image.convert("LA"))
        gray = np.array(image.convert("L") if mode == "1" else image)
        # PNG gives the transparent shade in the file's own depth; Pillow spreads the samples to 8
        # bits and leaves the shade of 2 and 4 bits as it is.
        if key is not None and image.format == "PNG" and depth.bits in (2, 4):
            key = key * 255 // (2**depth.bits - 1)
        return gray[:, :, None], None if key is None else _opaque(gray != key)
    if mode == "RGB":
        if key is None:
            return np.array(image), None
        if not isinstance(key, tuple):
            return _split(image.convert("RGBA"))
        # Pillow keeps the upper byte of 16-bit samples, and the key whole.
        shift = depth.bits - 8 if depth.bits > 8 else 0
        color = np.array(image)
        wanted = np.array([value >> shift for value in key])
        return color, _opaque((color != wanted).any(axis=2))
    if mode == "RGBA" and depth.gray:
        # 16-bit gray with alpha comes as RGBA, its three colours equal.
        return _split(image.convert("LA"))
    if mode in ("LA", "RGBA"):
        return _split(image)
    if mode == "La":
        return _split(image.convert("LA"))
    if mode in ("PA", "RGBa") or (mode == "P" and image.has_transparency_data):
        return _split(image.convert("RGBA"))
    return np.array(image.convert("RGB")), None


def _wide(image: Image.Image, depth: Depth) -> tuple[UInt8Array, UInt8Array | None]:
    """Convert one channel of more than 8 bits, rounding (Pillow's ``convert`` would clip at 255)."""
    values = np.asarray(image)
    key = image.info.get("transparency")
    alpha = _opaque(values != key) if isinstance(key, int) else None
    if image.mode.startswith("I;16"):
        top = 2**depth.bits - 1 if 8 < depth.bits < 16 else 65535
        wide = np.minimum(values, top).astype(np.uint32)
        gray = ((wide * 255 + top // 2) // top).astype(np.uint8)
        if depth.inverted:
            gray = 255 - gray
    else:
        gray = _fit(values, 65535 if image.format == "PPM" else None)
    return gray[:, :, None], alpha


def _fit(values: NDArray[np.generic], top: float | None) -> UInt8Array:
    """Bring numbers of an unknown range to 0..255; negative and undefined ones become 0."""
    numbers = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0).clip(min=0)
    if top is None:
        # The file does not say what white is: the least of the usual ranges that holds the values.
        most = float(numbers.max())
        usual = (65535.0, 255.0, 1.0) if values.dtype.kind == "f" else (65535.0, 255.0)
        top = min((white for white in usual if most <= white), default=most)
    return np.rint(numbers.clip(max=top) * (255 / top)).astype(np.uint8)


def _split(image: Image.Image) -> tuple[UInt8Array, UInt8Array]:
    together = np.asarray(image)
    return np.ascontiguousarray(together[:, :, :-1]), np.ascontiguousarray(together[:, :, -1])


def _opaque(where: NDArray[np.bool_]) -> UInt8Array:
    return np.where(where, np.uint8(255), np.uint8(0))
