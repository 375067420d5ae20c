"""Which sources of an input a job looks at. Everything else is left alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from comic_upscale.errors import SettingsError
from comic_upscale.imaging.formats import ARCHIVE_EXTENSIONS, extension_of
from comic_upscale.library.parts import whole_name
from comic_upscale.settings.selection import Selection


class Selector:
    """Applies a `Selection` to sources, the POSIX paths relative to the input.

    Args:
        selection: the selection; None for everything.

    Raises:
        SettingsError: a pattern cannot be used.
    """

    def __init__(self, selection: Selection | None = None) -> None:
        selection = selection or Selection()
        self.is_everything = selection.is_everything
        self._paths = {path.rstrip("/") for path in selection.paths}
        self._above = {above for path in self._paths for above in _folders_above(path)}
        self._include = _patterns("--include", selection.include)
        self._exclude = _patterns("--exclude", selection.exclude)

    def takes(self, source: str) -> bool:
        """Return whether a file of the input is selected."""
        if self.is_everything:
            return True
        return (
            self._is_below_path(source)
            and (self._include is None or self._include.match_file(source))
            and not self._is_excluded(source)
        )

    def may_enter(self, folder: str) -> bool:
        """Return whether a folder may contain selected files.

        Args:
            folder: its source, without a slash at the end.
        """
        if self.is_everything:
            return True
        if self.excludes_folder(folder):
            return False
        return folder in self._above or self._is_below_path(folder)

    def excludes_folder(self, folder: str) -> bool:
        """Return whether a pattern excludes a folder. One that is merely not selected is not excluded."""
        return self._is_excluded(f"{folder}/")

    def looks_at(self, source: str) -> bool:
        """Return whether a recorded page or volume is selected, whether or not its source still exists.

        A volume is selected as a whole, by its own path. Where the path leaves open what is a volume, the answer is no.
        """
        archives = (path for path in _folders_above(source) if _is_archive(path))
        return self.is_everything or (self.takes(source) and all(map(self.takes, archives)))

    def _is_excluded(self, source: str) -> bool:
        """Return whether a pattern excludes a source, or a folder above it: such a folder is not entered."""
        if self._exclude is None:
            return False
        folders = (f"{folder}/" for folder in _folders_above(source))
        return any(map(self._exclude.match_file, (*folders, source)))

    def _is_below_path(self, source: str) -> bool:
        if not self._paths or source in self._paths:
            return True
        return any(folder in self._paths for folder in _folders_above(source))


class Patterns:
    """Patterns as in ``.gitignore``.

    Args:
        flag: the option or condition that has them, for messages.
        patterns: the patterns.

    Raises:
        SettingsError: a pattern cannot be used.
    """

    def __init__(self, flag: str, patterns: Sequence[str]) -> None:
        # Needed only where patterns are given.
        from pathspec import GitIgnoreSpec

        try:
            self._spec = GitIgnoreSpec.from_lines(patterns)
        except ValueError as error:
            raise SettingsError(f"{flag} has a pattern that cannot be used: {error}") from None

    def match_file(self, source: str) -> bool:
        """Return whether a pattern matches a path."""
        return bool(self._spec.match_file(source))


def _patterns(flag: str, patterns: Sequence[str]) -> Patterns | None:
    return Patterns(flag, patterns) if patterns else None


def _folders_above(source: str) -> Iterator[str]:
    """Yield the folders above a source, the outermost first."""
    place = source.find("/")
    while place >= 0:
        yield source[:place]
        place = source.find("/", place + 1)


def _is_archive(path: str) -> bool:
    return extension_of(whole_name(path.rpartition("/")[2])) in ARCHIVE_EXTENSIONS


EVERYTHING = Selector()
"""Takes every source."""
