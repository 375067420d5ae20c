"""Upscale whole comic libraries with Real-ESRGAN.

The public names: `Upscaler` and `upscale_image` for single images, `JobSettings` and `run_job` for
folders, `ComicUpscaleError` for all errors. Each is imported at its first use, so that
``import comic_upscale`` is fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comic_upscale.version import __version__

if TYPE_CHECKING:
    from comic_upscale.engines.upscaler import Upscaler, upscale_image
    from comic_upscale.errors import ComicUpscaleError
    from comic_upscale.jobs.run import run_job
    from comic_upscale.settings.job import JobSettings

__all__ = ["ComicUpscaleError", "JobSettings", "Upscaler", "__version__", "run_job", "upscale_image"]

_HOMES = {
    "ComicUpscaleError": "comic_upscale.errors",
    "JobSettings": "comic_upscale.settings.job",
    "Upscaler": "comic_upscale.engines.upscaler",
    "run_job": "comic_upscale.jobs.run",
    "upscale_image": "comic_upscale.engines.upscaler",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
