"""Recognise image files: by extension during discovery, by their first bytes during decoding."""

from __future__ import annotations

from functools import cache

from comic_upscale.imaging.codecs import FORMATS
from comic_upscale.imaging.codecs.base import OutputFormat
from comic_upscale.settings.job import FormatName

# fmt: off
IMAGE_EXTENSIONS = frozenset((
    "png", "apng", "jpg", "jpeg", "jpe", "jfif", "mpo", "webp", "gif", "bmp", "dib", "tif", "tiff", "tga",
    "avif", "avifs", "jp2", "j2k", "j2c", "jpc", "jpf", "jpx", "ppm", "pgm", "pbm", "pnm", "ico", "qoi",
    "heic", "heif", "hif", "jxl",
))
# fmt: on
"""Extensions of image files, lower case, without the dot."""

VOLUME_EXTENSIONS = frozenset(("cbz", "cbr", "cb7", "cbt", "epub", "pdf"))
"""Extensions of containers that can only be comics. Such a file without a page is a failure."""

ARCHIVE_EXTENSIONS = VOLUME_EXTENSIONS | {"zip", "rar", "7z", "tar"}
"""Extensions of containers that may hold pages, lower case, without the dot."""

_STARTS = (
    ("PNG", b"\x89PNG\r\n\x1a\n"),
    ("JPEG", b"\xff\xd8\xff"),
    ("GIF", b"GIF87a"),
    ("GIF", b"GIF89a"),
    ("BMP", b"BM"),
    ("TIFF", b"II*\0"),
    ("TIFF", b"MM\0*"),
    ("TIFF", b"II+\0"),
    ("TIFF", b"MM\0+"),
    ("JPEG2000", b"\xff\x4f\xff\x51"),
    ("JPEG2000", b"\0\0\0\x0cjP  \r\n\x87\n"),
    ("ICO", b"\0\0\1\0"),
    ("QOI", b"qoif"),
    ("JPEG XL", b"\xff\x0a"),
    ("JPEG XL", b"\0\0\0\x0cJXL \r\n\x87\n"),
)
_HEIC_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))
_NOT_IMAGES = (
    (b"PK\x03\x04", "a ZIP archive"),
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"%PDF", "a PDF"),
    (b"<!doctype html", "a web page (HTML)"),
    (b"<html", "a web page (HTML)"),
    (b"<svg", "a vector drawing (SVG)"),
    (b"<?xml", "XML text"),
)

_ANY_OTHER: FormatName = "png"
"""With ``--format auto``, the output format of pages whose own format is read-only."""


def output_extension(format: FormatName, source: str = "") -> str:
    """Return the extension of outputs in a format, without the dot; empty for ``auto`` without a source.

    Args:
        format: the requested format.
        source: the name of the page. With ``auto`` it decides the format, and an equivalent extension is kept
        (``jpeg`` does not become ``jpg``).
    """
    if format != "auto":
        return FORMATS[format].extension
    if not source:
        return ""
    own = extension_of(source)
    written = FORMATS[written_format(own, format)]
    return own if own in written.kept_extensions else written.extension


def extension_of(name: str) -> str:
    """Return the extension of a file name, lower case, without the dot; empty if there is none.

    Spaces and dots at the end of a name do not count: Windows drops them, and other systems keep them.
    """
    stem, dot, extension = name.rstrip(" .").rpartition(".")
    return extension.lower() if dot and stem else ""


def written_format(extension: str, asked: FormatName) -> FormatName:
    """Return the format in which a page is written.

    Args:
        extension: of the page's own file or of its output; the result is the same.
        asked: the format that the user requested. ``auto`` means the page's own format. For a read-only format it
        means PNG, and JPEG for HEIC, whose pages are lossy already.
    """
    return _formats_by_extension().get(extension, _ANY_OTHER) if asked == "auto" else asked


@cache
def _formats_by_extension() -> dict[str, FormatName]:
    return {
        extension: name
        for name, format in FORMATS.items()
        for extension in (format.extension, *format.kept_extensions, *format.adopted_extensions)
    }


HEAD_BYTES = 4096
"""The number of bytes at the start of a file that show whether it is lossless."""


def is_lossless(data: bytes) -> bool:
    """Return whether a file is lossless, by its first ``HEAD_BYTES``."""
    name = recognise(data[:64])
    format = _formats_by_name().get(name)
    return name != "HEIC" if format is None else format.source_is_lossless(data)


def find_format(data: bytes) -> OutputFormat | None:
    """Return the output format of a file by its first 64 bytes; None if its format is read-only."""
    return _formats_by_name().get(recognise(data[:64]))


@cache
def _formats_by_name() -> dict[str | None, OutputFormat]:
    return {format.recognised_as: format for format in FORMATS.values()}


def recognise(head: bytes) -> str | None:
    """Recognise an image's format by the start of the file.

    Args:
        head: the first 64 bytes of the file, or more.

    Returns:
        Pillow's name of the format (``"PNG"``), ``"HEIC"``, ``"JPEG XL"``, or None.
    """
    for name, start in _STARTS:
        if head.startswith(start):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return "PPM"
    if head[4:8] == b"ftyp":
        length = min(int.from_bytes(head[:4], "big"), 64)
        brands = {head[8:12], *(head[at : at + 4] for at in range(16, length, 4))}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        if brands & _HEIC_BRANDS:
            return "HEIC"
    # TGA has no magic number, so it comes last, and every field with few valid values is checked.
    if (
        len(head) >= 18
        and head[1] in (0, 1)
        and head[2] in (1, 2, 3, 9, 10, 11)
        and head[16] in (1, 8, 15, 16, 24, 32)
        and head[12:14] != b"\0\0"
        and head[14:16] != b"\0\0"
    ):
        return "TGA"
    return None


def name_other(head: bytes) -> str | None:
    """Return in words what a file is that is not an image; None if it is unknown."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    for magic, words in _NOT_IMAGES:
        if start[: len(magic)].lower() == magic.lower():
            return words
    return None
