"""`Selection`: the part of an input that a job looks at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any

from comic_upscale.errors import SettingsError
from comic_upscale.settings.options import Opt, require

PAGES = "Which pages"
"""Heading of the help."""


@dataclass(frozen=True, slots=True)
class Selection:
    """A part of an input. The rest is left alone: it is not read, and it never counts as gone.

    Raises:
        SettingsError: a value is not text, or is empty.
    """

    paths: tuple[str, ...] = ()
    """Files and folders, as POSIX paths relative to the input; empty for all of the input."""
    include: tuple[str, ...] = ()
    """Patterns as in ``.gitignore``. A page or volume needs one that matches; empty for all."""
    exclude: tuple[str, ...] = ()
    """Patterns as in ``.gitignore``. A page or volume that one of them matches is left out."""

    def __post_init__(self) -> None:
        """Check the values."""
        for field in fields(self):
            values = getattr(self, field.name)
            require(
                isinstance(values, tuple)
                and all(isinstance(value, str) and value.strip() and "\0" not in value for value in values),
                f"{'selection.paths' if field.name == 'paths' else f'--{field.name}'} must be texts that are not empty",
            )

    @property
    def is_everything(self) -> bool:
        """Whether nothing is left out."""
        return not (self.paths or self.include or self.exclude)

    def __str__(self) -> str:
        """Return the selection for display: ``only vol 1, vol 2; without *.gif``."""
        shown = self.paths[:3]
        more = len(self.paths) - len(shown)
        texts = [f"only {', '.join(shown)}{f' and {more:,} more' if more else ''}"] if shown else []
        texts += [f"only {' '.join(self.include)}"] if self.include else []
        texts += [f"without {' '.join(self.exclude)}"] if self.exclude else []
        return "; ".join(texts) or "everything"


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


def write_selection(selection: Selection) -> dict[str, list[str]]:
    """Return a selection as JSON."""
    return {field.name: list(getattr(selection, field.name)) for field in fields(selection)}


def read_selection(value: object) -> Selection:
    """Read JSON that `write_selection` wrote.

    Raises:
        SettingsError: it is not such JSON.
    """
    names = {field.name for field in fields(Selection)}
    if not isinstance(value, dict) or not value.keys() <= names:
        raise SettingsError("selection must be an object with lists named paths, include and exclude")
    if not all(isinstance(each, list) for each in value.values()):
        raise SettingsError("selection must have lists of texts")
    return Selection(**{name: tuple(each) for name, each in value.items()})
