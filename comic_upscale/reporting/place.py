"""The file of a report: its name, its mark, and whether it may be written. A command checks this before all else."""

from __future__ import annotations

from pathlib import Path

from comic_upscale.errors import OutputError, SettingsError

NAME = "report.html"
"""The name of the report in the output folder."""

MARK = "<!-- report of comic-upscale -->"
"""The first line of a report. A file that starts with it may be replaced."""


def check_place(path: Path) -> None:
    """Check that a file is free, or an earlier report.

    Raises:
        SettingsError: it is a folder, or a file that is not a report of comic-upscale.
        OutputError: it cannot be read.
    """
    beginning = f"{MARK}\n".encode()
    try:
        if path.is_dir():
            raise SettingsError(f"{path} is a folder: name a file with --output")
        if not path.exists():
            return
        with path.open("rb") as file:
            ours = file.read(len(beginning)) == beginning
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {error.strerror or error}") from error
    if not ours:
        raise SettingsError(
            f"{path} is not a report of comic-upscale: allow --overwrite, or choose another --output"
        )
