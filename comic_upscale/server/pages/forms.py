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
    """
    return {
        name: str(form[name]).strip()
        for name in now
        if name in form and str(form[name]).strip() != _before(form, name, now)
    }


def check_conflicts(form: Mapping[str, object], typed: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Refuse a form with a field that somebody else has changed since the page was made.

    Args:
        form: its fields.
        typed: what somebody changed in it.
        now: the values in force.

    Raises:
        ApiError: 409, there is such a field.
    """
    for name, text in typed.items():
        if text != now[name] != _before(form, name, now):
            label = name.replace("_", " ")
            raise ApiError(
                409, "changed_meanwhile",
                f"Somebody else has changed {label} to {now[name] or 'nothing'} meanwhile. "
                f"Save again to set it to {text or 'nothing'}.",
                field=name,
            )  # fmt: skip


def _before(form: Mapping[str, object], name: str, now: Mapping[str, str]) -> str:
    return str(form.get(BEFORE + name, now[name])).strip()
