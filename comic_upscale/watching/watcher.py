"""`Watcher`: looks at folders for ever, and runs the job of a folder when something in it is due."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from comic_upscale.errors import (
    ComicUpscaleError,
    DeviceError,
    InputError,
    LedgerBusyError,
    SettingsError,
    WeightsError,
)
from comic_upscale.execution.events import JobFinished
from comic_upscale.execution.stop import StopRequest
from comic_upscale.ledger.pausing import paused_since
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.selection import Selection
from comic_upscale.watching.folder import (
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    Due,
    WatchedFolder,
    pause_after_errors,
    seconds_to_next_look,
)
from comic_upscale.watching.replaced_files import ReplacedFiles


class RunJob(Protocol):
    """Runs the job of a folder over a part of its input; raises as `JobService.run`."""

    def __call__(self, settings: JobSettings, only: Selection, stop: StopRequest) -> JobFinished:
        """Run the job until its end or the stop, and look only at this part of its input."""


@dataclass(slots=True, eq=False)
class _Watched:
    """A folder with its job, and when it may be tried again."""

    settings: JobSettings
    folder: WatchedFolder
    has_run: bool = False
    """Whether a run has ended without an error."""
    has_ledger: bool = False
    """Whether its ledger existed since the watch began: if it does not now, the drive of the outputs is away."""
    not_before: float = 0.0
    errors: int = 0
    """Consecutive errors."""
    told: str | None = None
    """The last message about why it waits."""


@dataclass(slots=True)
class WatchResult:
    """What a watch has done until its end."""

    failed: int = 0
    """Pages that have failed, and volumes that are not complete, at the end of the last run of each job."""
    waiting: list[str] = field(default_factory=list)
    """Folders that could not be looked at or run at the end, each with its reason."""


class Watcher:
    """Watches folders until a stop, each with a job of its own.

    Args:
        jobs: the settings of each job; its input is the folder, and its selection has the patterns of the user.
        run: runs a job.
        note: takes messages for the user, such as a drive that the watch waits for.
        settle: seconds for which a file must not change before it is taken.
        poll: seconds between two looks at a folder; more if a look takes long.
        on_idle: called after each round without a run, with the seconds since the last one ended.
        is_known: whether a job with this ledger was ever run. Its outputs may be on a drive that is away.
    """

    def __init__(
        self,
        jobs: Sequence[JobSettings],
        run: RunJob,
        note: Callable[[str], None],
        *,
        settle: float,
        poll: float,
        on_idle: Callable[[float], None] = lambda _: None,
        is_known: Callable[[Path], bool] = lambda _: False,
    ) -> None:
        outputs = [job.output for job in jobs]
        self._watched = [_Watched(job, _folder_of(job, outputs, settle)) for job in jobs]
        self._run, self._note, self._on_idle, self._is_known = run, note, on_idle, is_known
        self._poll = poll
        self._idle_since = time.monotonic()
        self._failed: dict[int, int] = {}

    def watch(self, stop: StopRequest, *, once: bool = False) -> WatchResult:
        """Watch until the stop; with ``once``, until nothing is due or still changes.

        Raises:
            SettingsError: a job cannot work as it is requested.
            DeviceError: a device failed. A new process can use it again.
            ComicUpscaleError: the first run of a job failed because of its weights.
        """
        while not stop.requested:
            worked = False
            for watched in self._watched:
                if not stop.requested:
                    worked |= self._look(watched, stop)
            if worked:
                self._idle_since = time.monotonic()
                continue
            self._on_idle(time.monotonic() - self._idle_since)
            if once and all(watched.folder.settles_in is None for watched in self._watched):
                break
            stop.wait(self._seconds_to_wait())
        waiting = [watched.told for watched in self._watched if watched.told is not None]
        return WatchResult(sum(self._failed.values()), waiting)

    def _seconds_to_wait(self) -> float:
        return seconds_to_next_look([watched.folder for watched in self._watched], self._poll)

    def _look(self, watched: _Watched, stop: StopRequest) -> bool:
        """Look at a folder, and run its job if something is due; return whether it ran."""
        due = watched.folder.look()
        if (problem := watched.folder.problem) is not None:
            self._wait(watched, problem)
            return False
        if due is None:
            if watched.not_before <= time.monotonic():
                self._go_on(watched)
            return False
        if time.monotonic() < watched.not_before:
            return False
        folder, ledger = watched.settings.folder, watched.settings.ledger_path
        is_there = ledger.is_file()
        watched.has_ledger |= is_there
        if not is_there and (watched.has_ledger or (self._is_known(ledger) and not folder.is_dir())):
            self._wait(
                watched,
                f"the outputs in {folder} are gone. The watch goes on when they are back: is their drive there? To "
                "begin again without them, create the folder and start the watch again",
            )
            return False
        if paused_since(folder) is not None:
            self._wait(watched, f"{watched.folder.root} is paused: `comic-upscale resume` continues")
            return False
        self._go_on(watched)
        return self._attempt(watched, due, stop)

    def _attempt(self, watched: _Watched, due: Due, stop: StopRequest) -> bool:
        wished = watched.settings.selection or Selection()
        try:
            # A limit of one job does not end the watch of the others.
            finished = self._run(watched.settings, due.selection(wished), stop.for_next_run())
        except (SettingsError, DeviceError):
            raise
        except InputError as error:
            # There is no page in it, or the drive went away. In the second case the next look says so.
            self._note(str(error))
            watched.folder.look()
            if watched.folder.away is None:
                watched.folder.note_done(due)
            return False
        except ComicUpscaleError as error:
            if isinstance(error, WeightsError) and not watched.has_run:
                # Somebody looks at the screen, and has perhaps mistyped a name.
                raise
            seconds = pause_after_errors(watched.errors)
            watched.not_before = time.monotonic() + seconds
            # Another run ends at some time, so it is looked for each minute.
            watched.errors += not isinstance(error, LedgerBusyError)
            self._wait(watched, f"{error}. The next try is in {seconds / 60:.0f} min")
            return False
        watched.errors = 0
        watched.has_run = watched.has_ledger = True
        self._failed[id(watched)] = finished.failed + finished.volumes_cut
        if finished.state == "finished":
            watched.folder.note_done(due)
        elif finished.stopped_by is not None:
            watched.not_before = time.monotonic() + LONGEST_PAUSE_SECONDS
            self._wait(
                watched,
                f"{watched.folder.root} was stopped: {finished.reason}. The next try is in "
                f"{LONGEST_PAUSE_SECONDS / 60:.0f} min",
            )
        else:
            watched.not_before = time.monotonic() + FIRST_PAUSE_SECONDS
        return True

    def _wait(self, watched: _Watched, why: str) -> None:
        """Say once why a folder waits."""
        if why != watched.told:
            watched.told = why
            self._note(why)

    def _go_on(self, watched: _Watched) -> None:
        if watched.told is not None:
            watched.told = None
            self._note(f"{watched.folder.root} is watched again")


def _folder_of(job: JobSettings, outputs: Sequence[Path], settle: float) -> WatchedFolder:
    replaced = ReplacedFiles(job.input) if job.replace_sources else None
    return WatchedFolder(job.input, leave_out=outputs, settle=settle, replaced=replaced)
