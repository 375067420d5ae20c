"""Factories of engines that run the networks of the catalogue, or a user's own file of weights."""

from __future__ import annotations

from dataclasses import replace

from comic_upscale.engines.base import EngineFactory, EngineSpec, Identity, OnProgress
from comic_upscale.errors import SettingsError
from comic_upscale.models.weights import identify_weights, resolve_weights


class CatalogueFactory(EngineFactory):
    """Finds weights by name or by path; what opens them is for the engines."""

    uses_catalogue = True
    runs_remotely = True

    def identify(self, spec: EngineSpec) -> Identity:
        """Return name and hash of the weights; a known name has the hash of the catalogue, and no file is read."""
        if spec.model.lower().endswith(".onnx"):
            raise SettingsError(f"{spec.model} is an ONNX network: add --engine onnx")
        return Identity(*identify_weights(spec.model, denoise=spec.denoise))

    def prepare(self, spec: EngineSpec, on_progress: OnProgress | None = None) -> EngineSpec:
        """Find the weights, or download them."""
        weights = resolve_weights(
            spec.model,
            denoise=spec.denoise,
            folders=spec.weights_folders,
            cache=spec.weights_cache,
            download=spec.download,
            on_progress=on_progress,
        )
        return replace(spec, weights=weights)
