"""The model that ``auto`` stands for: the crispest one on a GPU, otherwise the bundled one.

The caller decides whether there is a GPU. This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from comic_upscale.errors import WeightsError
from comic_upscale.models.catalogue import CATALOGUE, FAMILIES, Model
from comic_upscale.models.download import OnProgress
from comic_upscale.models.weights import no_denoise, resolve_weights
from comic_upscale.settings.job import AUTO_MODEL
from comic_upscale.settings.processing import ProcessingSettings

GPU_DEFAULT = "RealESRGAN_x4plus_anime_6B"
"""The default if every device is a GPU. It is too slow for a CPU, and a download of 18 MB."""

CPU_DEFAULT = "comic-compact-x3"
"""The default on a CPU, and if the other model is not available. It is part of the package."""


@dataclass(frozen=True, slots=True)
class DefaultModel:
    """The model that ``auto`` stands for."""

    model: str
    """A name in the catalogue."""
    note: str | None = None
    """Why the default of the device is not used; None if it is."""


def is_auto(model: str) -> bool:
    """Return whether the model is ``auto``, in any case."""
    return model.strip().casefold() == AUTO_MODEL


def check_auto(denoise: float | None) -> None:
    """Refuse a denoise strength. Neither default has one, and a third model must be requested by name.

    Raises:
        SettingsError: a strength is given. The message names the model that has one.
    """
    if denoise is not None:
        raise no_denoise(f"--model {AUTO_MODEL}")


def choose_model(
    *,
    accelerator: bool,
    folders: Sequence[Path],
    cache: Path,
    download: bool = True,
    on_progress: OnProgress | None = None,
    catalogue: Mapping[str, Model] = CATALOGUE,
) -> DefaultModel:
    """Return the model to use. Its weights are then on this machine.

    Without a connection it falls back to the bundled model, with a note, instead of failing.

    Args:
        accelerator: whether every device is faster than a CPU.
        folders: folders with the user's weights.
        cache: folder for downloads; created when needed.
        download: False to never use the network.
        on_progress: called with the file's name, bytes done and bytes in all during a download.
        catalogue: the models known by name.
    """
    if not accelerator:
        return DefaultModel(CPU_DEFAULT)
    try:
        resolve_weights(
            GPU_DEFAULT,
            denoise=None,
            folders=folders,
            cache=cache,
            download=download,
            on_progress=on_progress,
            catalogue=catalogue,
        )
    except WeightsError as error:
        return DefaultModel(CPU_DEFAULT, f"auto uses {CPU_DEFAULT} instead of {GPU_DEFAULT}: {error}")
    return DefaultModel(GPU_DEFAULT)


def assumed_native_scale(settings: ProcessingSettings) -> int | None:
    """Return 1 if a job probably uses a network that restores pages at their size; None if that is unknown.

    For estimates, which load no network: whoever asks for scale 1 with a file of their own has such a network.
    """
    is_own = (
        settings.model not in CATALOGUE and settings.model not in FAMILIES and not is_auto(settings.model)
    )
    return 1 if settings.scale == 1 and is_own else None
