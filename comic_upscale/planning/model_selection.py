"""Select the model of a job: the named one, or for ``auto`` one that the job then keeps.

A job continues with the model that it began with, on any machine and whatever ``auto`` would select there. Otherwise
half of a volume would look different.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from comic_upscale.engines import registry
from comic_upscale.ledger.records import AutoJob
from comic_upscale.models import default_model as auto
from comic_upscale.models.catalogue import CATALOGUE, in_family
from comic_upscale.models.download import OnProgress
from comic_upscale.models.weights import identify_weights
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.sizes import Scale


@dataclass(frozen=True, slots=True)
class SelectedModel:
    """The model of a job, identified by its weights."""

    name: str
    """The name in the catalogue, or the name of the file."""
    identity: str
    """The engine's identity of what computes, 64 hexadecimal digits; for a network, the hash of its weights."""
    auto: bool = False
    """Whether ``auto`` chose it."""
    of_family: bool = False
    """Whether the settings name a family, such as ``comic-best``, of which this is the network for their factor."""
    note: str | None = None
    """A note for the user about the selection."""

    def apply_to(self, settings: JobSettings) -> JobSettings:
        """Return the settings with this model instead of ``auto`` or a family."""
        return replace(settings, model=self.name) if self.auto or self.of_family else settings


def job_fingerprint(settings: JobSettings, identity: str) -> str:
    """Return the fingerprint of a job, including the engine-specific options.

    Args:
        settings: settings of the job.
        identity: as `SelectedModel.identity`.
    """
    return settings.fingerprint(identity, registry.fingerprinted_options(settings))


def with_legacy_gray(
    settings: JobSettings, model: SelectedModel, fingerprints: Collection[str]
) -> JobSettings:
    """Return the settings with the ``gray`` mode with which the job began, if the user did not specify one.

    So one book is not written in two styles.

    Args:
        settings: settings of the job.
        model: model of the job.
        fingerprints: fingerprints of the jobs into the same folder that began before ``--gray`` existed.
    """
    with_gray = replace(settings, gray="keep")
    return (
        with_gray
        if settings.gray is None and job_fingerprint(with_gray, model.identity) in fingerprints
        else settings
    )


def named_model(settings: JobSettings) -> SelectedModel | None:
    """Return the model in the settings, or what their engine computes with; None for ``auto``.

    Raises:
        SettingsError: the model has no denoise strength, or the engine's options are wrong.
        WeightsError: there is no such model.
    """
    if auto.is_auto(settings.model) and registry.find_factory(settings.backend).uses_catalogue:
        auto.check_auto(settings.denoise)
        return None
    if not registry.find_factory(settings.backend).uses_catalogue:
        return SelectedModel(*registry.identify(settings))
    factor = settings.size.factor if isinstance(settings.size, Scale) else None
    model = in_family(settings.model, factor)
    identity = registry.identify(replace(settings, model=model))
    return SelectedModel(*identity, of_family=model != settings.model)


def find_job_model(settings: JobSettings, jobs: Iterable[AutoJob]) -> SelectedModel | None:
    """Return the model of the first job that differs from these settings only by ``auto``.

    The weights identify it, because the same file may have been given by its path. Weights that this version does
    not know cannot be kept.

    Args:
        settings: settings with the model ``auto``.
        jobs: jobs into the same folder whose model ``auto`` selected, the newest first.
    """
    # The gray mode is decided after the model, and may be the one with which the job began.
    candidates = [settings, *([replace(settings, gray="keep")] if settings.gray is None else [])]
    for job in jobs:
        name = _names_by_weights().get(job.model_sha256)
        if name is not None and job.fingerprint in [
            job_fingerprint(candidate, job.model_sha256) for candidate in candidates
        ]:
            return _select(name)
    return None


def predict_model(settings: JobSettings) -> SelectedModel | None:
    """Return the model that ``auto`` selects for a new job, if that is certain without checking the devices."""
    if any(name.strip() == "cpu" for name in settings.device.split(",")):
        return _select(auto.CPU_DEFAULT)
    return None


def choose_model(
    settings: JobSettings, on_progress: OnProgress, accelerator: bool | None = None
) -> SelectedModel:
    """Select a model for a new job by its devices and the available weights. Imports torch, and may download.

    Args:
        settings: settings with the model ``auto``.
        on_progress: called during a download.
        accelerator: whether the job runs on a GPU; None to check the devices of this machine.

    Raises:
        DeviceError: a device does not exist or does not work.
        SettingsError: the list of devices is not valid.
    """
    if accelerator is None:
        from comic_upscale.engines.torch.device import all_accelerators

        accelerator = all_accelerators(settings.device)
    cache = settings.weights_cache
    default = auto.choose_model(
        accelerator=accelerator,
        folders=settings.weights_folders,
        cache=cache or settings.folder,
        download=cache is not None,
        on_progress=on_progress,
    )
    if default.note is None:
        return _select(default.model)
    stays = f"This job stays with {default.model}, unless another --model is named."
    return _select(default.model, f"{default.note} {stays}")


def _names_by_weights() -> dict[str, str]:
    return {model.weights.sha256: model.name for model in CATALOGUE.values()}


def _select(name: str, note: str | None = None) -> SelectedModel:
    return SelectedModel(*identify_weights(name, denoise=None), auto=True, note=note)
