"""Where the pages of a finished volume are in its file, so that the server can send one without opening the archive."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import TypeAlias

from comic_upscale.imaging.formats import IMAGE_EXTENSIONS, extension_of
from comic_upscale.library.sorting import natural_key

Member: TypeAlias = tuple[str, int, int]
"""Name, offset of its bytes in the file, and their number."""

_LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Signature, and the lengths of the name and of the extra field; `zipfile` knows only where the header begins."""


def find_members(path: Path) -> list[Member] | None:
    """Return the pages of a CBZ that this program wrote, in the order of a reader; None if they cannot be sent alone.

    Args:
        path: of the archive. Compressed pages cannot be sent as they are.
    """
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            found: list[Member] = []
            for info in archive.infolist():
                if extension_of(info.filename) not in IMAGE_EXTENSIONS:
                    continue
                if info.compress_type != zipfile.ZIP_STORED:
                    return None
                file.seek(info.header_offset)
                signature, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
                if signature != b"PK\3\4":
                    return None
                start = info.header_offset + _LOCAL_HEADER.size + name + extra
                found.append((info.filename, start, info.file_size))
    except (OSError, zipfile.BadZipFile, struct.error):
        return None
    return sorted(found, key=lambda member: natural_key(member[0]))
