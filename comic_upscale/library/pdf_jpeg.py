"""The JPEG of a PDF page that is one JPEG: its data, its colour profile by the PDF, and its rotation."""

from __future__ import annotations

import ctypes
import io
from functools import lru_cache
from typing import Any

from PIL import Image
from pypdfium2 import raw

from comic_upscale.imaging.jpeg_segments import with_orientation, with_profile
from comic_upscale.library.archives import MAX_MEMBER_BYTES
from comic_upscale.library.pdf_damage import read_filters

_SAME_COLOR = 2
"""Invisible difference in gray levels."""
_END_OF_JPEG = b"\xff\xd9"
_LARGEST_PROFILE = 8 << 20
_DEVICE_GRAY, _DEVICE_RGB, _ICC_BASED = 1, 2, 7
"""Colour spaces, as PDFium numbers them."""

_TURNS = (
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.ROTATE_180,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
)
"""Transpositions for the EXIF orientations 2 to 8."""


def with_turn(jpeg: bytes, orientation: int) -> bytes:
    """Return a JPEG with this orientation. PDF viewers ignore the orientation in its own EXIF."""
    with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
        lies = _own_orientation(image)
    return jpeg if lies == orientation else with_orientation(jpeg, orientation)


def _own_orientation(image: Image.Image) -> int:
    if not image.info.keys() & {"exif", "xmp"}:
        return 1
    # Imported here because it needs NumPy, and few pages need it.
    from comic_upscale.imaging.orientation import orientation_of

    return orientation_of(image)


def embedded_jpeg(
    handle: Any, page: Any, data: bytes, size: tuple[int, int]
) -> tuple[bytes, bytes | None] | None:
    """Return the JPEG of an image with the colour profile of the PDF, or None if the page shows more than that.

    Args:
        handle: PDFium's, of the image.
        page: of pypdfium2.
        data: the compressed data of the image.
        size: width and height that the PDF gives it, pixels.
    """
    if read_filters(handle) != [b"DCTDecode"]:
        return None
    if not data.startswith(b"\xff\xd8\xff") or len(data) > MAX_MEMBER_BYTES:
        return None
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as jpeg:
            if jpeg.mode not in ("L", "RGB") or jpeg.size != size:
                return None
            mode, own = jpeg.mode, jpeg.info.get("icc_profile")
    except Exception:
        # Pillow raises many kinds. Rendering decides what becomes of a broken JPEG.
        return None
    space = _color_space(handle, page)
    if space not in (_ICC_BASED, {"L": _DEVICE_GRAY, "RGB": _DEVICE_RGB}[mode]):
        return None
    profile = _profile_of(handle, page) if space == _ICC_BASED else b""
    return None if profile is None else _apply_profile(data, own, profile, mode)


def _apply_profile(
    jpeg: bytes, own: bytes | None, profile: bytes, mode: str
) -> tuple[bytes, bytes | None] | None:
    """Replace the profile of a JPEG by that of the PDF. PDF viewers ignore the JPEG's own profile."""
    wanted = profile if profile and _differs_from_srgb(profile, mode) else None
    if wanted is None and (own is None or not _differs_from_srgb(own, mode)):
        return jpeg, None
    if wanted is not None and wanted == own:
        return jpeg, wanted
    try:
        return with_profile(jpeg, wanted), wanted
    except ValueError:
        return None


@lru_cache(maxsize=16)
def _differs_from_srgb(profile: bytes, mode: str) -> bool:
    """Return whether a usable profile for this mode gives colours that differ from sRGB."""
    import numpy as np

    from comic_upscale.imaging.color import profile_space, to_srgb

    if profile_space(profile) != {"L": "GRAY", "RGB": "RGB"}[mode]:
        return False
    ramp = np.arange(0, 256, 15, dtype=np.uint8)
    colors = (
        ramp[None, :, None] if mode == "L" else np.stack(np.meshgrid(ramp, ramp, ramp), -1).reshape(1, -1, 3)
    )
    shown = to_srgb(np.ascontiguousarray(colors), profile)
    return shown is not None and bool(np.abs(shown.astype(int) - colors).max() > _SAME_COLOR)


def _color_space(handle: Any, page: Any) -> int:
    facts = raw.FPDF_IMAGEOBJ_METADATA()
    return int(facts.colorspace) if raw.FPDFImageObj_GetImageMetadata(handle, page, facts) else 0


def _profile_of(handle: Any, page: Any) -> bytes | None:
    """Return the profile of an image in the PDF: empty if there is none, None if PDFium is too old to report it."""
    ask = getattr(raw, "FPDFImageObj_GetIccProfileDataDecoded", None)
    if ask is None:
        return None
    # The name of this type depends on the system.
    length = ask.argtypes[-1]._type_()
    ask(handle, page, None, 0, length)
    if not 0 < length.value <= _LARGEST_PROFILE:
        return b""
    buffer = (ctypes.c_uint8 * length.value)()
    ask(handle, page, buffer, length.value, length)
    return bytes(buffer)


def small_jpeg(jpeg: bytes, profile: bytes | None, orientation: int, side: int) -> Image.Image | None:
    """Return a JPEG as displayed, made smaller but not below ``side`` pixels, or None if it does not decode."""
    # PDFium overwrites the last two bytes. So a JPEG without its end, or cut short, is left to the run's decoder.
    for data in (jpeg, jpeg + _END_OF_JPEG):
        try:
            with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
                image.draft(image.mode, (side, side))
                small = _in_srgb(image, profile)
        except Exception:
            # Pillow raises many kinds. Rendering decides what becomes of a broken JPEG.
            continue
        return small if orientation == 1 else small.transpose(_TURNS[orientation - 2])
    return None


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile is None:
        return image.convert("RGB")
    import numpy as np

    from comic_upscale.imaging.color import to_srgb

    samples = np.asarray(image)
    shown = to_srgb(samples if samples.ndim == 3 else samples[:, :, None], profile)
    assert shown is not None  # otherwise the profile would have been ignored
    return Image.fromarray(shown.squeeze()).convert("RGB")
