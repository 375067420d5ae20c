"""Which model a job computes with: the one that was named, or for ``auto`` one that it then keeps.

A job that began with one model goes on with it, wherever it is continued and whatever ``auto`` would
choose there: half a volume in another hand would show.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from comic_upscale.engines import registry
from comic_upscale.ledger.records import AutoJob
from comic_upscale.models import default_model as auto
from comic_upscale.models.catalogue import CATALOGUE
from comic_upscale.models.download import OnProgress
from comic_upscale.models.weights import identify_weights
from comic_upscale.settings.job import JobSettings


@dataclass(frozen=True, slots=True)
class SelectedModel:
    """The model of a job, known by its weights."""

    name: str
    """The name in the catalogue, or the name of the file."""
    identity: str
    """What computes, as the engine identifies it, 64 hexadecimal digits: for a network the hash of its weights."""
    auto: bool = False
    """Whether ``auto`` chose it."""
    note: str | None = None
    """What the user should know of the choice."""

    def settle(self, settings: JobSettings) -> JobSettings:
        """Return the settings with this model in the place of ``auto``."""
        return replace(settings, model=self.name) if self.auto else settings


def job_fingerprint(settings: JobSettings, identity: str) -> str:
    """Return the fingerprint of a job, the engine's own options included.

    Args:
        settings: of the job.
        identity: as `SelectedModel.identity`.
    """
    return settings.fingerprint(identity, registry.fingerprinted_options(settings))


def with_legacy_gray(
    settings: JobSettings, model: SelectedModel, fingerprints: Collection[str]
) -> JobSettings:
    """Return the settings with ``gray`` as the job began, where nothing is asked for: half a book would differ.

    Args:
        settings: of the job.
        model: of the job.
        fingerprints: of the jobs into the same folder that began when every page kept its channels.
    """
    kept = replace(settings, gray="keep")
    return (
        kept if settings.gray is None and job_fingerprint(kept, model.identity) in fingerprints else settings
    )


def named_model(settings: JobSettings) -> SelectedModel | None:
    """Return the model that the settings name, or whatever their engine computes with; None for ``auto``.

    Raises:
        SettingsError: the denoise strength is none that the model has, or the engine's options are wrong.
        WeightsError: there is no such model.
    """
    if auto.is_auto(settings.model) and registry.find_factory(settings.backend).uses_catalogue:
        auto.check_auto(settings.denoise)
        return None
    return SelectedModel(*registry.identify(settings))


def kept_model(settings: JobSettings, jobs: Iterable[AutoJob]) -> SelectedModel | None:
    """Return the model of the first job that differs from these settings in nothing but ``auto``.

    It is known by its weights: the same file can have been named by its path. Weights that this version no
    longer knows cannot be kept.

    Args:
        settings: with the model ``auto``.
        jobs: those into the same folder whose model ``auto`` chose, the newest first.
    """
    # How gray pages are written is settled after the model, and perhaps as the job began.
    wishes = [settings, *([replace(settings, gray="keep")] if settings.gray is None else [])]
    for job in jobs:
        name = _names_by_weights().get(job.model_sha256)
        if name is not None and job.fingerprint in [
            job_fingerprint(wish, job.model_sha256) for wish in wishes
        ]:
            return _chosen(name)
    return None


def foreseen_model(settings: JobSettings) -> SelectedModel | None:
    """Return what ``auto`` will choose for a new job where that is certain without looking at devices."""
    if any(name.strip() == "cpu" for name in settings.device.split(",")):
        return _chosen(auto.CPU_DEFAULT)
    return None


def choose_model(
    settings: JobSettings, on_progress: OnProgress, accelerator: bool | None = None
) -> SelectedModel:
    """Choose for a new job, by its devices and by what can be had; imports torch, and may download.

    Args:
        settings: with the model ``auto``.
        on_progress: of a download.
        accelerator: whether the work is done on one, where that is known; else the devices here are asked.

    Raises:
        DeviceError: a device is not there, or does not work.
        SettingsError: the devices are not named as they should be.
    """
    if accelerator is None:
        from comic_upscale.engines.torch.device import all_accelerators

        accelerator = all_accelerators(settings.device)
    cache = settings.weights_cache
    choice = auto.choose_model(
        accelerator=accelerator,
        folders=settings.weights_folders,
        cache=cache or settings.output,
        download=cache is not None,
        on_progress=on_progress,
    )
    if choice.note is None:
        return _chosen(choice.model)
    stays = f"This job stays with {choice.model}, unless another --model is named."
    return _chosen(choice.model, f"{choice.note} {stays}")


def _names_by_weights() -> dict[str, str]:
    return {model.weights.sha256: model.name for model in CATALOGUE.values()}


def _chosen(name: str, note: str | None = None) -> SelectedModel:
    return SelectedModel(*identify_weights(name, denoise=None), auto=True, note=note)
