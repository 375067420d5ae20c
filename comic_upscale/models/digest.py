"""The hash that identifies files of weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

from comic_upscale.errors import WeightsError


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, 64 lower-case hexadecimal digits.

    Raises:
        WeightsError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be read: {error.strerror or error}. Check that it exists and is readable"
        ) from error
