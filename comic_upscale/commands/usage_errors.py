"""Mistakes in the values of options, in words for people: Typer passes on what its validator says about types."""

from __future__ import annotations

import contextlib
from typing import Any

_WANTED = {"float": "a number such as 2.5", "int": "a whole number such as 4"}
_INPUT = "Input should be "


def in_plain_words(error: Exception) -> str | None:
    """Return the text for a value that an option does not take; None if the error is another one.

    Args:
        error: as Typer raises it, from the error of its validator.
    """
    message = getattr(error, "message", None)
    if not isinstance(message, str) or not message.startswith(_INPUT):
        return None
    details = _details(error.__cause__)
    value, kind = details.get("input"), str(details.get("type", "")).partition("_")[0]
    wanted = _WANTED.get(kind, message.removeprefix(_INPUT))
    return f"must be {wanted}{_not(value, kind)}"


def _details(cause: BaseException | None) -> dict[str, Any]:
    errors = getattr(cause, "errors", None)
    return errors()[0] if callable(errors) else {}


def _not(value: object, kind: str) -> str:
    if not isinstance(value, str):
        return ""
    meant = value.strip().strip("xX\u00d7").strip().replace(",", ".")
    with contextlib.suppress(ValueError):
        number = int(meant) if kind == "int" else float(meant)
        return f", not {value!r}: did you mean {number:g}?" if kind in _WANTED else f", not {value!r}"
    return f", not {value!r}"
