"""The jobs that this user started, newest first, so that ``status`` needs no argument.

A folder contains one small file for each ledger, named by the hash of the ledger's path. Starting a job writes its
file, and two jobs never write the same file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from comic_upscale.errors import InputError, SettingsError
from comic_upscale.ledger.queries import find_ledger
from comic_upscale.storage.private import make_private_file, make_private_folder


def remember_ledger(folder: Path, ledger: Path) -> bool:
    """Record that a job with this ledger starts now, if the ledger exists. A read-only state folder is not an error.

    Returns:
        Whether the ledger exists.
    """
    if not ledger.is_file():
        return False
    name = hashlib.sha256(os.fsencode(ledger)).hexdigest()[:16]
    with contextlib.suppress(OSError):
        with contextlib.suppress(FileExistsError):
            make_private_folder(folder)
        note = folder / f"{name}.job"
        make_private_file(note)
        note.write_bytes(os.fsencode(ledger))
    return True


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


def choose_ledger(job: Path | None, ledger: Path | None, state_folder: Path) -> Path:
    """Return the requested ledger: by the output folder of a job, by its file, or the one started last.

    Raises:
        SettingsError: both a job and a ledger are given.
        InputError: there is no ledger.
    """
    if job is not None and ledger is not None:
        raise SettingsError("--job and --ledger exclude each other: give one of them")
    if ledger is not None:
        return ledger
    if job is not None:
        return find_ledger(job)
    newest = newest_ledger(state_folder)
    if newest is None:
        raise InputError("no recent job is known: name one with --job DIR or --ledger FILE")
    return newest
