"""Writing a file whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from comic_upscale.errors import OutputError
from comic_upscale.storage.parts import open_part


def write_whole(data: bytes, path: Path, *, make_folders: bool = True) -> None:
    """Write a file under a temporary name beside its path, flush it and rename it. An existing file is replaced.

    Args:
        data: the complete content.
        path: of the file.
        make_folders: whether to create missing folders.

    Raises:
        OutputError: it cannot be written. Nothing is left behind, and an existing file is unchanged.
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
