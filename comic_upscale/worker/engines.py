"""Engines that stay open between jobs, so that a short job does not wait for a model to load."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeAlias

from comic_upscale.engines.base import Engine, KeptOpen
from comic_upscale.engines.registry import OpenEngines, open_engines
from comic_upscale.models.weights import ResolvedWeights
from comic_upscale.settings.job import JobSettings

MOST_MODELS = 3
"""Models that are open at the same time; the one used longest ago is closed for another."""

_Key: TypeAlias = tuple[object, ...]


class EngineCache:
    """Opens engines like the registry, and keeps them. Used by one job at a time; close it at the end.

    Args:
        opener: opens engines that are not open yet.
        most: models that stay open.
    """

    def __init__(self, opener: OpenEngines = open_engines, most: int = MOST_MODELS) -> None:
        self._opener, self._most = opener, most
        self._open: OrderedDict[_Key, list[Engine]] = OrderedDict()

    @property
    def models(self) -> list[str]:
        """The names of the open models, the one used last at the end."""
        return [str(key[1]) for key in list(self._open)]

    def open_engines(self, settings: JobSettings, weights: ResolvedWeights | None) -> list[Engine]:
        """Return the engines of a job; an `OpenEngines`. Closing them leaves them open here."""
        key = _key(settings, weights)
        engines = self._open.pop(key, None)
        if engines is None:
            while len(self._open) >= self._most:
                _close(self._open.popitem(last=False)[1])
            engines = self._opener(settings, weights)
        self._open[key] = engines
        return [KeptOpen(engine) for engine in engines]

    def close(self) -> None:
        """Close all engines, for instance after an error of the device."""
        while self._open:
            _close(self._open.popitem()[1])


def _key(settings: JobSettings, weights: ResolvedWeights | None) -> _Key:
    return (
        settings.backend, settings.model, settings.denoise, settings.engine_options, settings.device,
        settings.precision, settings.batch, settings.tile, weights,
    )  # fmt: skip


def _close(engines: list[Engine]) -> None:
    for engine in engines:
        engine.close()
