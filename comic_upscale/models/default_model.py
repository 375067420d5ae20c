"""The model that ``auto`` stands for: the most faithful one of the package on a GPU, the fast one on a CPU.

Both have a denoise strength.
The caller decides whether there is a GPU. This module does not import torch, and nothing is downloaded.
"""

from __future__ import annotations

from comic_upscale.models.catalogue import CATALOGUE, FAMILIES, in_family
from comic_upscale.settings.job import AUTO_MODEL
from comic_upscale.settings.processing import ProcessingSettings

GPU_DEFAULT = "comic-best"
"""The default if every device is a GPU. On a CPU it takes five times as long as the other, or longer."""

CPU_DEFAULT = "comic-fast"
"""The default otherwise."""

DEFAULTS = frozenset(model.name for family in (GPU_DEFAULT, CPU_DEFAULT) for model in FAMILIES[family])
"""The networks of both."""


def is_auto(model: str) -> bool:
    """Return whether the model is ``auto``, in any case."""
    return model.strip().casefold() == AUTO_MODEL


def default_model(*, accelerator: bool, factor: float | None) -> str:
    """Return the name of the network in the catalogue.

    Args:
        accelerator: whether every device is faster than a CPU.
        factor: the requested factor; None if pages have different ones.
    """
    return in_family(GPU_DEFAULT if accelerator else CPU_DEFAULT, factor)


def assumed_native_scale(settings: ProcessingSettings) -> int | None:
    """Return 1 if a job probably uses a network that restores pages at their size; None if that is unknown.

    For estimates, which load no network: whoever asks for scale 1 with a file of their own has such a network.
    """
    is_own = (
        settings.model not in CATALOGUE and settings.model not in FAMILIES and not is_auto(settings.model)
    )
    return 1 if settings.scale == 1 and is_own else None
