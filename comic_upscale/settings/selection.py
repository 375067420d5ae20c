"""`Selection`: the part of an input that a job looks at."""

from __future__ import annotations

from dataclasses import dataclass, fields

from comic_upscale.errors import SettingsError


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
            if not isinstance(values, tuple) or not all(map(_is_text, values)):
                name = "selection.paths" if field.name == "paths" else f"--{field.name}"
                raise SettingsError(f"{name} must be texts that are not empty")

    @property
    def is_everything(self) -> bool:
        """Whether nothing is left out."""
        return not (self.paths or self.include or self.exclude)

    def __str__(self) -> str:
        """Return the selection for display: ``only vol 1, vol 2; without *.gif``; empty for everything."""
        shown = self.paths[:3]
        more = len(self.paths) - len(shown)
        texts = [f"only {', '.join(shown)}{f' and {more:,} more' if more else ''}"] if shown else []
        texts += [f"only {' '.join(self.include)}"] if self.include else []
        texts += [f"without {' '.join(self.exclude)}"] if self.exclude else []
        return "; ".join(texts)


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


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and "\0" not in value
