"""Names of uploaded files. A client chooses them, so they are cleaned before they are used."""

from __future__ import annotations

import unicodedata
from pathlib import PurePosixPath

LONGEST_NAME = 180
"""Bytes. A file system allows 255, and an output may get a longer extension."""

_FORBIDDEN = frozenset('<>:"/\\|?*')
_DEVICES = frozenset(
    ("con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10)))
)


def clean_name(name: str) -> str:
    """Return a name without folders, control characters and characters that some file system refuses.

    The extension is kept. A name of which nothing is left becomes ``file``.
    """
    text = unicodedata.normalize("NFC", name.encode("utf-8", "replace").decode("utf-8"))
    text = text.replace("\\", "/").rsplit("/", 1)[-1]
    text = "".join(
        "_" if char in _FORBIDDEN else char for char in text if unicodedata.category(char)[0] != "C"
    )
    # A leading dot hides a file, and Windows removes dots and spaces from the end.
    text = text.strip(" .")
    path = PurePosixPath(text or "file")
    stem, suffix = path.stem, path.suffix
    if stem.lower() in _DEVICES:
        stem = f"_{stem}"
    suffix = _shorten(suffix, LONGEST_NAME // 4)
    return _shorten(stem, LONGEST_NAME - len(suffix.encode())) + suffix


def distinct_names(names: list[str]) -> list[str]:
    """Return cleaned names of which no two are the same, also on a file system that ignores case."""
    taken: set[str] = set()
    found = []
    for name in names:
        path = PurePosixPath(clean_name(name))
        candidate, number = path.name, 1
        # Outputs may change the extension, so stems must differ too.
        while _key(candidate) in taken:
            number += 1
            candidate = f"{path.stem} ({number}){path.suffix}"
        taken.add(_key(candidate))
        found.append(candidate)
    return found


def _key(name: str) -> str:
    return PurePosixPath(name).stem.casefold()


def _shorten(text: str, most: int) -> str:
    return text.encode()[:most].decode(errors="ignore").rstrip(" .") if len(text.encode()) > most else text
