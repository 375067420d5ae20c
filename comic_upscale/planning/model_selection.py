"""Select the model of a job: the named one, or for ``auto`` one that the job then keeps.

A job continues with the model that it began with, on any machine and whatever ``auto`` would select there. Otherwise
half of a volume would look different.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from comic_upscale.engines import registry
from comic_upscale.engines.presence import foresee_accelerator
from comic_upscale.errors import SettingsError, WeightsError
from comic_upscale.ledger.records import AutoJob
from comic_upscale.library.page_rules import with_models
from comic_upscale.models import default_model as auto
from comic_upscale.models.catalogue import CATALOGUE, in_family
from comic_upscale.models.weights import check_denoise, identify_weights
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

    def apply_to(self, settings: JobSettings) -> JobSettings:
        """Return the settings with this model instead of ``auto`` or a family."""
        return replace(settings, model=self.name) if self.auto or self.of_family else settings


def job_fingerprint(settings: JobSettings, identity: str) -> str:
    """Return the fingerprint of a job, including the engine-specific options.

    Args:
        settings: settings of the job.
        identity: as `SelectedModel.identity`.
    """
    return settings.fingerprint(identity, registry.fingerprinted_options(settings), rule_models(settings))


def rule_models(settings: JobSettings) -> dict[str, str]:
    """Return the identities of the models that rules name, by the names in the rules.

    Raises:
        SettingsError: a model lacks the denoise strength that its rule gives, or the model is ``auto``.
        WeightsError: there is no such model.
    """
    found: dict[str, str] = {}
    whose = f" of the profile {settings.profile}" if settings.profile else ""
    for number, rule in enumerate(settings.rules, start=1):
        name = rule.changes.get("model")
        if name is None:
            continue
        if auto.is_auto(name):
            raise SettingsError(
                f"rule {number}{whose}: the model of a rule must be named: leave model out to use that of the job"
            )
        of_page = settings.changed_for_page(rule.changes)
        try:
            found[name] = registry.identify(replace(of_page, model=network_of(name, settings))).digest
        except (SettingsError, WeightsError) as error:
            raise type(error)(f"rule {number}{whose}: {error}") from None
    return found


def with_rule_networks(settings: JobSettings) -> JobSettings:
    """Return settings whose rules name networks in place of families, such as ``comic-best-x3``."""
    if not registry.find_factory(settings.backend).uses_catalogue:
        return settings
    names = [rule.changes["model"] for rule in settings.rules if "model" in rule.changes]
    return with_models(settings, {name: network_of(name, settings) for name in names})


def network_of(model: str, settings: JobSettings) -> str:
    """Return the network of a family for the factor of a job; any other name is returned unchanged."""
    return in_family(model, _factor(settings))


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
        SettingsError: the strength is outside 0..1, the model has none, or the engine's options are wrong.
        WeightsError: there is no such model.
    """
    # Their mistakes are reported before the input is read.
    rule_models(settings)
    if auto.is_auto(settings.model) and registry.find_factory(settings.backend).uses_catalogue:
        check_denoise(settings.denoise)
        return None
    if not registry.find_factory(settings.backend).uses_catalogue:
        return SelectedModel(*registry.identify(settings))
    model = network_of(settings.model, settings)
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
    names = _names_by_identity(settings.denoise)
    for job in jobs:
        name = names.get(job.model_sha256)
        if name is not None and job.fingerprint in [
            job_fingerprint(candidate, job.model_sha256) for candidate in candidates
        ]:
            return _select(name, settings.denoise)
    return None


def predict_models(settings: JobSettings, *, here: bool = True) -> list[SelectedModel]:
    """Return the model that ``auto`` selects for a new job, without checking the devices.

    Args:
        settings: settings with the model ``auto``.
        here: whether this machine processes the pages; False for another one, which may have other devices.

    Returns:
        One model if it is certain; else that on a GPU and that on a CPU.
    """
    known = foresee_accelerator(settings.device) if here or _names_cpu(settings) else None
    possible = (True, False) if known is None else (known,)
    return [_select_default(settings, accelerator=accelerator) for accelerator in possible]


def _names_cpu(settings: JobSettings) -> bool:
    return any(name.strip() == "cpu" for name in settings.device.split(","))


def choose_model(settings: JobSettings, accelerator: bool | None = None) -> SelectedModel:
    """Select a model for a new job by its devices. May import torch.

    Args:
        settings: settings with the model ``auto``.
        accelerator: whether the job runs on a GPU; None to check the devices of this machine.

    Raises:
        DeviceError: a device does not exist or does not work.
        SettingsError: the list of devices is not valid.
    """
    if accelerator is None:
        from comic_upscale.engines.torch.device import all_accelerators

        accelerator = all_accelerators(settings.device)
    return _select_default(settings, accelerator=accelerator)


def _select_default(settings: JobSettings, *, accelerator: bool) -> SelectedModel:
    name = auto.default_model(accelerator=accelerator, factor=_factor(settings))
    return _select(name, settings.denoise)


def _factor(settings: JobSettings) -> float | None:
    return settings.size.factor if isinstance(settings.size, Scale) else None


def _names_by_identity(denoise: float | None) -> dict[str, str]:
    """Return the models of the catalogue that have this denoise strength, by their identity with it."""
    able = [name for name, model in CATALOGUE.items() if denoise is None or model.denoise_weights is not None]
    return {identify_weights(name, denoise=denoise)[1]: name for name in able}


def _select(name: str, denoise: float | None) -> SelectedModel:
    return SelectedModel(*identify_weights(name, denoise=denoise), auto=True)
