"""Every error that comic-upscale raises on purpose, and the exit code of each.

::

    ComicUpscaleError                       exit code
    ├── SettingsError        the user asked for what cannot be            2
    ├── InputError           the input is missing, empty or unreadable    3
    ├── WeightsError         weights are missing, wrong or not a model    4
    ├── DeviceError          the device is absent, or died on the way     5
    ├── LedgerError          the ledger cannot be used                    6
    │   ├── LedgerBusyError      another run holds the job
    │   ├── LedgerVersionError   written by a newer comic-upscale
    │   └── LedgerDamagedError   not a database, or a broken one
    ├── OutputError          the output folder is full or not writable    7
    ├── RemoteError          another machine cannot do the work           9
    │   ├── ConnectionLostError  it cannot be reached, now or any more
    │   └── HostKeyError         it is not, or may not be, the one it says
    └── PageError            one page could not be done: a value in the
                             pipeline, never the end of a run             1

A message says what happened and what to do next. Only ``cli.py`` turns an error into an exit code.
"""

from __future__ import annotations

EXIT_CEILING = 8
"""The exit code of a run that stopped below its ``--max-cost``: no error, and not everything done."""

ANIMATED = "animated"
"""The kind of `PageError` of a page that the settings pass over because it moves: it is skipped, and no failure."""


class ComicUpscaleError(Exception):
    """Any failure that a user can be told about in one sentence."""

    exit_code = 1


class SettingsError(ComicUpscaleError):
    """The settings contradict each other or lie outside their range."""

    exit_code = 2


class InputError(ComicUpscaleError):
    """The input does not exist, holds no page, or cannot be read as a whole."""

    exit_code = 3


class WeightsError(ComicUpscaleError):
    """The weights are missing, could not be fetched, have the wrong hash, or are no image model."""

    exit_code = 4


class DeviceError(ComicUpscaleError):
    """The device that was asked for is not there, or stopped working during the run."""

    exit_code = 5


class LedgerError(ComicUpscaleError):
    """The ledger could not be opened, read or written."""

    exit_code = 6


class LedgerBusyError(LedgerError):
    """Another run that is alive holds the lock of this job."""


class LedgerVersionError(LedgerError):
    """The ledger was written by a newer comic-upscale, whose schema this one does not know."""


class LedgerDamagedError(LedgerError):
    """The file is not an SQLite database of comic-upscale, or SQLite finds it broken."""


class OutputError(ComicUpscaleError):
    """No page can be written any more: the disk is full, or the output folder is not writable."""

    exit_code = 7


class RemoteError(ComicUpscaleError):
    """Another machine cannot do the work: something is missing there, or failed."""

    exit_code = 9


class ConnectionLostError(RemoteError):
    """The other machine cannot be reached, or the line to it broke; trying again may help."""


class HostKeyError(RemoteError):
    """The other machine shows a key that nobody vouches for, or another one than before."""


class PageError(ComicUpscaleError):
    """One page could not be decoded, upscaled or encoded; the run goes on without it.

    Args:
        kind: a short stable word for scripts and for grouping, such as ``"truncated"``.
        reason: a sentence for the user.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


def first_error(group: BaseExceptionGroup[ComicUpscaleError]) -> ComicUpscaleError:
    """Return the first plain error of a group of groups: what ended a run of several tasks."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, ComicUpscaleError)
    return error
