"""Open images with Pillow from many threads at once: bytes in, a header or a ``PageError`` out.

``Image.open`` is not used, for two reasons that are one: its guard against decompression bombs is a number
and a warning that belong to the whole process. To set ``Image.MAX_IMAGE_PIXELS`` would change it for the
program that uses us as a library, and to silence the warning takes ``warnings.catch_warnings``, which is not
safe between threads. So the format is told here from the first bytes (with that also no other plugin, such
as EPS, is ever tried), its plugin's class is called directly, and the limit is the caller's ``max_pixels``.

What remains are rare warnings about the tags of odd TIFFs, and lines that Pillow logs or libtiff writes to
stderr. Only an application may silence those, for its whole process; a host that has made warnings errors
gets a page that is "damaged", with the warning as the reason.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import IO, Any

from PIL import Image, UnidentifiedImageError
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.IcoImagePlugin import IcoImageFile
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.QoiImagePlugin import QoiImageFile
from PIL.TgaImagePlugin import TgaImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from comic_upscale.errors import PageError
from comic_upscale.imaging.codecs.jxl import JxlImageFile
from comic_upscale.imaging.formats import name_other, recognise
from comic_upscale.imaging.png_chunks import find_sound_png


class _QuietJpegFile(JpegImageFile):
    """A JPEG whose EXIF is not parsed for the resolution, as Pillow does and warns about what it finds.

    Called directly, it also stays a JPEG where Pillow would make an MPO of it; the first picture, which
    is the page, is the same.
    """

    def _read_dpi_from_exif(self) -> None:
        pass


class SoundPngFile(PngImageFile):
    """A PNG that was looked over before."""

    notes: tuple[str, ...] = ()
    """What was left out of the file for Pillow to read it."""
    hidden_texts: Mapping[str, str] = MappingProxyType({})
    """Texts by keywords under which Pillow keeps facts of its own."""
    repaired: bytes | None = None
    """The file without what was left out; None where that is the file itself."""


class WideTiffFile(TiffImageFile):
    """A TIFF, also one of samples that Pillow has no mode for: of that its size, tags, profile and resolution.

    The pixels of such a one come by ``read_deep``.
    """

    is_wide = False
    was_lying = False
    """Its sides are exchanged as it is turned upright; Pillow forgets that."""

    def _setup(self) -> None:
        self.was_lying = self.tag_v2.get(_ORIENTATION) in range(5, 9)
        try:
            super()._setup()
        except SyntaxError as error:
            if "unknown pixel mode" not in str(error):
                raise
            # All that Pillow knows by then: the tags, and the size by them.
            self.is_wide = True
            self._mode = "RGB"
            self.tile = []
            if isinstance(profile := self.tag_v2.get(_ICC_PROFILE), bytes):
                self.info["icc_profile"] = profile
            across, down = self.tag_v2.get(_ACROSS), self.tag_v2.get(_DOWN)
            unit = {_INCH: 1.0, _CENTIMETRE: 2.54}.get(self.tag_v2.get(_UNIT, _INCH))
            if unit is not None and across and down:
                self.info["dpi"] = (float(across) * unit, float(down) * unit)

    def load(self) -> Any:
        """Load the pixels where Pillow can."""
        return None if self.is_wide else super().load()


def open_png(file: IO[bytes], name: str = "", *, header_only: bool = False) -> SoundPngFile:
    """Open a PNG, also one of which parts beside the picture are too large or broken for Pillow.

    Args:
        file: at any position; must stay open until the pixels are loaded.
        name: of the file.
        header_only: the pixels will not be loaded; what is behind them is not looked at.
    """
    if header_only:
        # Size and mode do not depend on what would be left out, and nearly every file opens: only others are inspected.
        with suppress(Exception):
            return SoundPngFile(file, name)
    sound = find_sound_png(file, header_only=header_only)
    sound.file.seek(0)
    image = SoundPngFile(sound.file, name)
    image.notes, image.hidden_texts = sound.notes, sound.texts
    if sound.file is not file and isinstance(sound.file, io.BytesIO):
        image.repaired = sound.file.getvalue()
    if sound.profile is not None:
        image.info["icc_profile"] = sound.profile
    return image


def _open_heic(file: IO[bytes], name: str) -> ImageFile:
    # Here and not above: libheif is loaded for the few who have such pages.
    from pi_heif import HeifImageFile

    image: ImageFile = HeifImageFile(file, name)
    return image


_READERS: dict[str, Callable[[IO[bytes], str], ImageFile]] = {
    "AVIF": AvifImageFile,
    "BMP": BmpImageFile,
    "GIF": GifImageFile,
    "HEIC": _open_heic,
    "ICO": IcoImageFile,
    "JPEG": _QuietJpegFile,
    "JPEG XL": JxlImageFile,
    "JPEG2000": Jpeg2KImageFile,
    "PNG": open_png,
    "PPM": PpmImageFile,
    "QOI": QoiImageFile,
    "TGA": TgaImageFile,
    "TIFF": WideTiffFile,
    "WEBP": WebPImageFile,
}
_HEAD = 64
_ORIENTATION, _ACROSS, _DOWN, _UNIT, _ICC_PROFILE = 274, 282, 283, 296, 34675
_INCH, _CENTIMETRE = 2, 3
_SUBFILE, _REDUCED = 254, 1
# What Pillow and its libraries say when the file ends too early.
_CUT_SHORT = re.compile(
    r"truncat|unexpected end|end of (data|file)|not enough|premature|ran out|incomplete", re.I
)


def open_image(file: IO[bytes], *, max_pixels: int | None = None, header_only: bool = False) -> ImageFile:
    """Read the header of an image and nothing more.

    Args:
        file: the image, at any position; must stay open until the pixels are loaded.
        max_pixels: refuse a larger width x height; None for no limit.
        header_only: the pixels will not be loaded.

    Returns:
        Pillow's image, not yet loaded.

    Raises:
        PageError: ``"empty"``, ``"not-an-image"`` or ``"too-large"``. Everything else
            comes as Pillow raises it; ``page_errors`` around the call turns it into a ``PageError``.
    """
    file.seek(0)
    head = file.read(_HEAD)
    if not head:
        raise PageError("empty", "The file is empty (0 bytes): copy or download it again.")
    name = recognise(head)
    if name is None:
        other = name_other(head)
        what = f"The file is not an image but {other}" if other else "The file is not an image that is known"
        raise PageError("not-an-image", f"{what}: remove it, or copy it again.")
    if name == "ICO":
        # Pillow loads an icon while opening it, and believes the picture inside rather than the
        # directory about its size; so look there first.
        _check_size(_icon_size(file), max_pixels)
    file.seek(0)
    image = open_png(file, header_only=header_only) if name == "PNG" else _READERS[name](file, "")
    _check_size(image.size, max_pixels)
    return image


def count_frames(image: ImageFile) -> int:
    """Return how many frames or pages the file of an image holds, at least 1.

    May move through the whole file: load the pixels first. A file that is broken behind its first frame
    has as many as can be told.
    """
    try:
        return max(1, int(getattr(image, "n_frames", 1)))
    except Exception:
        return 2 if getattr(image, "is_animated", False) else 1


def count_pages(image: ImageFile) -> int:
    """Return how many of the pictures in a TIFF are pages of their own, and no smaller copies of another; at least 1.

    Moves through the whole file, and back to its first picture.
    """
    pages = 0
    for at in range(count_frames(image)):
        try:
            image.seek(at)
            kind = int(getattr(image, "tag_v2", {}).get(_SUBFILE, 0))
        except Exception:
            break
        pages += not kind & _REDUCED
    image.seek(0)
    return max(1, pages)


@contextmanager
def page_errors(data: bytes = b"") -> Iterator[None]:
    """Turn whatever a decoder raises on a hostile file into a ``PageError``.

    Args:
        data: the file, to tell one that ends too early from one that is damaged.

    Raises:
        PageError: ``"too-large"``, ``"out-of-memory"``, ``"unreadable"``, ``"truncated"``, ``"damaged"``,
            or the one that was raised inside.
    """
    try:
        yield
    except PageError:
        raise
    except MemoryError:
        raise _out_of_memory() from None
    except Image.DecompressionBombError as error:
        # A few plugins ask Pillow's own guard inside. It is the process's and cannot be raised by us.
        raise PageError("too-large", f"The image is larger than Pillow reads: {_short(error)}.") from None
    except Exception as error:
        message = _short(error)
        if "out of memory" in message:
            raise _out_of_memory() from None
        if isinstance(error, OSError) and error.errno and not isinstance(error, UnidentifiedImageError):
            raise PageError("unreadable", f"The file cannot be read: {message}.") from None
        if isinstance(error, EOFError) or _CUT_SHORT.search(message) or _ends_early(data):
            raise PageError(
                "truncated", f"The file is cut short: {message}. Copy or download it again."
            ) from None
        raise PageError(
            "damaged", f"The file is damaged: {message}. Copy or download it again, or re-save it."
        ) from None


def _check_size(size: tuple[int, int], max_pixels: int | None) -> None:
    width, height = size
    if max_pixels is not None and width * height > max_pixels:
        raise PageError(
            "too-large",
            f"The image has {width} x {height} = {width * height} pixels, more than the limit of "
            f"{max_pixels}: --max-pixels raises it.",
        )


def _icon_size(file: IO[bytes]) -> tuple[int, int]:
    """Return the size of the largest picture inside an icon, by the pictures' own headers."""
    file.seek(4)
    (count,) = struct.unpack("<H", file.read(2))
    entries = file.read(16 * count)
    largest = (0, 0)
    for at in range(0, len(entries) - 15, 16):
        (start,) = struct.unpack_from("<L", entries, at + 12)
        file.seek(start)
        head = file.read(24)
        if len(head) < 24:
            continue
        is_png = head.startswith(b"\x89PNG")
        size = struct.unpack(">LL", head[16:24]) if is_png else struct.unpack("<ll", head[4:12])
        width, height = abs(size[0]), abs(size[1])
        if width * height > largest[0] * largest[1]:
            largest = (width, height)
    return largest


def _ends_early(data: bytes) -> bool:
    """Tell whether a file that could not be decoded lacks its end."""
    name = recognise(data[:_HEAD])
    if name == "PNG":
        return b"IEND" not in data
    if name == "JPEG":
        return b"\xff\xd9" not in data
    if name == "WEBP":
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    return False


def _out_of_memory() -> PageError:
    return PageError(
        "out-of-memory",
        "The machine's memory was not enough for this image: use fewer --workers, or a smaller --max-pixels.",
    )


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    words = lines[0].strip().rstrip(".") if lines else ""
    return words[:200] or type(error).__name__
