"""Names of the files of volumes."""

from __future__ import annotations

import posixpath
import re

from comic_upscale.settings.processing import ArchiveOutput

_PART = re.compile(r" \(part \d+\)$")


def extension_of_volume(kind: ArchiveOutput) -> str:
    """Return the extension of a volume's file, without the dot."""
    return {"epub": "epub", "kepub": "kepub.epub", "pdf": "pdf"}.get(kind, "cbz")


def stem_of_volume(output: str) -> tuple[str, str]:
    """Return the name of a volume's file without its extension, and the extension with its dot."""
    for end in (".kepub.epub", ".epub", ".pdf", ".cbz"):
        if output.endswith(end):
            return output.removesuffix(end), end
    return posixpath.splitext(output)


def is_further_part(name: str) -> bool:
    """Return whether `part_name` may have made a name, with a part after the first."""
    return _PART.search(stem_of_volume(name)[0]) is not None


def part_name(output: str, part: int) -> str:
    """Return the name of one of several files of a volume, the first of which is 1."""
    stem, end = stem_of_volume(output)
    return output if part == 1 else f"{stem} (part {part}){end}"
