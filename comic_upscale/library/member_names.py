"""The names inside a volume: make them safe, and recognise the litter of operating systems."""

from __future__ import annotations

import re

from comic_upscale.settings.paths import LITTER

_LONGEST_PART = 240
"""Bytes of one part of a name; file systems hold 255, and an output's suffix may be longer."""

_DRIVE = re.compile(r"[A-Za-z]:")
_ROOT = re.compile(r"(?:[A-Za-z]:)?/+")
_UNKNOWN_BYTE = re.compile("[\udc80-\udcff]")
_NO_CHARACTER = re.compile("[\ud800-\udc7f\udd00-\udfff]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def is_litter(name: str) -> bool:
    """Return whether an operating system made a member: hidden, ``__MACOSX``, ``Thumbs.db`` and the like."""
    return any(part.startswith(".") or part.lower() in LITTER for part in name.split("/"))


def is_merely_hidden(name: str) -> bool:
    """Return whether a person may have hidden a member: its name begins with a dot, but not like those of macOS."""
    parts = name.split("/")
    return not any(part.startswith("._") or part.lower() in LITTER for part in parts)


def safe_name(name: str) -> str | None:
    r"""Return a member's name as a relative POSIX path that stays inside the volume; None if it leads outside.

    Backslashes count as slashes, because Windows programs write them. A slash or a drive's root (``C:/``) at the
    beginning is dropped: programs that pack whole paths write them, and ``unzip`` drops them, too. A name with ``..``
    is refused. In any other part that looks like a drive, such as ``a: intro.png``, the colon becomes ``_``, because
    Windows would leave the folder for it. Bytes of an unknown encoding stay Python's surrogates.
    """
    path = name.replace("\\", "/")
    if (root := _ROOT.match(path)) is not None:
        path = path[root.end() :]
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or ".." in parts:
        return None
    return "/".join(_part(part) for part in parts)


def _part(part: str) -> str:
    part = _NO_CHARACTER.sub("?", _CONTROL.sub("_", part))
    if _DRIVE.match(part):
        part = f"{part[0]}_{part[2:]}"
    if _size(part) <= _LONGEST_PART:
        return part
    stem, dot, extension = part.rpartition(".")
    if not (dot and stem and len(extension) <= 8):
        stem, dot, extension = part, "", ""
    room = _LONGEST_PART - _size(dot + extension)
    stem = stem[:room]
    while _size(stem) > room:
        stem = stem[:-1]
    return stem + dot + extension


def _size(part: str) -> int:
    """Return the bytes of a name. A byte of an unknown encoding counts as three, since it is written as ``%E9``."""
    return len(_UNKNOWN_BYTE.sub("%E9", part).encode())
