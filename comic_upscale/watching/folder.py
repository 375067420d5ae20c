"""`WatchedFolder`: which files of a folder are due, because they are new or changed and have been still for a while."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from comic_upscale.errors import OutputError
from comic_upscale.imaging.formats import ARCHIVE_EXTENSIONS, IMAGE_EXTENSIONS, extension_of
from comic_upscale.library.parts import whole_name
from comic_upscale.settings.selection import Selection
from comic_upscale.watching.replaced_files import ReplacedFiles
from comic_upscale.watching.scan import FileState, Scan, scan_folder

MOST_NAMED = 200
"""With more changed files, the whole folder is looked at instead of each of them."""

LONGEST_RENAME = 10
"""When files are gone, new ones are waited for this many times as long as they have to be still."""

MOST_SHARE = 0.05
"""The most that looking takes of the time: a folder that takes a second to list is listed every 20 seconds at most."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 60.0, 3600.0
"""After an error that concerns a whole job, it is tried again after the first of these, then twice as long, and so on
to the second."""
_SHORTEST_WAIT_SECONDS = 0.05

_PART = re.compile(r"\.part\d+\.(?:rar|cbr)$", re.IGNORECASE)
"""Names of parts of an archive, most of which do not stand for the whole of it."""

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Due:
    """Work that is due in a folder."""

    state: Mapping[str, FileState]
    """The still files of the folder at this moment."""
    paths: tuple[str, ...] | None
    """The sources that are new or changed; None for the whole folder."""
    unsettled: tuple[str, ...]
    """Sources that still change. A run leaves them alone."""

    def selection(self, wished: Selection) -> Selection:
        """Return the part of the folder for a run.

        Args:
            wished: the patterns of the user.
        """
        held_back = tuple(f"/{_as_pattern(source)}" for source in self.unsettled)
        return Selection(self.paths or (), wished.include, (*wished.exclude, *held_back))


class WatchedFolder:
    """Looks at a folder again and again, and says what is due.

    Args:
        root: the folder.
        leave_out: folders inside of it that are not looked at: the output.
        settle: seconds for which size and time of a file must not change, as seen here. The clock of the machine that
            writes the file plays no part.
        within: real folders that no link may lead out of; None if links may lead anywhere.
        replaced: the originals that runs replace in the folder; None if runs leave it as it is.
        clock: seconds. While this machine sleeps it may stand still.
    """

    def __init__(
        self,
        root: Path,
        *,
        leave_out: Collection[Path] = (),
        settle: float,
        within: Collection[Path] | None = None,
        replaced: ReplacedFiles | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.root = root
        self.away: str | None = None
        """Why the folder cannot be looked at now, for the user; None if it can."""
        self.scan_seconds = 0.0
        """How long the last look took."""
        self.outside: tuple[str, ...] = ()
        """Links that lead out of the allowed folders, as the last look found them."""
        self._leave_out, self._settle, self._clock = tuple(leave_out), settle, clock
        self._within, self._replaced = within, replaced
        self._seen: dict[str, tuple[FileState, float]] = {}
        """The state of each file, and since when it has it."""
        self._done: dict[str, FileState] | None = None
        """The files as runs have seen them; None before the first run."""
        self._gone_since: float | None = None
        """When one of them was first missed."""

    def look(self) -> Due | None:
        """Look at the folder, and return what is due; None if nothing is, or the folder is away."""
        start = time.perf_counter()
        scan = self._scan()
        self.scan_seconds = time.perf_counter() - start
        if scan is None:
            return None
        now = self._clock()
        self._note(scan, now)
        still, unsettled = self._split(now)
        if self._done is None:
            return Due(still, None, unsettled) if still else None
        changed = [name for name, state in still.items() if self._done.get(name) != state]
        is_removed = bool(self._done.keys() - self._seen.keys())
        if not is_removed:
            self._gone_since = None
        elif self._may_be_renamed(now, bool(unsettled)):
            return None
        if not changed and not is_removed:
            return None
        names_all = is_removed or len(changed) > MOST_NAMED or not all(map(_stands_alone, changed))
        return Due(still, None if names_all else tuple(sorted(changed)), unsettled)

    def everything(self) -> Due | None:
        """Return the whole folder as the last look found it, to continue a run; None if no file is still."""
        still, unsettled = self._split(self._clock())
        return Due(still, None, unsettled) if still else None

    def note_done(self, due: Due) -> None:
        """Note that a run has looked at what was due, whether or not its pages have failed."""
        self._done = self._done_after(due)
        # A run may have recognised a file as an output that was edited or moved: from now on its original is shown.
        with contextlib.suppress(OutputError):
            self._done = self._with_originals(self._done)
        if due.paths is None:
            self._gone_since = None

    def digest_after(self, due: Due) -> str:
        """Return a digest of the files as runs have seen them, once one has looked at what is due.

        Another process compares it, which does not know what the runs of this one have done.
        """
        return digest_of(self._done_after(due))

    def _done_after(self, due: Due) -> dict[str, FileState]:
        done = self._done or {}
        if due.paths is not None:
            return {**done, **{name: due.state[name] for name in due.paths}}
        # Files that changed since then, or still do, keep what is known of them.
        kept = {name: state for name, state in done.items() if name in due.unsettled}
        return {**kept, **due.state}

    def _split(self, now: float) -> tuple[dict[str, FileState], tuple[str, ...]]:
        """Return the files that are still, and the sources that are not."""
        still = {name: state for name, (state, since) in self._seen.items() if now - since >= self._settle}
        return still, tuple(sorted(self._seen.keys() - still.keys()))

    def _may_be_renamed(self, now: float, any_unsettled: bool) -> bool:
        """Return whether a file that is gone may still appear under another name, which then gets its output."""
        if self._gone_since is None:
            self._gone_since = now
        gone_for = now - self._gone_since
        return gone_for < self._settle or (any_unsettled and gone_for < LONGEST_RENAME * self._settle)

    @property
    def is_empty(self) -> bool:
        """Whether no file was ever seen in it."""
        return not self._seen and self._done is None

    @property
    def problem(self) -> str | None:
        """Why there is nothing to look at, for the user; None if there is."""
        if self.away is not None:
            return f"{self.away}. The watch goes on when it is back: is its drive there?"
        return f"{self.root} has no files yet. Is its drive there?" if self.is_empty else None

    @property
    def pages_found(self) -> int:
        """Pages and volumes that the last look found. The pages in a volume are not counted."""
        return sum(extension_of(name) in IMAGE_EXTENSIONS | ARCHIVE_EXTENSIONS for name in self._seen)

    @property
    def settles_in(self) -> float | None:
        """Seconds until the next file has been still for long enough; None if all have."""
        now = self._clock()
        times = [since for _, since in self._seen.values()]
        if self._gone_since is not None:
            times.append(self._gone_since)
        left = [self._settle - (now - since) for since in times]
        return min((each for each in left if each > 0), default=None)

    def _scan(self) -> Scan | None:
        try:
            scan = scan_folder(self.root, self._leave_out, self._within)
        except OSError as error:
            self.away = f"{self.root} cannot be listed ({error.strerror or type(error).__name__})"
            return None
        if not scan.files and not scan.unread and self._seen:
            # The folder into which a drive is mounted is empty without the drive.
            self.away = f"{self.root} is empty"
            return None
        try:
            files = self._with_originals(scan.files)
        except OutputError as error:
            self.away = str(error)
            return None
        self.away, self.outside = None, scan.outside
        return replace(scan, files=files)

    def _with_originals(self, files: Mapping[str, FileState]) -> dict[str, FileState]:
        return {**files} if self._replaced is None else self._replaced.with_originals(files)

    def _note(self, scan: Scan, now: float) -> None:
        seen = {
            # What cannot be listed for a moment is not gone.
            name: known
            for name, known in self._seen.items()
            if name not in scan.files and any(f"{name}/".startswith(prefix) for prefix in scan.unread)
        }
        for name, state in scan.files.items():
            known = self._seen.get(name)
            seen[name] = known if known is not None and known[0] == state else (state, now)
        self._seen = seen


def seconds_to_next_look(folders: Collection[WatchedFolder], poll: float) -> float:
    """Return when some folders should be looked at next, in seconds.

    Args:
        folders: at least one.
        poll: seconds between two looks; less if a file will be still before, more if a look takes long.
    """
    longest = max(folder.scan_seconds for folder in folders) / MOST_SHARE
    settling = [seconds for folder in folders if (seconds := folder.settles_in) is not None]
    wait = min([poll, *(seconds + _SHORTEST_WAIT_SECONDS for seconds in settling)])
    return max(wait, longest, _SHORTEST_WAIT_SECONDS)


def pause_after_errors(errors: int) -> float:
    """Return how long a job is not tried again after an error, in seconds.

    Args:
        errors: the errors before this one, one after another.
    """
    return float(min(FIRST_PAUSE_SECONDS * 2.0 ** min(errors, 32), LONGEST_PAUSE_SECONDS))


def digest_of(files: Mapping[str, FileState]) -> str:
    """Return a digest of the names and states of files: SHA-256, in hexadecimal."""
    text = json.dumps(sorted((name, *state) for name, state in files.items()))
    return hashlib.sha256(text.encode()).hexdigest()


def _stands_alone(source: str) -> bool:
    """Return whether a file is a page or a whole volume, so that a run can look at it alone."""
    name = source.rpartition("/")[2]
    if whole_name(name) != name or _PART.search(name):
        return False
    return extension_of(name) in IMAGE_EXTENSIONS | ARCHIVE_EXTENSIONS


def _as_pattern(source: str) -> str:
    """Return a pattern as in ``.gitignore`` that matches exactly this source."""
    return "".join(_literal(char) for char in source)


def _literal(char: str) -> str:
    if char.isspace() and char != " ":
        # At the end of a pattern, other spaces are cut off even behind a backslash.
        return f"[{char}]"
    return f"\\{char}" if char in "\\*?[]!# " else char
