"""The jobs that this user started, newest first, so that ``status`` needs no argument.

A folder contains one small file for each ledger, named by the hash of the ledger's path. Starting a job writes its
file, and two jobs never write the same file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from comic_upscale.errors import InputError, LedgerError, SettingsError
from comic_upscale.ledger.reading import find_ledger
from comic_upscale.ledger.status import read_status
from comic_upscale.settings.paths import MARKER_FOLDER, is_default_place, job_folder, path_text, quoted
from comic_upscale.settings.places import is_bucket
from comic_upscale.storage.atomic import write_whole
from comic_upscale.storage.private import make_private_file, make_private_folder

LEDGER_NOTE = "ledger.path"
"""A file in the marker folder: the path of a ledger that is kept elsewhere."""


def remember_ledger(folder: Path, ledger: Path) -> bool:
    """Record that a job with this ledger starts now, if the ledger exists. A read-only state folder is not an error.

    Returns:
        Whether the ledger exists.
    """
    if not ledger.is_file():
        return False
    with contextlib.suppress(OSError):
        with contextlib.suppress(FileExistsError):
            make_private_folder(folder)
        note = _note_of(folder, ledger)
        make_private_file(note)
        note.write_bytes(os.fsencode(ledger))
    return True


def is_remembered(folder: Path, ledger: Path) -> bool:
    """Return whether this user has started a job with this ledger, also if the ledger is gone or its drive is away."""
    return _note_of(folder, ledger).is_file()


def _note_of(folder: Path, ledger: Path) -> Path:
    return folder / f"{hashlib.sha256(os.fsencode(ledger)).hexdigest()[:16]}.job"


def newest_ledger(folder: Path) -> Path | None:
    """Return the ledger of the job that was started last, among those that still exist; None if there is none."""
    return next(iter(known_ledgers(folder)), None)


def known_ledgers(folder: Path) -> list[Path]:
    """Return the ledgers of all jobs of this user that still exist, the one started last first."""
    found: list[tuple[int, Path]] = []
    with contextlib.suppress(OSError):
        for note in folder.glob("*.job"):
            found.append((note.stat().st_mtime_ns, Path(os.fsdecode(note.read_bytes()))))
    return [ledger for _, ledger in sorted(found, reverse=True) if ledger.is_file()]


def choose_job(job: Path | None, ledger: Path | None, state_folder: Path) -> tuple[Path, Path]:
    """Return the requested ledger and the output folder of its job.

    A ledger names the folder itself, and a ledger may come from a stranger. So a folder elsewhere counts only if the
    user names it, if the user has run this job, or if the folder itself names the ledger.

    Args:
        job: the output folder.
        ledger: the ledger file; by default the one in the output folder. Without both, the most recent job is used.
        state_folder: records which jobs were run.

    Raises:
        InputError: there is no ledger, or it contains no job.
        LedgerError: the ledger cannot be used, or it is not known that the folder is that of its job.
    """
    if job is not None:
        job = job_folder(job)
        if ledger is not None and is_bucket(job) and not ledger.is_file():
            raise InputError(
                f"this machine has no ledger of {path_text(job)}: `comic-upscale run` fetches it when it continues "
                "the job"
            )
        return (find_ledger(job) if ledger is None else ledger), job
    path = choose_ledger(None, ledger, state_folder)
    recorded = Path(read_status(path).output) if path.is_file() else None
    if is_default_place(path) and (recorded is None or not is_bucket(recorded)):
        return path, path.absolute().parent.parent
    folder = Path(read_status(path).output) if recorded is None else recorded
    if not (
        any(_is_same(path, known) for known in known_ledgers(state_folder)) or names_ledger(folder, path)
    ):
        raise LedgerError(
            f"the ledger {path} says that its pages are in {folder}, but neither that folder nor this user's list of "
            f"jobs knows this ledger. If you trust it, name the folder, too: --job {quoted(str(folder))}"
        )
    return path, folder


def note_ledger(marker: Path, ledger: Path) -> None:
    """Record in the marker folder of an output folder where the ledger of its job is.

    Raises:
        OutputError: the note cannot be written.
    """
    write_whole(os.fsencode(ledger.absolute()), marker / LEDGER_NOTE, make_folders=False)


def names_ledger(folder: Path, ledger: Path) -> bool:
    """Return whether an output folder names this ledger as that of its job."""
    note = folder / MARKER_FOLDER / LEDGER_NOTE
    try:
        return note.is_file() and _is_same(ledger, Path(os.fsdecode(note.read_bytes())))
    except (OSError, ValueError):
        return False


def _is_same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def choose_ledger(job: Path | None, ledger: Path | None, state_folder: Path | None) -> Path:
    """Return the requested ledger: by the output folder of a job, by its file, or the one started last.

    Raises:
        SettingsError: both a job and a ledger are given.
        InputError: there is no ledger.
    """
    if job is not None and ledger is not None and not is_bucket(job):
        raise SettingsError("--job and --ledger exclude each other: give one of them")
    if ledger is not None:
        return ledger
    if job is not None:
        return find_ledger(job_folder(job))
    newest = None if state_folder is None else newest_ledger(state_folder)
    if newest is None:
        raise InputError("no recent job is known: name one with --job DIR or --ledger FILE")
    return newest
