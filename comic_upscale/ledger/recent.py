"""Which jobs this user started, newest first, so that ``status`` needs no argument.

A folder with one small file for each ledger, named by the hash of the ledger's path: starting a job
touches its file, and two jobs never write the same one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from comic_upscale.errors import InputError, SettingsError
from comic_upscale.ledger.queries import find_ledger


def remember_ledger(folder: Path, ledger: Path) -> bool:
    """Note that a job with this ledger begins now, once it is there; a state folder that cannot be written is no error.

    Returns:
        Whether the ledger is there.
    """
    if not ledger.is_file():
        return False
    name = hashlib.sha256(os.fsencode(ledger)).hexdigest()[:16]
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.job").write_bytes(os.fsencode(ledger))
    return True


def newest_ledger(folder: Path) -> Path | None:
    """The ledger of the job that was started last and is still there; None if there is none."""
    return next(iter(known_ledgers(folder)), None)


def known_ledgers(folder: Path) -> list[Path]:
    """The ledgers of all jobs of this user that are still there, the one started last first."""
    found: list[tuple[int, Path]] = []
    with contextlib.suppress(OSError):
        for note in folder.glob("*.job"):
            found.append((note.stat().st_mtime_ns, Path(os.fsdecode(note.read_bytes()))))
    return [ledger for _, ledger in sorted(found, reverse=True) if ledger.is_file()]


def choose_ledger(job: Path | None, ledger: Path | None, state_folder: Path) -> Path:
    """Return the ledger that a user means: by the output folder of a job, by its file, or the one started last.

    Raises:
        SettingsError: it is named in two ways.
        InputError: there is none.
    """
    if job is not None and ledger is not None:
        raise SettingsError("--job and --ledger name the same thing in two ways: give one")
    if ledger is not None:
        return ledger
    if job is not None:
        return find_ledger(job)
    newest = newest_ledger(state_folder)
    if newest is None:
        raise InputError("no job of yours is known here: name one with --job DIR or --ledger FILE")
    return newest
