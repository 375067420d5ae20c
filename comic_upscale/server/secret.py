"""The secret of a server: given, or random and kept in the data folder."""

from __future__ import annotations

import os
from pathlib import Path

from comic_upscale.errors import OutputError
from comic_upscale.server.ids import new_secret
from comic_upscale.server.settings import LEAST_SECRET, ServerSettings
from comic_upscale.storage.parts import flush_folder

NAME = "secret.key"


def load_secrets(settings: ServerSettings) -> list[str]:
    """Return the secrets that sign links, oldest first. Without a given one, the data folder keeps a random one.

    Raises:
        OutputError: the secret of the data folder cannot be read or written.
    """
    if settings.secret_keys:
        return settings.secret_keys
    path = settings.data / NAME
    try:
        try:
            return [_read(path)]
        except FileNotFoundError:
            _create(path)
            return [_read(path)]
    except OSError as error:
        raise OutputError(f"{path} cannot be read or written: {error.strerror or error}") from error


def _read(path: Path) -> str:
    secret = path.read_text(encoding="ascii", errors="replace").strip()
    if len(secret) < LEAST_SECRET:
        raise OutputError(
            f"{path} is empty or damaged: delete it, and a new secret is made. Signed links end then"
        )
    return secret


def _create(path: Path) -> None:
    """Write a random secret that only this user can read. Another process may be faster; its secret stays."""
    part = path.with_name(f".{NAME}-{os.getpid()}")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(new_secret() + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(part, path)
        except FileExistsError:
            return
        flush_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)
