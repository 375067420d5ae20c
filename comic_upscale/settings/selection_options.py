"""The command-line options that give a `Selection`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from comic_upscale.settings.options import Opt
from comic_upscale.settings.selection import Selection

PAGES = "Which pages"
"""Heading of the help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionOptions:
    """The command-line options that together give a `Selection`, besides the paths of the pages."""

    include: Annotated[
        tuple[str, ...] | None,
        Opt(
            "Only pages and volumes whose path in the input matches this pattern, as in .gitignore: '*.png', 'vol 1/', "
            "'**/cover*'. A volume counts as a whole. Can be repeated.",
            metavar="PATTERN", panel=PAGES,
        ),
    ] = None  # fmt: skip
    exclude: Annotated[
        tuple[str, ...] | None,
        Opt(
            "Leave out what matches this pattern. It is not read, and its outputs stay. Can be repeated.",
            metavar="PATTERN", panel=PAGES,
        ),
    ] = None  # fmt: skip


def join_selection(given: Mapping[str, Any]) -> Selection:
    """Return the selection that the given `SelectionOptions` describe.

    Raises:
        SettingsError: a pattern is empty.
    """
    return Selection(include=tuple(given.get("include") or ()), exclude=tuple(given.get("exclude") or ()))
