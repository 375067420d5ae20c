"""Writing a file whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from comic_upscale.errors import OutputError


def write_whole(data: bytes, path: Path) -> None:
    """Write a file beside its place, flush it and move it there; what stands there is replaced.

    Args:
        data: all of it.
        path: its place; folders that are missing are made.

    Raises:
        OutputError: it cannot be written; nothing is left behind, and what stood there still stands.
    """
    part = path.with_name(f".comic-upscale-{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
