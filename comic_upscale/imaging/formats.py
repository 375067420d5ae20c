"""Which files are pages: by extension while discovering, by their first bytes while decoding."""

from __future__ import annotations

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
"""Extensions of containers that are comics by their name: one without a page is a failure."""

ARCHIVE_EXTENSIONS = VOLUME_EXTENSIONS | {"zip", "rar", "7z", "tar"}
"""Extensions of containers that may hold pages, lower case, without the dot."""

_SAME: dict[str, FormatName] = {
    **dict.fromkeys(("jpg", "jpeg", "jpe", "jfif", "mpo", "heic", "heif", "hif"), "jpeg"),
    **dict.fromkeys(("avif", "avifs"), "avif"),
    **dict.fromkeys(("tif", "tiff"), "tiff"),
    "webp": "webp",
    "jxl": "jxl",
}
"""The format in which a page is written that shall stay what it is; PNG for all others."""

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

_WRITTEN: dict[FormatName, str] = {
    "png": "png", "webp": "webp", "jpeg": "jpg", "avif": "avif", "jxl": "jxl", "tiff": "tif",
}  # fmt: skip
"""The extension of the files of a format."""


def output_extension(format: FormatName, source: str = "") -> str:
    """Return the extension of the outputs of a format, without the dot; empty for ``auto`` without a source.

    Args:
        format: as asked for.
        source: name of the page; decides where the format is ``auto``, and then keeps an extension that
            means the same (``jpeg`` does not become ``jpg``).
    """
    if format != "auto":
        return _WRITTEN[format]
    if not source:
        return ""
    own = extension_of(source)
    written = written_format(own, format)
    same = own in ("jpeg", "jpe", "jfif", "tiff")
    return own if same else _WRITTEN[written]


def extension_of(name: str) -> str:
    """Return the extension of a file name, lower case, without the dot; empty if there is none."""
    stem, dot, extension = name.rpartition(".")
    return extension.lower() if dot and stem else ""


def written_format(extension: str, asked: FormatName) -> FormatName:
    """Return the format in which a page is written.

    Args:
        extension: of the page's own file, or of its output: they lead to the same.
        asked: by the user; ``auto`` is the page's own format, and PNG for pages of a format that is only read
            (JPEG for HEIC, whose pages have lost what they had to lose).
    """
    return _SAME.get(extension, "png") if asked == "auto" else asked


def is_lossless(data: bytes) -> bool:
    """Tell whether a file of a format that can be either keeps every sample; JPEG, HEIC and AVIF never do."""
    name = recognise(data[:64])
    if name == "WEBP":
        # A lossless picture is a chunk of its own kind, which stands within the first few.
        return b"VP8L" in data[:4096] and b"VP8 " not in data[:4096]
    return name not in ("JPEG", "HEIC", "AVIF")


def recognise(head: bytes) -> str | None:
    """Tell an image's format from how the file starts.

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
    # TGA has no magic number; ask for every field that leaves little choice, after all the others.
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
    """Say in words what a file is that is no image, or None if that cannot be told."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    for magic, words in _NOT_IMAGES:
        if start[: len(magic)].lower() == magic.lower():
            return words
    return None
