"""Every error that comic-upscale raises on purpose, and the exit code of each.

::

    ComicUpscaleError                       exit code
    ├── SettingsError        the settings are impossible                  2
    ├── InputError           the input is missing, empty or unreadable    3
    ├── WeightsError         the weights are missing, wrong or no model   4
    ├── DeviceError          the device is missing, or failed mid-run     5
    ├── LedgerError          the ledger cannot be used                    6
    │   ├── LedgerBusyError      another run holds the job
    │   ├── LedgerVersionError   written by a newer comic-upscale
    │   └── LedgerDamagedError   not a database, or a broken one
    ├── DatabaseError        the server's database cannot be used         6
    ├── OutputError          the output folder is full or not writable    7
    │   └── StorageError         a bucket refuses or cannot be reached
    ├── CeilingError         the next call would exceed --max-cost        8
    ├── RemoteError          the remote machine cannot do the work        9
    │   ├── ConnectionLostError  it is unreachable, or the connection was lost
    │   │   └── UnreachableError     nothing answers at its address
    │   ├── HostKeyError         its host key is unknown, changed or revoked
    │   └── ProviderError        the provider of rented machines refused
    │       ├── CapacityError        the offer is gone; another one may succeed
    │       └── UncertainError       it may have done what it was asked for
    └── PageError            one page failed: a value in the pipeline,
                             which never ends a run                       1

A message says what happened and what to do next. Only ``cli.py`` turns an error into an exit code.
"""

from __future__ import annotations

EXIT_CEILING = 8
"""The exit code of a run that ``--max-cost`` stopped: not an error, but pages are left."""

ANIMATED = "animated"
"""The kind of `PageError` of an animated page where the settings skip these: the page is skipped, it has not failed."""


class ComicUpscaleError(Exception):
    """Any failure that one sentence can explain to the user."""

    exit_code = 1
    private: tuple[str, ...] = ()
    """Words of the message that belong in no record, such as the address of a rented machine; the longest first."""

    def for_record(self) -> str:
        """Return the message for a ledger, which may be passed on with the outputs."""
        message = str(self)
        for word in self.private:
            message = message.replace(word, "the remote machine")
        return message


class SettingsError(ComicUpscaleError):
    """The settings contradict each other or are out of range."""

    exit_code = 2


class InputError(ComicUpscaleError):
    """The input does not exist, holds no page, or cannot be read as a whole."""

    exit_code = 3


class NoJobYetError(InputError):
    """A ledger exists but holds no job, as while a run starts."""


class WeightsError(ComicUpscaleError):
    """The weights are missing, could not be downloaded, have the wrong hash, or are not an image model."""

    exit_code = 4


class DeviceError(ComicUpscaleError):
    """The requested device is missing, or failed during the run."""

    exit_code = 5


class LedgerError(ComicUpscaleError):
    """The ledger could not be opened, read or written."""

    exit_code = 6


class LedgerBusyError(LedgerError):
    """Another running process holds the lock of this job."""


class LedgerVersionError(LedgerError):
    """The ledger was written by a newer comic-upscale, with a schema that this version does not know."""


class LedgerDamagedError(LedgerError):
    """The file is not an SQLite database of comic-upscale, or SQLite reports it as damaged."""


class DatabaseError(ComicUpscaleError):
    """The database of the server could not be opened, read or written, or a newer version wrote it."""

    exit_code = 6


class OutputError(ComicUpscaleError):
    """No page can be written any more: the disk is full, or the output folder is not writable."""

    exit_code = 7


class CeilingError(ComicUpscaleError):
    """An engine did not make a call that is billed, since the job would then exceed its cost ceiling."""

    exit_code = EXIT_CEILING


class StorageError(OutputError):
    """A bucket, or the storage of the server, cannot be reached or refuses a request. A later try may succeed."""


class UnreachableStorageError(StorageError):
    """A bucket did not answer, or answered with an error of its own: the same request may succeed at once."""


class RemoteError(ComicUpscaleError):
    """The remote machine cannot do the work: a requirement is missing, or a step failed."""

    exit_code = 9


class ConnectionLostError(RemoteError):
    """The remote machine cannot be reached, or the connection was lost; a retry may help."""


class UnreachableError(ConnectionLostError):
    """The name of the remote machine is unknown, no route leads there, or it refuses the connection."""


class HostKeyError(RemoteError):
    """The host key of the remote machine is unknown and not accepted, has changed, or is revoked."""


class ProviderError(RemoteError):
    """A provider of rented machines refused a request, or cannot be reached."""


class CapacityError(ProviderError):
    """The offered machine is not available any more; another offer may succeed."""


class UncertainError(ProviderError):
    """A request to a provider failed in a way that leaves open whether it was carried out."""


class PageError(ComicUpscaleError):
    """One page could not be decoded, upscaled or encoded; the run continues without it.

    Args:
        kind: a short stable word for scripts and for grouping, for example ``"truncated"``.
        reason: a sentence for the user.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason

    def __reduce__(self) -> tuple[type[PageError], tuple[str, str]]:
        """Pickle with both arguments: errors come from worker processes."""
        return type(self), (self.kind, self.reason)


def first_error(group: BaseExceptionGroup[ComicUpscaleError]) -> ComicUpscaleError:
    """Return the first error inside nested exception groups: the one that ended a run of several tasks."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, ComicUpscaleError)
    return error
