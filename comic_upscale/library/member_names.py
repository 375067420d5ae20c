"""The names inside a volume: read in the right encoding, made safe, and told from litter."""

from __future__ import annotations

import re
from collections.abc import Sequence

LITTER = frozenset(
    ("__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information")
)
"""Made by systems and not by people; lower case. "@eaDir" is where a Synology keeps thumbnails, as JPEGs
that look like pages."""

_LONGEST_PART = 240
"""Bytes of one part of a name; file systems hold 255, and an output's suffix may be longer."""

_DRIVE = re.compile(r"[A-Za-z]:")
_ROOT = re.compile(r"/|[A-Za-z]:/")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Two Japanese characters in a row, or one that no Latin letter touches: read as CP932, "Köln" has the
# second kind alone, but between letters.
_JAPANESE = "[\u3005-\u3007\u3041-\u30ff\u3400-\u9fff\uff66-\uff9f]"
_IS_JAPANESE = re.compile(f"{_JAPANESE}{{2}}|(?<![A-Za-z]){_JAPANESE}(?![A-Za-z])")


def is_litter(name: str) -> bool:
    """Tell whether a member was made by a system: hidden, ``__MACOSX``, ``Thumbs.db`` and the like."""
    return any(part.startswith(".") or part.lower() in LITTER for part in name.split("/"))


def is_merely_hidden(name: str) -> bool:
    """Tell whether litter may be something that a person hid: its name begins with a dot, and not as macOS's do."""
    parts = name.split("/")
    return not any(part.startswith("._") or part.lower() in LITTER for part in parts)


def decode_names(raw: Sequence[bytes]) -> list[str]:
    """Read the names of an old ZIP, which does not say how they are encoded.

    All names of an archive come from one machine, so they are read in one way: as UTF-8 where that is
    valid; as CP932 (Japanese Windows) where that is valid and gives Japanese words; else as CP437, the
    format's own rule.

    Args:
        raw: the names as they stand in the file.
    """
    for encoding in ("utf-8", "cp932"):
        try:
            names = [name.decode(encoding) for name in raw]
        except UnicodeDecodeError:
            continue
        if encoding == "utf-8" or any(_IS_JAPANESE.search(name) for name in names):
            return names
    return [name.decode("cp437") for name in raw]


def safe_name(name: str) -> str | None:
    r"""Return a member's name as a relative POSIX path that stays inside, or None where it does not.

    Backslashes are taken for slashes, as Windows programs write them. Nothing is made of a name that begins
    with a slash or at a drive's root (``C:/``), or has ``..``: what such a member was to overwrite is nothing that
    a comic needs. In any other part that looks like a drive, as ``a: intro.png`` does, the colon becomes ``_``,
    since Windows would leave the folder for it.
    """
    path = name.replace("\\", "/")
    if _ROOT.match(path):
        return None
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or ".." in parts:
        return None
    return "/".join(_part(part) for part in parts)


def _part(part: str) -> str:
    part = _CONTROL.sub("_", part).encode(errors="replace").decode()
    if _DRIVE.match(part):
        part = f"{part[0]}_{part[2:]}"
    encoded = part.encode()
    if len(encoded) <= _LONGEST_PART:
        return part
    stem, dot, extension = part.rpartition(".")
    if not (dot and stem and len(extension) <= 8):
        stem, dot, extension = part, "", ""
    room = _LONGEST_PART - len(dot + extension)
    return stem.encode()[:room].decode(errors="ignore") + dot + extension
