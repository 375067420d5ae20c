"""One run at a time for a job: a lock that the operating system releases when its holder dies."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from comic_upscale.errors import LedgerBusyError, LedgerDamagedError, LedgerError, OutputError
from comic_upscale.ledger.recent import names_ledger, note_ledger
from comic_upscale.ledger.records import is_allowed
from comic_upscale.ledger.status import describe_holder
from comic_upscale.settings.paths import MARKER_FOLDER, default_ledger, quoted
from comic_upscale.storage.marker import make_marker_folder
from comic_upscale.storage.private import make_private_file, owner_of

LOCK_NAME = "run.lock"
SQLITE_HEAD = b"SQLite format 3\0"


def has_begun(output: Path, ledger: Path) -> bool:
    """Return whether an output folder of ours with this ledger exists."""
    return ledger.is_file() and (output / MARKER_FOLDER).is_dir()


@contextlib.contextmanager
def hold_job(output: Path, ledger: Path, *, begun: bool = False) -> Iterator[None]:
    """Lock the output folder, and a ledger outside of it, for the duration of a run.

    Args:
        output: the output folder.
        ledger: the ledger.
        begun: whether both existed a moment ago. Then nothing is created in their place.

    Raises:
        LedgerBusyError: another run holds one of the locks. The message names its process.
        OutputError: the folder cannot be created or written to, or its marker folder is a link or another user's; or it
            was moved away.
    """
    if begun and not has_begun(output, ledger):
        raise OutputError(
            f"{output} was moved, or its drive was removed. Put it back, then run the same command again"
        )
    if ledger != default_ledger(output):
        _refuse_other_files(ledger)
    try:
        marker = make_marker_folder(output)
    except OSError as error:
        raise _not_writable(output / MARKER_FOLDER, error) from error
    paths = [marker / LOCK_NAME, ledger.with_name(ledger.name + ".lock")]
    for path in (*paths, *_files_of(ledger)):
        _refuse_links(path)
    with contextlib.ExitStack() as held:
        for path in paths:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                make_private_file(path)
                held.enter_context(FileLock(path, timeout=0))
            except PermissionError as error:
                if path.exists():
                    raise _not_shared(path) from error
                raise _not_writable(path.parent, error) from error
            except Timeout:
                raise LedgerBusyError(
                    f"another run is working on {output}: {describe_holder(ledger)}. Wait for it, or stop it; "
                    f"`comic-upscale status --job {quoted(str(output))}` shows its progress"
                ) from None
            except OSError as error:
                raise _not_writable(path.parent, error) from error
        if ledger.exists() and not is_allowed(ledger, os.W_OK):
            raise _not_shared(ledger)
        if ledger != default_ledger(output) and not names_ledger(output, ledger):
            note_ledger(marker, ledger)
        yield


def _files_of(ledger: Path) -> list[Path]:
    """Return the files that SQLite opens for a ledger, without one whose place the user has named."""
    beside = [ledger.with_name(ledger.name + end) for end in ("-wal", "-shm", "-journal")]
    return beside if ledger.parent.name != MARKER_FOLDER else [ledger, *beside]


def _refuse_links(path: Path) -> None:
    """Refuse a link under the name of a file of ours: it came with an archive, and would let us write anywhere.

    Raises:
        OutputError: the path is neither a file nor free.
    """
    try:
        status = path.lstat()
    except OSError:
        return
    if not stat.S_ISREG(status.st_mode):
        what = "a link" if stat.S_ISLNK(status.st_mode) else "no file"
        raise OutputError(f"{path} is {what}: remove it if you do not know it, or choose another --output")


def _not_shared(path: Path) -> OutputError:
    return OutputError(
        f"{path} belongs to {owner_of(path)}, and you may not write it: ask them to run the job once more with "
        f"`umask 002`, or to run `chmod g+rwX -R {path.parent}`; or choose another --output"
    )


def _not_writable(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{folder} cannot be written to ({error.strerror or error}): choose another --output, or change its "
        "permissions"
    )


def _refuse_other_files(ledger: Path) -> None:
    """Refuse a file that is not a database, so that no lock file is created beside it."""
    try:
        with ledger.open("rb") as file:
            head = file.read(len(SQLITE_HEAD))
    except FileNotFoundError:
        return
    except OSError as error:
        raise LedgerError(f"the ledger {ledger} cannot be opened: {error.strerror or error}") from error
    if head and head != SQLITE_HEAD:
        raise LedgerDamagedError(f"{ledger} is not a comic-upscale ledger: choose another --ledger")
