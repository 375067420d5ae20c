"""The fonts of the lettering: free ones from Debian's packages, found by the names of their files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal

from PIL import ImageFont

Script = Literal["latin", "japanese"]
Voice = Literal["dialogue", "display"]


@dataclass(frozen=True, slots=True)
class Typeface:
    """A font's file, the Debian package it comes in, and what it is good for."""

    file: str
    package: str
    script: Script
    voice: Voice = "dialogue"
    caps_only: bool = False


TYPEFACES = (
    Typeface("ComicNeue-Regular.otf", "fonts-comic-neue", "latin"),
    Typeface("ComicNeue-Bold.otf", "fonts-comic-neue", "latin"),
    Typeface("ComicNeue-Italic.otf", "fonts-comic-neue", "latin"),
    Typeface("ComicNeue-BoldItalic.otf", "fonts-comic-neue", "latin"),
    Typeface("ComicNeue-Light.otf", "fonts-comic-neue", "latin"),
    Typeface("TomsonTalks.ttf", "fonts-tomsontalks", "latin"),
    Typeface("Humor-Sans.ttf", "fonts-humor-sans", "latin", caps_only=True),
    Typeface("setofont.ttf", "fonts-seto", "japanese"),
    Typeface("YuseiMagic-Regular.ttf", "fonts-yusei-magic", "japanese"),
    Typeface("KleeOne-Regular.ttf", "fonts-klee", "japanese"),
    Typeface("KleeOne-SemiBold.ttf", "fonts-klee", "japanese"),
    Typeface("NotoSansCJK-Regular.ttc", "fonts-noto-cjk", "japanese"),
    Typeface("NotoSansCJK-Bold.ttc", "fonts-noto-cjk", "japanese"),
    Typeface("NotoSerifCJK-Regular.ttc", "fonts-noto-cjk", "japanese"),
    Typeface("NotoSerifCJK-Bold.ttc", "fonts-noto-cjk", "japanese"),
    Typeface("DotGothic16-Regular.ttf", "fonts-dotgothic16", "japanese"),
    Typeface("Stick-Regular.ttf", "fonts-stick", "japanese"),
    Typeface("RocknRollOne-Regular.ttf", "fonts-rocknroll", "japanese", "display"),
    Typeface("ReggaeOne-Regular.ttf", "fonts-reggae", "japanese", "display"),
    Typeface("RampartOne-Regular.ttf", "fonts-rampart", "japanese", "display"),
    Typeface("TrainOne-Regular.ttf", "fonts-train", "japanese", "display"),
)

_FOLDERS = (Path("/usr/share/fonts"), Path("~/.local/share/fonts"), Path("~/.fonts"))


class MissingFontsError(RuntimeError):
    """No font of a script is installed."""


def find(
    script: Script, voice: Voice = "dialogue", *, folders: Iterable[Path] = _FOLDERS
) -> tuple[tuple[Typeface, Path], ...]:
    """The installed typefaces for a script and a use, always in the same order; any of the script if none fits."""
    files = _files(tuple(folders))
    there = [(face, files[face.file]) for face in TYPEFACES if face.script == script and face.file in files]
    if not there:
        packages = " ".join(sorted({face.package for face in TYPEFACES if face.script == script}))
        raise MissingFontsError(
            f"no font for {script} lettering is installed; try: apt-get install {packages}"
        )
    # The display fonts have both scripts.
    loud = [(face, files[face.file]) for face in TYPEFACES if face.voice == "display" and face.file in files]
    if voice == "display":
        return tuple(loud or there)
    return tuple(item for item in there if item[0].voice == voice) or tuple(there)


@lru_cache(maxsize=512)
def sized(path: Path, size: int) -> ImageFont.FreeTypeFont:
    """A font at a size, loaded once."""
    # Basic layout: the same bytes whether or not Raqm is installed.
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def of_height(path: Path, height: float, letter: str = "H") -> ImageFont.FreeTypeFont:
    """A font at the size at which the letter is so many pixels high."""
    return sized(path, max(round(height / _share(path, letter)), 4))


def can_write(path: Path, text: str) -> bool:
    """Whether the font has every letter of the text."""
    return all(letter.isspace() or _has(path, letter) for letter in set(text))


@cache
def _has(path: Path, letter: str) -> bool:
    font = sized(path, 40)
    mask = bytes(font.getmask(letter))
    return any(mask) and mask != bytes(font.getmask("\uffff"))


@cache
def _share(path: Path, letter: str) -> float:
    _, top, _, bottom = sized(path, 200).getbbox(letter)
    return max(bottom - top, 20) / 200


@cache
def _files(folders: tuple[Path, ...]) -> dict[str, Path]:
    wanted = {face.file for face in TYPEFACES}
    found: dict[str, Path] = {}
    for folder in folders:
        try:
            there = folder.expanduser()
        except RuntimeError:  # of a user without a home folder
            continue
        for path in sorted(there.rglob("*")):
            if path.name in wanted:
                found.setdefault(path.name, path)
    return found
