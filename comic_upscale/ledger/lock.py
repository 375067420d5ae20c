"""One run at a time for a job: a lock that the operating system gives back when its holder dies."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from comic_upscale.errors import LedgerBusyError, LedgerDamagedError, LedgerError, OutputError
from comic_upscale.ledger.queries import describe_holder
from comic_upscale.settings.paths import MARKER_FOLDER, default_ledger
from comic_upscale.storage.marker import make_marker_folder

LOCK_NAME = "run.lock"
SQLITE_HEAD = b"SQLite format 3\0"


@contextlib.contextmanager
def hold_job(output: Path, ledger: Path) -> Iterator[None]:
    """Hold the output folder, and a ledger that is kept elsewhere, for the length of a run.

    Raises:
        LedgerBusyError: a living run holds one of them; the message says which process.
        OutputError: the folder cannot be made or written to, or its marker folder is a link or another user's.
    """
    if ledger != default_ledger(output):
        _refuse_other_files(ledger)
    try:
        marker = make_marker_folder(output)
    except OSError as error:
        raise _not_writable(output / MARKER_FOLDER, error) from error
    paths = [marker / LOCK_NAME, ledger.with_name(ledger.name + ".lock")]
    with contextlib.ExitStack() as held:
        for path in paths:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                held.enter_context(FileLock(path, timeout=0))
            except Timeout:
                raise LedgerBusyError(
                    f"another run is working on {output}: {describe_holder(ledger)}. Wait for it, or stop it; "
                    f"`comic-upscale status --job {output}` tells how far it is"
                ) from None
            except OSError as error:
                raise _not_writable(path.parent, error) from error
        yield


def _not_writable(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{folder} cannot be written to ({error.strerror or error}): choose another --output, or change its "
        "permissions"
    )


def _refuse_other_files(ledger: Path) -> None:
    """Leave no lock beside a file that is no database at all."""
    try:
        with ledger.open("rb") as file:
            head = file.read(len(SQLITE_HEAD))
    except FileNotFoundError:
        return
    except OSError as error:
        raise LedgerError(f"the ledger {ledger} cannot be opened: {error.strerror or error}") from error
    if head and head != SQLITE_HEAD:
        raise LedgerDamagedError(f"{ledger} is not a ledger of comic-upscale: choose another --ledger")
