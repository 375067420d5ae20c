"""Errors of this package as sentences. Inside, they begin small and have no full stop, so that they can be joined."""

from __future__ import annotations


def as_sentence(text: str) -> str:
    """Return a text with a capital letter and a full stop, unless it begins with a name or a path."""
    first = text.split(" ", 1)[0]
    if first.isascii() and first.isalpha() and first.islower():
        text = f"{text[0].upper()}{text[1:]}"
    return text if not text or text.endswith((".", "!", "?", "…", ":")) else f"{text}."
