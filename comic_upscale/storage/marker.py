"""The marker folder, which makes a folder an output folder of ours: created, or checked before it is trusted."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from comic_upscale.errors import OutputError, SettingsError
from comic_upscale.settings.paths import MARKER_FOLDER, path_text
from comic_upscale.storage.private import make_private_folder


def check_output_folder(output: Path) -> None:
    """Check that an output folder can be created, or exists. Nothing is written.

    Raises:
        SettingsError: the output, or a folder that it is to be in, is a file or a broken link.
    """
    for path in (output, *output.parents):
        if path.is_dir():
            return
        if os.path.lexists(path):
            what = "a broken link" if path.is_symlink() and not path.exists() else "a file"
            raise SettingsError(
                f"the output must be a folder, but {path_text(path)} is {what}: choose another --output"
            )


def make_marker_folder(output: Path) -> Path:
    """Create the marker folder of an output folder, or check the existing one; return it.

    It holds the ledger, the lock and the finished pages of volumes, under names that anybody can guess. So it must be
    a real folder. It must belong to the user, to the owner of the output folder, or to root.

    Args:
        output: the output folder; created if it does not exist.

    Raises:
        OutputError: the marker folder is a link or a file, or belongs to another user.
        OSError: it cannot be created.
    """
    marker = output / MARKER_FOLDER
    output.mkdir(parents=True, exist_ok=True)
    try:
        make_private_folder(marker)
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
