"""JPEG XL, by libjxl: the header and the boxes here, the pixels through imagecodecs, or with a profile by `libjxl`.

Source: ISO/IEC 18181-1 (the codestream's first fields) and 18181-2 (the boxes around it).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL.ImageFile import ImageFile

from comic_upscale.costs.ranges import Range
from comic_upscale.errors import PageError
from comic_upscale.imaging.codecs.base import LATER_MEASURED, Assumed, EncodeOptions, OutputFormat
from comic_upscale.imaging.codecs.libjxl import carries, decode_with_profile, encode_with_profile
from comic_upscale.imaging.color import to_srgb
from comic_upscale.imaging.pixels import Metadata, Pixels, SampleArray, join_alpha

_SIGNATURE = b"\0\0\0\x0cJXL \r\n\x87\n"
_FILE_TYPE = b"\0\0\0\x14ftypjxl \0\0\0\0jxl "
_CODESTREAM = b"\xff\x0a"
_HEADER_BYTES = 64
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_SIDE_BITS = (9, 13, 18, 30)
_ALPHA, _DEPTH, _BLACK = 0, 1, 4
_MULTIPLIED = -1
"""Our number for premultiplied alpha."""
_D65, _SRGB_PRIMARIES, _LINEAR, _SRGB = 1, 1, 8, 13
_USUAL_CURVES = (1, _SRGB)
"""The curves of BT.709 and sRGB are both treated as sRGB."""
_MOST_UNPACKED = 4 << 20
"""The most bytes of EXIF or XMP that a compressed box may unpack to."""
_EFFORT = 3
"""Of 9. For a lossless page of 1280 x 1920 in flat colours, 3 takes a tenth of the time of the default, 7, and the
file is about 5 % larger."""


class JxlImageFile(ImageFile):
    """The size, mode and metadata of a JPEG XL, for Pillow. ``decode_jxl`` reads the pixels."""

    format = "JXL"
    format_description = "JPEG XL"

    def _open(self) -> None:
        data = self.fp.read() if self.fp is not None else b""
        header = _read_header(data)
        self._size = header.size
        self._mode = "RGB"
        self.n_frames = 2 if header.animated else 1
        self.is_animated = header.animated
        for kind, content in _read_boxes(data):
            if kind == b"Exif" and len(content) > 4:
                offset = int.from_bytes(content[:4], "big")
                self.info["exif"] = content[4 + offset :]
            elif kind == b"xml ":
                self.info["xmp"] = content

    def load(self) -> Any:
        """Do nothing, because Pillow cannot hold the pixels of every JPEG XL."""
        return None


def decode_jxl(data: bytes) -> tuple[SampleArray, bytes | None]:
    """Decode a JPEG XL, upright; of an animation the first frame.

    Returns:
        uint8 or uint16, height x width x channels (gray, gray and alpha, RGB, RGBA); and their profile, None for
        sRGB. It is always None if `libjxl` is not available: see `lost_profile`.

    Raises:
        PageError: ``"unsupported"`` for an image in CMYK.
        Exception: any error of libjxl about the file.
    """
    header = _read_header(data)
    if header.space == "cmyk":
        raise PageError(
            "unsupported",
            "The file is a JPEG XL in CMYK, which is not supported: save it as TIFF or as JPEG",
        )
    if header.is_special and (found := decode_with_profile(data, header.size)) is not None:
        return found
    import imagecodecs

    samples = np.asarray(imagecodecs.jpegxl_decode(data, 0))
    if samples.ndim == 2:
        samples = samples[:, :, None]
    if samples.dtype.kind == "f":
        samples = np.rint(np.nan_to_num(samples.astype(np.float64)).clip(0, 1) * 65535).astype(np.uint16)
    if samples.ndim != 3 or samples.dtype not in (np.uint8, np.uint16) or samples.shape[2] > 4:
        raise ValueError(f"samples of the type {samples.dtype} {samples.shape} are not supported")
    return _apply_srgb_curve(samples) if header.space == "linear" else samples, None


def lost_profile(data: bytes) -> bool:
    """Return whether samples without a profile are in a colour space that only the lost profile describes.

    This is never true of lossy files: libjxl returns them in sRGB's primaries unless the profile is requested.
    """
    return _read_header(data).space == "other"


def _apply_srgb_curve(samples: SampleArray) -> SampleArray:
    """Convert linear light, which libjxl returns for files with a profile, to sRGB's curve; alpha stays unchanged."""
    top = np.iinfo(samples.dtype).max
    light = np.arange(top + 1) / top
    curve = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return _map_samples(samples, np.rint(curve * top).astype(samples.dtype), samples.shape[2])


def encode_jxl(pixels: Pixels, options: EncodeOptions) -> bytes:
    """Encode a page. If its profile cannot be stored, it is converted to sRGB."""
    color, profile = pixels.color, pixels.icc_profile
    if profile is not None and not carries(profile):
        converted = to_srgb(color, profile)
        color, profile = (color if converted is None else converted), None
    return write_jxl(join_alpha(color, pixels.alpha), options.quality, pixels.metadata, profile)


def write_jxl(
    samples: SampleArray, quality: int | None, metadata: Metadata, profile: bytes | None = None
) -> bytes:
    """Encode samples as a JPEG XL, with EXIF and XMP in its boxes.

    Args:
        samples: uint8 or uint16, height x width x 1 to 4.
        quality: 1 to 100 on libjpeg's scale; None for lossless.
        metadata: its resolution is left out, because JPEG XL stores it only in EXIF.
        profile: of the samples, to be stored; `libjxl.carries` must accept it. None for sRGB.

    Raises:
        ValueError: libjxl does not accept the profile.
    """
    stream = (
        _encode_srgb(samples, quality) if profile is None else _encode_with_profile(samples, quality, profile)
    )
    return _add_boxes(stream, metadata)


def _encode_with_profile(samples: SampleArray, quality: int | None, profile: bytes) -> bytes:
    distance = None if quality is None else _distance(quality)
    stream = encode_with_profile(np.ascontiguousarray(samples), profile, distance=distance, effort=_EFFORT)
    if stream is None:
        raise ValueError("libjxl does not accept the ICC profile")
    return stream


def _encode_srgb(samples: SampleArray, quality: int | None) -> bytes:
    """Encode sRGB samples."""
    import imagecodecs

    picture = np.ascontiguousarray(samples[:, :, 0] if samples.shape[2] == 1 else samples)
    options: dict[str, Any] = {"effort": _EFFORT, "usecontainer": False, "numthreads": 1}
    if quality is None:
        stream = bytes(imagecodecs.jpegxl_encode(picture, lossless=True, **options))
    else:
        if samples.dtype == np.uint16:
            picture = _to_linear_light(picture, samples.shape[2])
        stream = bytes(imagecodecs.jpegxl_encode(picture, distance=_distance(quality), **options))
    return _declare_srgb(stream) if samples.dtype == np.uint16 else stream


def _add_boxes(stream: bytes, metadata: Metadata) -> bytes:
    boxes = b""
    if metadata.exif is not None:
        boxes += _box(b"Exif", bytes(4) + metadata.exif)
    if metadata.xmp is not None:
        boxes += _box(b"xml ", metadata.xmp)
    if stream.startswith(_SIGNATURE):
        return stream + boxes
    return _SIGNATURE + _FILE_TYPE + _box(b"jxlc", stream) + boxes if boxes else stream


def _to_linear_light(samples: SampleArray, channels: int) -> SampleArray:
    """Convert 16-bit sRGB samples to linear light, which imagecodecs assumes when it writes a lossy image."""
    shade = np.arange(65536) / 65535
    light = np.where(shade <= 0.04045, shade / 12.92, ((shade + 0.055) / 1.055) ** 2.4)
    return _map_samples(samples, np.rint(light * 65535).astype(np.uint16), channels)


def _map_samples(samples: SampleArray, table: SampleArray, channels: int) -> SampleArray:
    """Map all samples by a table, except alpha, which is the last of two or four channels."""
    changed = table[samples]
    if channels in (2, 4):
        changed[:, :, -1] = samples[:, :, -1]
    return changed


def _declare_srgb(stream: bytes) -> bytes:
    """Declare sRGB's curve in the header, because imagecodecs declares 16-bit samples as linear.

    Both declarations have the same length. The samples of a lossless image do not change.
    """
    header = _read_header(stream)
    if header.space != "linear":
        return stream
    start = header.curve // 8
    word = int.from_bytes(stream[start : start + 2], "little")
    shift = header.curve % 8
    word = word & ~(0xF << shift) | (_SRGB - 2) << shift
    return stream[:start] + word.to_bytes(2, "little") + stream[start + 2 :]


def _distance(quality: int) -> float:
    """Return the distance that libjxl's own tools use for a quality on libjpeg's scale."""
    if quality >= 30:
        return 0.1 + (100 - quality) * 0.09
    return 53.0 / 3000.0 * quality * quality - 23.0 / 20.0 * quality + 25.0


def _box(kind: bytes, content: bytes) -> bytes:
    if len(content) + 8 < 1 << 32:
        return struct.pack(">L", len(content) + 8) + kind + content
    return struct.pack(">L4sQ", 1, kind, len(content) + 16) + content


def _read_boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while data.startswith(_SIGNATURE) and at + 8 <= len(data):
        length, kind = struct.unpack_from(">L4s", data, at)
        start = at + 8
        if length == 1 and at + 16 <= len(data):
            (length,) = struct.unpack_from(">Q", data, at + 8)
            start = at + 16
        end = len(data) if length == 0 else at + length
        if end <= start or end > len(data):
            return
        yield _unpack(kind, data[start:end])
        at = end


def _unpack(kind: bytes, content: bytes) -> tuple[bytes, bytes]:
    """Unpack a box that is compressed by Brotli, as libjxl's own tools do for metadata. A broken box stays packed."""
    if kind != b"brob" or content[:4] not in (b"Exif", b"xml "):
        return kind, content
    import imagecodecs

    try:
        # This raises an error if the output is larger.
        return content[:4], bytes(imagecodecs.brotli_decode(content[4:], out=_MOST_UNPACKED))
    except Exception:
        return kind, content


class _Bits:
    """Reads numbers of some bits, the lowest bit first."""

    def __init__(self, data: bytes) -> None:
        self._number = int.from_bytes(data, "little")
        self.at = 0
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        if count > self._left:
            raise EOFError("unexpected end of the header")
        value = self._number & ((1 << count) - 1)
        self._number >>= count
        self._left -= count
        self.at += count
        return value

    def choose(self, *choices: tuple[int, int]) -> int:
        """Read a number. Two bits select one of ``choices``: the smallest value, and how many bits to add to it."""
        least, count = choices[self.take(2)]
        return least + self.take(count)

    def enum(self) -> int:
        """Read a number that encodes a name."""
        return self.choose((0, 0), (1, 0), (2, 4), (18, 6))


Space = Literal["srgb", "linear", "other", "cmyk"]


@dataclass(frozen=True, slots=True)
class _Header:
    size: tuple[int, int]
    """(width, height), upright."""
    animated: bool = False
    space: Space = "srgb"
    """The colour space of the samples that libjxl returns unless the profile is requested."""
    is_special: bool = False
    """The file has or needs a profile, or its alpha is premultiplied. imagecodecs reports neither."""
    curve: int = 0
    """The offset in bits of the four that declare "linear", if the samples are linear without a profile."""


def _read_header(data: bytes) -> _Header:
    start = _codestream(data) + 2
    bits = _Bits(data[start : start + _HEADER_BYTES])
    width, height = _read_size(bits)
    if bits.take(1):  # all fields have their defaults
        return _Header((width, height))
    animated = False
    if bits.take(1):  # the rare fields are present
        if bits.take(3) + 1 >= 5:
            width, height = height, width
        if bits.take(1):
            _read_size(bits)  # the intended display size
        if bits.take(1):
            # The size of a preview is not parsed, so an animation with a preview counts as a single image.
            return _Header((width, height))
        animated = bool(bits.take(1))
        if animated:
            _pass_animation(bits)
    try:
        space, is_special = _read_space(bits)
        return _Header((width, height), animated, space, is_special, 8 * start + bits.at - 4)
    except EOFError:
        # The names of channels may be longer than the part that is read here.
        return _Header((width, height), animated)


def _pass_animation(bits: _Bits) -> None:
    bits.choose((0, 0), (0, 0), (1, 10), (1, 30))
    bits.choose((0, 0), (0, 0), (1, 8), (1, 10))
    bits.choose((0, 0), (0, 3), (0, 16), (0, 32))
    bits.take(1)


def _read_space(bits: _Bits) -> tuple[Space, bool]:
    """Return the colour space, and whether the image is special: see `_Header`."""
    _pass_depth(bits)
    bits.take(1)
    kinds = [_pass_channel(bits) for _ in range(bits.choose((0, 0), (1, 0), (2, 4), (1, 12)))]
    if _BLACK in kinds:
        return "cmyk", False
    multiplied = _MULTIPLIED in kinds
    perceptual = bits.take(1)
    if bits.take(1):
        return "srgb", multiplied
    if bits.take(1):  # a profile
        return "linear" if perceptual else "other", True
    gray = bits.enum() == 1
    usual = bits.enum() == _D65 and (gray or bits.enum() == _SRGB_PRIMARIES) and not bits.take(1)
    curve = bits.enum() if usual else None
    space: Space = "linear" if curve == _LINEAR else "srgb" if curve in _USUAL_CURVES else "other"
    return space, multiplied or space == "other"


def _pass_channel(bits: _Bits) -> int:
    """Skip the description of a channel, and return its kind."""
    if bits.take(1):  # alpha, of 8 bits
        return _ALPHA
    kind = bits.enum()
    _pass_depth(bits)
    bits.choose((0, 0), (3, 0), (4, 0), (1, 3))
    for _ in range(bits.choose((0, 0), (0, 4), (16, 5), (48, 10))):
        bits.take(8)
    if kind == _ALPHA:
        return _MULTIPLIED if bits.take(1) else _ALPHA
    if kind not in (_DEPTH, _BLACK):
        raise EOFError("a channel that comics do not have")
    return kind


def _pass_depth(bits: _Bits) -> None:
    if bits.take(1):  # floating point
        bits.choose((32, 0), (16, 0), (24, 0), (1, 6))
        bits.take(4)
    else:
        bits.choose((8, 0), (10, 0), (12, 0), (1, 6))


def _codestream(data: bytes) -> int:
    """Return the start of the codestream of a file."""
    if data.startswith(_CODESTREAM):
        return 0
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">L4s", data, at)
        start = at + (16 if length == 1 else 8)
        if kind in (b"jxlc", b"jxlp"):
            return int(start + 4 * (kind == b"jxlp"))
        if length == 1 and at + 16 <= len(data):
            (length,) = struct.unpack_from(">Q", data, at + 8)
        if length < 8:
            break
        at += length
    raise EOFError("unexpected end before the image")


def _read_size(bits: _Bits) -> tuple[int, int]:
    small = bits.take(1)

    def side() -> int:
        if small:
            return 8 * (bits.take(5) + 1)
        return bits.take(_SIDE_BITS[bits.take(2)]) + 1

    height = side()
    ratio = bits.take(3)
    if ratio:
        across, down = _RATIOS[ratio - 1]
        return height * across // down, height
    return side(), height


def _read_back(data: bytes) -> tuple[tuple[int, int], str]:
    decode_jxl(data)
    # `JxlImageFile` has this mode for every image.
    return _read_header(data).size, "RGB"


FORMAT = OutputFormat(
    name="jxl",
    title="JPEG XL",
    recognised_as="JPEG XL",
    extension="jxl",
    lossless="without-quality",
    # With --format auto, for a page whose file is lossy.
    default_quality=90,
    longest_side=2**30,
    bits=(8, 16),
    density_in_exif=True,
    encode=encode_jxl,
    carries_profile=carries,
    read_back=_read_back,
    assumed_lossless=Assumed(
        gray_bytes=0.38, color_bytes=0.66, seconds=Range(0.2223, 0.2497, 0.3333), source=LATER_MEASURED
    ),
    assumed_lossy=Assumed(
        gray_bytes=0.18, color_bytes=0.16, seconds=Range(0.0578, 0.0712, 0.1064), source=LATER_MEASURED
    ),
)
