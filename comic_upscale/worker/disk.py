"""Errors of the disk of a worker."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from comic_upscale.errors import OutputError


@contextlib.contextmanager
def disk_in_words() -> Iterator[None]:
    """Translate errors of this worker's disk. The job may succeed later, or on another machine."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"the data folder of the worker cannot be written: {error.strerror or error}. The job is tried again; "
            "free some space there, or correct its rights"
        ) from error
