"""The hidden folder that marks an output folder as ours: made, or trusted only if nobody else has put it there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from comic_upscale.errors import OutputError
from comic_upscale.settings.paths import MARKER_FOLDER


def make_marker_folder(output: Path) -> Path:
    """Make the marker folder of an output folder, or look at the one that is there; return it.

    Ledger, lock and finished pages of volumes are in it, under names that everybody knows. So it has to be a real
    folder, and one of the user's own or of whoever owns the output folder.

    Args:
        output: the output folder; made if it is not there.

    Raises:
        OutputError: it is a link or a file, or belongs to another user.
        OSError: it cannot be made.
    """
    marker = output / MARKER_FOLDER
    output.mkdir(parents=True, exist_ok=True)
    try:
        marker.mkdir()
    except FileExistsError:
        _check(marker, output)
    return marker


def _check(marker: Path, output: Path) -> None:
    status = marker.lstat()
    if not stat.S_ISDIR(status.st_mode):
        what = "a link" if stat.S_ISLNK(status.st_mode) else "a file"
        raise OutputError(f"{marker} is {what} and not a folder: remove it, or choose another --output")
    if os.name == "posix" and status.st_uid not in (os.geteuid(), output.stat().st_uid, 0):
        raise OutputError(
            f"{marker} belongs to neither you nor the owner of {output}: remove it if you do not know it, or choose "
            "another --output"
        )
