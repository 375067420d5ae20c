"""Where the pages of a finished volume are in its file, so that the server can send one without opening the archive."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import BinaryIO, TypeAlias

from comic_upscale.imaging.formats import IMAGE_EXTENSIONS, extension_of
from comic_upscale.library.sorting import natural_key

Member: TypeAlias = tuple[str, int, int]
"""Name, offset of its bytes in the file, and their number."""

_SIGNATURE = b"PK\3\4"
_LOCAL_HEADER = struct.Struct("<26xHH")
"""The lengths of the name and of the extra field; `zipfile` knows only where the header begins."""


def find_members(path: Path) -> list[Member] | None:
    """Return the pages of a CBZ that this program wrote, in the order of a reader; None if they cannot be sent alone.

    Args:
        path: of the archive. Compressed pages cannot be sent as they are.
    """
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            pages = pages_of(archive)
            if any(info.compress_type != zipfile.ZIP_STORED for info in pages):
                return None
            return [(info.filename, start_of(file, info), info.file_size) for info in pages]
    except (OSError, zipfile.BadZipFile):
        return None


def pages_of(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Return the pages of an archive, in the order of a reader: also those in formats that are only read."""
    pages = [info for info in archive.infolist() if extension_of(info.filename) in IMAGE_EXTENSIONS]
    return sorted(pages, key=lambda info: natural_key(info.filename))


def start_of(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Return the offset of the bytes of a member in the file of its archive.

    Raises:
        BadZipFile: no member begins where the directory says.
    """
    file.seek(info.header_offset)
    header = file.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(_SIGNATURE):
        raise zipfile.BadZipFile(f"{info.filename!r} is not where the directory says")
    name, extra = _LOCAL_HEADER.unpack(header)
    return info.header_offset + _LOCAL_HEADER.size + int(name) + int(extra)
