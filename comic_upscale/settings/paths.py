"""Paths of a job: its output folder, its ledger, and how a path is shown."""

from __future__ import annotations

import os
from pathlib import Path

from comic_upscale.errors import SettingsError
from comic_upscale.settings.sizes import Size

MARKER_FOLDER = ".comic-upscale"
"""The hidden folder inside every output folder; it holds the ledger and marks the tree as ours."""

LEDGER_NAME = "ledger.sqlite3"


def default_output(input_path: Path, size: Size | float) -> Path:
    """The folder beside the input that says what it is: ``pages`` at 2.5 gives ``pages-x2.5``.

    A single image ``cover.png`` gives ``cover-x2.5``; at a width of 2000, ``cover-w2000``.

    Raises:
        SettingsError: the input is the root of a file system.
    """
    path = absolute(input_path)
    name = path.stem if path.is_file() else path.name
    if not name:
        raise SettingsError(f"{path} has no folder beside it: say with --output where the pages go")
    label = size.label if isinstance(size, Size) else f"x{size:g}"
    return path.with_name(f"{name}-{label}")


def default_ledger(output: Path) -> Path:
    """Where the ledger of an output folder is, unless the user says otherwise."""
    return output / MARKER_FOLDER / LEDGER_NAME


def path_text(path: Path) -> str:
    """A path as text that can be kept and shown anywhere: bytes that are no Unicode become ``%FF``."""
    text = str(path)
    return "".join(f"%{ord(char) - 0xDC00:02X}" if "\udc80" <= char <= "\udcff" else char for char in text)


def absolute(path: Path) -> Path:
    """The path from the root, without ``~`` and ``..``; links stay as the user named them."""
    return Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 - resolve() would follow links
