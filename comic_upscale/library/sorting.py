"""Natural order of names, and whether two names are equal on some file system."""

from __future__ import annotations

import re
import unicodedata

_DIGITS = re.compile(r"\d+")


def natural_key(text: str) -> tuple[str, ...]:
    """Return a sort key that puts "page2" before "page10" and ignores case.

    Paths are compared part by part, so that the pages of a folder stay together. Names are compared before
    extensions, so that "page.png" comes before "page-2.png". Numbers may have any length and any script;
    superscripts count as letters. Different names never have equal keys.

    Args:
        text: a file name, or a POSIX path relative to some folder. Any string is allowed.

    Returns:
        A tuple, only for comparison with other results of this function.
    """
    key: list[str] = []
    for part in text.split("/"):
        stem, dot, extension = part.rpartition(".")
        # NUL is below every character in names, so the shorter name comes first.
        joined = f"{stem}\0{extension}" if dot and stem else part
        key += (_DIGITS.sub(_number, joined.casefold()), part)
    return tuple(key)


def _number(match: re.Match[str]) -> str:
    # A run of digits becomes "0", its length as one character, and its digits. Then numbers compare like
    # strings, first by length, then digit by digit. int() is not used: it refuses more than 4300 digits.
    digits = match[0]
    if not digits.isascii():
        digits = "".join(str(unicodedata.decimal(digit)) for digit in digits)
    digits = digits.lstrip("0")
    return f"0{chr(min(len(digits), 0x10FFFF))}{digits}"


def fold(name: str) -> str:
    """Return a form that is equal for two names if some file system treats them as the same name.

    It follows Unicode's canonical caseless matching: upper and lower case, composed and decomposed accents.
    """
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())
