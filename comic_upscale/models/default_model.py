"""Which model ``auto`` stands for: the crispest one where there is a device for it, else our own.

Whether there is such a device is for the caller to say: nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from comic_upscale.errors import WeightsError
from comic_upscale.models.catalogue import CATALOGUE, Model
from comic_upscale.models.download import OnProgress
from comic_upscale.models.weights import no_denoise, resolve_weights
from comic_upscale.settings.job import AUTO_MODEL

GPU_DEFAULT = "RealESRGAN_x4plus_anime_6B"
"""The choice where every device is an accelerator: too slow for a CPU, and 18 MB to fetch."""

CPU_DEFAULT = "comic-compact-x3"
"""The choice for a CPU, and wherever the other one is not to be had: it comes with the package."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What ``auto`` stands for here and now."""

    model: str
    """A name of the catalogue."""
    note: str | None = None
    """Why it is not the model that the device calls for; None where it is."""


def is_auto(model: str) -> bool:
    """Tell whether the user leaves the choice to us, whatever the case."""
    return model.strip().casefold() == AUTO_MODEL


def check_auto(denoise: float | None) -> None:
    """Refuse a denoise strength: neither choice has one, and it is no reason to take a third unasked.

    Raises:
        SettingsError: a strength is given; the message names the model that has one.
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
) -> Choice:
    """Return the model to take, with its weights on this machine.

    Never fails for want of a connection: it falls back on our own model, and says so.

    Args:
        accelerator: whether the work will be done on something faster than a CPU.
        folders: where the user keeps weights.
        cache: the folder that downloads go to; made when needed.
        download: False to stay off the network.
        on_progress: called with the file's name, bytes done and bytes in all during a download.
        catalogue: the models known by name.
    """
    if not accelerator:
        return Choice(CPU_DEFAULT)
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
        return Choice(CPU_DEFAULT, f"auto takes {CPU_DEFAULT} in place of {GPU_DEFAULT}: {error}")
    return Choice(GPU_DEFAULT)
