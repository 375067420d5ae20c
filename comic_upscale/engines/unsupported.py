"""Options that an engine does not support: they are refused, so that nobody believes that they had an effect."""

from __future__ import annotations

from comic_upscale.engines.base import EngineResources, EngineSpec
from comic_upscale.errors import SettingsError


def refuse_network_options(spec: EngineSpec, *, model: str, denoise: str = "leave it out") -> None:
    """Refuse ``--model`` and ``--denoise`` for an engine without a network of the catalogue.

    Args:
        spec: what the job requests.
        model: what to do instead of giving ``--model``.
        denoise: what to do instead of giving ``--denoise``.

    Raises:
        SettingsError: the job requests one of them.
    """
    if spec.model.strip().casefold() != "auto":
        raise SettingsError(f"--engine {spec.engine} does not use --model: {model}")
    if spec.denoise is not None:
        raise SettingsError(f"--engine {spec.engine} does not support --denoise: {denoise}")


def refuse_device_options(engine: str, resources: EngineResources, *, instead: str = "leave it out") -> None:
    """Refuse the options of devices for an engine that computes elsewhere.

    Args:
        engine: its name.
        resources: what the job requests.
        instead: what to do instead.

    Raises:
        SettingsError: the job requests one of them.
    """
    requested = {
        "--device": resources.device != "auto",
        "--precision": resources.precision != "auto",
        "--batch": resources.batch is not None,
        "--tile": resources.tile is not None,
    }
    if given := [name for name, is_given in requested.items() if is_given]:
        raise SettingsError(f"--engine {engine} does not support {' and '.join(given)}: {instead}")
