"""Find engines by name, and open the engines of a job.

The package's own engines are imported at their first use. Others come from entry points (`settings/engines.py`).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from comic_upscale.engines.base import (
    Calls,
    Engine,
    EngineFactory,
    EngineResources,
    EngineSpec,
    Identity,
    OnProgress,
)
from comic_upscale.engines.filters import fingerprinted_filters
from comic_upscale.engines.options import pixel_options, read_options
from comic_upscale.engines.tta import TtaEngine
from comic_upscale.errors import SettingsError
from comic_upscale.models.weights import ResolvedWeights
from comic_upscale.settings.engines import BUILT_IN, GROUP, EngineOptions, check_engine, entry_points
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.paths import answers_folder

OpenEngines: TypeAlias = Callable[[JobSettings, ResolvedWeights | None], list[Engine]]
"""Opens the engines of a job; the weights are None for an engine that has none."""


_PARTS = (*EngineFactory.__annotations__, "identify", "prepare", "open")


def find_factory(name: str) -> EngineFactory:
    """Return the factory of the engine with this name.

    Raises:
        SettingsError: there is no such engine, or its package cannot be used.
    """
    if name in BUILT_IN:
        factory: EngineFactory = importlib.import_module(BUILT_IN[name]).FACTORY
        return factory
    check_engine(name)
    found = entry_points(name)
    origins = " and ".join(sorted({each.value for each in found}))
    if len({each.value for each in found}) > 1:
        raise SettingsError(f"two packages have an engine called {name}: {origins}. Uninstall one of them")
    try:
        loaded = found[0].load()
        factory = loaded() if isinstance(loaded, type) else loaded
        has = [hasattr(factory, part) for part in _PARTS]
    except Exception as error:
        # This is another package's code. Whatever it raises, the user must know where the error comes from.
        raise SettingsError(f"the engine {name} ({origins}) cannot be loaded: {error!r}") from error
    if not all(has):
        raise SettingsError(f"the engine {name} ({origins}) is not an EngineFactory, which {GROUP} requires")
    return factory


def missing_packages(factory: EngineFactory) -> list[str]:
    """Return the required packages that are not installed. Nothing is imported."""
    return [name for name in factory.packages if not _is_installed(name)]


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        # Of a name with a dot, the package before the dot.
        return False


def spec_of(settings: JobSettings, weights: ResolvedWeights | None = None) -> EngineSpec:
    """Return the engine, model and options that a job's settings request.

    Raises:
        SettingsError: there is no such engine, or it has no such option.
    """
    cache = settings.weights_cache
    return EngineSpec(
        engine=settings.backend,
        model=settings.model,
        denoise=settings.denoise,
        options=_options(settings),
        weights_folders=settings.weights_folders,
        weights_cache=cache or settings.folder,
        download=cache is not None,
        answers=answers_folder(settings.folder),
        weights=weights,
    )


def identify(settings: JobSettings) -> Identity:
    """Return the identity of what computes a job's pixels. The model must not be ``auto`` any more.

    Raises:
        SettingsError, WeightsError: as `EngineFactory.identify`; or ``--tta`` with an engine that is paid by call.
    """
    factory = find_factory(settings.backend)
    if settings.tta and factory.billing == "call":
        raise SettingsError(
            f"--tta would have --engine {factory.name} paid eight times for each page: leave it out"
        )
    return factory.identify(spec_of(settings))


def fingerprinted_options(settings: JobSettings) -> EngineOptions:
    """Return the engine options that are part of a job's fingerprint, and what its filters add to it.

    Raises:
        SettingsError: as `spec_of`.
    """
    return (*pixel_options(_options(settings)), *fingerprinted_filters(settings))


def count_calls(
    settings: JobSettings, pages: Iterable[tuple[tuple[int, int], tuple[int, int]]]
) -> Calls | None:
    """Return the billed calls for pages, by their sizes and target sizes; None for an engine that is billed by time.

    Raises:
        SettingsError: as `spec_of`.
    """
    factory = find_factory(settings.backend)
    if factory.billing != "call":
        return None
    spec = spec_of(settings)
    each = [factory.count_calls(spec, size, target) for size, target in pages]
    return Calls(sum(calls.count for calls in each), round(sum(calls.dollars for calls in each), 6))


def prepare_engine(settings: JobSettings, on_progress: OnProgress | None = None) -> ResolvedWeights | None:
    """Find or download the weights of a job's engine and return them; None for an engine without weights.

    Raises:
        SettingsError, WeightsError: as `EngineFactory.prepare`.
    """
    return find_factory(settings.backend).prepare(spec_of(settings), on_progress).weights


def open_engines(settings: JobSettings, weights: ResolvedWeights | None) -> list[Engine]:
    """Open the engines that a job requests, on every device in its settings.

    Args:
        settings: settings of the job.
        weights: the result of `prepare_engine`.

    Raises:
        SettingsError, WeightsError, DeviceError: as `EngineFactory.open`.
    """
    factory = find_factory(settings.backend)
    _check_packages(factory)
    engines = factory.open(spec_of(settings, weights), _resources(settings))
    return [TtaEngine(engine) for engine in engines] if settings.tta else engines


def describe_loading(settings: JobSettings, weights: ResolvedWeights | None) -> str | None:
    """Return what is about to be loaded for a job; None if it is not worth a word. Arguments as for `open_engines`.

    Raises:
        SettingsError, DeviceError: it cannot be loaded.
    """
    factory = find_factory(settings.backend)
    describe = getattr(factory, "describe_loading", None)
    if describe is None or missing_packages(factory):
        return None
    text: str | None = describe(spec_of(settings, weights), _resources(settings))
    return text


def _check_packages(factory: EngineFactory) -> None:
    if missing := missing_packages(factory):
        raise SettingsError(
            f"--engine {factory.name} needs {', '.join(missing)}, which is not installed: {factory.install}"
        )


def _resources(settings: JobSettings) -> EngineResources:
    return EngineResources(
        device=settings.device, precision=settings.precision, batch=settings.batch, tile=settings.tile
    )


def check_remote(settings: JobSettings) -> None:
    """Refuse a job that cannot run on a remote machine.

    Raises:
        SettingsError: the engine or another option cannot be used remotely.
    """
    if settings.replace_sources:
        raise SettingsError("--replace does not work on a remote machine: use `comic-upscale run`")
    if settings.face_model is not None:
        raise SettingsError("--face-model does not run on a remote machine: use `comic-upscale run`")
    if not find_factory(settings.backend).runs_remotely:
        raise SettingsError(
            f"--engine {settings.backend} cannot run on a remote machine: use `comic-upscale run`"
        )
    if settings.looks_at_volumes:
        raise SettingsError(
            "--levels volume does not run on a remote machine, which has pages and no volumes: use `comic-upscale "
            "run`, --levels auto, or the points that `comic-upscale try` shows for a page"
        )


def check_cluster(settings: JobSettings) -> None:
    """Refuse a job that cannot run on a cluster.

    Raises:
        SettingsError: its engine is billed by call, which only this process can count, or it needs a file of this
            machine.
    """
    if find_factory(settings.backend).billing == "call":
        raise SettingsError(f"--engine {settings.backend} is billed by call: leave --cluster out")
    if settings.face_model is not None:
        raise SettingsError("--face-model does not run on a cluster: leave one of them out")


def unused_gpu_warning(settings: JobSettings, engines: Sequence[Engine]) -> str | None:
    """Return a warning if the CPU is used by default although this machine has a GPU; otherwise None."""
    on_cpu = bool(engines) and all(engine.info.device.is_cpu for engine in engines)
    if not on_cpu or settings.device != "auto" or not find_factory(settings.backend).uses_catalogue:
        return None
    # With such an engine, torch is already imported. A run without work does not import it.
    from comic_upscale.engines.torch.device import unused_gpu

    return unused_gpu()


def _options(settings: JobSettings) -> object:
    return read_options(find_factory(settings.backend).options, settings.engine_options, settings.backend)
