"""Opening the engines that a job asks for. Everything heavy is imported here, when it is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from comic_upscale.engines.base import Engine
from comic_upscale.errors import SettingsError
from comic_upscale.models.weights import ResolvedWeights
from comic_upscale.settings.job import JobSettings

OpenEngines: TypeAlias = Callable[[JobSettings, ResolvedWeights], list[Engine]]


def open_engines(settings: JobSettings, weights: ResolvedWeights) -> list[Engine]:
    """Load the network and put it on every device that the settings name, with as many engines as suit it.

    Raises:
        WeightsError: the file is no network that can do this.
        DeviceError: a device is not there.
        SettingsError: the device or the network cannot do what is asked.
    """
    if settings.backend == "realesrgan":
        return _official(settings, weights)
    from comic_upscale.engines.torch.device import parse_devices
    from comic_upscale.engines.torch.engine import open_torch_engines
    from comic_upscale.models.network import load_network

    devices = parse_devices(settings.device)
    network = load_network(weights, settings.denoise)
    return [
        engine
        for device in devices
        for engine in open_torch_engines(
            network, device, precision=settings.precision, batch=settings.batch, tile=settings.tile
        )
    ]


def unused_gpu_warning(settings: JobSettings, engines: Sequence[Engine]) -> str | None:
    """Return why the CPU works although this machine has a card, where that was not asked for; else None."""
    on_cpu = bool(engines) and all(engine.device.startswith("cpu") for engine in engines)
    if not on_cpu or settings.device != "auto":
        return None
    # Where there is an engine, torch is there already; a run with nothing to do goes without.
    from comic_upscale.engines.torch.device import unused_gpu

    return unused_gpu()


def _official(settings: JobSettings, weights: ResolvedWeights) -> list[Engine]:
    from comic_upscale.engines.realesrgan import RealESRGANEngine
    from comic_upscale.engines.torch.device import parse_devices

    if settings.precision == "bf16" or weights.denoise_path is not None:
        raise SettingsError("--backend realesrgan has neither --precision bf16 nor --denoise: use torch")
    devices = parse_devices(settings.device)
    return [
        RealESRGANEngine(
            weights.path,
            device=device,
            # As the program itself: half precision unless told otherwise, where there is a card for it.
            half=settings.precision == "fp16" or (settings.precision == "auto" and device.type == "cuda"),
            tile=settings.tile or 0,
        )
        for device in devices
    ]
