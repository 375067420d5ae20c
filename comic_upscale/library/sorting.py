"""The order in which people read names, and when two names are the same to some file system."""

from __future__ import annotations

import re
import unicodedata

_DIGITS = re.compile(r"\d+")


def natural_key(text: str) -> tuple[str, ...]:
    """Return a sort key that puts "page2" before "page10", upper and lower case together.

    A path is compared part by part, so that a folder's pages stay together, and a file's name before its
    extension, so that "page.png" comes before "page-2.png". Digits may be of any length and any script;
    superscripts and the like are letters like any other. Names that differ never have equal keys.

    Args:
        text: a file name, or a POSIX path relative to some folder. Any string does.

    Returns:
        A tuple to compare with others of this function, nothing more.
    """
    key: list[str] = []
    for part in text.split("/"):
        stem, dot, extension = part.rpartition(".")
        # NUL is below every character a name can hold: the shorter name comes first.
        joined = f"{stem}\0{extension}" if dot and stem else part
        key += (_DIGITS.sub(_number, joined.casefold()), part)
    return tuple(key)


def _number(match: re.Match[str]) -> str:
    # A run of digits becomes "0", its length as one character, its digits: numbers then compare as
    # strings do, first by length, then digit by digit. No int(): it refuses more than 4300 digits.
    digits = match[0]
    if not digits.isascii():
        digits = "".join(str(unicodedata.decimal(digit)) for digit in digits)
    digits = digits.lstrip("0")
    return f"0{chr(min(len(digits), 0x10FFFF))}{digits}"


def fold(name: str) -> str:
    """Return what two names share that some file system cannot tell apart.

    That is Unicode's canonical caseless match: upper and lower case, composed and decomposed accents.
    """
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())
