"""What somebody changed in a form. A page may be older than what it shows, so a form says what its page showed."""

from __future__ import annotations

from collections.abc import Mapping

from comic_upscale.server.api.errors import ApiError

BEFORE = "before."
"""Begins the name of the hidden field with the value that the page showed."""


def typed_fields(form: Mapping[str, object], now: Mapping[str, str]) -> dict[str, str]:
    """Return the fields of a form that somebody changed, with what was typed.

    Args:
        form: its fields.
        now: the values in force, as the page would show them now.

    Raises:
        ApiError: 409, nobody changed a field, and the page was older than a value in force: whoever sent it may have
            typed an older value.
    """
    given = {name: str(form[name]).strip() for name in now if name in form}
    typed = {name: text for name, text in given.items() if text != _before(form, name, now)}
    if not typed and any(text != now[name] for name, text in given.items()):
        raise ApiError(
            409, "changed_meanwhile",
            "Nothing was saved: the page was older than the values in force. It shows these now.",
        )  # fmt: skip
    return typed


def check_conflicts(form: Mapping[str, object], typed: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Refuse a form with fields that were changed since its page was made.

    Args:
        form: its fields.
        typed: what somebody changed in it.
        now: the values in force.

    Raises:
        ApiError: 409, there are such fields.
    """
    clashes = [name for name, text in typed.items() if text != now[name] != _before(form, name, now)]
    if clashes:
        told = ", ".join(
            f"{name.replace('_per_day', ' a day').replace('_', ' ')} to {now[name] or 'nothing'}"
            for name in clashes
        )
        raise ApiError(
            409, "changed_meanwhile",
            f"After this page was made, somebody changed {told}. The fields have your values: save again to keep them.",
            field=clashes[0],
        )  # fmt: skip


def _before(form: Mapping[str, object], name: str, now: Mapping[str, str]) -> str:
    return str(form.get(BEFORE + name, now[name])).strip()
