"""libjxl's own C interface, for features that imagecodecs lacks: colour profiles and premultiplied alpha.

This is the library that imagecodecs has loaded. Its functions are looked up through imagecodecs' extension module.
This works if the module is linked to a shared libjxl (its wheels for Linux and macOS, Debian, conda). Otherwise, for
example on Windows, every function here returns None, and callers use imagecodecs alone.

Source: jxl/decode.h, jxl/encode.h, jxl/codestream_header.h and jxl/cms_interface.h of libjxl 0.9 and newer.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, c_float, c_int, c_size_t, c_uint8, c_uint32, c_void_p
from functools import lru_cache

import numpy as np

from comic_upscale.imaging.pixels import SampleArray

_OLDEST = 9000
"""libjxl 0.9. Since this version, profiles are requested without a pixel format."""
_SUCCESS, _NEED_MORE_OUTPUT = 0, 2
_NEED_IMAGE_BUFFER, _BASIC_INFO, _COLOR_ENCODING, _FULL_IMAGE = 5, 0x40, 0x100, 0x1000
_ORIGINAL, _OF_SAMPLES = 0, 1
_EFFORT_SETTING = 0
_UINT8, _UINT16 = 2, 3
_MOST_PROFILE = 16 << 20
_CHUNK = 1 << 16


class _BasicInfo(ctypes.Structure):
    _fields_ = (
        ("have_container", c_int),
        ("xsize", c_uint32),
        ("ysize", c_uint32),
        ("bits_per_sample", c_uint32),
        ("exponent_bits_per_sample", c_uint32),
        ("intensity_target", c_float),
        ("min_nits", c_float),
        ("relative_to_max_display", c_int),
        ("linear_below", c_float),
        ("uses_original_profile", c_int),
        ("have_preview", c_int),
        ("have_animation", c_int),
        ("orientation", c_int),
        ("num_color_channels", c_uint32),
        ("num_extra_channels", c_uint32),
        ("alpha_bits", c_uint32),
        ("alpha_exponent_bits", c_uint32),
        ("alpha_premultiplied", c_int),
        # Preview, animation, the intended size, and space for additions of newer versions.
        ("rest", c_uint8 * 256),
    )


class _PixelFormat(ctypes.Structure):
    _fields_ = (
        ("num_channels", c_uint32),
        ("data_type", c_int),
        ("endianness", c_int),
        ("align", c_size_t),
    )


class _Cms(ctypes.Structure):
    _fields_ = (("functions", c_void_p * 8),)


_Q = c_void_p
_SIGNATURES: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "JxlDecoderCreate": (_Q, (_Q,)),
    "JxlDecoderDestroy": (None, (_Q,)),
    "JxlDecoderSubscribeEvents": (c_int, (_Q, c_int)),
    "JxlDecoderSetUnpremultiplyAlpha": (c_int, (_Q, c_int)),
    "JxlDecoderSetCms": (c_int, (_Q, _Cms)),
    "JxlDecoderSetInput": (c_int, (_Q, ctypes.c_char_p, c_size_t)),
    "JxlDecoderProcessInput": (c_int, (_Q,)),
    "JxlDecoderGetBasicInfo": (c_int, (_Q, POINTER(_BasicInfo))),
    "JxlDecoderGetICCProfileSize": (c_int, (_Q, c_int, POINTER(c_size_t))),
    "JxlDecoderGetColorAsICCProfile": (c_int, (_Q, c_int, _Q, c_size_t)),
    "JxlDecoderSetOutputColorProfile": (c_int, (_Q, _Q, ctypes.c_char_p, c_size_t)),
    "JxlDecoderSetImageOutBuffer": (c_int, (_Q, POINTER(_PixelFormat), _Q, c_size_t)),
    "JxlGetDefaultCms": (POINTER(_Cms), ()),
    "JxlEncoderCreate": (_Q, (_Q,)),
    "JxlEncoderDestroy": (None, (_Q,)),
    "JxlEncoderInitBasicInfo": (None, (POINTER(_BasicInfo),)),
    "JxlEncoderSetBasicInfo": (c_int, (_Q, POINTER(_BasicInfo))),
    "JxlEncoderSetICCProfile": (c_int, (_Q, ctypes.c_char_p, c_size_t)),
    "JxlEncoderFrameSettingsCreate": (_Q, (_Q, _Q)),
    "JxlEncoderFrameSettingsSetOption": (c_int, (_Q, c_int, ctypes.c_int64)),
    "JxlEncoderSetFrameLossless": (c_int, (_Q, c_int)),
    "JxlEncoderSetFrameDistance": (c_int, (_Q, c_float)),
    "JxlEncoderAddImageFrame": (c_int, (_Q, POINTER(_PixelFormat), _Q, c_size_t)),
    "JxlEncoderCloseInput": (None, (_Q,)),
    "JxlEncoderProcessOutput": (c_int, (_Q, POINTER(_Q), POINTER(c_size_t))),
}


@lru_cache(maxsize=16)
def carries(profile: bytes) -> bool:
    """Return whether a profile can be written and read back, lossy and lossless."""
    pixel = np.zeros((1, 1, 1 if profile[16:20] == b"GRAY" else 3), np.uint8)
    try:
        files = [encode_with_profile(pixel, profile, distance=distance, effort=1) for distance in (1.0, None)]
        # libjxl 0.12 writes lossy images with profiles of tables, and does not read them.
        return all(file is not None and decode_with_profile(file, (1, 1)) is not None for file in files)
    except (ValueError, EOFError):
        return False


def decode_with_profile(data: bytes, size: tuple[int, int]) -> tuple[SampleArray, bytes] | None:
    """Decode a JPEG XL to samples in the colour space of its own profile; of an animation the first frame.

    For a colour space that the file declares by name, libjxl builds the profile.

    Args:
        data: the file.
        size: (width, height), upright, from the header of the file. Another size is an error.

    Returns:
        uint8 or uint16, upright, height x width x channels (gray, gray and alpha, RGB, RGBA), alpha not
        premultiplied; and the profile. None if libjxl is not available or cannot convert to that profile.

    Raises:
        ValueError: the file is damaged.
        EOFError: it ends too early.
    """
    jxl = _library()
    if jxl is None:
        return None
    with _open_codec(jxl.JxlDecoderCreate, jxl.JxlDecoderDestroy) as decoder:
        _check(jxl.JxlDecoderSubscribeEvents(decoder, _BASIC_INFO | _COLOR_ENCODING | _FULL_IMAGE))
        _check(jxl.JxlDecoderSetUnpremultiplyAlpha(decoder, 1))
        _check(jxl.JxlDecoderSetCms(decoder, jxl.JxlGetDefaultCms().contents))
        _check(jxl.JxlDecoderSetInput(decoder, data, len(data)))
        # The end of the input is not declared, so that libjxl asks for more if the file is truncated.
        _expect(jxl, decoder, _BASIC_INFO)
        info = _BasicInfo()
        _check(jxl.JxlDecoderGetBasicInfo(decoder, ctypes.byref(info)))
        if (info.xsize, info.ysize) != size:
            raise ValueError(f"the size of the image, {info.xsize} x {info.ysize}, differs from the header")
        _expect(jxl, decoder, _COLOR_ENCODING)
        profile = _profile(jxl, decoder, _ORIGINAL)
        is_converted = _profile(jxl, decoder, _OF_SAMPLES) != profile
        if is_converted:
            # Images in libjxl's own colour space, the lossy ones, would be returned in linear light.
            jxl.JxlDecoderSetOutputColorProfile(decoder, None, profile, len(profile))
            if _profile(jxl, decoder, _OF_SAMPLES) != profile:
                return None
        _expect(jxl, decoder, _NEED_IMAGE_BUFFER)
        channels = info.num_color_channels + (info.alpha_bits > 0)
        kind = np.uint8 if info.bits_per_sample <= 8 else np.uint16
        samples: SampleArray = np.empty((size[1], size[0], channels), kind)
        layout = _PixelFormat(channels, _UINT8 if kind is np.uint8 else _UINT16, 0, 0)
        _check(
            jxl.JxlDecoderSetImageOutBuffer(
                decoder, ctypes.byref(layout), samples.ctypes.data, samples.nbytes
            )
        )
        try:
            _expect(jxl, decoder, _FULL_IMAGE)
        except ValueError:
            if is_converted:
                # libjxl may fail with the profile only. If the image is damaged, the caller finds out.
                return None
            raise
        return samples, profile


def encode_with_profile(
    samples: SampleArray, profile: bytes, *, distance: float | None, effort: int
) -> bytes | None:
    """Encode samples as a JPEG XL that contains their profile.

    Args:
        samples: uint8 or uint16, height x width x 1 to 4, contiguous.
        profile: for gray, or for RGB.
        distance: libjxl's measure of loss; None for lossless.
        effort: 1 to 9.

    Returns:
        The file; None if libjxl is not available or does not accept the profile.

    Raises:
        ValueError: libjxl refuses the image.
    """
    jxl = _library()
    if jxl is None:
        return None
    height, width, channels = samples.shape
    bits = 8 * samples.itemsize
    info = _BasicInfo()
    jxl.JxlEncoderInitBasicInfo(ctypes.byref(info))
    info.xsize, info.ysize, info.bits_per_sample = width, height, bits
    info.num_color_channels = 1 if channels <= 2 else 3
    info.num_extra_channels = int(channels in (2, 4))
    info.alpha_bits = bits if channels in (2, 4) else 0
    info.uses_original_profile = int(distance is None)
    with _open_codec(jxl.JxlEncoderCreate, jxl.JxlEncoderDestroy) as encoder:
        _check(jxl.JxlEncoderSetBasicInfo(encoder, ctypes.byref(info)))
        if jxl.JxlEncoderSetICCProfile(encoder, profile, len(profile)) != _SUCCESS:
            return None
        frame = jxl.JxlEncoderFrameSettingsCreate(encoder, None)
        _check(jxl.JxlEncoderFrameSettingsSetOption(frame, _EFFORT_SETTING, effort))
        if distance is None:
            _check(jxl.JxlEncoderSetFrameLossless(frame, 1))
        else:
            _check(jxl.JxlEncoderSetFrameDistance(frame, distance))
        layout = _PixelFormat(channels, _UINT8 if bits == 8 else _UINT16, 0, 0)
        _check(jxl.JxlEncoderAddImageFrame(frame, ctypes.byref(layout), samples.ctypes.data, samples.nbytes))
        jxl.JxlEncoderCloseInput(encoder)
        return b"".join(_output(jxl, encoder))


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    from imagecodecs import _jpegxl

    try:
        library = ctypes.CDLL(_jpegxl.__file__)
        library.JxlDecoderVersion.restype = c_uint32
        if library.JxlDecoderVersion() < _OLDEST:
            return None
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (AttributeError, OSError):
        return None
    return library


@contextmanager
def _open_codec(create: ctypes._FuncPointer, destroy: ctypes._FuncPointer) -> Iterator[int]:
    made = create(None)
    if not made:
        raise MemoryError
    try:
        yield made
    finally:
        destroy(made)


def _check(status: int) -> None:
    if status != _SUCCESS:
        raise ValueError(f"libjxl refuses the image (status {status})")


def _expect(jxl: ctypes.CDLL, decoder: int, wanted: int) -> None:
    status = jxl.JxlDecoderProcessInput(decoder)
    if status == wanted:
        return
    if status == _NEED_MORE_OUTPUT:  # for a decoder the same number asks for more input
        raise EOFError("unexpected end of the image")
    raise ValueError(f"the image cannot be decoded (libjxl's status {status})")


def _profile(jxl: ctypes.CDLL, decoder: int, target: int) -> bytes:
    """Return the profile that the file declares or contains, or the profile of the decoded samples."""
    size = c_size_t()
    _check(jxl.JxlDecoderGetICCProfileSize(decoder, target, ctypes.byref(size)))
    if not 0 < size.value <= _MOST_PROFILE:
        raise ValueError(f"the colour profile has an invalid size: {size.value} bytes")
    profile = ctypes.create_string_buffer(size.value)
    _check(jxl.JxlDecoderGetColorAsICCProfile(decoder, target, profile, size))
    return profile.raw


def _output(jxl: ctypes.CDLL, encoder: int) -> Iterator[bytes]:
    chunk = ctypes.create_string_buffer(_CHUNK)
    status = _NEED_MORE_OUTPUT
    while status == _NEED_MORE_OUTPUT:
        place, left = c_void_p(ctypes.addressof(chunk)), c_size_t(_CHUNK)
        status = jxl.JxlEncoderProcessOutput(encoder, ctypes.byref(place), ctypes.byref(left))
        yield chunk.raw[: _CHUNK - left.value]
    _check(status)
