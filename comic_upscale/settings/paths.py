"""Paths of a job: its output folder, its ledger, and how a path is shown."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from comic_upscale.errors import SettingsError
from comic_upscale.settings.places import is_bucket, place_of
from comic_upscale.settings.sizes import Size

MARKER_FOLDER = ".comic-upscale"
"""The hidden folder in every output folder. It holds the ledger and marks the folder as an output of this package."""

LITTER = frozenset(
    (
        "__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "#recycle", "@recycle",
        "system volume information",
    )
)  # fmt: skip
"""Names of files and folders that operating systems make, lower case. In "@eaDir", a Synology keeps thumbnails:
JPEGs that look like pages. "#recycle" and "@recycle" are the bins of a Synology and a QNAP."""

LEDGER_NAME = "ledger.sqlite3"
LONGEST_LEDGER = 504
"""Bytes of the path of a ledger. SQLite takes 512, with the ``-journal`` of its own file."""

_ANSWERS = "answers"
_PLAIN = re.compile(r"[\w\\/:.+=-]+")
"""Words that neither cmd nor PowerShell changes."""


def default_output(input_path: Path, size: Size | float) -> Path:
    """Return the default output folder, which is beside the input: ``pages-x2.5`` for ``pages`` at scale 2.5.

    For a single image ``cover.png`` it is ``cover-x2.5``; at a width of 2000, ``cover-w2000``.

    Raises:
        SettingsError: the input is the root of a file system.
    """
    path = absolute(input_path)
    if is_bucket(path) and not place_of(path).prefix:
        raise SettingsError(
            f"{path_text(path)} is a whole bucket, so there is no place beside it: add --output"
        )
    name = path.stem if path.is_file() else path.name
    if not name:
        raise SettingsError(
            f"{path} is the root of a file system, so there is no folder beside it: add --output"
        )
    label = size.label if isinstance(size, Size) else f"x{size:g}"
    return path.with_name(f"{name}-{label}")


TRASH = f"{MARKER_FOLDER}/trash"
"""Where `run --replace` keeps the originals, relative to the input."""


def replace_folder(input_path: Path) -> Path:
    """Return the output folder of a job that replaces its sources: inside the input, where discovery does not look."""
    return input_path / MARKER_FOLDER / "replace"


def job_folder(folder: Path) -> Path:
    """Return the output folder of the job that a user means by a folder.

    The input of `run --replace` stands for its job, whose output folder is hidden in it. Any other one is itself.
    """
    inside = replace_folder(folder)
    is_library = not default_ledger(folder).is_file() and default_ledger(inside).is_file()
    return inside if is_library else folder


def default_ledger(output: Path) -> Path:
    """Return the default path of the ledger of an output folder."""
    return output / MARKER_FOLDER / LEDGER_NAME


def answers_folder(output: Path) -> Path:
    """Return the folder for the answers that an engine keeps until a page is recorded."""
    return output / MARKER_FOLDER / _ANSWERS


def is_default_place(ledger: Path) -> bool:
    """Return whether a ledger is in the default place of some output folder, which then is that of its job."""
    return (ledger.name, ledger.absolute().parent.name) == (LEDGER_NAME, MARKER_FOLDER)


def path_text(path: Path) -> str:
    """Return a path as text that can be stored and printed: bytes that are not valid Unicode become ``%FF``.

    A path that stands for a place in a bucket becomes its address.
    """
    text = place_of(path).address if is_bucket(path) else str(path)
    return "".join(f"%{ord(char) - 0xDC00:02X}" if "\udc80" <= char <= "\udcff" else char for char in text)


def quoted(word: str) -> str:
    """Return a word of a command that is printed for the user to copy, as the shell of this machine takes it.

    On Windows that is cmd. PowerShell takes the same words, except those with a dollar sign.
    """
    if os.name == "nt":
        import subprocess

        # Single quotes are letters to cmd.
        line = subprocess.list2cmdline([word])
        if line.startswith('"') or _PLAIN.fullmatch(line):
            return line
        # Before a quote, a backslash is written twice.
        backslashes = line[len(line.rstrip("\\")) :]
        return f'"{line}{backslashes}"'
    return shlex.quote(word)


def expand_user(path: Path) -> Path:
    """Return a path with the home folder for ``~``. The path stays as it is if that user or folder is unknown."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def absolute(path: Path) -> Path:
    """Return the absolute path, without ``~`` and ``..``. Links are not resolved.

    A path that stands for a place in a bucket stays as it is.
    """
    if is_bucket(path):
        return path
    return Path(os.path.abspath(expand_user(path)))  # noqa: PTH100 - resolve() would follow links
