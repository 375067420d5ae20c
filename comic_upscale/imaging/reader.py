"""Open images with Pillow from many threads at once: bytes in, a header or a ``PageError`` out.

``Image.open`` is not used, because its guard against decompression bombs is global to the process: a number and a
warning. Setting ``Image.MAX_IMAGE_PIXELS`` would change it for a program that uses this package as a library.
Silencing the warning needs ``warnings.catch_warnings``, which is not thread-safe. So the format is recognised here
by the first bytes, the class of its plugin is called directly, and the limit is the caller's ``max_pixels``. No
other plugin, such as EPS, is ever tried.

Rare warnings about the tags of odd TIFFs remain, and lines that Pillow logs or libtiff writes to stderr. Only an
application may silence those, for its whole process. If an application turns warnings into errors, such a page is
"damaged", with the warning as the reason.
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
from comic_upscale.imaging.jpeg_segments import unread_kind
from comic_upscale.imaging.png_chunks import find_sound_png
from comic_upscale.imaging.webp_chunks import repair_webp


class _QuietJpegFile(JpegImageFile):
    """A JPEG whose EXIF is not parsed for the resolution. Pillow parses it, and warns about errors in it.

    It also stays a JPEG where Pillow would turn it into an MPO. The first image, which is the page, is the same.
    """

    def _read_dpi_from_exif(self) -> None:
        pass


class SoundPngFile(PngImageFile):
    """A PNG whose chunks were checked."""

    notes: tuple[str, ...] = ()
    """Notes about the parts that were left out so that Pillow can read the file."""
    hidden_texts: Mapping[str, str] = MappingProxyType({})
    """Texts with keywords that Pillow uses for its own facts."""
    repaired: bytes | None = None
    """The file without the parts that were left out; None if it is the file itself."""

    def load_beside(self) -> None:
        """Load everything except the samples. The picture stays black: whoever calls this has read it elsewhere."""
        self.load_prepare()
        self.load_end()
        self.tile = []


class SoundWebpFile(WebPImageFile):
    """A WebP whose lengths were repaired if necessary."""

    notes: tuple[str, ...] = ()
    """Notes about the parts that were left out."""
    repaired: bytes | None = None
    """The repaired file; None if it is the file itself."""


class WideTiffFile(TiffImageFile):
    """A TIFF. If Pillow has no mode for its samples, only its size, tags, profile and resolution are read.

    ``read_deep`` reads the pixels of such a file.
    """

    is_wide = False
    was_lying = False
    """Rotating it upright swaps width and height. Pillow drops this information."""

    def _setup(self) -> None:
        self.was_lying = self.tag_v2.get(_ORIENTATION) in range(5, 9)
        try:
            super()._setup()
        except SyntaxError as error:
            if "unknown pixel mode" not in str(error):
                raise
            # Pillow has read only the tags by now, and the size from them.
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
        """Load the pixels if Pillow can."""
        return None if self.is_wide else super().load()


def open_png(file: IO[bytes], name: str = "", *, header_only: bool = False) -> SoundPngFile:
    """Open a PNG, even if parts other than the image are too large or broken for Pillow.

    Args:
        file: at any position; must stay open until the pixels are loaded.
        name: of the file.
        header_only: the pixels will not be loaded, and the chunks after them are not checked.
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


def _open_jpeg(file: IO[bytes], name: str) -> ImageFile:
    try:
        return _QuietJpegFile(file, name)
    except Exception:
        file.seek(0)
        data = file.read()
        if unread_kind(data) is None:
            raise
        raise _unread(data) from None


def _open_webp(file: IO[bytes], name: str) -> SoundWebpFile:
    try:
        return SoundWebpFile(file, name)
    except Exception:
        file.seek(0)
        found = repair_webp(file.read())
        if found is None:
            raise
    image = SoundWebpFile(io.BytesIO(found[0]), name)
    image.repaired, image.notes = found
    return image


def _open_heic(file: IO[bytes], name: str) -> ImageFile:
    # Imported here, since few users have such pages and need libheif.
    from pi_heif import HeifImageFile

    image: ImageFile = HeifImageFile(file, name)
    return image


_READERS: dict[str, Callable[[IO[bytes], str], ImageFile]] = {
    "AVIF": AvifImageFile,
    "BMP": BmpImageFile,
    "GIF": GifImageFile,
    "HEIC": _open_heic,
    "ICO": IcoImageFile,
    "JPEG": _open_jpeg,
    "JPEG XL": JxlImageFile,
    "JPEG2000": Jpeg2KImageFile,
    "PNG": open_png,
    "PPM": PpmImageFile,
    "QOI": QoiImageFile,
    "TGA": TgaImageFile,
    "TIFF": WideTiffFile,
    "WEBP": _open_webp,
}
_HEAD = 64
_ORIENTATION, _ACROSS, _DOWN, _UNIT, _ICC_PROFILE = 274, 282, 283, 296, 34675
_INCH, _CENTIMETRE = 2, 3
_SUBFILE, _REDUCED = 254, 1
# Phrases of Pillow and its libraries for a file that ends too early.
_CUT_SHORT = re.compile(
    r"truncat|unexpected end|end of (data|file)|not enough|premature|ran out|incomplete", re.I
)


def open_image(file: IO[bytes], *, max_pixels: int | None = None, header_only: bool = False) -> ImageFile:
    """Read only the header of an image.

    Args:
        file: the image, at any position; must stay open until the pixels are loaded.
        max_pixels: refuse a larger width x height; None for no limit.
        header_only: the pixels will not be loaded.

    Returns:
        Pillow's image, not yet loaded.

    Raises:
        PageError: ``"empty"``, ``"not-an-image"`` or ``"too-large"``. All other errors are Pillow's own;
            ``page_errors`` around the call turns them into a ``PageError``.
    """
    file.seek(0)
    head = file.read(_HEAD)
    if not head:
        raise PageError("empty", "The file is empty (0 bytes): copy or download it again")
    name = recognise(head)
    if name is None:
        other = name_other(head)
        what = (
            f"The file is not an image but {other}" if other else "The file is not an image of a known format"
        )
        raise PageError("not-an-image", f"{what}: remove it, or copy it again")
    if name == "ICO":
        # Pillow loads an icon while opening it, and takes the size from the image inside instead of the
        # directory. So read the size there first.
        _check_size(_icon_size(file), max_pixels)
    file.seek(0)
    image = open_png(file, header_only=header_only) if name == "PNG" else _READERS[name](file, "")
    _check_size(image.size, max_pixels)
    return image


def count_frames(image: ImageFile) -> int:
    """Return how many frames or pages the file of an image holds, at least 1.

    May read through the whole file, so load the pixels first. In a file that is broken after its first frame, the
    readable frames count.
    """
    try:
        return max(1, int(getattr(image, "n_frames", 1)))
    except Exception:
        return 2 if getattr(image, "is_animated", False) else 1


def count_pages(image: ImageFile) -> int:
    """Return how many images in a TIFF are pages and not smaller copies of another page; at least 1.

    Reads through the whole file, and returns to its first image.
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
        data: the file, to distinguish a truncated file from a damaged one.

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
        # A few plugins call Pillow's own guard. It is global to the process, so we must not raise it.
        raise PageError("too-large", f"The image is larger than Pillow reads: {_short(error)}") from None
    except Exception as error:
        message = _short(error)
        if "out of memory" in message:
            raise _out_of_memory() from None
        if isinstance(error, OSError) and error.errno and not isinstance(error, UnidentifiedImageError):
            raise PageError("unreadable", f"The file cannot be read: {message}") from None
        if unread_kind(data) is not None:
            raise _unread(data) from None
        if isinstance(error, EOFError) or _CUT_SHORT.search(message) or _ends_early(data):
            raise PageError(
                "truncated", f"The file is cut short: {message}. Copy or download it again"
            ) from None
        raise PageError(
            "damaged", f"The file is damaged: {message}. Copy or download it again, or re-save it"
        ) from None


def _check_size(size: tuple[int, int], max_pixels: int | None) -> None:
    width, height = size
    if max_pixels is not None and width * height > max_pixels:
        raise PageError(
            "too-large",
            f"The image has {width} x {height} = {width * height} pixels, more than the limit of "
            f"{max_pixels}: --max-pixels raises it",
        )


def _icon_size(file: IO[bytes]) -> tuple[int, int]:
    """Return the size of the largest image inside an icon, by the headers of the images."""
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
    """Return whether a file that could not be decoded lacks its end."""
    name = recognise(data[:_HEAD])
    if name == "PNG":
        return b"IEND" not in data
    if name == "JPEG":
        return b"\xff\xd9" not in data
    if name == "WEBP":
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    return False


def _unread(jpeg: bytes) -> PageError:
    return PageError(
        "unsupported",
        f"The file is a {unread_kind(jpeg)}, which is not read here: convert it with another program",
    )


def _out_of_memory() -> PageError:
    return PageError(
        "out-of-memory",
        "The machine's memory was not enough for this image: use fewer --workers, or a smaller --max-pixels",
    )


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    words = lines[0].strip().rstrip(".") if lines else ""
    return words[:200] or type(error).__name__
