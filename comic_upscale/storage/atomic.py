"""Writing a file whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from comic_upscale.errors import OutputError
from comic_upscale.storage.parts import open_part


def write_whole(data: bytes, path: Path, *, make_folders: bool = True) -> None:
    """Write a file beside its place, flush it and move it there; what stands there is replaced.

    Args:
        data: all of it.
        path: its place.
        make_folders: whether folders that are missing are made.

    Raises:
        OutputError: it cannot be written; nothing is left behind, and what stood there still stands.
    """
    try:
        if make_folders:
            path.parent.mkdir(parents=True, exist_ok=True)
        with open_part(path, os.getpid()) as part:
            part.file.write(data)
            part.flush()
            part.move_to(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
