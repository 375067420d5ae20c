"""The weights of a job, found or fetched for whoever does its pages."""

from __future__ import annotations

from comic_upscale.models.download import OnProgress
from comic_upscale.models.weights import ResolvedWeights, resolve_weights
from comic_upscale.settings.job import JobSettings


def find_weights(settings: JobSettings, on_progress: OnProgress) -> ResolvedWeights:
    """Return the weights that a job computes with; they are downloaded where the settings allow it.

    Args:
        settings: of the job, with a model that is settled.
        on_progress: of a download.

    Raises:
        WeightsError: there are none, and they cannot be had.
    """
    cache = settings.weights_cache
    return resolve_weights(
        settings.model,
        denoise=settings.denoise,
        folders=settings.weights_folders,
        cache=cache or settings.output,
        download=cache is not None,
        on_progress=on_progress,
    )
