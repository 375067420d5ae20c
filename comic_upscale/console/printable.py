"""Text without control characters. It imports nothing, so that every command can afford it."""

from __future__ import annotations

_SPACES = frozenset("\u00a0\u1680\u202f\u205f\u3000").union(map(chr, range(0x2000, 0x200B)))
"""Spaces that Python does not call printable. U+3000 is common in Japanese names."""


def printable(text: str) -> str:
    """Return the text with control characters escaped: a terminal obeys them, and file names are not trusted."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in _SPACES else f"\\x{ord(char):02x}" for char in text)


def printable_lines(text: str) -> str:
    """Return text of several lines with control characters escaped; the line ends stay."""
    return text if text.isprintable() else "\n".join(printable(line) for line in text.split("\n"))
