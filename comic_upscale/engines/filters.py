"""The filters that change a page after its engine. Nothing heavy is imported unless a filter is used."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from comic_upscale.engines.base import OutputFilter
from comic_upscale.errors import SettingsError
from comic_upscale.models.digest import sha256_of
from comic_upscale.settings.engines import EngineOptions
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.sizes import number_text


def open_filters(settings: JobSettings) -> list[OutputFilter]:
    """Return the filters of a job, in the order in which they are applied.

    Raises:
        WeightsError, DeviceError: a filter cannot be opened.
    """
    if settings.face_model is None:
        return []
    from comic_upscale.engines.faces.filter import FaceFilter

    return [FaceFilter.open(settings.face_model, settings.face_strength, settings.device)]


def fingerprinted_filters(settings: JobSettings) -> EngineOptions:
    """Return what the filters of a job add to its fingerprint: the weights count and not their path.

    Raises:
        SettingsError: a file does not exist.
    """
    path = settings.face_model
    if path is None:
        return ()
    try:
        status = path.stat()
        digest = _digest(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise SettingsError(f"--face-model {path} cannot be read: {error.strerror or error}") from error
    return (("--face-model", f"{digest} {number_text(settings.face_strength)}"),)


@lru_cache(maxsize=8)
def _digest(path: Path, size: int, time: int) -> str:
    return sha256_of(path)
