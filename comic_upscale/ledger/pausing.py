"""Pausing the run of a job from another process: a file in the marker folder of its output says so.

The file stays when the run ends, so that a watch, which begins many runs, stays paused. It is beside the outputs and
not in the ledger, because only the run writes that.
"""

from __future__ import annotations

import contextlib
import os
import stat
from datetime import UTC, datetime
from pathlib import Path

from comic_upscale.errors import InputError, OutputError
from comic_upscale.settings.paths import MARKER_FOLDER
from comic_upscale.storage.marker import make_marker_folder
from comic_upscale.storage.private import make_private_file

PAUSE_NAME = "paused"
"""A file in the marker folder."""


def pause_job(output: Path) -> bool:
    """Pause the job of an output folder, and return whether it was not paused before.

    Raises:
        InputError: the folder has no job.
        OutputError: its marker folder cannot be written, or is not to be trusted.
    """
    path = _pause_file(output)
    if not path.parent.is_dir():
        raise InputError(f"{output} has no job to pause: name the output folder of a job")
    if paused_since(output) is not None:
        return False
    try:
        make_marker_folder(output)
        make_private_file(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
    return True


def resume_job(output: Path) -> bool:
    """Let a paused job go on, and return whether it was paused.

    Raises:
        OutputError: the file cannot be removed.
    """
    try:
        _pause_file(output).unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        # A parent is no folder: there is no job.
        if isinstance(error, NotADirectoryError):
            return False
        raise OutputError(
            f"{_pause_file(output)} cannot be removed: {error.strerror or error}. Remove it to continue"
        ) from error
    return True


def paused_since(output: Path) -> str | None:
    """Return when the job of an output folder was paused, ISO 8601 UTC; None if it is not paused."""
    with contextlib.suppress(OSError):
        status = os.lstat(_pause_file(output))
        if stat.S_ISREG(status.st_mode):
            return datetime.fromtimestamp(status.st_mtime, UTC).isoformat(timespec="seconds")
    return None


def _pause_file(output: Path) -> Path:
    return output / MARKER_FOLDER / PAUSE_NAME
